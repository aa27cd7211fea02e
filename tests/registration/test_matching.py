"""Matches against dense transport in double precision, and against what is known of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from otreg.registration.matching import Match, match, match_all_pairs, match_near_pairs
from otreg.registration.sampling import Samples, sample_shape, unit
from otreg.surface import Surface
from tests.phantoms import bean, sphere_tessellation

Matcher = Callable[[Samples, Samples, float, float, float], Match]
NORMAL_WEIGHT = 0.15


def samples(count: int, seed: int, tessellation: int = 0) -> Samples:
    """Samples of a bean of unit diameter."""
    directions, triangles = sphere_tessellation(600, tessellation)
    points = bean(directions)
    return sample_shape(Surface(points / np.linalg.norm(np.ptp(points, axis=0)), triangles), count, seed)


def bent(given: Samples) -> Samples:
    """A little deformed, so that matches do not lie at zero."""
    points = given.points + 0.01 * np.sin(6 * given.points[:, [1, 2, 0]])
    return Samples(points, given.normals, given.weights)


def dense(moving: Samples, fixed: Samples, blur: float, reach: float, normal_weight: float) -> Match:
    """Unbalanced Sinkhorn over every pair, in logarithms and double precision, to the end."""
    eps, rho = blur**2, reach**2
    x = np.concatenate([moving.points, normal_weight * moving.normals], axis=1)
    y = np.concatenate([fixed.points, normal_weight * fixed.normals], axis=1)
    cost = 0.5 * cdist(x, y, "sqeuclidean")
    log_a, log_b = np.log(moving.weights), np.log(fixed.weights)
    f, g = np.zeros(len(x)), np.zeros(len(y))
    for _ in range(100):
        f = -eps * rho / (eps + rho) * logsumexp(log_b + (g - cost) / eps, axis=1)
        g = -eps * rho / (eps + rho) * logsumexp(log_a + (f - cost.T) / eps, axis=1)
    plan = np.exp((f[:, None] + g[None] - cost) / eps + log_b)  # per unit of each point's mass
    total = plan.sum(axis=1)
    values = np.concatenate([fixed.points, fixed.normals], axis=1)
    means = plan @ values / total[:, None]
    return Match(means[:, :3], means[:, 3:], total)


def test_near_pairs_are_dense_transport_where_none_is_left_out() -> None:
    moving, fixed, blur = bent(samples(300, 0)), samples(350, 1, 1), 0.02
    found = match_near_pairs(moving, fixed, blur, 2.5 * blur, NORMAL_WEIGHT, iterations=100, most=350)
    assert found is not None
    exact = dense(moving, fixed, blur, 2.5 * blur, NORMAL_WEIGHT)
    sure = exact.confidence > 1e-3
    assert sure.mean() > 0.9
    assert np.abs(found.confidence - exact.confidence).max() < 1e-3
    assert np.linalg.norm(found.targets - exact.targets, axis=1)[sure].max() < 1e-2 * blur
    assert np.abs(found.normals - exact.normals)[sure].max() < 1e-2


def test_near_pairs_are_dense_transport_at_their_defaults() -> None:
    """Six blurs and twenty rounds do at a blur below the spacing."""
    moving, fixed = bent(samples(600, 0)), samples(600, 1, 1)
    blur = 0.02
    found = match_near_pairs(moving, fixed, blur, 2.5 * blur, NORMAL_WEIGHT)
    exact = dense(moving, fixed, blur, 2.5 * blur, NORMAL_WEIGHT)
    off = np.linalg.norm(found.targets - exact.targets, axis=1)
    assert np.abs(found.confidence - exact.confidence).mean() < 0.01
    assert np.average(off, weights=exact.confidence) < 0.02 * blur


@pytest.mark.parametrize("blur", [0.03, 0.1])
def test_all_pairs_are_dense_transport(blur: float) -> None:
    moving, fixed = bent(samples(400, 0)), samples(450, 1, 1)
    found = match_all_pairs(moving, fixed, blur, 2.5 * blur, NORMAL_WEIGHT)
    exact = dense(moving, fixed, blur, 2.5 * blur, NORMAL_WEIGHT)
    assert np.abs(found.confidence - exact.confidence).mean() < 0.02
    off = np.linalg.norm(found.targets - exact.targets, axis=1)
    assert np.average(off, weights=exact.confidence) < 0.05 * blur


def test_near_pairs_agree_with_all_pairs() -> None:
    moving, fixed = bent(samples(800, 0)), samples(800, 1, 1)
    blur = 0.02
    near = match_near_pairs(moving, fixed, blur, 2.5 * blur, NORMAL_WEIGHT)
    every = match_all_pairs(moving, fixed, blur, 2.5 * blur, NORMAL_WEIGHT)
    assert np.abs(near.confidence - every.confidence).mean() < 0.05
    off = np.linalg.norm(near.targets - every.targets, axis=1)
    assert np.average(off, weights=near.confidence) < 0.1 * blur
    assert np.abs(near.normals - every.normals).mean() < 0.02


@pytest.mark.parametrize("way", [match_near_pairs, match_all_pairs])
def test_a_small_translation_is_seen(way: Matcher) -> None:
    """The one translation that explains the displacements across the surface."""
    fixed = samples(800, 0)
    blur, step = 0.03, np.array([0.004, -0.003, 0.005])
    moving = Samples(fixed.points - step, fixed.normals, fixed.weights)
    found = way(moving, fixed, blur, 2.5 * blur, NORMAL_WEIGHT)
    mass = moving.weights * found.confidence
    # along the surface one point looks like the next: what is seen is the step across it
    seen = ((found.targets - moving.points) * moving.normals).sum(axis=1)
    solved = np.linalg.lstsq(mass[:, None] ** 0.5 * moving.normals, mass**0.5 * seen, rcond=None)[0]
    assert np.linalg.norm(solved - step) < 0.25 * np.linalg.norm(step)


@pytest.mark.parametrize("way", [match_near_pairs, match_all_pairs])
def test_an_outlier_far_beyond_the_reach_is_not_trusted(way: Matcher) -> None:
    fixed, moving = samples(400, 0), samples(400, 1)
    moving.points[7] += [0.0, 0.0, 2.0]
    found = way(moving, fixed, 0.03, 0.075, NORMAL_WEIGHT)
    assert found.confidence[7] < 1e-6
    assert np.median(found.confidence) > 0.5
    assert all(np.isfinite(part).all() for part in found)


@pytest.mark.parametrize("way", [match_near_pairs, match_all_pairs])
def test_sides_that_face_apart_do_not_meet(way: Matcher) -> None:
    """Two sheets, one a little above the other, facing away: without normals they would match."""
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 20), np.linspace(0, 1, 20), [0.0]), axis=-1).reshape(-1, 3)
    up, weights = np.tile([0.0, 0, 1], (400, 1)), np.full(400, 1 / 400)
    lower, upper = Samples(grid, -up, weights), Samples(grid + 0.01 * up, up, weights)
    blind = way(lower, upper, 0.05, 0.1, 1e-6)
    seeing = way(lower, upper, 0.05, 0.1, 0.3)
    assert blind.confidence.mean() > 0.5 and seeing.confidence.mean() < 1e-3


def test_wide_blurs_use_all_pairs_and_narrow_ones_near_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    cloud = samples(400, 0)
    nothing = Match(cloud.points, cloud.normals, np.zeros(400))

    def told(name: str) -> Match:
        used.append(name)
        return nothing

    for name in ("match_near_pairs", "match_all_pairs"):
        monkeypatch.setattr(f"otreg.registration.matching.{name}", lambda *_, name=name, **__: told(name))
    match(cloud, cloud, 0.04, 0.1, NORMAL_WEIGHT)
    match(cloud, cloud, 0.06, 0.1, NORMAL_WEIGHT)
    assert used == ["match_near_pairs", "match_all_pairs"]


def test_points_too_close_for_near_pairs_are_matched_over_all_of_them() -> None:
    """A small sheet seen with a blur of its own size: every point is near every other."""
    cloud = samples(400, 0)
    small = Samples(0.05 * cloud.points, cloud.normals, cloud.weights)
    assert match_near_pairs(small, small, 0.03, 0.075, NORMAL_WEIGHT) is None
    found = match(small, small, 0.03, 0.075, NORMAL_WEIGHT)
    exact = dense(small, small, 0.03, 0.075, NORMAL_WEIGHT)
    assert np.abs(found.confidence - exact.confidence).mean() < 0.02
    off = np.linalg.norm(found.targets - exact.targets, axis=1)
    assert np.average(off, weights=exact.confidence) < 0.05 * 0.03


def test_a_point_without_partners_stays_where_it_is() -> None:
    rng = np.random.default_rng(0)
    points = unit(rng.normal(size=(300, 3))) + 5
    away = points.copy()
    away[7] += [0, 0, 2]
    weights, nothing = np.full(300, 1 / 300), np.zeros((300, 3))
    found = match_near_pairs(
        Samples(away, nothing, weights), Samples(points, nothing, weights), 0.03, 0.075, 0.15
    )
    assert found.confidence[7] == 0.0
    np.testing.assert_array_equal(found.targets[7], away[7])
