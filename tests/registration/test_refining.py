"""The flow by attachment: surfels are what they stand for, and known small misfits are undone."""

from __future__ import annotations

import numpy as np
import pytest

from otreg.registration.refining import refined, surfels
from otreg.registration.sampling import Samples
from tests.phantoms import sphere_tessellation


def sphere(count: int, seed: int, radius: float = 0.3) -> Samples:
    directions, _ = sphere_tessellation(count, seed)
    return Samples(radius * directions, directions, np.full(count, 1.0 / count))


def test_surfels_have_the_area_and_the_normal_of_their_samples() -> None:
    given = sphere(200, 1)
    given.weights = np.random.default_rng(0).uniform(0.5, 1.5, 200)
    points, triangles = surfels(given)
    corners = points[triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    assert np.allclose(cross, given.weights[:, None] * given.normals)
    assert np.allclose(corners.mean(axis=1), given.points)


@pytest.mark.parametrize("normals", [True, False])
def test_a_smaller_sphere_grows(normals: bool) -> None:
    """Radius .29 against .3: most of the gap closes, and the flow neither folds nor shifts."""
    moving, fixed = sphere(700, 1, 0.29), sphere(900, 2, 0.3)
    if not normals:
        moving.normals, fixed.normals = 0 * moving.normals, 0 * fixed.normals
    told: list[float] = []
    flow = refined(moving, fixed, 4 * np.pi * 0.3**2, 8, told.append)
    moved = flow.map(moving.points)
    gap = np.abs(np.linalg.norm(moved, axis=1) - 0.3)
    assert gap.mean() < 0.3 * 0.01 and told[-1] < told[0]
    assert np.linalg.norm(moved.mean(axis=0)) < 1e-3
    assert (flow.jacobian_determinant(moving.points) > 0).all()


def test_stopping_is_passed_on() -> None:
    def stop(distance: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refined(sphere(200, 1), sphere(200, 2), 1.0, 3, stop)
