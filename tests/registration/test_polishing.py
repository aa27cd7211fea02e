"""The last step of rigid and similarity registrations, where the pose is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import otreg
from otreg.registration.polishing import Polisher
from otreg.registration.pose import Pose
from otreg.registration.sampling import sample_shape
from otreg.surface import Surface
from tests.phantoms import bean, random_rotation, sphere_tessellation


def unit_mesh(count: int = 900, seed: int = 0) -> Surface:
    directions, triangles = sphere_tessellation(count, seed)
    points = bean(directions)
    return Surface(points / np.linalg.norm(np.ptp(points, axis=0)), triangles)


def carried(shape: Surface, pose: Pose) -> Surface:
    scale, rotation, translation = pose
    return shape.with_points(scale * shape.points @ rotation.T + translation)


def polisher(moving: Surface, fixed: Surface, partial: bool = False) -> Polisher:
    return Polisher(moving, fixed, sample_shape(moving, 800, 1), sample_shape(fixed, 800, 2), partial)


def near(pose: Pose, seed: int, growth: float = 1.0) -> Pose:
    """A pose some percent away."""
    rng = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(0.05 * rng.uniform(-1, 1, 3)).as_matrix()
    return growth * pose[0], turn @ pose[1], pose[2] + 0.02 * rng.uniform(-1, 1, 3)


def missed(found: Pose, truth: Pose, shape: Surface) -> float:
    return float(np.linalg.norm(carried(shape, found).points - carried(shape, truth).points, axis=1).max())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_copies_are_met_to_rounding(scaled: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth: Pose = (1.2 if scaled else 1.0, random_rotation(rng), rng.uniform(-1, 1, 3))
    shape = unit_mesh()
    polish = polisher(shape, carried(shape, truth))
    found, before, after = polish.polished(near(truth, seed, 1.05 if scaled else 1.0), scaled)
    assert missed(found, truth, shape) < 1e-9
    assert scaled or found[0] == 1.0
    assert np.linalg.det(found[1]) == pytest.approx(1.0)
    assert after < 1e-9 < before and polish.pairs(found).mean == after


def test_a_part_that_differs_does_not_pull() -> None:
    """A seventh of one shape is swollen: the rest still lies on the other."""
    shape = unit_mesh(2000)
    height = shape.points[:, 2]
    swollen = shape.points + 0.03 * shape.normals * (height > np.quantile(height, 0.85))[:, None]
    truth: Pose = (1.0, np.eye(3), np.zeros(3))
    found = polisher(shape.with_points(swollen), shape).polished(near(truth, 0), False).pose
    assert missed(found, truth, shape) < 0.005


def test_a_part_is_laid_onto_the_whole() -> None:
    whole = unit_mesh(2000)
    kept = (whole.points[whole.triangles, 0] > 0.0).all(axis=1)
    part = Surface(whole.points, whole.triangles[kept])
    truth: Pose = (1.0, random_rotation(np.random.default_rng(5)), np.full(3, 0.1))
    used = Surface(whole.points[np.unique(part.triangles)])
    found = polisher(part, carried(whole, truth), partial=True).polished(near(truth, 1), False).pose
    assert missed(found, truth, used) < 1e-6
    back = (1.0, truth[1].T, -truth[2] @ truth[1])
    found = polisher(carried(whole, truth), part, partial=True).polished(near(back, 2), False).pose
    assert missed(found, back, carried(whole, truth)) < 1e-6


def test_a_sphere_is_not_turned() -> None:
    """What distances do not determine stays as it is."""
    directions, triangles = sphere_tessellation(1500, 0)
    sphere = Surface(0.5 * directions, triangles)
    shifted: Pose = (1.0, np.eye(3), np.array([0.02, 0.0, 0.0]))
    turned = carried(sphere, (1.0, random_rotation(np.random.default_rng(0)), np.zeros(3)))
    found = polisher(sphere, turned).polished(shifted, False).pose
    assert Rotation.from_matrix(found[1]).magnitude() < 0.02
    assert np.abs(found[2]).max() < 1e-3


def test_clouds_are_met_point_by_point() -> None:
    cloud = Surface(np.random.default_rng(0).normal(size=(400, 3)) * [0.3, 0.2, 0.1])
    truth: Pose = (1.0, random_rotation(np.random.default_rng(1)), np.zeros(3))
    found = polisher(cloud, carried(cloud, truth)).polished(near(truth, 3), False).pose
    assert missed(found, truth, cloud) < 1e-9


def test_no_step_makes_it_worse() -> None:
    other = unit_mesh(900, 3)
    other = other.with_points(other.points * [1.1, 0.9, 1.0])
    polish, start = polisher(unit_mesh(), other), near((1.0, np.eye(3), np.zeros(3)), 4)
    found, before, after = polish.polished(start, True)
    assert after == polish.pairs(found).mean < before == polish.pairs(start).mean


@pytest.mark.parametrize("preset", ["rigid", "similarity"])
def test_whole_registrations_of_copies_in_another_pose(preset: str) -> None:
    shape = carried(unit_mesh(700), (80.0, np.eye(3), np.zeros(3)))
    truth: Pose = (
        1.3 if preset == "similarity" else 1.0,
        random_rotation(np.random.default_rng(9)),
        np.full(3, 50.0),
    )
    found = otreg.register(shape, carried(shape, truth), preset, settings={"points": 600, "starts": 60})
    assert np.linalg.norm(found.moved.points - carried(shape, truth).points, axis=1).max() < 1e-6
    assert found.report["stages"][-1]["stage"] == "polish"
