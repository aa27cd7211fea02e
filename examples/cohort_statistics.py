"""A cohort of bones that bend with age: its components, the regression on age, and a test of two groups.

    python examples/cohort_statistics.py [--quick]

The momenta are made up, so the truth is known; `otreg template` finds those of real surfaces (docs/templates.md).
Lengths are in millimetres.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import otreg
from otreg.cohort import MomentaSpace, geodesic_regression, group_difference, principal_components

DATA = Path(__file__).parents[1] / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer vertices, control points and permutations"
    )
    quick = parser.parse_args().quick
    bone = otreg.read(DATA / "metacarpal_1.vtk")
    space = MomentaSpace(bone.points[:: 100 if quick else 20], (0.3 * bone.diameter, 0.15 * bone.diameter))
    print(f"{bone}, {len(space.control_points)} control points")

    # 24 subjects: bones bend with age, swell at one end from person to person, and differ in small ways besides.
    rng = np.random.default_rng(0)
    points = space.control_points - space.control_points.mean(axis=0)
    axes = np.linalg.svd(points, full_matrices=False)[2]
    height = points @ axes[0] / (0.5 * bone.diameter)
    bend = (height**2 - 0.3)[:, None] * axes[1]
    swell = np.exp(-4.0 * (height - 1.0) ** 2)[:, None] * (
        points - height[:, None] * 0.5 * bone.diameter * axes[0]
    )
    bend, swell = (one / space.norms(one)[0] for one in (bend, swell))
    ages = rng.uniform(20.0, 80.0, 24)
    noise = rng.normal(size=(24, *points.shape))
    noise /= space.norms(noise)[:, None, None]
    momenta = (
        0.1 * (ages - 50.0)[:, None, None] * bend
        + rng.normal(scale=1.0, size=24)[:, None, None] * swell
        + 0.3 * noise
    )

    components = principal_components(space, momenta)
    along = space.gram(components.modes[:1], bend)[0, 0]
    shares = 100.0 * components.explained[:3]
    print(f"components explain {shares[0]:.1f} %, {shares[1]:.1f} %, {shares[2]:.1f} % of the variance")
    print(f"the first is the bending to {abs(along):.3f}")
    assert abs(along) > 0.95

    permutations = 499 if quick else 9999
    regression = geodesic_regression(space, ages, momenta, on="age", permutations=permutations)
    speed = space.norms(regression.slope)[0]
    print(
        f"on age: {speed:.4f} mm a year (0.1 went in), R² {regression.r_squared:.3f}, p = {regression.p_value:.4f}"
    )
    assert abs(speed - 0.1) < 0.01
    young, old = (space.flow(regression.momenta(age))(bone).points for age in (20.0, 80.0))
    moved = np.linalg.norm(old - young, axis=1)
    print(
        f"from 20 to 80 years points move by {moved.mean():.1f} mm on average, {moved.max():.1f} mm at most"
    )

    # Two groups that differ at the swelling end, and two that do not differ.
    sick = np.arange(24) % 2 == 1
    displacements = space.velocities(momenta + 2.5 * sick[:, None, None] * swell, bone.points)
    found = group_difference(bone, np.where(sick, "sick", "well"), displacements, permutations=permutations)
    marked = found.shape.point_data["p_corrected"] <= 0.05
    print(
        f"sick against well: p = {found.p_value:.4f}, {100.0 * marked.mean():.0f} % of the vertices are marked"
    )
    nothing = group_difference(
        bone, np.where(sick, "a", "b"), space.velocities(momenta, bone.points), permutations=permutations
    )
    print(f"no difference: p = {nothing.p_value:.4f}")
    assert found.p_value < 0.05 and marked.any()


if __name__ == "__main__":
    main()
