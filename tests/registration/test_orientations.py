"""Many orientations side by side: the same as one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from otreg.registration.orientations import Orientations
from otreg.registration.pose import (
    NORMAL_WEIGHT,
    Pose,
    apply_pose,
    refine,
    truncated_distance,
    uniform_rotations,
)
from otreg.registration.sampling import Samples
from tests.phantoms import SHAPES, random_rotation, sphere_tessellation


def samples(count: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    directions, _ = sphere_tessellation(count, seed)
    points = SHAPES["bean"](directions)
    points = (points - points.mean(axis=0)) / np.linalg.norm(np.ptp(points, axis=0))
    weights = rng.uniform(0.5, 1.5, len(points))
    return Samples(
        points, directions / np.linalg.norm(directions, axis=1, keepdims=True), weights / weights.sum()
    )


def poses(scale: float) -> list[Pose]:
    rng = np.random.default_rng(3)
    return [(scale, turn, 0.1 * rng.normal(size=3)) for turn in uniform_rotations(12)]


@pytest.mark.parametrize("scale", [1.0, 1.4])
@pytest.mark.parametrize("partial", [False, True])
def test_they_are_what_each_alone_would_be(scale: float, partial: bool) -> None:
    moving, fixed, given = samples(180, 0), samples(220, 1), poses(scale)
    scales, turns, shifts = (np.array(part) for part in zip(*given, strict=True))
    together = Orientations(moving, fixed, scales, turns, shifts, NORMAL_WEIGHT)
    together.refine(5)
    distances = together.distances(0.25, partial)
    grown = Samples(scale * moving.points, moving.normals, moving.weights)
    for k, (_, rotation, translation) in enumerate(given):
        _, turn, shift = refine((1.0, rotation, translation), grown, fixed, 5, False, 1.7)
        np.testing.assert_allclose(together.rotations[k].numpy(), turn, atol=1e-9)
        np.testing.assert_allclose(together.translations[k].numpy(), shift, atol=1e-9)
        alone = truncated_distance(apply_pose((scale, turn, shift), moving), fixed, 0.25, partial)
        assert distances[k] == pytest.approx(alone, rel=1e-6)


def test_a_turned_copy_is_found_and_never_a_mirrored_one() -> None:
    moving = samples(200, 0)
    turn, shift = random_rotation(np.random.default_rng(1)), np.array([0.3, -0.2, 0.1])
    fixed = apply_pose((1.0, turn, shift), moving)
    starts = uniform_rotations(60)
    found = Orientations(moving, fixed, np.ones(60), starts, np.array([shift] * 60), NORMAL_WEIGHT)
    found.refine(25)
    best = int(found.distances(0.25, False).argmin())
    np.testing.assert_allclose(found.rotations[best].numpy(), turn, atol=1e-3)
    np.testing.assert_allclose(np.linalg.det(found.rotations.numpy()), 1.0, atol=1e-9)


def test_clouds_without_normals() -> None:
    cloud = samples(100, 0)
    bare = Samples(cloud.points, np.zeros_like(cloud.points), cloud.weights)
    found = Orientations(bare, bare, np.ones(1), np.eye(3)[None], np.zeros((1, 3)), NORMAL_WEIGHT)
    found.refine(3)
    np.testing.assert_allclose(found.rotations[0].numpy(), np.eye(3), atol=1e-9)
    assert found.distances(0.25, False)[0] == pytest.approx(0.0, abs=1e-12)
