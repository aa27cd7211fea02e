"""Newton steps for smooth modes, and Anderson acceleration, each against what it should do."""

from __future__ import annotations

import pytest
import torch

from otreg.transport import solve, solver
from otreg.transport.schedule import Anderson, annealing
from otreg.transport.smooth import polynomials
from tests.transport.support import bent_sphere


def test_polynomials_count() -> None:
    assert [polynomials(torch.rand(5, d)).shape[1] for d in (1, 2, 3, 6, 9)] == [4, 10, 20, 28, 10]


def test_smooth_motions_take_few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a smooth motion, a warm start needs at most two thirds of the updates it needs without."""
    x, y = bent_sphere(600, 1), 1.1 * bent_sphere(600, 2)
    first = solve(x, y, blur=0.05, tol=1e-5)
    moved = x + 0.03 * torch.sin(2 * x.roll(1, dims=1))
    with_steps = solve(moved, y, blur=0.05, init=first)
    monkeypatch.setattr(solver, "SMOOTH_STEPS", 0)
    without = solve(moved, y, blur=0.05, init=first)
    assert with_steps.converged and without.converged
    assert 3 * with_steps.iterations <= 2 * without.iterations


def test_points_on_a_line_do_not_break_the_steps() -> None:
    x = torch.zeros(50, 3, dtype=torch.float64)
    x[:, 0] = torch.linspace(0, 1, 50, dtype=torch.float64)
    assert solve(x, 0.5 * x + 1.0, blur=0.1, tol=1e-8).converged


def test_anderson_solves_a_linear_problem_in_few_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = torch.eye(6, dtype=torch.float64) - 0.9 * (root @ root.T) / (root @ root.T).diagonal().sum()
    solution = torch.linalg.solve(
        torch.eye(6, dtype=torch.float64) - matrix, torch.ones(6, dtype=torch.float64)
    )
    f, acceleration = torch.zeros(6, dtype=torch.float64), Anderson(torch.ones(6, dtype=torch.float64))
    for step in range(12):
        f = acceleration.following(f, matrix @ f + 1.0, float(step), 0.0)
    assert torch.allclose(f, solution, rtol=1e-4)


def test_anderson_falls_back_when_the_dual_falls() -> None:
    acceleration = Anderson(torch.ones(3, dtype=torch.float64))
    first, second = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert torch.equal(acceleration.following(first, second, 1.0, 0.0), second)
    assert torch.equal(acceleration.following(second * 9, second * 10, 0.5, 0.0), second)
    assert torch.equal(acceleration.following(second, second * 2, 0.2, 0.0), second * 2)


def test_annealing_schedule() -> None:
    assert annealing(1.0, 0.3, 0.5) == [1.0, 0.5]
    assert annealing(1.0, 0.25, 0.5) == [1.0, 0.5]
    assert annealing(0.1, 0.3, 0.5) == []
