"""First and second derivatives, against finite differences and an unrolled dense reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from otreg.transport import SinkhornDivergence, sinkhorn_divergence, solve
from tests.transport.support import dense_solve, uniform

KINDS = {
    "balanced": {},
    "unbalanced": {"reach": 0.5},
    "semi-unbalanced": {"reach_x": 0.5},
    "debiased": {"debias": True},
    "debiased unbalanced": {"reach": 0.5, "debias": True},
}


def inputs() -> list[Tensor]:
    sizes = ((4, 2), (3, 2), (4, 1), (3, 1))
    found = [uniform(*size, seed) for seed, size in enumerate(sizes)]
    return [
        points.requires_grad_() for points in (found[0], found[1], found[2][:, 0] + 0.2, found[3][:, 0] + 0.2)
    ]


def masses(u: Tensor, v: Tensor, kind: dict) -> tuple[Tensor, Tensor]:
    """Weights of any mass; of one mass, not 1, where a balanced side asks for it."""
    return (u, v) if "reach" in kind else (2 * u / u.sum(), 2 * v / v.sum())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_value_by_finite_differences(kind: dict) -> None:
    def value(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return solve(x, y, *masses(u, v, kind), blur=0.3, tol=1e-12, **kind).value

    assert gradcheck(value, inputs(), rtol=1e-5, atol=1e-8)
    assert gradgradcheck(value, inputs(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", list(KINDS.values())[:3], ids=list(KINDS)[:3])
def test_everything_else_by_finite_differences(kind: dict) -> None:
    def outputs(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        found = solve(x, y, *masses(u, v, kind), blur=0.3, tol=1e-12, **kind)
        f, g = found.potentials
        total = f[:, None] + g[None, :]
        return (
            found.barycentric_map(), found.apply(y), found.apply_transpose(u), found.confidence,
            found.confidence_y, total,
        )  # fmt: skip

    assert gradcheck(outputs, inputs(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reach", [None, 0.5])
def test_against_unrolling(reach: float | None) -> None:
    x, y, u, v = inputs()
    a, b = (u / u.sum(), v / v.sum()) if reach is None else (u, v)
    rho = math.inf if reach is None else reach**2
    value, plan = dense_solve(x, y, a, b, 0.3, rho, rho, 400)
    ours = solve(x, y, a, b, blur=0.3, reach=reach, tol=1e-12)
    for one, other in ((ours.value, value), (ours.apply(y).sin().sum(), (plan @ y).sin().sum())):
        found = torch.autograd.grad(one, [x, y, u, v], retain_graph=True)
        expected = torch.autograd.grad(other, [x, y, u, v], retain_graph=True)
        for grad, reference in zip(found, expected, strict=True):
            assert torch.allclose(grad, reference, rtol=1e-7, atol=1e-9)


def test_points_without_weight_have_gradients_too() -> None:
    """The derivative of the value in a weight that is zero is finite, and right from the side that exists."""
    x, y, u, v = inputs()
    a = u.detach().clone()
    a[2] = 0.0
    a.requires_grad_()
    value = solve(x, y, a, v, blur=0.3, reach=0.5, tol=1e-12).value
    grads = torch.autograd.grad(value, [x, y, a, v], create_graph=True)
    assert all(bool(torch.isfinite(grad).all()) for grad in grads) and not bool(grads[0][2].any())
    step = torch.zeros_like(a)
    step[2] = 1e-6
    ahead = solve(x, y, (a + step).detach(), v, blur=0.3, reach=0.5, tol=1e-12).value
    assert float((ahead - value).detach()) / 1e-6 == pytest.approx(float(grads[2][2].detach()), rel=1e-4)
    second = torch.autograd.grad(sum((grad**2).sum() for grad in grads[:2]), [x, y, v])
    assert all(bool(torch.isfinite(grad).all()) for grad in second)


def test_truncated_sums_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from otreg.reductions import truncated

    x, y = uniform(300, 3, 1).requires_grad_(), uniform(320, 3, 2).requires_grad_()

    def derivatives() -> list[Tensor]:
        value = sinkhorn_divergence(x, y, blur=0.05, reach=0.2, tol=1e-9)
        first = torch.autograd.grad(value, [x, y], create_graph=True)
        return [*first, *torch.autograd.grad((first[0] * x.detach().cos()).sum(), [x, y])]

    dense = derivatives()
    monkeypatch.setattr(truncated, "SMALLEST_PROBLEM", 0)
    monkeypatch.setattr(truncated, "LARGEST_SHARE", 1.0)
    for one, other in zip(derivatives(), dense, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))


def test_float32_gradients() -> None:
    x, y = uniform(50, 3, 1), uniform(60, 3, 2)
    grads = []
    for dtype in (torch.float32, torch.float64):
        points = x.to(dtype).requires_grad_()
        grads.append(
            torch.autograd.grad(sinkhorn_divergence(points, y.to(dtype), blur=0.1, tol=1e-5), points)[0]
        )
    assert grads[0].dtype == torch.float32
    assert torch.allclose(grads[0].double(), grads[1], rtol=1e-3, atol=1e-6)


def test_the_module_keeps_what_it_knows() -> None:
    x, y = uniform(100, 3, 1).requires_grad_(), uniform(110, 3, 2)
    module = SinkhornDivergence(0.1, tol=1e-6)
    first = module(x, y)
    (grad,) = torch.autograd.grad(first, x)
    assert module.result is not None
    kept, cold = module.result.own[1].solution, module.result.iterations
    second = module(x - grad, y)
    assert float(second.detach()) < float(first.detach())
    assert module.result.own[1].solution is kept and module.result.iterations < cold
    assert not module.result.solved.problem.x.requires_grad
    assert module(x[:50], y).shape == ()
    module.reset()
    assert module.result is None


def test_points_changed_in_place_are_noticed() -> None:
    x, y = uniform(50, 3, 1), uniform(60, 3, 2)
    module = SinkhornDivergence(0.1, tol=1e-8)
    module(x, y)
    x.mul_(1.5)
    y.mul_(0.5)
    assert float(module(x, y)) == pytest.approx(
        float(sinkhorn_divergence(x, y, blur=0.1, tol=1e-8)), rel=1e-6
    )


def test_newton_step_lands_at_the_optimum_of_a_translation() -> None:
    """The divergence is exactly quadratic in a translation: one Newton step, with our Hessian, solves it."""
    x = uniform(20, 2, 1)
    y = x + torch.tensor([0.3, -0.2], dtype=torch.float64)
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    value = sinkhorn_divergence(x + shift, y, blur=0.2, tol=1e-11)
    (grad,) = torch.autograd.grad(value, shift, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(part, shift, retain_graph=True)[0] for part in grad])
    step = torch.linalg.solve(hessian, -grad.detach())
    assert torch.allclose(step, torch.tensor([0.3, -0.2], dtype=torch.float64), atol=1e-6)
