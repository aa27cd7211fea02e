"""The Sinkhorn algorithm: alternating updates of the two potentials in the log domain, annealed."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from otreg.reductions.front import Engine
from otreg.transport.schedule import Relaxation
from otreg.transport.validation import Problem


@dataclasses.dataclass(frozen=True)
class Solution:
    """Potentials, in float64, and how far they are from the optimum.

    ``row_density`` is ``Σ_j P_ij / a_i`` (for points without weight: its limit), ``column_density`` likewise.
    """

    f: Tensor
    g: Tensor
    row_density: Tensor
    column_density: Tensor
    marginal_error: float
    iterations: int
    converged: bool


class Updates:
    """The two half-steps of a problem at any blur: softmin, damping, marginal errors."""

    def __init__(self, problem: Problem, reduce: Engine) -> None:
        self.problem, self.reduce = problem, reduce
        self.log_a, self.log_b = problem.a.log(), problem.b.log()

    def softmin_x(self, g: Tensor, eps: float) -> Tensor:
        """``-eps log Σ_j b_j exp((g_j - C_ij)/eps)``, shape (N,)."""
        return -eps * self.reduce(self.problem.x, self.problem.y, self.log_b + g / eps, eps, None)[0]

    def softmin_y(self, f: Tensor, eps: float) -> Tensor:
        """``-eps log Σ_i a_i exp((f_i - C_ij)/eps)``, shape (M,)."""
        return -eps * self.reduce(self.problem.y, self.problem.x, self.log_a + f / eps, eps, None)[0]

    def shift(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Move the constant that f and g share to where the dual value is largest.

        The plan does not change, and unbalanced problems converge far sooner (Séjourné et al., arXiv:2201.00730).
        """
        rho_x, rho_y = self.problem.rho_x, self.problem.rho_y
        if self.problem.balanced:
            return f, g
        masses = log_mass(self.log_a, f, rho_x) - log_mass(self.log_b, g, rho_y)
        step = masses / (1.0 / rho_x + 1.0 / rho_y)
        return f + step, g - step


def log_mass(log_weights: Tensor, potential: Tensor, rho: float) -> Tensor:
    """``log Σ w_i exp(-f_i / rho)``: the mass that this marginal would like to see transported."""
    return torch.logsumexp(log_weights - potential / rho, dim=0)


def damping(eps: float, rho: float) -> float:
    """Factor of the softmin in the update: 1 for an imposed marginal."""
    return 1.0 / (1.0 + eps / rho)


def marginal_error(weights: Tensor, density: Tensor, potential: Tensor, rho: float) -> float:
    """L1 distance between a marginal of the plan and the one that the potential asks for."""
    wanted = torch.exp(-potential / rho) if math.isfinite(rho) else torch.ones_like(density)
    here = weights > 0
    return float((weights * (density - wanted).abs())[here].sum())


def dual_value(problem: Problem, f: Tensor, g: Tensor, mass: Tensor) -> Tensor:
    """Value of the dual at (f, g), given the mass of its plan.

    ``<a, F(f)> + <b, F(g)> - eps (mass - m_a m_b)``, with F(f) = f where the marginal is imposed, else
    ``rho (1 - exp(-f/rho))`` (Feydy's thesis, proposition 3.9). At the optimum this is the value of the problem.
    """
    first = weighted(problem.a, dual_term(f, problem.rho_x))
    second = weighted(problem.b, dual_term(g, problem.rho_y))
    return first + second - problem.eps * (mass - problem.a.sum() * problem.b.sum())


def dual_term(potential: Tensor, rho: float) -> Tensor:
    """F in :func:`dual_value`."""
    return -rho * torch.expm1(-potential / rho) if math.isfinite(rho) else potential


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """``<weights, values>`` where a zero weight silences even an infinite value."""
    return torch.where(weights > 0, weights * values, torch.zeros_like(values)).sum()


def alternate(
    problem: Problem,
    reduce: Engine,
    blurs: list[float],
    init: tuple[Tensor, Tensor] | None,
    tol: float,
    max_iterations: int,
) -> Solution:
    """Solve by alternating updates: one at each annealing blur, then over-relaxed ones at the last until converged.

    The pair (f, g) that is returned has g as the exact answer to f, so its column error is zero and its row error,
    which the softmin of the next update gives for free, is the whole marginal error.
    """
    updates = Updates(problem, reduce)
    rho_x, rho_y, eps = problem.rho_x, problem.rho_y, problem.eps
    scale = 0.5 * float(problem.a.sum() + problem.b.sum())
    f, g = init if init is not None else (torch.zeros_like(problem.a), torch.zeros_like(problem.b))
    for blur in blurs:
        g = damping(blur**2, rho_y) * updates.softmin_y(f, blur**2)
        f = damping(blur**2, rho_x) * updates.softmin_x(g, blur**2)
        f, g = updates.shift(f, g)

    relaxation, error, iterations = Relaxation(), math.inf, 0
    while True:
        iterations += 1
        exact = error <= tol or iterations >= max_iterations or iterations == 1
        omega = 1.0 if exact else relaxation.next_factor

        below = updates.softmin_y(f, eps)
        column_error = marginal_error(problem.b, torch.exp((g - below) / eps), g, rho_y) / scale
        g = g + omega * (damping(eps, rho_y) * below - g)

        right = updates.softmin_x(g, eps)
        row_density = torch.exp((f - right) / eps)
        row_error = marginal_error(problem.a, row_density, f, rho_x) / scale
        if omega == 1.0 and (row_error <= tol or iterations >= max_iterations):
            break
        error = row_error if omega == 1.0 else row_error + column_error
        dual = float(dual_value(problem, f, g, weighted(problem.a, row_density)))
        relaxation.observe(error, dual, 1e-6 * abs(dual) + 1e-6 * eps * scale)
        f = f + omega * (damping(eps, rho_x) * right - f)
        f, g = updates.shift(f, g)

    column_density = torch.exp((g - below) / eps)
    return Solution(f, g, row_density, column_density, row_error, len(blurs) + iterations, row_error <= tol)


def solve_self(
    problem: Problem,
    reduce: Engine,
    blurs: list[float],
    init: Tensor | None,
    tol: float,
    max_iterations: int,
) -> Solution:
    """Solve a problem of a shape with itself, where both potentials are one: ``f ← (f + T(f)) / 2``."""
    updates, rho, eps = Updates(problem, reduce), problem.rho_x, problem.eps
    f = init if init is not None else torch.zeros_like(problem.a)
    for blur in blurs:
        f = 0.5 * (f + damping(blur**2, rho) * updates.softmin_x(f, blur**2))
    iterations, scale = 0, float(problem.a.sum())
    while True:
        iterations += 1
        right = updates.softmin_x(f, eps)
        density = torch.exp((f - right) / eps)
        error = 2.0 * marginal_error(problem.a, density, f, rho) / scale
        if error <= tol or iterations >= max_iterations:
            break
        f = 0.5 * (f + damping(eps, rho) * right)
    return Solution(f, f, density, density, error, len(blurs) + iterations, error <= tol)
