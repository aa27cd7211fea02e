"""Shoot momenta on a bone: what is conserved, how far the inverse is off, and back from the file.

    python examples/shooting.py [--quick]

Lengths are in millimetres, the unit of the file.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import otreg
from otreg.deformations import Diffeomorphism

DATA = Path(__file__).parents[1] / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer control points")
    quick = parser.parse_args().quick
    bone = otreg.read(DATA / "metacarpal_1.vtk")
    print(f"{bone}, {bone.diameter:.1f} mm")

    # Control points spread over the bone, with momenta that bend it: sideways as the square of the height.
    points = bone.points[:: 200 if quick else 50]
    centre = points.mean(axis=0)
    axes = np.linalg.svd(points - centre, full_matrices=False)[2]
    height = (points - centre) @ axes[0] / (0.5 * bone.diameter)
    momenta = 90.0 / len(points) * (height**2 - 0.3)[:, None] * axes[1]
    flow = Diffeomorphism(points, momenta, width=(20.0, 10.0))
    bent = flow(bone)  # a surface too, with all its data
    moved = np.linalg.norm(bent.points - bone.points, axis=1)
    print(f"moved by {moved.mean():.1f} mm on average, {moved.max():.1f} mm at most")

    # A geodesic: the energy is the same at all times, up to the error of the integrator.
    energies = flow.path().hamiltonians()
    drift = float((energies / energies[0] - 1.0).abs().max())
    print(f"energy {energies[0]:.1f}, conserved to {drift:.1e}")
    assert drift < 1e-5

    # Control points and reversed momenta of the end shoot back to the start.
    end, last = flow.path().end
    back = Diffeomorphism(end, -last, flow.widths)
    error = np.linalg.norm(back(bent).points - bone.points, axis=1).max()
    print(f"shot back with reversed momenta: {error:.1e} mm off")
    assert error < 1e-3

    # The inverse is more exact than that: what the integrator misses is corrected.
    error = np.linalg.norm(flow.inverse(bent).points - bone.points, axis=1).max()
    volume = flow.jacobian_determinant(bone.points)
    print(f"inverse: {error:.1e} mm off; det J from {volume.min():.2f} to {volume.max():.2f}")
    assert error < 1e-6 and volume.min() > 0.0

    with tempfile.TemporaryDirectory() as folder:
        flow.save(Path(folder) / "bend.h5")
        again = otreg.load_transform(Path(folder) / "bend.h5")
        same = np.array_equal(again(bone).points, bent.points)
    print(f"the same from its file: {'yes' if same else 'no'}")
    assert same


if __name__ == "__main__":
    main()
