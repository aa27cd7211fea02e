"""The Sinkhorn algorithm: alternating updates of two potentials in the log domain, annealed."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from otreg.reductions.engines import Engine
from otreg.transport.multiscale import release, stages
from otreg.transport.schedule import Anderson
from otreg.transport.smooth import SmoothModes
from otreg.transport.validation import Problem

SMOOTH_STEPS = 3
"""Updates of a balanced problem joined with a Newton step for the smooth modes."""


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
    """The two half-steps of a problem at any blur."""

    def __init__(self, problem: Problem, reduce: Engine) -> None:
        self.problem, self.reduce = problem, reduce
        self.log_a, self.log_b = problem.a.log(), problem.b.log()

    def softmin_x(self, g: Tensor, eps: float, points: Tensor | None = None) -> Tensor:
        """``-eps log Σ_j b_j exp((g_j - C_ij)/eps)`` at each x_i, or at other points."""
        points = self.problem.x if points is None else points
        return -eps * self.reduce(points, self.problem.y, self.log_b + g / eps, eps, None)[0]

    def softmin_y(self, f: Tensor, eps: float, points: Tensor | None = None) -> Tensor:
        """``-eps log Σ_i a_i exp((f_i - C_ij)/eps)`` at each y_j, or at other points."""
        points = self.problem.y if points is None else points
        return -eps * self.reduce(points, self.problem.x, self.log_a + f / eps, eps, None)[0]

    def alternate(self, f: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Answer f by g, and g by a new f."""
        g = damping(eps, self.problem.rho_y) * self.softmin_y(f, eps)
        f = damping(eps, self.problem.rho_x) * self.softmin_x(g, eps)
        return self.shift(f, g)

    def shift(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Move the constant that f and g share to where the dual value is largest.

        The plan does not change, and unbalanced problems converge far sooner (Séjourné et al.,
        arXiv:2201.00730). In a balanced problem the dual value does not change either: f and g get the same
        mean.
        """
        rho_x, rho_y = self.problem.rho_x, self.problem.rho_y
        if self.problem.balanced:
            mass = self.problem.a.sum()
            step = 0.5 * (weighted(self.problem.b, g) - weighted(self.problem.a, f)) / mass
        else:
            wanted = log_mass(self.log_a, f, rho_x) - log_mass(self.log_b, g, rho_y)
            step = wanted / (1.0 / rho_x + 1.0 / rho_y)
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
    return float(weighted(weights, (density - wanted).abs()))


def dual_value(problem: Problem, f: Tensor, g: Tensor, mass: Tensor) -> Tensor:
    """Value of the dual at (f, g), given the mass of its plan.

    ``<a, F(f)> + <b, F(g)> - eps (mass - m_a m_b)``, with F(f) = f where the marginal is imposed, else
    ``rho (1 - exp(-f/rho))`` (Feydy's thesis, chapter 3). At the optimum this is the value of the problem.
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


def solve_pair(
    problem: Problem,
    reduce: Engine,
    blurs: list[float],
    init: tuple[Tensor, Tensor] | None,
    tol: float,
    max_iterations: int,
) -> Solution:
    """One update at each annealing blur, then accelerated ones at the last until converged."""
    plan = stages(problem, reduce, blurs, init is not None)
    f = torch.zeros_like(plan[0].problem.a)
    g = torch.zeros_like(plan[0].problem.b)
    if init is not None:
        f, g = init
    iterations, eps, newton = 0, problem.eps, True
    for stage, following in zip(plan, [*plan[1:], None], strict=True):
        updates = Updates(stage.problem, reduce)
        for blur in stage.blurs:
            eps = blur**2
            f, g = updates.alternate(f, eps)
        iterations += len(stage.blurs)
        if stage.converge:
            eps = problem.eps
            solution = converge(updates, f, g, tol, max_iterations, newton)
            # where clusters have converged, the smooth modes are right
            newton = False
            iterations += solution.iterations
            f, g = solution.f, solution.g
        if following is not None:
            # both potentials are defined anywhere by the softmin of the other
            g_next = damping(eps, problem.rho_y) * updates.softmin_y(f, eps, following.problem.y)
            f = damping(eps, problem.rho_x) * updates.softmin_x(g, eps, following.problem.x)
            g = g_next
            release(reduce, stage)
    return dataclasses.replace(solution, iterations=iterations)


def converge(
    updates: Updates, f: Tensor, g: Tensor, tol: float, max_iterations: int, newton: bool
) -> Solution:
    """Accelerated alternating updates at the final blur, until the marginal error is within the tolerance.

    With ``newton``, the first few updates of a balanced problem are joined with Newton steps for the smooth
    modes.

    g is always the exact answer to f, so the column error is zero and the row error, which the softmin of
    the next update gives for free, is the whole marginal error.
    """
    problem = updates.problem
    rho_x, rho_y, eps = problem.rho_x, problem.rho_y, problem.eps
    scale = 0.5 * float(problem.a.sum() + problem.b.sum())
    acceleration, iterations = Anderson(problem.a), 0
    modes = SmoothModes(problem.x, problem.y, problem.a, problem.b) if newton and problem.balanced else None
    best_dual, fallback = -math.inf, f
    while True:
        iterations += 1
        below = updates.softmin_y(f, eps)
        g = damping(eps, rho_y) * below
        smooth = modes if iterations <= SMOOTH_STEPS else None
        logs, mean = updates.reduce(
            problem.x, problem.y, updates.log_b + g / eps, eps, None if smooth is None else smooth.values
        )
        right = -eps * logs
        row_density = torch.exp((f - right) / eps)
        error = marginal_error(problem.a, row_density, f, rho_x) / scale
        if error <= tol or iterations >= max_iterations:
            break
        dual = float(dual_value(problem, f, g, weighted(problem.a, row_density)))
        rounding = 1e-7 * abs(dual) + 1e-7 * eps * scale
        image, _ = updates.shift(damping(eps, rho_x) * right, g)
        if smooth is None or mean is None:
            f = acceleration.following(f, image, dual, rounding)
        elif dual >= best_dual - rounding:
            best_dual, fallback = max(dual, best_dual), image
            columns = problem.b * torch.exp((g - updates.softmin_y(right, eps)) / eps)
            f = image + eps * smooth.step(mean, columns)
        else:
            f, modes = fallback, None
    column_density = torch.exp((g - below) / eps)
    if problem.balanced:
        f, g = updates.shift(f, g)
    return Solution(f, g, row_density, column_density, error, iterations, error <= tol)


def solve_self(
    problem: Problem,
    reduce: Engine,
    blurs: list[float],
    init: Tensor | None,
    tol: float,
    max_iterations: int,
) -> Solution:
    """Solve a problem of a shape with itself, where both potentials are one: ``f ← (f + T(f)) / 2``."""
    plan = stages(problem, reduce, blurs, init is not None)
    f = torch.zeros_like(plan[0].problem.a) if init is None else init
    rho, eps, total = problem.rho_x, problem.eps, 0
    for stage, following in zip(plan, [*plan[1:], None], strict=True):
        updates, iterations = Updates(stage.problem, reduce), 0
        for blur in stage.blurs:
            eps = blur**2
            f = 0.5 * (f + damping(eps, rho) * updates.softmin_x(f, eps))
        while stage.converge:
            eps, iterations = problem.eps, iterations + 1
            right = updates.softmin_x(f, eps)
            density = torch.exp((f - right) / eps)
            # rows and columns are alike
            error = 2.0 * marginal_error(stage.problem.a, density, f, rho) / float(problem.a.sum())
            if error <= tol or iterations >= max_iterations:
                break
            f = 0.5 * (f + damping(eps, rho) * right)
        total += len(stage.blurs) + iterations
        if following is not None:
            f = damping(eps, rho) * updates.softmin_x(f, eps, following.problem.x)
            release(reduce, stage)
    return Solution(f, f, density, density, error, total, error <= tol)
