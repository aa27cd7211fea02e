"""The way of points under a map: closed forms, exact ends, the flow's own way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from otreg import InputError
from otreg.deformations import Affine, Composite, Diffeomorphism, Spline, legs, trajectory
from otreg.deformations.linear_motion import real_logarithm, steady_motion
from otreg.flows import positions_along
from tests.deformations import cases

MOST = 1e-12


def rigid(vector: list[float], translation: list[float]) -> Affine:
    return Affine(Rotation.from_rotvec(vector).as_matrix(), translation, "rigid")


@pytest.mark.parametrize("name", cases.CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ends_are_exact_for_every_kind(name: str, dtype: type) -> None:
    transform, points = cases.CASES[name](), cases.points(9).astype(dtype)
    way = trajectory(transform, points, [1.0, 0.4, 0.0])
    assert way.shape == (3, 9, 3) and way.dtype == dtype
    assert np.array_equal(way[2], points)
    assert np.array_equal(way[0], transform.map(points))
    assert np.isfinite(way).all()
    later = trajectory(transform, points, [0.0, 1.0], skip_pose=True)
    assert np.array_equal(later[1], way[0])


@pytest.mark.parametrize("name", cases.CASES)
def test_the_way_has_no_jumps(name: str) -> None:
    """Positions at close times are close: all parts join, and no part is left out."""
    transform, points = cases.CASES[name](), cases.points(9)
    times = np.linspace(0.0, 1.0, 401)
    way = trajectory(transform, points, times)
    steps = np.linalg.norm(np.diff(way, axis=0), axis=2)
    assert steps.max() <= 20.0 * np.linalg.norm(np.diff(way, axis=0), axis=2).sum(axis=0).max() / 400


def test_half_of_a_turn_is_the_turn_by_half() -> None:
    """A quarter turn about an axis that does not pass the origin: circles about that axis."""
    centre = np.array([3.0, -1.0, 0.0])
    matrix = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    points = cases.points(5)
    way = trajectory(Affine(matrix, centre - matrix @ centre, "rigid"), points, [1 / 3, 0.5])
    for share, found in zip((30, 45), way, strict=True):
        part = Rotation.from_euler("z", share, degrees=True)
        assert np.abs(found - (part.apply(points - centre) + centre)).max() < MOST


def test_a_screw_turns_and_rises_evenly() -> None:
    transform, points = rigid([0.0, 0.0, 2.0], [0.0, 0.0, 8.0]), cases.points(5)
    found = trajectory(transform, points, [0.25])[0]
    wanted = Rotation.from_rotvec([0.0, 0.0, 0.5]).apply(points) + np.array([0.0, 0.0, 2.0])
    assert np.abs(found - wanted).max() < MOST


def test_translation_is_straight_and_scaling_geometric() -> None:
    points = cases.points(5)
    moved = trajectory(Affine(np.eye(3), [4.0, 0.0, -2.0], "rigid"), points, [0.25])[0]
    assert np.abs(moved - points - [1.0, 0.0, -0.5]).max() < MOST
    grown = trajectory(Affine(16.0 * np.eye(3), np.zeros(3), "similarity"), points, [0.25])[0]
    assert np.abs(grown - 2.0 * points).max() < MOST


def test_half_a_turn_and_opposite_stretches_have_a_way_too() -> None:
    """Half a turn has a logarithm though not a principal one; half a turn with two stretches has none."""
    turn = np.diag([-1.0, -1.0, 1.0])
    way = trajectory(Affine(turn, [2.0, 0.0, 0.0], "rigid"), cases.points(6), [0.5])[0]
    middle = np.array([1.0, 0.0, 0.0])  # stays in place
    radius = np.linalg.norm((cases.points(6) - middle)[:, :2], axis=1)
    assert np.linalg.norm((way - middle)[:, :2], axis=1) == pytest.approx(radius, abs=1e-12)
    assert real_logarithm(np.diag([-1.0, -4.0, 1.0])) is None
    motion, words = steady_motion(np.diag([-1.0, -4.0, 1.0]), np.array([2.0, 5.0, 0.0]))
    assert words == "as a steady rotation and stretch"
    matrix, translation = motion(0.5)
    assert np.linalg.svd(matrix)[1] == pytest.approx([2.0, 1.0, 1.0])
    pole = np.array([1.0, 1.0, 0.0])
    assert np.abs(matrix @ pole + translation - pole).max() < MOST
    matrix, translation = motion(1.0)
    assert np.abs(matrix - np.diag([-1.0, -4.0, 1.0])).max() < MOST
    assert np.abs(translation - [2.0, 5.0, 0.0]).max() < MOST


def test_a_reflection_goes_straight() -> None:
    mirror = Affine(np.diag([-1.0, 1.0, 1.0]), [1.0, 0.0, 0.0])
    points = cases.points(5)
    found = trajectory(mirror, points, [0.25])[0]
    assert np.abs(found - (0.75 * points + 0.25 * mirror.map(points))).max() < MOST
    assert legs(mirror)[0].words == "along straight lines, since it mirrors"


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 3.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_affine_maps_are_a_group(seed: int, size: float, one: float, other: float) -> None:
    """The map at time s + t is the one at t after the one at s; at 1 it is the map itself."""
    rng = np.random.default_rng(seed)
    generator = np.zeros((4, 4))
    generator[:3] = rng.uniform(-size, size, size=(3, 4)) / 2.0
    whole = expm(generator)
    motion, words = steady_motion(whole[:3, :3], whole[:3, 3])
    (a, b), (c, d), (e, f) = motion(one), motion(other), motion(one + other)
    scale = max(np.abs(e).max(), np.abs(f).max(), 1.0)
    if words == "as a steady motion":
        assert np.abs(c @ a - e).max() < 1e-8 * scale
        assert np.abs(c @ b + d - f).max() < 1e-8 * scale
    matrix, translation = motion(1.0)
    assert np.abs(matrix - whole[:3, :3]).max() < 1e-8 * max(1.0, np.abs(whole).max())
    assert np.abs(translation - whole[:3, 3]).max() < 1e-8 * max(1.0, np.abs(whole).max())


def test_logarithm_of_a_shear() -> None:
    """Not diagonalisable: the series ends."""
    shear = np.array([[1.0, 5.0, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
    found = real_logarithm(shear)
    assert found is not None
    assert np.abs(found - [[0.0, 5.0, -0.75], [0.0, 0.0, 0.3], [0.0, 0.0, 0.0]]).max() < 1e-12


def test_constant_momentum_carries_evenly() -> None:
    """A kernel far wider than everything: the velocity is the same everywhere and at all times."""
    flow = Diffeomorphism(np.zeros((1, 3)), [[[6.0, 0.0, -3.0]]], width=1e7, steps=4)
    points = cases.points(5)
    for time, found in zip((0.1, 0.5, 0.85), trajectory(flow, points, [0.1, 0.5, 0.85]), strict=True):
        assert np.abs(found - points - time * np.array([6.0, 0.0, -3.0])).max() < 1e-10


@pytest.mark.parametrize("kernel", ["gaussian", "wendland"])
@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_half_time_is_the_flow_of_half_the_momenta(kernel: str, method: str) -> None:
    """A geodesic run half as fast gets half as far: to rounding, where the half time is a step."""
    rng = np.random.default_rng(7)
    controls, momenta = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    whole = Diffeomorphism(controls, momenta, 2.0, kernel, steps=6, method=method)
    half = Diffeomorphism(controls, 0.5 * momenta, 2.0, kernel, steps=3, method=method)
    points = cases.points(12)
    found = trajectory(whole, points, [0.5])[0]
    straight = 0.5 * (points + whole.map(points))
    assert np.abs(found - half.map(points)).max() < 1e-12
    assert np.abs(found - straight).max() > 0.05  # the way is bent, and that is seen


def test_between_steps_the_way_is_that_of_an_adaptive_integrator() -> None:
    """Off the steps: the fourth order of the cubic, against scipy's integration of the same equations."""
    rng = np.random.default_rng(8)
    controls, momenta = rng.normal(size=(6, 3)), 0.8 * rng.normal(size=(6, 3))
    points, width = cases.points(7), 1.1

    def field(_: float, state: np.ndarray) -> np.ndarray:
        q, p, x = np.split(state.reshape(-1, 3), [6, 12])

        def kernel(a: np.ndarray) -> np.ndarray:
            return np.exp(-((a[:, None] - q[None]) ** 2).sum(axis=2) / (2 * width**2))

        pull = (kernel(q) * (p @ p.T))[:, :, None] * (q[:, None] - q[None]) / width**2
        return np.concatenate([kernel(q) @ p, pull.sum(axis=1), kernel(x) @ p]).ravel()

    times = [0.13, 0.37, 0.71]
    start = np.concatenate([controls, momenta, points]).ravel()
    exact = solve_ivp(field, (0.0, 1.0), start, t_eval=times, rtol=1e-11, atol=1e-12).y.T
    exact = exact.reshape(3, -1, 3)[:, 12:]
    errors = []
    for steps in (10, 20, 40):
        flow = Diffeomorphism(controls, momenta, width, steps=steps)
        errors.append(np.abs(trajectory(flow, points, times) - exact).max())
    assert errors[0] < 1e-4 and errors[2] < 1e-6
    assert errors[0] / errors[2] > 60.0  # 256 for a fourth order that is fully reached


@pytest.mark.parametrize("name", ["shooting", "shooting wendland", "constant momenta"])
def test_inverse_flow_goes_the_same_way_back(name: str) -> None:
    flow = cases.CASES[name]()
    points = cases.points(8)
    images = flow.map(points)
    there = trajectory(flow, points, [0.2, 0.5, 0.9])
    back = trajectory(flow.inverse, images, [0.8, 0.5, 0.1])
    assert np.abs(there - back).max() < 1e-8


def test_intervals_are_followed_one_by_one() -> None:
    """Momenta constant in two intervals: after the first, as far as its own flow for that long."""
    flow = cases.constant_momenta()
    first = Diffeomorphism(
        flow.control_points, 0.5 * flow.momenta[:1], flow.widths, steps=1, method="midpoint"
    )
    points = cases.points(6)
    assert np.abs(trajectory(flow, points, [0.5])[0] - first.map(points)).max() < 1e-12


def test_splines_go_straight_and_their_inverses_too() -> None:
    spline, points = cases.gaussian(), cases.points(6)
    images = spline.map(points)
    assert np.abs(trajectory(spline, points, [0.3])[0] - (0.7 * points + 0.3 * images)).max() < MOST
    assert np.abs(trajectory(spline.inverse, images, [0.7])[0] - (0.7 * points + 0.3 * images)).max() < 1e-8


def test_stages_follow_one_another_each_in_its_own_space() -> None:
    """Two affine stages are one motion; identities take no time; the flow starts where the pose ends."""
    first, second, flow = cases.rigid(), cases.similarity(), cases.shooting()
    whole = Composite([first, second, Affine.identity(), flow])
    points = cases.points(6)
    posed = second.map(first.map(points))
    way = trajectory(whole, points, [0.25, 0.5, 0.75])
    assert np.abs(way[0] - trajectory(second.after(first), points, [0.5])[0]).max() < MOST
    assert np.array_equal(way[1], posed)
    assert np.array_equal(way[2], trajectory(flow, posed, [0.5])[0])
    skipped = trajectory(whole, points, [0.0, 0.5], skip_pose=True)
    assert np.array_equal(skipped[0], posed)
    assert np.array_equal(skipped[1], way[2])
    alone = trajectory(Composite([Affine.identity(), flow]), points, [0.5])
    assert np.array_equal(alone, trajectory(flow, points, [0.5]))


def test_legs_say_what_is_integrated() -> None:
    whole = Composite([cases.rigid(), cases.affine(), cases.gaussian(), cases.shooting()])
    pose, spline, flow = legs(whole)
    assert str(pose) == "affine map: interpolated as a steady motion"
    assert str(spline) == "spline: interpolated along straight lines"
    assert str(flow) == "flow: integrated in 2 steps of rk4"
    assert (pose.start, spline.start, flow.start, flow.end) == pytest.approx((0, 1 / 3, 2 / 3, 1))
    assert [leg.name for leg in legs(whole, skip_pose=True)] == ["spline", "flow"]
    assert [leg.kind for leg in legs(whole.inverse)] == ["integrated", "interpolated", "interpolated"]
    assert legs(cases.shooting().inverse)[0].words == "backwards in 2 steps of rk4"
    assert legs(Affine.identity()) == []


def test_tensors_come_back_as_tensors_without_gradients() -> None:
    points = torch.from_numpy(cases.points(4)).float().requires_grad_()
    way = trajectory(cases.shooting(), points, torch.tensor([0.0, 0.5]))
    assert isinstance(way, torch.Tensor) and way.dtype == torch.float32 and not way.requires_grad
    assert trajectory(cases.shooting(), points, []).shape == (0, 4, 3)
    assert trajectory(cases.rigid(), cases.points(0), [0.5]).shape == (1, 0, 3)


def test_points_that_are_not_finite_stay_so_alone() -> None:
    points = cases.points(4)
    points[1] = np.nan
    for name in ("rigid", "gaussian", "shooting", "composite", "inverse of shooting"):
        way = trajectory(cases.CASES[name](), points, [0.0, 0.3, 1.0])
        assert np.isnan(way[:, 1]).all() and np.isfinite(way[:, [0, 2, 3]]).all(), name


@pytest.mark.parametrize("times", [[1.1], [-0.1], [np.nan], [[0.5]], "noon", 0.5])
def test_other_times_are_refused(times: object) -> None:
    with pytest.raises(InputError, match="times must"):
        trajectory(cases.rigid(), cases.points(2), times)
    if times in ([1.1], [-0.1], [np.nan]):
        with pytest.raises(InputError, match="times must"):
            positions_along(torch.zeros(2, 3).double(), cases.shooting().path(), times)


def test_positions_along_can_be_differentiated() -> None:
    flow = cases.shooting()
    points = torch.from_numpy(cases.points(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: positions_along(x, flow.path(), [0.3, 0.5, 1.0]), (points,))


def test_an_unknown_kind_goes_straight() -> None:
    class Bent(Spline):
        pass

    known = cases.gaussian()
    other = Bent(known.control_points, known.coefficients, known.widths)
    assert legs(other)[0].kind == "interpolated"
