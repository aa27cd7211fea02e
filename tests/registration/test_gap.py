"""The gap between surfaces under flows: spheres, whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest

from otreg.deformations import Diffeomorphism
from otreg.registration.fitting import carried
from otreg.registration.gap import Gap
from otreg.registration.sampling import Samples, sample_shape
from otreg.surface import Surface
from tests.phantoms import sphere_tessellation


def sphere(radius: float, seed: int = 0, triangles: bool = True) -> Surface:
    points, faces = sphere_tessellation(3000, seed)
    return Surface(radius * points, faces) if triangles else Surface(radius * points)


def shift(*step: float, steps: int = 4) -> Diffeomorphism:
    """One control point so wide that everything moves alike."""
    return Diffeomorphism(np.zeros((1, 3)), np.array([[step]]), (1e4,), steps=steps)


def growth(factor: float) -> Diffeomorphism:
    """A flow that multiplies distances from the origin by a factor and more: control points around it move outwards."""
    points = np.concatenate([np.eye(3), -np.eye(3)])
    # far inside a wide Gaussian the velocity is linear
    width = 20.0
    slope = np.log(factor) * width**2 / 2
    return Diffeomorphism(points, slope * points[None], (width,), steps=40)


def gap(moving: Surface, fixed: Surface, flow: Diffeomorphism | None = None, partial: bool = False) -> float:
    """With MOVING under a flow."""
    x, y = sample_shape(moving, 600, 1), sample_shape(fixed, 600, 2)
    flows = [] if flow is None else [flow]
    found = Gap(moving, fixed, partial).under(x if flow is None else carried(flow, x), y, flows)
    assert found is not None
    return found


@pytest.mark.parametrize("factor", [1.25, 1.4])
def test_concentric_spheres(factor: float) -> None:
    """One of radius .4 under a growth by 1.25 lies on one of .5; the distance back is measured where it was."""
    flow = growth(factor)
    around = np.linalg.norm(flow.map(sphere(0.4).points), axis=1)
    reached = float(around.mean())
    assert reached > 0.4 * factor and np.ptp(around) < 1e-3
    # chords lie below the sphere by 2e-4 of its radius
    assert gap(sphere(0.4), sphere(0.5, 1), flow) == pytest.approx(abs(reached - 0.5), abs=1e-3)


def test_without_flows() -> None:
    assert gap(sphere(0.4), sphere(0.5, 1)) == pytest.approx(0.1, abs=5e-4)


def test_a_flow_is_taken_back() -> None:
    shape, flow = sphere(0.4), shift(0.0, 0.0, 0.05)
    moved = shape.with_points(flow.map(shape.points))
    assert gap(shape, moved, flow) == pytest.approx(0.0, abs=1e-5)


def test_both_may_flow() -> None:
    """Half-way from either side is the whole way from one."""
    moving, fixed = sphere(0.4), sphere(0.4)
    there, back = shift(0.05, 0.0, 0.0), shift(-0.05, 0.0, 0.0)
    x, y = carried(there, sample_shape(moving, 600, 1)), carried(back, sample_shape(fixed, 600, 2))
    apart = Gap(moving, fixed, False).under(x, y, [there], [back])
    assert apart == pytest.approx(gap(moving, fixed, shift(0.1, 0.0, 0.0)), rel=0.01)
    assert apart == pytest.approx(0.05, abs=0.01)  # the mean of .1 |cos| over a sphere, nearly


def test_a_part_is_as_near_as_its_nearer_side() -> None:
    whole = sphere(0.5)
    cap = whole.triangles[whole.points[whole.triangles].mean(axis=1)[:, 2] > 0.2]
    part = Surface(whole.points, cap)
    assert gap(part, whole, partial=True) == pytest.approx(0.0, abs=1e-6)
    assert gap(part, whole) > 0.1


def test_clouds_tell_nothing_and_one_mesh_tells_its_side() -> None:
    cloud, mesh = sphere(0.5, triangles=False), sphere(0.5, 1)
    x = sample_shape(cloud, 600, 1)
    assert Gap(cloud, cloud, False).under(x, x, []) is None
    for pair in ((cloud, mesh), (mesh, cloud)):
        assert gap(*pair) < 5e-4


def test_flows_that_cannot_be_undone_are_measured_from_one_side() -> None:
    """Steps so long that passengers overtake one another: the way back is refused."""
    shape = sphere(0.4)
    wild = Diffeomorphism(np.zeros((1, 3)), np.array([[[0.0, 0.0, 2.0]]]), (0.1,), steps=1, method="euler")
    x, y = carried(wild, sample_shape(shape, 600, 1)), sample_shape(shape, 600, 2)
    found = Gap(shape, shape, False).under(x, y, [wild])
    assert found is not None and np.isfinite(found)


def test_samples_without_normals_do() -> None:
    mesh = sphere(0.5)
    bare = Samples(mesh.points, np.zeros_like(mesh.points), np.full(len(mesh), 1.0 / len(mesh)))
    assert Gap(mesh, mesh, False).under(bare, bare, []) == pytest.approx(0.0, abs=1e-9)
