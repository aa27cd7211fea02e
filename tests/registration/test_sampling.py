"""Samples stand for a shape: on it, evenly spread, weighted by area."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from otreg.reductions import compiled
from otreg.registration.sampling import _cells, farthest_points, sample_shape, thinned, unit
from otreg.surface import Surface

SIDE = 0.5


def cube() -> Surface:
    """A cube of side 0.5 around the origin; the face z = 0.25 has far smaller triangles than the others."""
    points, triangles = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            steps = 20 if axis == 2 and sign > 0 else 2
            u, v = (grid.ravel() for grid in np.meshgrid(*[np.linspace(-1, 1, steps + 1)] * 2))
            face = np.empty((len(u), 3))
            face[:, axis], face[:, axis - 2], face[:, axis - 1] = sign, u, v
            corner = np.arange(len(u)).reshape(steps + 1, steps + 1)[:-1, :-1].ravel()
            square = np.stack([corner, corner + 1, corner + steps + 2, corner + steps + 1], axis=1)
            square = square if sign > 0 else square[:, ::-1]
            start = sum(len(part) for part in points)
            triangles += [start + square[:, [0, 1, 2]], start + square[:, [0, 2, 3]]]
            points.append(face)
    return Surface(0.5 * SIDE * np.concatenate(points), np.concatenate(triangles))


@pytest.mark.parametrize("count", [50, 1000, 7000, 21000])
def test_samples_lie_on_the_shape_and_weigh_its_area(count: int) -> None:
    surface = cube()
    assert surface.triangle_areas.sum() == pytest.approx(6 * SIDE**2)
    samples = sample_shape(surface, count, 0)
    assert len(samples.points) == count if count <= 20000 else abs(len(samples.points) / count - 1) < 0.1
    assert samples.weights.sum() == pytest.approx(1.0, abs=1e-12) and samples.weights.min() > 0
    # on a cube: the largest coordinate is half the side
    assert np.abs(np.abs(samples.points).max(axis=1) - 0.5 * SIDE).max() < 1e-12
    assert np.abs(np.linalg.norm(samples.normals, axis=1) - 1).max() < 1e-12
    face = np.argmax(np.abs(samples.points), axis=1)
    outward = np.sign(samples.points[np.arange(len(face)), face])
    assert (samples.normals[np.arange(len(face)), face] * outward).min() > 0.999
    # area on one side of a plane, to the width of a sample along the cut
    for axis in range(3):
        for sign in (-1, 1):
            share = samples.weights[sign * samples.points[:, axis] > 0.1].sum()
            exact = (SIDE**2 + 4 * SIDE * (0.5 * SIDE - 0.1)) / (6 * SIDE**2)
            assert abs(share - exact) < (0.08 if count < 100 else 0.02)


@pytest.mark.parametrize("count", [500, 6500])
def test_samples_are_spread_far_more_evenly_than_by_chance(count: int) -> None:
    surface = cube()
    samples = sample_shape(surface, count, 0)
    chance = surface.sample(count, np.random.default_rng(0))[0]
    dense = surface.sample(4000, np.random.default_rng(1))[0]
    cover = [cdist(dense, points).min(axis=1).max() for points in (samples.points, chance)]
    assert cover[0] < 0.75 * cover[1]
    # each weighs about the same
    assert samples.weights.std() < (0.35 if count == 500 else 0.45) * samples.weights.mean()


@pytest.mark.parametrize("count", [300, 7000])
def test_a_seed_gives_one_sampling_and_touches_no_other(count: int) -> None:
    surface = cube()
    before = np.random.get_state()  # noqa: NPY002
    first, again, other = (sample_shape(surface, count, seed) for seed in (3, 3, 4))
    after = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(before[1], after[1]) and before[2:] == after[2:]
    for name in ("points", "normals", "weights"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert other.points.shape != first.points.shape or not np.array_equal(first.points, other.points)


def test_a_cloud_keeps_its_points_and_the_weights_of_its_data() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.3, 0.3, (2000, 3))
    points[:, 0] += 0.2 * np.sign(points[:, 0])  # two halves with a gap between
    given = np.where(points[:, 0] > 0, 3.0, 1.0)
    exact = given[points[:, 0] > 0].sum() / given.sum()
    samples = sample_shape(Surface(points, point_data={"weights": given}), 200, 0)
    assert len(samples.points) == 200 and not samples.normals.any()
    assert cdist(samples.points, points).min(axis=1).max() == 0.0
    assert samples.weights.sum() == pytest.approx(1.0)
    # every point counts for the sample nearest to it, which lies in the same half
    assert samples.weights[samples.points[:, 0] > 0].sum() == pytest.approx(exact, abs=1e-9)
    plain = sample_shape(Surface(points), 200, 0)
    right = (points[:, 0] > 0).mean()
    assert plain.weights[plain.points[:, 0] > 0].sum() == pytest.approx(right, abs=1e-9)


def test_a_cloud_smaller_than_asked_for_is_taken_whole() -> None:
    points = np.random.default_rng(1).uniform(-0.3, 0.3, (30, 3))
    samples = sample_shape(Surface(points), 200, 0)
    order = np.lexsort(samples.points.T)
    assert np.array_equal(samples.points[order], points[np.lexsort(points.T)])
    assert samples.weights == pytest.approx(np.full(30, 1 / 30))


@pytest.mark.parametrize("count", [2, 10, 60])
def test_farthest_points_cover(count: int) -> None:
    """No point is farther from the chosen ones than these are from each other (Gonzalez 1985)."""
    points = np.random.default_rng(2).normal(size=(300, 4))
    chosen = farthest_points(points, count)
    assert len(set(chosen.tolist())) == count
    radius = cdist(points, points[chosen]).min(axis=1).max()
    among = cdist(points[chosen], points[chosen]) + np.diag(np.full(count, np.inf))
    assert radius <= among.min() * (1 + 1e-5)


def test_farthest_points_take_one_of_each_cluster() -> None:
    rng = np.random.default_rng(3)
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, 8).T
    label = rng.integers(8, size=400)
    points = corners[label] + rng.uniform(-0.1, 0.1, (400, 3))
    for seed in range(5):
        assert sorted(label[farthest_points(points, 8, seed)]) == list(range(8))
    assert np.array_equal(farthest_points(points, 400), np.arange(400))


def test_thinned_points_are_about_as_many_and_apart() -> None:
    points = np.random.default_rng(4).uniform(size=(20000, 2))
    chosen = thinned(points, 1000)
    assert abs(len(chosen) - 1000) < 60 and len(set(chosen.tolist())) == len(chosen)
    # a grid of about 1000 cells: every point has a chosen one within its cell
    assert cdist(points, points[chosen]).min(axis=1).max() < np.sqrt(2) / np.sqrt(1000) * 1.1
    assert np.array_equal(thinned(points, 20000), np.arange(20000))


def test_unit_leaves_zero_alone() -> None:
    vectors = np.array([[3.0, 0, 4], [0, 0, 0], [0, -2, 0]])
    assert unit(vectors).tolist() == [[0.6, 0, 0.8], [0, 0, 0], [0, -1, 0]]


@pytest.mark.parametrize(
    ("count", "wanted", "dimension"),
    [(900, 300, 6), (100, 99, 2), (57, 13, 1), (9, 9, 3), (5000, 1500, 6), (2000, 1000, 3), (200, 50, 20)],
)
def test_farthest_points_are_those_of_the_plain_loop(
    count: int, wanted: int, dimension: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the library and without it: of equally far points the first."""
    # rounded, so that many are equally far
    points = np.random.default_rng(0).random((count, dimension)).round(1 if dimension in (2, 3) else 6)
    single = points.astype(np.float32)
    nearest = np.full(count, np.inf, np.float32)
    chosen = [int(np.random.default_rng(1).integers(count))]
    while len(chosen) < wanted:
        squared = np.zeros(count, np.float32)
        for axis in single.T:
            squared += (axis - axis[chosen[-1]]) ** 2
        nearest = np.minimum(nearest, squared)
        chosen.append(int(nearest.argmax()))
    expected = np.arange(count) if wanted >= count else np.array(chosen)
    assert np.array_equal(farthest_points(points, wanted, seed=1), expected)
    monkeypatch.setattr(compiled, "is_available", lambda: False)
    assert np.array_equal(farthest_points(points, wanted, seed=1), expected)


@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_thinned_takes_one_point_of_each_cell(scale: float) -> None:
    """Also where a grid has more cells than there are numbers."""
    points = np.random.default_rng(0).random((3000, 7)) * np.array([1, 1, 1, scale, 0.1, 0.1, 0.1])
    for size in (0.3, 0.01):
        rows = np.floor(points / size).astype(np.int64)
        _, first = np.unique(rows, axis=0, return_index=True)
        _, found = np.unique(_cells(points, size), return_index=True)
        assert np.array_equal(np.sort(first), np.sort(found))
