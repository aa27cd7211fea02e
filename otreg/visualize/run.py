"""Reading back the folder that ``otreg register`` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from otreg.deformations import Deformation, load_transform
from otreg.errors import InputError
from otreg.frames import convert_frame
from otreg.io import read
from otreg.surface import Surface


class Run(NamedTuple):
    """The three shapes of a registration and its map, None where that is not at hand."""

    moving: Surface
    fixed: Surface
    moved: Surface
    transform: Deformation | None


def read_run(folder: Path) -> Run:
    """Shapes of a run folder.

    The moved shape is in the folder; the report names the files of the fixed and the moving one. Those are
    looked for where they were, then by their name in the folder and beside it. A moving file that is gone is
    not needed: its points are those of the moved one minus their ``displacement``.

    Raises
    ------
    InputError
        If the folder holds no run, or the fixed file cannot be found.
    """
    report_path = folder / "report.json"
    if not report_path.is_file():
        raise InputError(f"{folder}: is not the folder of a run, it has no report.json; see otreg register")
    try:
        report = json.loads(report_path.read_text(encoding="utf-8"))
        moved_name = Path(str(report["outputs"]["moved"]))
        moving_name, fixed_name = (Path(str(report["inputs"][role]["path"])) for role in ("moving", "fixed"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{report_path}: is damaged or no report of otreg register ({error})") from error
    moved = _read_moved(folder / moved_name.name)
    fixed_path = _find(fixed_name, folder)
    if fixed_path is None:
        raise InputError(
            f"{report_path}: the fixed surface {fixed_name} is gone; put it back to draw the run"
        )
    moving_path = _find(moving_name, folder)
    moving = None if moving_path is None else _readable(moving_path, moved.frame)
    if moving is None or len(moving) != len(moved):
        if "displacement" not in moved.point_data:
            raise InputError(
                f"{report_path}: the moving surface {moving_name} is gone; put it back to draw the run"
            )
        moving = moved.with_points(moved.points - np.asarray(moved.point_data["displacement"], np.float64))
    elif "displacement" not in moved.point_data:
        # Formats without point data, such as STL: the same vectors follow from the two shapes.
        moved = moved.with_data({"displacement": moved.points - moving.points})
    map_path = folder / "transform.h5"
    transform = load_transform(map_path) if map_path.is_file() else None
    return Run(moving, read(fixed_path, repair=True), moved, transform)


def _read_moved(path: Path) -> Surface:
    if not path.is_file():
        raise InputError(f"{path}: the moved surface of the run is gone; run otreg register again")
    return read(path, repair=True)


def _readable(path: Path, frame: str | None) -> Surface | None:
    """A surface, in the frame that the run converted it to; None if that cannot be had."""
    try:
        surface = read(path, repair=True)
        if surface.frame is not None and frame is not None:
            surface = convert_frame(surface, frame)
        return surface
    except InputError:
        return None  # it has been overwritten by something else since: the displacement leads back


def _find(named: Path, folder: Path) -> Path | None:
    for place in (named, folder / named, folder / named.name, folder.parent / named.name):
        if place.is_file():
            return place
    return None
