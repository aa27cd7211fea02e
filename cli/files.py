"""Files named on the command line: which kind they are, and whether an output may be written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otreg.errors import InputError

from .errors import warn

if TYPE_CHECKING:
    from otreg.surface import Landmarks, Surface

TRANSFORM_SUFFIXES = (".h5", ".hdf5")
REPORT_NAME = "report.json"
TRANSFORM_NAME = "transform.h5"
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_run_directory(path: Path) -> bool:
    """Whether a folder is what ``otreg register`` writes."""
    return path.is_dir() and (path / REPORT_NAME).is_file() and (path / TRANSFORM_NAME).is_file()


def is_transform(path: Path) -> bool:
    """Whether a file is HDF5, by its suffix or its first bytes."""
    if path.suffix.lower() in TRANSFORM_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE
    except OSError:
        return False


def transform_path(path: Path) -> Path:
    """The transform a user means: a file, or the one inside a run's folder."""
    return path / TRANSFORM_NAME if is_run_directory(path) else path


def read_report(folder: Path) -> dict[str, Any]:
    """Read a run's report."""
    path = folder / REPORT_NAME
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(report, dict):
        raise InputError(f"{path}: not the report of a run")
    return report


def read_surface(path: Path, *, repair: bool = False) -> Surface:
    """See :func:`otreg.io.pairs.read_surface`."""
    from otreg.io import pairs

    return pairs.read_surface(path, repair=repair)


def read_shape(path: Path, *, repair: bool = False) -> Surface | Landmarks:
    """Read a surface, a point cloud or landmarks, whichever the file holds."""
    from otreg import io

    return io.read_landmarks(path) if io.is_landmark_file(path) else read_surface(path, repair=repair)


def write_shape(shape: Surface | Landmarks, path: Path) -> None:
    """Write a shape in the format that the suffix names, and warn of what that format cannot hold.

    Landmarks become a cloud whose points carry their names, and a cloud becomes landmarks, where the format
    holds nothing else.
    """
    import numpy as np

    from otreg import io
    from otreg.io.formats import LANDMARK_SUFFIXES, SURFACE_SUFFIXES, suffix_of
    from otreg.surface import Landmarks, Surface

    suffix = suffix_of(path)
    if isinstance(shape, Landmarks) and suffix in SURFACE_SUFFIXES and suffix not in LANDMARK_SUFFIXES:
        names = dict(enumerate(shape.names))
        numbers = np.arange(len(shape))
        shape = Surface(
            shape.points, point_data={"landmark": numbers}, frame=shape.frame, label_names={"landmark": names}
        )
    elif isinstance(shape, Surface) and suffix in LANDMARK_SUFFIXES and suffix not in SURFACE_SUFFIXES:
        if shape.has_triangles:
            raise InputError(
                f"{path}: holds landmarks alone, and this is a mesh; choose a format of surfaces"
            )
        if shape.point_data:
            warn(f"{path}: {suffix} holds landmarks alone: {', '.join(shape.point_data)} left out")
        shape = Landmarks(shape.points, frame=shape.frame)
    lost = io.write_landmarks(shape, path) if isinstance(shape, Landmarks) else io.write(shape, path)
    for line in lost:
        warn(f"{path}: {line}")


def check_output_file(output: Path, inputs: list[Path]) -> None:
    """Refuse, before any work, an output that cannot be written or that is one of the inputs."""
    if output.is_dir():
        raise InputError(f"{output}: is a folder; -o takes the name of a file")
    if not output.parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist; create it first")
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"{output}: the folder {output.parent} cannot be written to; choose another one")
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise InputError(f"{output}: is also the input, which would be lost; choose another name")


def check_output_directory(folder: Path, inputs: list[Path]) -> None:
    """Refuse, before any work, a folder that is neither new, nor empty, nor an earlier run of ours."""
    if folder.is_symlink() and not folder.exists():
        raise InputError(f"{folder}: is a link to nothing; choose another name")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; -o takes a folder")
    if folder.is_dir():
        if any(folder.iterdir()) and not is_run_directory(folder):
            raise InputError(
                f"{folder}: holds files and is not an earlier run of otreg; choose a new or empty folder"
            )
        for path in inputs:
            if path.exists() and folder.resolve() in path.resolve().parents:
                raise InputError(f"{path}: lies in {folder}, which would be replaced; choose another folder")
    above = folder.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise InputError(f"{folder}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK):
        raise InputError(f"{folder}: the folder {above} cannot be written to; choose another one")
