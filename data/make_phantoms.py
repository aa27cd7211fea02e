"""Make the phantoms: shapes given by formula, with a smooth deformation that is known exactly.

    python data/make_phantoms.py                          # writes data/phantoms as it is kept here
    python data/make_phantoms.py OUT --vertices 20000     # the same shapes, finer

For each one NAME_moving.vtk (its point data ``truth`` is where each vertex belongs, in the space of fixed),
NAME_fixed.ply, on another tessellation, and NAME_moving_landmarks.csv, NAME_fixed_landmarks.csv.
Needs numpy and scipy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "data")]

from plain_files import write_landmarks, write_ply, write_vtk  # noqa: E402

from tests.phantoms import phantom_pair  # noqa: E402

PHANTOMS: dict[str, dict[str, Any]] = {
    "bean": {"shape": "bean", "seed": 1},
    "tube": {"shape": "tube", "seed": 2, "twist": 0.15},
    "cap": {"shape": "bumpy_sphere", "seed": 3, "open_rim": True, "strength": 0.35},
    "partial": {"shape": "bean", "seed": 4, "missing": 0.25, "strength": 0.35},
}
VERTICES = 800


def make(out: Path, vertices: int) -> None:
    """Write all phantoms; the fixed ones have 1.25 times as many vertices."""
    out.mkdir(parents=True, exist_ok=True)
    for name, options in PHANTOMS.items():
        pair = phantom_pair(moving_count=vertices, fixed_count=vertices * 5 // 4, **options)
        write_vtk(out / f"{name}_moving.vtk", *pair.moving, {"truth": pair.truth})
        write_ply(out / f"{name}_fixed.ply", *pair.fixed)
        for side, points in zip(("moving", "fixed"), pair.landmarks, strict=True):
            write_landmarks(out / f"{name}_{side}_landmarks.csv", points)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "data" / "phantoms")
    parser.add_argument("--vertices", type=int, default=VERTICES, help="vertices of each moving mesh")
    options = parser.parse_args()
    make(options.out, options.vertices)


if __name__ == "__main__":
    main()
