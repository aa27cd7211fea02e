"""Fewer triangles that show the same surface, between the mesh's own vertices."""

from __future__ import annotations

import time

import numpy as np
import pytest
import trimesh

from otreg.errors import InputError
from otreg.proximity import closest_points
from otreg.surface import FloatArray, IntArray, Surface
from otreg.visualize.decimate import decimate, decimate_surface, thin_points


def ball(subdivisions: int) -> tuple[FloatArray, IntArray]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=50.0)
    return np.asarray(mesh.vertices, dtype=np.float64) + 300.0, np.asarray(mesh.faces, dtype=np.int64)


@pytest.mark.parametrize("budget", [1000, 12_000])
def test_a_sphere_keeps_its_shape(budget: int) -> None:
    """Vertices are the mesh's own; area and volume are those of the sphere, within what so few triangles can."""
    points, triangles = ball(
        6
    )  # 81,920 triangles: more than eight times the smaller budget, so clustered first
    thinned = decimate(points, triangles, budget)
    assert 0.75 * budget < len(thinned.triangles) <= budget
    assert len(np.unique(thinned.vertices)) == len(thinned.vertices)
    assert np.array_equal(np.unique(thinned.triangles), np.arange(len(thinned.vertices)))
    part = Surface(points[thinned.vertices], thinned.triangles)
    # A patch of n triangles on a sphere sags by about (edge / radius)² / 6, edge² = 4 area / (√3 n).
    sag = 4 * 4 * np.pi / (np.sqrt(3) * len(thinned.triangles)) / 6
    assert part.triangle_areas.sum() == pytest.approx(4 * np.pi * 50.0**2, rel=4 * sag + 1e-3)
    volume = np.einsum("ti,ti->", part.triangle_corners[:, 0] - 300.0, part.triangle_cross) / 6
    assert volume == pytest.approx(4 / 3 * np.pi * 50.0**3, rel=6 * sag + 1e-3)
    assert closest_points(points, part).distances.max() < 50.0 * 6 * sag
    # all triangles face outwards, as before
    assert (np.einsum("ti,ti->t", part.triangle_centres - 300.0, part.triangle_normals) > 0).all()


def test_what_fits_the_budget_is_left_alone() -> None:
    points, triangles = ball(2)
    thinned = decimate(points, triangles, len(triangles))
    assert np.array_equal(thinned.vertices, np.arange(len(points)))
    assert np.array_equal(thinned.triangles, triangles)


def test_data_go_with_their_vertices() -> None:
    points, triangles = ball(5)
    shape = Surface(points, triangles, {"height": points[:, 2], "row": np.arange(len(points))}, frame="RAS")
    part, rows = decimate_surface(shape, 2000)
    assert len(part.triangles) <= 2000 and part.frame == "RAS"
    assert np.array_equal(part.point_data["row"], rows)
    assert np.array_equal(part.point_data["height"], part.points[:, 2])


def test_an_open_mesh_keeps_its_rim_and_a_broken_one_is_no_obstacle() -> None:
    axis = np.linspace(0.0, 10.0, 150)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack([x, y, 0.3 * np.sin(x)], axis=-1).reshape(-1, 3)
    rows = (np.arange(149)[:, None] * 150 + np.arange(149)).reshape(-1)
    triangles = np.concatenate(
        [np.stack([rows, rows + 150, rows + 151], 1), np.stack([rows, rows + 151, rows + 1], 1)]
    )
    points[7777] = np.nan
    thinned = decimate(points, triangles, 3000)
    left = points[thinned.vertices]
    assert 7777 not in thinned.vertices and np.isfinite(left).all()
    assert left[:, :2].min(axis=0) == pytest.approx(
        [0, 0], abs=0.2
    )  # a triangle of what is left is 0.26 wide
    assert left[:, :2].max(axis=0) == pytest.approx([10, 10], abs=0.2)
    assert Surface(left, thinned.triangles).triangle_areas.sum() == pytest.approx(
        np.nansum(Surface(points, triangles).triangle_areas), rel=0.02
    )


def test_points_of_clouds_are_thinned_evenly_and_small_budgets_refused() -> None:
    cloud = np.random.default_rng(0).normal(size=(1000, 3))
    rows = thin_points(cloud, 100)
    assert len(rows) == 100 and rows[0] == 0 and rows[-1] == 999
    assert set(np.diff(rows)) <= {10, 11}
    with pytest.raises(InputError, match="4 triangles or more"):
        decimate(*ball(1), budget=3)


def test_a_million_triangles_take_seconds() -> None:
    """In processor time, so that what else the machine does counts for nothing."""
    points, triangles = ball(8)  # 1,310,720 triangles
    began = time.process_time()
    thinned = decimate(points, triangles)
    assert time.process_time() - began < 20.0
    assert 40_000 < len(thinned.triangles) <= 60_000
