"""The gap between surfaces under a map: spheres, whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest

from otreg.deformations import Affine, Diffeomorphism, Spline
from otreg.errors import NotInvertibleError
from otreg.proximity import SurfaceIndex, nearly_distances
from otreg.registration.gap import Gap
from otreg.registration.sampling import Samples, sample_shape
from otreg.surface import Surface
from tests.phantoms import sphere_tessellation

LENGTH, CENTRE = 80.0, np.array([3.0, -2.0, 5.0])


def sphere(radius: float, seed: int = 0, triangles: bool = True) -> Surface:
    points, faces = sphere_tessellation(3000, seed)
    return Surface(radius * points, faces) if triangles else Surface(radius * points)


def scaling(factor: float) -> Affine:
    """About the centre, in the unit of the files."""
    return Affine(factor * np.eye(3), (1.0 - factor) * CENTRE)


def gap(moving: Surface, fixed: Surface, partial: bool = False) -> Gap:
    return Gap(moving, fixed, sample_shape(moving, 600, 1), sample_shape(fixed, 600, 2), partial)


@pytest.mark.parametrize("factor", [1.0, 1.25, 1.4])
def test_concentric_spheres(factor: float) -> None:
    """One of radius .4 under a growth by 1.25 lies on one of .5; the distance back is measured where it was."""
    found = gap(sphere(0.4), sphere(0.5, 1)).under(scaling(factor), LENGTH, CENTRE)
    # chords lie below the sphere by 2e-4 of its radius
    assert found == pytest.approx(abs(0.4 * factor - 0.5), abs=5e-4)


def test_a_flow_is_taken_back_by_its_inverse() -> None:
    momenta = np.tile([0.0, 0.0, 4.0], (1, 1, 1))
    flow = Diffeomorphism(CENTRE[None], momenta, (1e5,))
    shape = sphere(0.4)
    step = np.array([0.0, 0.0, 4.0 / LENGTH])
    moved = Surface(shape.points + step, shape.triangles)
    assert gap(shape, moved).under(flow, LENGTH, CENTRE) == pytest.approx(0.0, abs=1e-6)


def test_a_part_is_as_near_as_its_nearer_side() -> None:
    whole = sphere(0.5)
    cap = whole.triangles[whole.points[whole.triangles].mean(axis=1)[:, 2] > 0.2]
    part = Surface(whole.points, cap)
    identity = scaling(1.0)
    assert gap(part, whole, partial=True).under(identity, LENGTH, CENTRE) == pytest.approx(0.0, abs=1e-6)
    both = gap(part, whole).under(identity, LENGTH, CENTRE)
    assert both is not None and both > 0.1


def test_clouds_tell_nothing_and_one_mesh_tells_its_side() -> None:
    identity = scaling(1.0)
    cloud, mesh = sphere(0.5, triangles=False), sphere(0.5, 1)
    assert gap(cloud, cloud).under(identity, LENGTH, CENTRE) is None
    for pair in ((cloud, mesh), (mesh, cloud)):
        found = gap(*pair).under(identity, LENGTH, CENTRE)
        assert found is not None and found < 5e-4


def test_a_map_without_an_inverse_is_measured_from_one_side() -> None:
    """A spline that turns a part of space inside out: its inverse is refused."""
    shape = sphere(0.4)
    fold = Spline(CENTRE[None], np.array([[0.0, 0.0, 40.0]]), 6.0)
    with pytest.raises(NotInvertibleError):
        fold.inverse.map(CENTRE[None] + [[0.0, 0.0, 9.0]])
    moved = fold.map(shape.points * LENGTH + CENTRE)
    there = Surface((moved - CENTRE) / LENGTH, shape.triangles)
    found = gap(shape, there).under(fold, LENGTH, CENTRE)
    assert found is not None and found < 5e-3


def test_distances_by_near_centres_are_those_of_the_index() -> None:
    mesh = sphere(0.5)
    queries = np.random.default_rng(0).normal(size=(400, 3))
    exact = SurfaceIndex(mesh).closest(queries).distances
    near = nearly_distances(queries, mesh)
    assert (near >= exact - 1e-12).all() and np.abs(near - exact).max() < 1e-3
    on = mesh.sample(300, np.random.default_rng(1))[0]
    assert nearly_distances(on, mesh).max() < 1e-12
    few = Surface(mesh.points, mesh.triangles[:3])
    np.testing.assert_allclose(
        nearly_distances(queries, few), SurfaceIndex(few).closest(queries).distances, atol=1e-12
    )
    cloud = sphere(0.5, triangles=False)
    np.testing.assert_array_equal(
        nearly_distances(queries, cloud), SurfaceIndex(cloud).closest(queries).distances
    )


def test_samples_without_normals_do() -> None:
    mesh = sphere(0.5)
    bare = Samples(mesh.points, np.zeros_like(mesh.points), np.full(len(mesh), 1.0 / len(mesh)))
    assert Gap(mesh, mesh, bare, bare, False).under(scaling(1.0), LENGTH, CENTRE) == pytest.approx(
        0.0, abs=1e-9
    )
