"""Closest points against exact rational arithmetic and another library, on meshes made to be hard."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import trimesh
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from otreg.errors import InputError
from otreg.io import read
from otreg.proximity import SurfaceIndex, closest_points
from otreg.reductions import compiled
from otreg.reductions.closest import TriangleTree
from otreg.surface import Surface
from tests.support import shared_data

pytestmark = pytest.mark.usefixtures("way")

Vector = list[Fraction]


def dot(a: Vector, b: Vector) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def minus(a: Vector, b: Vector) -> Vector:
    return [x - y for x, y in zip(a, b, strict=True)]


def exact_squared_distance(point: np.ndarray, triangle: np.ndarray) -> float:
    """Squared distance to a triangle without any rounding until the end."""
    p, a, b, c = ([Fraction(float(x)) for x in row] for row in (point, *triangle))
    best = None
    for start, end in pairwise((a, b, c, a)):
        edge, offset = minus(end, start), minus(p, start)
        length = dot(edge, edge)
        t = min(max(dot(offset, edge) / length, Fraction(0)), Fraction(1)) if length else Fraction(0)
        gap = minus(offset, [t * e for e in edge])
        best = dot(gap, gap) if best is None else min(best, dot(gap, gap))
    u, v, w = minus(b, a), minus(c, a), minus(p, a)
    uu, uv, vv, wu, wv = dot(u, u), dot(u, v), dot(v, v), dot(w, u), dot(w, v)
    area = uu * vv - uv * uv
    if area:
        s, t = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
        if s >= 0 and t >= 0 and s + t <= 1:
            gap = minus(w, [s * x + t * y for x, y in zip(u, v, strict=True)])
            best = min(best, dot(gap, gap)) if best is not None else None
    assert best is not None
    return float(best)


def exact_distances(queries: np.ndarray, surface: Surface) -> np.ndarray:
    squared = [min(exact_squared_distance(q, tri) for tri in surface.triangle_corners) for q in queries]
    return np.sqrt(squared)


def check_consistent(queries: np.ndarray, surface: Surface) -> None:
    """What comes back agrees with itself: the weights give the point, the point gives the distance."""
    found = closest_points(queries, surface)
    corners = surface.triangle_corners[found.triangles]
    scale = max(np.abs(surface.points).max(), np.abs(queries).max(), 1e-300)
    np.testing.assert_allclose(
        np.einsum("qk,qkd->qd", found.barycentric, corners), found.points, atol=1e-12 * scale
    )
    np.testing.assert_allclose(
        np.linalg.norm(queries - found.points, axis=1), found.distances, atol=1e-12 * scale
    )
    assert np.all(found.barycentric >= 0)
    np.testing.assert_allclose(found.barycentric.sum(axis=1), 1.0, atol=1e-12)


coordinate = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-10, 10, allow_subnormal=False, width=32),
    st.sampled_from([1e-9, 1e4]),
)
point = st.tuples(coordinate, coordinate, coordinate)


@settings(max_examples=80, deadline=None)
@example(
    # a point inside a triangle ten thousand times longer than wide
    points=[(0.0, 0.0, 2.0), (-1.0, 0.0, 0.0), (10000.0, 0.0, -1.0)],
    picks=[(2, 0, 1)],
    queries=[(0.0, 0.0, 0.0)],
)
@given(
    points=st.lists(point, min_size=1, max_size=8),
    picks=st.lists(st.tuples(*[st.integers(0, 7)] * 3), min_size=1, max_size=12),
    queries=st.lists(point, min_size=1, max_size=4),
)
def test_any_triangles_against_exact_arithmetic(
    points: list[tuple[float, ...]], picks: list[tuple[int, ...]], queries: list[tuple[float, ...]]
) -> None:
    # Repeated corners and repeated points make segments and single points of some triangles.
    surface = Surface(points, np.array(picks) % len(points))
    asked = np.array(queries)
    expected = exact_distances(asked, surface)
    found = closest_points(asked, surface)
    scale = max(np.abs(surface.points).max(), np.abs(asked).max(), 1.0)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-9, atol=1e-10 * scale)
    check_consistent(asked, surface)


@pytest.mark.parametrize("thinness", [1e-3, 1e-6, 1e-9, 1e-12])
def test_needles(thinness: float) -> None:
    rng = np.random.default_rng(3)
    ends = rng.normal(size=(40, 2, 3))
    tips = 0.5 * ends.sum(axis=1) + thinness * rng.normal(size=(40, 3))
    surface = Surface(
        np.concatenate([ends.reshape(-1, 3), tips]), [[2 * k, 2 * k + 1, 80 + k] for k in range(40)]
    )
    queries = rng.normal(size=(25, 3))
    np.testing.assert_allclose(
        closest_points(queries, surface).distances, exact_distances(queries, surface), rtol=1e-9, atol=1e-12
    )
    check_consistent(queries, surface)


def hard_meshes() -> dict[str, Surface]:
    rng = np.random.default_rng(0)
    cylinder = trimesh.creation.cylinder(radius=1.0, height=60.0, sections=300)
    sphere = trimesh.creation.icosphere(4, 10.0)
    # A fine ball on a floor of two huge triangles: sizes that differ by a factor of thousands.
    floor = np.array([[-5e3, -5e3, -12], [5e3, -5e3, -12], [5e3, 5e3, -12], [-5e3, 5e3, -12]], float)
    mixed = Surface(
        np.concatenate([sphere.vertices, floor]),
        np.concatenate([sphere.faces, np.array([[0, 1, 2], [0, 2, 3]]) + len(sphere.vertices)]),
    )
    soup = rng.normal(size=(600, 1, 3)) * 5 + rng.normal(size=(600, 3, 3)) * rng.uniform(
        0.001, 3, (600, 1, 1)
    )
    return {
        "long triangles": Surface(cylinder.vertices, cylinder.faces),
        "two scales": mixed,
        "soup": Surface(soup.reshape(-1, 3), np.arange(1800).reshape(-1, 3)),
        "far from the origin": Surface(sphere.vertices + np.array([1e6, -2e6, 3e6]), sphere.faces),
        "one triangle": Surface([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]),
        "flat": Surface(sphere.vertices * [1, 1, 0], sphere.faces),
    }


def to_segments(query: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Distances from one point to segments (n, 3), which may be points."""
    along = last - first
    share = np.clip(
        ((query - first) * along).sum(axis=1) / np.maximum((along**2).sum(axis=1), 1e-300), 0.0, 1.0
    )
    return np.linalg.norm(first + share[:, None] * along - query, axis=1)


@pytest.mark.parametrize("name", list(hard_meshes()))
def test_tree_against_all_triangles(name: str) -> None:
    surface = hard_meshes()[name]
    rng = np.random.default_rng(1)
    near = surface.sample(60, rng)[0] + 0.01 * rng.normal(size=(60, 3))
    middle = surface.points.mean(axis=0) + 0.1 * rng.normal(size=(20, 3))
    far = middle + np.array([300.0, -40.0, 10.0])
    queries = np.concatenate([near, middle, far, surface.points[:20]])
    corners = surface.triangle_corners
    brute = []
    for q in queries:
        inside = trimesh.triangles.closest_point(corners, np.repeat(q[None], len(corners), axis=0)) - q
        # older trimesh has NaN for triangles without area, which are their edges
        edges = [to_segments(q, corners[:, k], corners[:, (k + 1) % 3]).min() for k in range(3)]
        brute.append(min(np.nanmin(np.linalg.norm(inside, axis=1), initial=np.inf), *edges))
    found = closest_points(queries, surface)
    np.testing.assert_allclose(found.distances, brute, atol=1e-9 * np.abs(queries).max())
    check_consistent(queries, surface)


def test_sphere_closed_form() -> None:
    # The triangles of an inscribed icosphere lie within one sagitta of the sphere.
    mesh = trimesh.creation.icosphere(5, 1.0)
    surface = Surface(mesh.vertices, mesh.faces)
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(500, 3))
    exact = np.abs(np.linalg.norm(queries, axis=1) - 1.0)
    found = closest_points(queries, surface)
    sagitta = 1.0 - np.linalg.norm(surface.triangle_centres, axis=1).min()
    assert np.all(np.abs(found.distances - exact) <= 1.1 * sagitta)


def test_rigid_motion_moves_the_answer() -> None:
    mesh = trimesh.creation.icosphere(3, 2.0)
    surface = Surface(mesh.vertices * [1.0, 0.7, 0.4], mesh.faces)
    queries = np.random.default_rng(5).normal(size=(100, 3)) * 2
    motion = Rotation.from_rotvec([0.2, 0.5, 0.8]).as_matrix()
    here = closest_points(queries, surface)
    there = closest_points(queries @ motion.T + 7, surface.with_points(surface.points @ motion.T + 7))
    np.testing.assert_allclose(there.distances, here.distances, atol=1e-12)
    np.testing.assert_allclose(there.points, here.points @ motion.T + 7, atol=1e-9)


def test_max_distance() -> None:
    surface = Surface([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    queries = [[0.2, 0.2, 1.0], [0.2, 0.2, 1.0 + 1e-9], [0.2, 0.2, 0.0]]
    found = closest_points(queries, surface, max_distance=1.0)
    assert found.triangles.tolist() == [0, -1, 0]
    assert found.distances.tolist() == [1.0, np.inf, 0.0]
    assert np.isnan(found.points[1]).all() and found.barycentric[1].tolist() == [0, 0, 0]
    mesh = trimesh.creation.icosphere(4)
    sphere, rng = Surface(mesh.vertices, mesh.faces), np.random.default_rng(2)
    queries = rng.normal(size=(400, 3))
    free, limited = closest_points(queries, sphere), closest_points(queries, sphere, max_distance=0.3)
    inside = free.distances <= 0.3
    np.testing.assert_array_equal(limited.distances[inside], free.distances[inside])
    assert np.all(np.isinf(limited.distances[~inside]))


def test_cloud_gives_nearest_point() -> None:
    rng = np.random.default_rng(0)
    cloud, queries = Surface(rng.normal(size=(200, 3))), rng.normal(size=(50, 3))
    every = np.linalg.norm(queries[:, None] - cloud.points[None], axis=2)
    found = closest_points(queries, cloud)
    np.testing.assert_array_equal(found.triangles, every.argmin(axis=1))
    np.testing.assert_allclose(found.distances, every.min(axis=1))
    np.testing.assert_array_equal(found.points, cloud.points[found.triangles])
    assert found.barycentric.tolist() == [[1.0, 0.0, 0.0]] * 50
    assert closest_points(queries, cloud, max_distance=1e-6).triangles.tolist() == [-1] * 50


def test_points_that_no_triangle_uses_do_not_count() -> None:
    surface = Surface([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5], [np.nan] * 3], [[0, 1, 2]])
    assert closest_points([[0, 0, 5]], surface).distances.tolist() == [5.0]


@pytest.mark.parametrize("cloud", [False, True])
def test_no_queries(cloud: bool) -> None:
    surface = Surface(np.eye(3), [] if cloud else [[0, 1, 2]])
    found = closest_points([], surface)
    assert [part.shape for part in found] == [(0, 3), (0,), (0,), (0, 3)]


def test_bad_input() -> None:
    triangle = Surface(np.eye(3), [[0, 1, 2]])
    with pytest.raises(InputError, match="no points"):
        SurfaceIndex(Surface([]))
    with pytest.raises(InputError, match="non-finite"):
        SurfaceIndex(Surface([[0, 0, 0], [1, 0, 0], [np.nan, 0, 0]], [[0, 1, 2]]))
    with pytest.raises(InputError, match="non-finite"):
        closest_points([[np.inf, 0, 0]], triangle)
    with pytest.raises(InputError, match=r"\(Q, 3\)"):
        closest_points([[1.0, 2.0]], triangle)
    with pytest.raises(InputError, match="max_distance"):
        closest_points([[1.0, 2.0, 3.0]], triangle, max_distance=-1.0)


def test_real_mesh_is_exact_and_quick() -> None:
    surface = read(shared_data("talus/KSBL_L_01_talus.ply"))
    rng = np.random.default_rng(0)
    queries = surface.sample(20_000, rng)[0] + 0.02 * surface.diameter * rng.normal(size=(20_000, 3))
    index = SurfaceIndex(surface)
    start = time.process_time()
    found = index.closest(queries)
    assert time.process_time() - start < 4.0  # measured 0.5 s; the margin is for busy machines
    some = rng.choice(len(queries), 15, replace=False)
    corners = surface.triangle_corners
    for k in some:
        foot = trimesh.triangles.closest_point(corners, np.repeat(queries[k][None], len(corners), axis=0))
        assert found.distances[k] == pytest.approx(np.linalg.norm(foot - queries[k], axis=1).min(), abs=1e-9)


@pytest.mark.parametrize("at_least", [0.0, 0.3, 100.0])
def test_farthest_is_the_largest_of_all_distances(at_least: float) -> None:
    rng = np.random.default_rng(4)
    corners = rng.normal(size=(40, 3))
    for surface in (Surface(corners, rng.permutation(39).reshape(13, 3)), Surface(corners)):
        queries = rng.normal(size=(200, 3))
        largest = closest_points(queries, surface).distances.max()
        assert SurfaceIndex(surface).farthest(queries, at_least) == max(largest, at_least)
        assert SurfaceIndex(surface).farthest(np.zeros((0, 3)), at_least) == at_least
        with pytest.raises(InputError):
            SurfaceIndex(surface).farthest([[np.nan, 0.0, 0.0]])
        with pytest.raises(InputError):
            SurfaceIndex(surface).farthest(np.zeros((3, 2)))


def test_both_ways_find_the_same_distances(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "without":
        pytest.skip("compared once")
    surface = read(shared_data("talus/KSBL_L_01_talus.ply"))
    rng = np.random.default_rng(1)
    queries = surface.sample(3000, rng)[0] + 0.01 * surface.diameter * rng.normal(size=(3000, 3))
    library = SurfaceIndex(surface)
    monkeypatch.setattr(compiled, "is_available", lambda: False)
    boxes = SurfaceIndex(surface)
    near = 0.01 * surface.diameter
    for limit in (None, near):
        one, other = (index.closest(queries, max_distance=limit).distances for index in (library, boxes))
        assert np.array_equal(np.isfinite(one), np.isfinite(other))
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * surface.diameter)
    assert library.farthest(queries) == pytest.approx(boxes.farthest(queries), rel=1e-12)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 16, 17, 63, 64, 65, 200])
def test_trees_of_any_size(count: int, way: str) -> None:
    """Whole leaves, parts of one, and leaves that stay empty; the first of equally near triangles."""
    if way == "without":
        pytest.skip("of the library alone")
    rng = np.random.default_rng(count)
    corners = rng.normal(size=(count, 3, 3))
    corners[count // 2] = corners[0]  # the same triangle twice
    surface = Surface(corners.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3))
    queries = rng.normal(size=(300, 3)) * 2.0
    index = SurfaceIndex(surface)
    tree = index._tree
    assert isinstance(tree, TriangleTree)
    each = [SurfaceIndex(Surface(triangle, [[0, 1, 2]])).closest(queries).distances for triangle in corners]
    rows, squared = tree.nearest(queries)
    np.testing.assert_allclose(np.sqrt(squared), np.min(each, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(rows, np.argmin(each, axis=0))
    limit = float(np.median(np.min(each, axis=0)))
    assert np.array_equal(tree.nearest(queries, limit)[0] < 0, np.min(each, axis=0) > limit)
    reached = np.sqrt(tree.nearest(queries, enough=limit)[1])
    far = np.min(each, axis=0) > limit
    np.testing.assert_allclose(reached[far], np.min(each, axis=0)[far], rtol=1e-12)
    assert (reached[~far] <= limit).all()
