"""Currents, varifolds and kernel discrepancies: dense references, closed forms, what each sees and does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otreg import InputError, Surface
from otreg.attachments import MMD, Current, Diracs, KernelAttachment, Shape, Varifold, pairing
from otreg.attachments.pairing import Pairing
from otreg.reductions import truncated
from otreg.reductions.engines import get_engine
from tests.attachments.cases import as_surface, organ, plate, sphere
from tests.attachments.reference import KERNELS, kernel_value

FIXED, MOVING = organ(2, 1), organ(2, 2)
KINDS = {
    "current": lambda fixed, width, **more: Current(fixed, width, **more),
    "square": lambda fixed, width, **more: Varifold(fixed, width, **more),
    "linear": lambda fixed, width, **more: Varifold(
        fixed, width, oriented=True, orientation="linear", **more
    ),
    "exponential": lambda fixed, width, **more: Varifold(fixed, width, oriented=True, **more),
    "none": lambda fixed, width, **more: MMD(fixed, width, **more),
}


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("gamma", list(KINDS))
def test_against_the_dense_formula(gamma: str, kernel: str) -> None:
    if gamma == "exponential" and kernel != "gaussian":
        pytest.skip("a product of Gaussians only")
    for width in (0.7, 5.0, 80.0):
        attachment = KINDS[gamma](FIXED, width, kernel=kernel)
        expected = kernel_value(
            as_surface(MOVING), as_surface(FIXED), width, gamma, kernel, unit_mass=gamma == "none"
        )
        # a wide kernel gives a small difference of large sums
        tolerance = 1e-9 * expected + 1e-14 * width**2
        assert abs(float(attachment(*MOVING)) - expected) < tolerance
        single = float(attachment(MOVING[0].float(), MOVING[1]))
        assert abs(single - expected) < 1e-4 * expected + 1e-6 * width**2


@pytest.mark.parametrize("engine", ["fused", "blocks"])
@pytest.mark.parametrize("gamma", list(KINDS))
def test_engines_and_left_out_pairs_agree(monkeypatch: pytest.MonkeyPatch, engine: str, gamma: str) -> None:
    """The fused engine leaves out far pairs: value and gradient stay those of all pairs."""
    fixed, moving = organ(4, 1), organ(4, 2)
    monkeypatch.setattr(truncated, "SMALLEST_PROBLEM", 1)
    found, gradient = value_and_gradient(KINDS[gamma](fixed, 0.9, engine=engine), moving)
    monkeypatch.setattr(
        pairing, "engine_for_problem", lambda engine, device, *_, **__: get_engine(engine, device)
    )
    expected, expected_gradient = value_and_gradient(KINDS[gamma](fixed, 0.9, engine="fused"), moving)
    assert found == pytest.approx(expected, rel=1e-9)
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-9


def value_and_gradient(
    attachment: KernelAttachment, moving: tuple[torch.Tensor, torch.Tensor]
) -> tuple[float, torch.Tensor]:
    x = moving[0].clone().requires_grad_()
    value = attachment(x, moving[1])
    (gradient,) = torch.autograd.grad(value, x)
    return float(value.detach()), gradient


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_pairings_are_differentiable_in_positions_and_vectors(kernel: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, v, y, w = (
        torch.randn(count, columns, generator=generator, dtype=torch.float64)
        for count, columns in ((4, 3), (4, 2), (5, 3), (5, 2))
    )
    x.requires_grad_(), v.requires_grad_()
    form = Pairing(kernel, 1.3)
    expected = (
        KERNELS[kernel](torch.cdist(x, y).detach().numpy(), 1.3) @ w.numpy() * v.detach().numpy()
    ).sum()
    assert float(form.product(x, v, y, w).detach()) == pytest.approx(expected)
    assert float(form.energy(x, v).detach()) == pytest.approx(float(form.product(x, v, x, v).detach()))
    for function in (lambda x, v: form.product(x, v, y, w), form.energy):
        assert torch.autograd.gradcheck(function, (x, v))
        if kernel != "laplacian":
            assert torch.autograd.gradgradcheck(function, (x, v))
        # one of the two alone
        assert torch.autograd.gradcheck(lambda x, function=function: function(x, v.detach()), (x,))
        assert torch.autograd.gradcheck(lambda v, function=function: function(x.detach(), v), (v,))


@pytest.mark.parametrize("gamma", list(KINDS))
def test_a_plate_moved_along_its_normal(gamma: str) -> None:
    """``width² (1 - exp(-d²/(2 width²)))`` in closed form: d²/2 at first, never more than width²."""
    points, triangles = plate()
    for d in (0.1, 2.0, 6.0, 100.0):
        moved = points + torch.tensor([0.0, 0.0, d], dtype=torch.float64)
        expected = 9.0 * -math.expm1(-(d**2) / 18.0)
        assert float(KINDS[gamma]((points, triangles), 3.0)(moved, triangles)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        ("current", lambda t: 1 - t),
        ("square", lambda t: 1 - t**2),
        ("linear", lambda t: (1 - t) / 2),
        ("exponential", lambda t: 1 - math.exp((t - 1) / 0.25)),
        ("none", lambda t: 0.0),
    ],
)
def test_one_triangle_turned_about_its_centre(gamma: str, expected: object) -> None:
    """``width² (1 - γ(cosine))``, whatever the width."""
    corners = torch.tensor([[1.0, 0.0, 0.0], [-0.5, 0.8, 0.0], [-0.5, -0.8, 0.0]], dtype=torch.float64)
    triangles = torch.tensor([[0, 1, 2]])
    for angle in (0.3, 1.0, math.pi / 2, 2.5, math.pi):
        turned = corners.clone()
        turned[:, 1] = corners[:, 1] * math.cos(angle)
        turned[:, 2] = corners[:, 1] * math.sin(angle)
        value = float(KINDS[gamma]((corners, triangles), 2.0)(turned, triangles))
        assert value == pytest.approx(4.0 * expected(math.cos(angle)), abs=1e-12)  # type: ignore[operator]


def test_two_sheets_cancel_in_a_current_but_not_in_a_varifold() -> None:
    points, triangles = plate(6)
    back = points + torch.tensor([0.0, 0.0, 0.05], dtype=torch.float64)
    wall = torch.cat([points, back]), torch.cat([triangles, len(points) + triangles[:, [0, 2, 1]]])
    moved = wall[0] + torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    seen = {gamma: float(make(wall, 4.0)(moved, wall[1])) for gamma, make in KINDS.items()}
    assert seen["current"] < 1e-3 * seen["square"]
    assert seen["square"] == pytest.approx(16.0 * -math.expm1(-4.0 / 32.0), rel=1e-2)


def test_finer_triangles_are_the_same_shape() -> None:
    """The mesh is a way to write a surface down: four times the triangles change little."""
    coarse, fine = plate(12), plate(24)
    for make in KINDS.values():
        attachment = make(coarse, 5.0)
        assert float(attachment(*fine)) < 1e-3
        moved = fine[0] + torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        assert float(attachment(moved, fine[1])) == pytest.approx(25 * -math.expm1(-1 / 50), rel=5e-3)


@pytest.mark.parametrize("gamma", list(KINDS))
def test_single_precision_far_from_the_origin(gamma: str) -> None:
    """Scanner coordinates: half a metre away, float32 keeps four digits of value and gradient."""
    shift = torch.tensor([500.0, -300.0, 200.0], dtype=torch.float64)
    far = ((FIXED[0] + shift).float(), FIXED[1])
    moving = ((MOVING[0] + shift).float(), MOVING[1])
    exact, expected = value_and_gradient(
        KINDS[gamma]((far[0].double(), far[1]), 2.0), (moving[0].double(), moving[1])
    )
    found, gradient = value_and_gradient(KINDS[gamma](far, 2.0), moving)
    assert found == pytest.approx(exact, rel=1e-4)
    assert float((gradient - expected).norm() / expected.norm()) < 2e-4


def test_default_width_follows_the_fixed_shape() -> None:
    points, triangles = sphere(4)
    diameter = math.sqrt(12.0)
    assert Varifold((points, triangles)).width == pytest.approx(0.05 * diameter)
    assert Current((25.0 * points, triangles)).width == pytest.approx(0.05 * 25.0 * diameter)
    coarse_points, coarse_triangles = sphere(1)
    spacing = math.sqrt(float(Surface(coarse_points, coarse_triangles).triangle_areas.mean()))
    assert Varifold((coarse_points, coarse_triangles)).width == pytest.approx(2.0 * spacing)
    # a point that no triangle uses does not count, nor do triangles without area
    stray = np.concatenate([coarse_points, [[100.0, 0.0, 0.0]]])
    odd = np.concatenate([coarse_triangles, [[0, 0, 1]] * 10])
    assert Varifold((stray, odd)).width == pytest.approx(2.0 * spacing)
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3)
    assert MMD(grid).width == pytest.approx(2.0)
    assert Varifold((points, triangles), width=7.0).scale == 7.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0.0}, "width must be a positive number, got 0.0"),
        ({"width": float("nan")}, "width must be a positive number"),
        ({"width": "wide"}, "width must be a positive number, got 'wide'"),
        ({"kernel": "sinc"}, "unknown kernel 'sinc': use one of gaussian"),
        ({"engine": "steam"}, "unknown engine 'steam'"),
        ({"resolution": -1.0}, "resolution must be a positive number, got -1.0"),
        ({"orientation": "cubic"}, "unknown orientation 'cubic': use one of square"),
        ({"orientation": "linear"}, "orientation 'linear' is for oriented varifolds: give oriented=True"),
        (
            {"orientation": "square", "oriented": True},
            "orientation 'square' is for unoriented varifolds: give oriented=False",
        ),
        ({"oriented": True, "kernel": "cauchy"}, "orientation 'exponential' needs kernel 'gaussian'"),
        ({"oriented": True, "orientation_width": -1.0}, "orientation_width must be a positive number"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Varifold(FIXED, **arguments)  # type: ignore[arg-type]


def test_a_fixed_shape_without_extent_needs_a_width() -> None:
    same = torch.ones(4, 3)
    with pytest.raises(InputError, match="fixed has no extent, so width must be given"):
        MMD(same)
    assert float(MMD(same, 1.0)(same[:2])) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(InputError, match="fixed has no extent"):
        MMD(same[:1])


def test_weights_are_for_clouds_and_settle_what_counts() -> None:
    cloud, heavy = FIXED[0], torch.zeros(len(FIXED[0]), dtype=torch.float64)
    heavy[:20] = 3.0
    assert float(MMD(cloud, 4.0, weights=heavy)(cloud[:20])) == pytest.approx(0.0, abs=1e-12)
    assert float(MMD(cloud[:20], 4.0)(cloud, None, heavy)) == pytest.approx(0.0, abs=1e-12)
    surface = Surface(cloud.numpy(), point_data={"weights": heavy.numpy()})
    assert float(MMD(surface, 4.0)(cloud[:20])) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(InputError, match="weights are for point clouds"):
        MMD(FIXED)(*MOVING, torch.ones(len(MOVING[0])))
    with pytest.raises(InputError, match="the weights of fixed are for point clouds"):
        MMD(FIXED, weights=torch.ones(len(FIXED[0])))
    for wrong, message in (
        (torch.ones(3), r"weights must have shape \(66,\), got \(3,\)"),
        (-torch.ones(66), "weights must not be negative"),
        (torch.zeros(66), "weights has no mass"),
    ):
        with pytest.raises(InputError, match=message):
            MMD(cloud, 4.0)(cloud, None, wrong)


def test_a_mesh_can_be_compared_with_a_cloud() -> None:
    points, triangles = plate(24)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(4000, 2, generator=generator, dtype=torch.float64) * 24 - 12
    cloud = torch.cat([drawn, torch.ones(4000, 1, dtype=torch.float64)], dim=1)
    assert float(MMD((points, triangles), 5.0)(cloud)) < 0.02
    assert float(MMD(cloud, 5.0)(points, triangles)) < 0.02


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from(list(KINDS)),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 1000),
)
def test_any_few_triangles(here: int, there: int, gamma: str, dtype: torch.dtype, seed: int) -> None:
    """Finite, not negative but for rounding, and below its bound, for triangle soups with degenerate members."""
    generator = torch.Generator().manual_seed(seed)
    fixed, moving = (
        torch.randint(-2, 3, (3 * count, 3), generator=generator).to(dtype) for count in (here, there)
    )
    fixed[:3] = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=dtype)
    moving[:3] = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=dtype)
    soup = [torch.arange(3 * count).reshape(-1, 3) for count in (here, there)]
    attachment = KINDS[gamma]((fixed, soup[0]), 1.5)
    x = moving.clone().requires_grad_()
    value = attachment(x, soup[1])
    value.backward()
    other = KINDS[gamma]((moving, soup[1]), 1.5).norm
    assert -1e-6 <= float(value.detach()) <= 1.5**2 * (1 + other / attachment.norm) * (1 + 1e-6)
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())


def test_a_kind_of_ones_own() -> None:
    """What the page shows: areas as they are, so that a smaller shape is another one."""

    class AreaMeasure(KernelAttachment):
        def diracs(self, shape: Shape, name: str) -> Diracs:
            masses = shape.masses()
            return Diracs(shape.sites(), masses.to(shape.points.dtype)[:, None], masses)

    own = AreaMeasure(FIXED, 5.0)
    expected = kernel_value(as_surface(MOVING), as_surface(FIXED), 5.0, "none")
    assert float(own(*MOVING)) == pytest.approx(expected)
    assert repr(own) == "AreaMeasure(128 triangles, width=5)"
