"""Registration in three lines; landmarks carried along, the way back, and the transform in a file.

    python examples/script_registration.py [--quick]

Lengths are in millimetres, the unit of the files.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import otreg

DATA = Path(__file__).parents[1] / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="splines and fewer points")
    quick = parser.parse_args().quick
    # Fewer points than by default, so that this is soon done: leave settings out for the closest fit.
    settings = {"points": 800, "fine_points": 2000, "control_points": 100}
    if quick:
        settings = {"points": 300, "fine_points": 600, "control_points": 20, "starts": 20}
    preset = "spline" if quick else "diffeo"

    moving, fixed = (
        otreg.read(DATA / "cerebellum_suit.surf.gii"),
        otreg.read(DATA / "cerebellum_mnisymc.surf.gii"),
    )
    result = otreg.register(moving, fixed, preset=preset, settings=settings)
    moved = result.moved  # moving in fixed's space: a surface with all the data that moving has

    quality = result.report["quality"]
    print(
        f"surfaces {quality['before']['assd']:.2f} mm apart before, {quality['after']['assd']:.2f} mm after"
    )
    print(f"quality gate {'passed' if result.passed else 'failed'}; warnings: {result.warnings or 'none'}")
    assert result.passed

    # Whatever lives in moving's space goes with it.
    from_there, to_here = (
        otreg.read_landmarks(DATA / f"cerebellum_{name}_landmarks.csv") for name in ("suit", "mnisymc")
    )
    before, after = (
        np.linalg.norm(points - to_here.points, axis=1).mean()
        for points in (from_there.points, result.transform(from_there).points)
    )
    print(
        f"{len(to_here)} landmarks, which it has not seen: {before:.2f} mm off before, {after:.2f} mm after"
    )
    assert after < 0.6 * before

    back = result.transform.inverse(moved)
    error = np.linalg.norm(back.points - moving.points, axis=1).max()
    print(f"there and back again: {error:.1e} mm off")
    assert error < 1e-3 * fixed.diameter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transform.h5"
        result.transform.save(path)
        again = otreg.load_transform(path)
        same = np.allclose(again(moving).points, moved.points, rtol=0.0, atol=1e-9)
        print(
            f"transform of {path.stat().st_size / 1024:.0f} kB, the same from its file: {'yes' if same else 'no'}"
        )
    assert same


if __name__ == "__main__":
    main()
