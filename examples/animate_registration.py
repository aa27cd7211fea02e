"""Register two bones and show how one becomes the other: a loop, a series for ParaView, and the way in numbers.

    python examples/animate_registration.py [--quick] [--output FOLDER]

Lengths are in millimetres, the unit of the files. Without a folder the files are only looked at.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import otreg
from otreg.deformations import Composite, Diffeomorphism, trajectory
from otreg.visualize import animate

DATA = Path(__file__).parents[1] / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a pose and a flow that is not fitted; fewer frames"
    )
    parser.add_argument("--output", type=Path, help="folder to keep the files in")
    given = parser.parse_args()
    moving, fixed = otreg.read(DATA / "metacarpal_1.vtk"), otreg.read(DATA / "metacarpal_2.stl")
    settings = {"points": 300, "starts": 20} if given.quick else None
    result = otreg.register(moving, fixed, preset="affine" if given.quick else "diffeo", settings=settings)
    if given.quick:  # some flow after the pose, so that there is a bend to be seen
        ends = result.moved.points[
            [np.argmin(result.moved.points[:, 0]), np.argmax(result.moved.points[:, 0])]
        ]
        bend = Diffeomorphism(ends, [[0.0, 0.0, 12.0], [0.0, 0.0, -12.0]], width=20.0)
        transform = Composite([result.transform, bend])
        moved = transform(moving)
        moved = moved.with_points(moved.points, displacement=moved.points - moving.points)
        result = otreg.Registration(moved, transform, result.report, moving, fixed)

    # The way of every 100th point: longer than the straight line, since bones turn and bend.
    points = moving.points[::100]
    way = trajectory(result.transform, points, np.linspace(0.0, 1.0, 101))
    length = np.linalg.norm(np.diff(way, axis=0), axis=2).sum(axis=0)
    straight = np.linalg.norm(way[-1] - way[0], axis=1)
    print(f"way of {len(points)} points: {length.mean():.1f} mm, straight {straight.mean():.1f} mm")
    assert np.array_equal(way[0], points) and np.array_equal(way[-1], result.transform.map(points))
    assert (length >= straight * (1 - 1e-9)).all()

    with tempfile.TemporaryDirectory() as temporary:
        folder = given.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        frames = 4 if given.quick else 48
        size = (320, 240) if given.quick else (800, 600)
        loop = animate(result, folder / "bones.gif", frames=frames, size=size, bounce=True)
        for leg in loop.legs:
            print(f"  {leg.start:.2f} to {leg.end:.2f}  {leg}")
        with Image.open(loop.path) as image:
            print(f"bones.gif: {getattr(image, 'n_frames', 1)} frames, {image.width}x{image.height}")
        shape = animate(result, folder / "shape.gif", frames=frames, size=size, skip_pose=True)
        print(f"shape.gif, without the pose: {', '.join(leg.name for leg in shape.legs)}")
        series = animate(result, folder / "bones.pvd", frames=5)
        halfway = otreg.read(folder / "bones_frames" / "moved_002.vtp")
        same = np.array_equal(halfway.points[::100], way[50])
        print(f"bones.pvd: {series.frames} times; halfway as computed: {'yes' if same else 'no'}")
        assert same


if __name__ == "__main__":
    main()
