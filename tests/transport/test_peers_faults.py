"""What other tools get wrong, as measured before otreg was begun: each fault is a test here."""

from __future__ import annotations

import pytest
import torch

from otreg.reductions import truncated
from otreg.transport import multiscale, sinkhorn_divergence, solve
from tests.transport.support import bent_sphere, dense_solve, uniform


def test_position_gradient_is_not_doubled() -> None:
    """GeomLoss 0.3.1 ``ot.solve_sample``: twice the true gradient (neither argument is detached)."""
    x, y = uniform(15, 3, 1).requires_grad_(), uniform(20, 3, 2)
    (grad,) = torch.autograd.grad(solve(x, y, blur=0.2, tol=1e-12).value, x)
    step = 1e-5 * torch.randn(15, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead, behind = (solve((x + sign * step).detach(), y, blur=0.2, tol=1e-12).value for sign in (1, -1))
    assert float((grad * step).sum()) == pytest.approx(float(ahead - behind) / 2, rel=1e-5)


def test_unbalanced_gradient_has_the_right_factor() -> None:
    """GeomLoss ``SamplesLoss``: off by (rho + eps/2)/(rho + eps), here 14%."""
    x, y = uniform(15, 3, 1).requires_grad_(), uniform(20, 3, 2)
    kind = {"blur": 0.3, "reach": 0.4, "tol": 1e-12}
    (grad,) = torch.autograd.grad(sinkhorn_divergence(x, y, **kind), x)
    step = 1e-5 * torch.randn(15, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead, behind = (sinkhorn_divergence((x + sign * step).detach(), y, **kind) for sign in (1, -1))
    assert float((grad * step).sum()) == pytest.approx(float(ahead - behind) / 2, rel=1e-5)


def test_unbalanced_multiscale_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """GeomLoss unbalanced multiscale: value off by 18%. Ours is the dense one."""
    monkeypatch.setattr(multiscale, "SMALLEST_PROBLEM", 0)
    monkeypatch.setattr(truncated, "SMALLEST_PROBLEM", 0)
    x, y = bent_sphere(700, 1), 1.1 * bent_sphere(800, 2)
    a, b = torch.full((700,), 1 / 700).double(), torch.full((800,), 1 / 800).double()
    expected, _ = dense_solve(x, y, a, b, 0.05, 0.04, 0.04, 60)
    found = solve(x, y, a, b, blur=0.05, reach=0.2, tol=1e-6)
    assert float(found.value) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("blur", [0.05, 0.02])
def test_default_settings_converge(blur: float) -> None:
    """GeomLoss' default schedule leaves a row error of 24% at blur 0.05 in the unit cube, without a word."""
    x, y = uniform(500, 3, 1), uniform(500, 3, 2)
    found = solve(x, y, blur=blur)
    plan = found.plan()
    error = (plan.sum(dim=1) - 1 / 500).abs().sum() + (plan.sum(dim=0) - 1 / 500).abs().sum()
    assert found.converged and float(error) <= 1.01e-3


def test_far_fewer_softmins_than_symmetric_updates() -> None:
    """Plain symmetric updates need 7 to 18 times more softmins to a row+column error of 1e-3."""
    x, y = uniform(500, 3, 1), uniform(500, 3, 2)
    eps, logs = 0.05**2, torch.full((500,), 1 / 500, dtype=torch.float64).log()
    cost = (x[:, None] - y[None]).square().sum(dim=2) / 2
    f, g, softmins, blur = torch.zeros(500).double(), torch.zeros(500).double(), 0, 1.7
    for _ in range(3000):
        now = max(blur**2, eps)
        blur *= 0.5
        to_x = -now * (logs[None] + (g[None] - cost) / now).logsumexp(dim=1)
        to_y = -now * (logs[:, None] + (f[:, None] - cost) / now).logsumexp(dim=0)
        error = (
            torch.expm1((f - to_x) / eps).abs().mean() + torch.expm1((g - to_y) / eps).abs().mean()
        ).item()
        f, g, softmins = 0.5 * (f + to_x), 0.5 * (g + to_y), softmins + 2
        if now == eps and error <= 1e-3:
            break
    ours = solve(x, y, blur=0.05, tol=1e-3)
    assert error <= 1e-3 and 7 * 2 * ours.iterations < softmins
