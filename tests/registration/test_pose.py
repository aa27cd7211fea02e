"""The rigid start: the closed form, and the search over orientations."""

from __future__ import annotations

import numpy as np
import pytest

from otreg.registration.pose import Pose, find_pose, procrustes, truncated_distance, uniform_rotations
from otreg.registration.sampling import Samples, sample_shape
from otreg.surface import Surface
from tests.phantoms import SHAPES, random_rotation, sphere_tessellation


def shape(name: str = "bean", seed: int = 0, count: int = 800) -> Surface:
    """A lopsided mesh of about unit diameter, around the origin."""
    directions, triangles = sphere_tessellation(count, seed)
    points = SHAPES[name](directions)
    return Surface((points - points.mean(axis=0)) / np.linalg.norm(np.ptp(points, axis=0)), triangles)


def move(pose: Pose, points: np.ndarray) -> np.ndarray:
    scale, rotation, translation = pose
    return scale * points @ rotation.T + translation


def moved(samples: Samples, scale: float, rotation: np.ndarray, translation: np.ndarray) -> Samples:
    points = scale * samples.points @ rotation.T + translation
    return Samples(points, samples.normals @ rotation.T, samples.weights)


@pytest.mark.parametrize("seed", range(5))
def test_procrustes_finds_a_known_similarity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights, turn = rng.normal(size=(12, 3)), rng.uniform(0.1, 1, 12), random_rotation(rng)
    offset = rng.normal(size=3)
    scale, rotation, translation = procrustes(x, 1.7 * x @ turn.T + offset, weights, True)
    assert scale == pytest.approx(1.7, abs=1e-12)
    assert np.abs(rotation - turn).max() < 1e-12 and np.abs(translation - offset).max() < 1e-12
    # without a scale of its own: the same turn, about the weighted mean
    scale, rotation, translation = procrustes(x, 1.7 * x @ turn.T + offset, weights, False)
    centre = weights @ x / weights.sum()
    assert scale == 1.0 and np.abs(rotation - turn).max() < 1e-12
    assert np.abs(rotation @ centre + translation - (1.7 * turn @ centre + offset)).max() < 1e-12


def test_procrustes_ignores_points_without_weight() -> None:
    rng = np.random.default_rng(0)
    x, turn = rng.normal(size=(10, 3)), random_rotation(rng)
    y, weights = x @ turn.T, np.ones(10)
    y[0], weights[0] = 100.0, 0.0
    assert np.abs(procrustes(x, y, weights, True)[1] - turn).max() < 1e-12


def test_procrustes_is_the_least_squares_solution() -> None:
    """No similarity nearby fits noisy pairs better."""
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=(30, 3)), rng.uniform(0.1, 1, 30)
    y = 0.8 * x @ random_rotation(rng).T + 0.3 * rng.normal(size=(30, 3))

    def cost(pose: Pose) -> float:
        return float(weights @ ((move(pose, x) - y) ** 2).sum(axis=1))

    best = procrustes(x, y, weights, True)
    for k in range(3):
        axis = np.eye(3)[k]
        for step in (-1e-3, 1e-3):
            turn = np.eye(3) + step * np.cross(np.eye(3), axis)
            turn = np.linalg.qr(turn)[0] * np.sign(np.diag(np.linalg.qr(turn)[1]))
            assert cost((best[0], turn @ best[1], best[2])) > cost(best)
            assert cost((best[0], best[1], best[2] + step * axis)) > cost(best)
            assert cost((best[0] + step, best[1], best[2])) > cost(best)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_procrustes_never_reflects(scaled: bool, flat: bool) -> None:
    x = np.random.default_rng(2).normal(size=(20, 3))
    if flat:
        x[:, 2] = 0.0
    scale, rotation, _ = procrustes(x, x * [-1, 1, 1], np.ones(20), scaled)
    assert np.linalg.det(rotation) == pytest.approx(1.0) and scale > 0
    assert np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-12


def test_uniform_rotations_leave_no_orientation_far() -> None:
    """Random rotations are within 45 degrees of one of 120: proper ones, none near another."""
    tried = uniform_rotations(120)
    assert np.abs(np.linalg.det(tried) - 1).max() < 1e-12
    rng = np.random.default_rng(3)
    wanted = np.stack([random_rotation(rng) for _ in range(500)])
    cosine = (np.einsum("nij,mij->nm", wanted, tried) - 1) / 2
    assert np.degrees(np.arccos(np.clip(cosine.max(axis=1), -1, 1))).max() < 45
    among = (np.einsum("nij,mij->nm", tried, tried) - 1) / 2
    np.fill_diagonal(among, -1)
    assert np.degrees(np.arccos(among.max())) > 20


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["bean", "bumpy_sphere"])
def test_any_pose_is_found(name: str, seed: int) -> None:
    """Two samplings of two tessellations, one turned at random and far away."""
    rng = np.random.default_rng(seed)
    turn, offset = random_rotation(rng), rng.uniform(-3, 3, 3)
    moving = sample_shape(shape(name, 1), 800, seed)
    fixed = moved(sample_shape(shape(name, 2), 800, seed + 50), 1.0, turn, offset)
    pose = find_pose(moving, fixed, False, 60)
    assert pose[0] == 1.0 and np.linalg.det(pose[1]) == pytest.approx(1.0)
    error = np.linalg.norm(move(pose, moving.points) - (moving.points @ turn.T + offset), axis=1)
    assert error.mean() < 0.01


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_far_other_size_is_found(factor: float) -> None:
    rng = np.random.default_rng(5)
    turn, offset = random_rotation(rng), rng.uniform(-3, 3, 3)
    moving = sample_shape(shape("bean", 1), 800, 0)
    moving = Samples(moving.points / factor, moving.normals, moving.weights)
    fixed = moved(sample_shape(shape("bean", 2), 800, 1), 1.0, turn, offset)
    pose = find_pose(moving, fixed, True, 60)
    assert pose[0] == pytest.approx(factor, rel=0.01)
    error = np.linalg.norm(move(pose, moving.points) - (factor * moving.points @ turn.T + offset), axis=1)
    assert error.mean() < 0.01


def test_a_mirrored_shape_is_turned_not_mirrored() -> None:
    moving = sample_shape(shape("bean", 1), 800, 0)
    mirror = np.array([-1.0, 1.0, 1.0])
    fixed = Samples(moving.points * mirror, moving.normals * mirror, moving.weights)
    scale, rotation, translation = find_pose(moving, fixed, True, 60)
    assert np.linalg.det(rotation) == pytest.approx(1.0) and scale > 0
    # and yet it lies better than as given
    best = moved(moving, scale, rotation, translation)
    assert truncated_distance(best, fixed) < truncated_distance(moving, fixed)


@pytest.mark.parametrize("scaled", [False, True])
def test_an_aligned_shape_stays_exactly(scaled: bool) -> None:
    moving, fixed = (sample_shape(shape("bean", 1), 800, seed) for seed in (0, 1))
    scale, rotation, translation = find_pose(moving, fixed, scaled, 60)
    assert scale == 1.0 and np.array_equal(rotation, np.eye(3)) and not translation.any()


def test_truncated_distance_of_two_points() -> None:
    """Squared distance in position and weighted normal, both ways, up to the truncation."""
    up, down = np.array([[0.0, 0, 1]]), np.array([[0.0, 0, -1]])
    one = np.ones(1)
    origin = Samples(np.zeros((1, 3)), up, one)
    assert truncated_distance(origin, Samples(np.array([[0.1, 0, 0]]), up, one)) == pytest.approx(0.02)
    assert truncated_distance(origin, Samples(np.array([[5.0, 0, 0]]), up, one)) == pytest.approx(0.125)
    flipped = Samples(np.array([[0.1, 0, 0]]), down, one)
    assert truncated_distance(origin, flipped, 1.0) == pytest.approx(2 * (0.01 + (2 * 0.15) ** 2))
