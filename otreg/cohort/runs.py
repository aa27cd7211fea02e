"""Maps of a cohort as folders of runs, which ``otreg render`` and ``otreg animate`` read like those of ``register``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otreg.cohort.archive import folder_aside
from otreg.deformations import Deformation
from otreg.io import write
from otreg.surface import Surface

MOVED, TRANSFORM = "moved.vtk", "transform.h5"


def write_run_folder(
    folder: Path,
    moved: Surface,
    transform: Deformation,
    report: Mapping[str, Any],
    moving_path: Path,
    fixed_path: Path,
    surfaces: Mapping[str, Surface],
) -> None:
    """Write the folder of a run, whole or not at all.

    Parameters
    ----------
    folder : Path
        An earlier one is replaced.
    moved : Surface
        With ``displacement``.
    transform : Deformation
    report : mapping
        What ``report.json`` says beside the paths.
    moving_path, fixed_path : Path
        Where the two shapes are, once the folder is in its place.
    surfaces : mapping of str to Surface
        Further files, by name.
    """
    with folder_aside(folder) as aside:
        write(moved, aside / MOVED)
        for name, surface in surfaces.items():
            write(surface, aside / name)
        transform.save(aside / TRANSFORM)
        inputs = dict(report.get("inputs", {}))
        for role, path in (("moving", moving_path), ("fixed", fixed_path)):
            inputs[role] = {**inputs.get(role, {}), "path": str(path.absolute())}
        whole = {**report, "inputs": inputs, "outputs": {"moved": MOVED, "transform": TRANSFORM}}
        text = json.dumps(whole, indent=1, allow_nan=False)
        (aside / "report.json").write_text(text + "\n", encoding="utf-8")
