"""A registration for other programs: displacement fields and ITK transforms, how exact they are, read back.

    python examples/export_field.py [--quick]

Lengths are in millimetres, the unit of the files. What reads the files back is SimpleITK, where it is installed
(pip install SimpleITK); without it the reading is left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import otreg
from otreg.deformations import itk_transform, sample_field

DATA = Path(__file__).parents[1] / "data"
TO_LPS = np.array([-1.0, -1.0, 1.0])  # the surfaces are in RAS, ITK is in LPS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="splines, fewer points, coarse grids")
    quick = parser.parse_args().quick
    settings = {"points": 800, "fine_points": 2000, "control_points": 100}
    if quick:
        settings = {"points": 300, "fine_points": 600, "control_points": 20, "starts": 20}
    moving = otreg.read(DATA / "cerebellum_suit.surf.gii")
    fixed = otreg.read(DATA / "cerebellum_mnisymc.surf.gii")
    marks = otreg.read_landmarks(DATA / "cerebellum_suit_landmarks.csv")
    transform = otreg.register(
        moving, fixed, preset="spline" if quick else "diffeo", settings=settings
    ).transform
    goal = transform(marks).points

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'spacing':>10} {'points':>10} {'seconds':>8} {'kB':>8} {'mean error':>11} {'largest':>8}")
        for spacing in (8.0, 4.0) if quick else (8.0, 4.0, 2.0):
            begun = time.perf_counter()
            field = sample_field(transform, spacing=spacing)
            field.save(folder / "points.nii.gz")
            seconds = time.perf_counter() - begun
            size = (folder / "points.nii.gz").stat().st_size / 1024
            error = field.accuracy
            print(
                f"{spacing:10.1f} {field.grid.count:10d} {seconds:8.1f} {size:8.0f} "
                f"{error.mean:11.4f} {error.largest:8.4f}"
            )
        print(f"points.nii.gz maps {field.maps}, {field.frame}")
        off = np.linalg.norm(field.map(marks.points) - goal, axis=1)
        print(
            f"{len(marks)} landmarks moved by the field: {off.max():.4f} mm at most from where the map moves them"
        )
        assert off.max() < 0.2

        # What resamples an image of moving onto fixed is the inverse: points move opposite to images.
        whole = itk_transform(transform, spacing=spacing, direction="images")
        whole.save(folder / "images.h5")
        print(f"images.h5 maps {whole.maps}, {whole.frame}")
        back = np.linalg.norm(whole.map(goal) - marks.points, axis=1)
        print(f"landmarks moved there and, by images.h5, back again: {back.max():.4f} mm off at most")
        assert back.max() < 0.2

        if find_spec("SimpleITK") is None:
            print("SimpleITK is not installed: the files are not read back")
            return
        import SimpleITK

        image = SimpleITK.ReadImage(str(folder / "points.nii.gz"))
        read = SimpleITK.DisplacementFieldTransform(SimpleITK.Cast(image, SimpleITK.sitkVectorFloat64))
        moved = np.array([read.TransformPoint(point) for point in (marks.points * TO_LPS).tolist()]) * TO_LPS
        same = np.linalg.norm(moved - goal, axis=1).max()
        read = SimpleITK.ReadTransform(str(folder / "images.h5"))
        moved = np.array([read.TransformPoint(point) for point in (goal * TO_LPS).tolist()]) * TO_LPS
        home = np.linalg.norm(moved - marks.points, axis=1).max()
        print(f"the same by SimpleITK from the files: {same:.4f} and {home:.4f} mm")
        assert max(same, home) < 0.2


if __name__ == "__main__":
    main()
