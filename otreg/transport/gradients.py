"""Derivatives of a solved problem: the envelope theorem once, implicit differentiation twice.

At the optimum the value does not change, to first order, with the potentials: its gradient is that of the
dual at fixed potentials, so no iteration is stored. The potentials themselves depend on the input through
the optimality conditions, and their derivative solves one symmetric linear system, by conjugate gradients.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from otreg.autodiff.krylov import solve
from otreg.reductions.engines import Engine
from otreg.reductions.front import logarithm
from otreg.reductions.gibbs import gibbs_sum
from otreg.transport.solver import Solution, dual_term, dual_value, weighted
from otreg.transport.validation import Problem


@dataclasses.dataclass(frozen=True)
class Solved:
    """A problem without graph, its solution, and the engine that solved it.

    ``sums_x`` and ``sums_y`` are what :func:`plan_sums` gives for the rows and columns, where they were taken
    while the engine still had its shares at hand.
    """

    problem: Problem
    solution: Solution
    reduce: Engine
    sums_x: Tensor | None = None
    sums_y: Tensor | None = None

    def with_sums(self, rows: bool, columns: bool) -> Solved:
        """The same with the sums that first derivatives in the positions of x and y will ask for."""
        problem, f, g = self.problem, self.solution.f, self.solution.g
        x, y, a, b, eps = problem.x, problem.y, problem.a, problem.b, problem.eps
        return dataclasses.replace(
            self,
            sums_x=plan_sums(x, y, b, f, g, eps, self.reduce) if rows else None,
            sums_y=plan_sums(y, x, a, g, f, eps, self.reduce) if columns else None,
        )


def transport_value(x: Tensor, y: Tensor, a: Tensor, b: Tensor, solved: Solved) -> Tensor:
    """Dual value at the solution, differentiable twice in positions and weights of both sides.

    The first gradient costs one pass over the pairs for each side that needs it; the second a linear solve.
    Second derivatives with respect to weights that are exactly zero are taken as zero.
    """
    return _Value.apply(x, y, a, b, solved)


def attached_potentials(x: Tensor, y: Tensor, a: Tensor, b: Tensor, solved: Solved) -> tuple[Tensor, Tensor]:
    """The potentials as functions of the input: their derivative solves the linearised optimality conditions.

    In a balanced problem f + c, g - c solve as well as f, g: only functions that do not see c have a
    gradient, and the part of a cotangent that sees it is dropped.
    """
    return _Potentials.apply(x, y, a, b, solved)


class _Value(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, solved: Solved) -> Tensor:
        ctx.save_for_backward(x, y, a, b)
        ctx.solved = solved
        problem, solution = solved.problem, solved.solution
        return dual_value(problem, solution.f, solution.g, weighted(problem.a, solution.row_density))

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        x, y, a, b = ctx.saved_tensors
        solved: Solved = ctx.solved
        problem = solved.problem
        f, g, sums_x, sums_y = solved.solution.f, solved.solution.g, solved.sums_x, solved.sums_y
        if torch.is_grad_enabled():
            f, g = attached_potentials(x, y, a, b, solved)
            sums_x = sums_y = None
        else:
            # the same points, but those for which the engine keeps its trees
            x, y, a, b = problem.x, problem.y, problem.a, problem.b
        need_x, need_y, need_a, need_b = ctx.needs_input_grad[:4]
        grad_x = grad_y = grad_a = grad_b = None
        if need_x or need_a:
            grad_x, grad_a = _side(x, y, a, b, f, g, problem.rho_x, solved, need_x, sums_x)
        if problem.is_self:
            grad_y, grad_b = grad_x, grad_a
        elif need_y or need_b:
            grad_y, grad_b = _side(y, x, b, a, g, f, problem.rho_y, solved, need_y, sums_y)
        scaled = [
            None if grad is None else (cotangent * grad.double()).to(grad.dtype)
            for grad in (grad_x, grad_y, grad_a, grad_b)
        ]
        return *scaled, None


def _side(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    f: Tensor,
    g: Tensor,
    rho: float,
    solved: Solved,
    positions: bool,
    sums: Tensor | None,
) -> tuple[Tensor | None, Tensor]:
    """Gradients in x and a: ``Σ_j P_ij (x_i - y_j)`` and ``F(f_i) - eps (Σ_j P_ij / a_i - m_b)``."""
    eps = solved.problem.eps
    if sums is None:
        sums = plan_sums(x, y, b, f, g, eps, solved.reduce, positions)
    density = sums[:, :1]
    grad_a = dual_term(f, rho) - eps * (density[:, 0].double() - b.sum())
    if not positions:
        return None, grad_a
    centre = y.detach().mean(dim=0)
    return a.to(x.dtype)[:, None] * ((x - centre) * density - sums[:, 1:]), grad_a


def plan_sums(
    x: Tensor, y: Tensor, b: Tensor, f: Tensor, g: Tensor, eps: float, reduce: Engine, positions: bool = True
) -> Tensor:
    """``Σ_j P_ij / a_i`` and, after it, ``Σ_j P_ij (y_j - mean of y) / a_i``: shape (N, 1 + D) or (N, 1)."""
    values = torch.ones_like(y[:, :1])
    if positions:
        values = torch.cat([values, y - y.detach().mean(dim=0)], dim=1)
    return gibbs_sum(x, y, f / eps, logarithm(b) + g / eps, values, eps, reduce)


class _Potentials(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, solved: Solved
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, y, a, b)
        ctx.solved = solved
        return solved.solution.f.clone(), solved.solution.g.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent_f: Tensor, cotangent_g: Tensor) -> Any:
        x, y, a, b = ctx.saved_tensors
        solved: Solved = ctx.solved
        f, g, eps = solved.solution.f, solved.solution.g, solved.problem.eps
        weight_x, weight_y = adjoint(solved, cotangent_f, cotangent_g)
        # -<weights, residuals>, differentiated at fixed potentials
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in (x, y, a, b)]
            x, y, a, b = inputs
            row = gibbs_sum(
                x, y, f / eps, logarithm(b) + g / eps, torch.ones_like(y[:, :1]), eps, solved.reduce
            )
            column = gibbs_sum(
                y, x, g / eps, logarithm(a) + f / eps, torch.ones_like(x[:, :1]), eps, solved.reduce
            )
            residual = (weight_x * row[:, 0]).sum() + (weight_y * column[:, 0]).sum()
        needed = [k for k in range(4) if ctx.needs_input_grad[k]]
        found = torch.autograd.grad(residual, [inputs[k] for k in needed])
        grads: list[Tensor | None] = [None] * 4
        for k, grad in zip(needed, found, strict=True):
            grads[k] = -grad
        return *grads, None


def adjoint(solved: Solved, cotangent_f: Tensor, cotangent_g: Tensor) -> tuple[Tensor, Tensor]:
    """Solve the transposed, linearised optimality conditions.

    The conditions are ``R_i = Σ_j b_j e_ij - exp(-f_i/rho_x) = 0`` and likewise for columns, with
    ``e_ij = exp((f_i + g_j - C_ij)/eps)``. With ``w = a·ω`` the transposed system is symmetric; the columns
    are eliminated, and conjugate gradients solve for the rows. Returns w for rows (N,) and columns (M,).
    """
    problem, solution = solved.problem, solved.solution
    a, b, eps = problem.a, problem.b, problem.eps
    p, q = solution.f / eps, solution.g / eps
    log_a, log_b = logarithm(a), logarithm(b)
    diagonal_x = _diagonal(solution.row_density, solution.f, eps, problem.rho_x)
    diagonal_y = _diagonal(solution.column_density, solution.g, eps, problem.rho_y)
    dtype = problem.x.dtype

    def rows_of(v: Tensor, log_weights: Tensor | None = None) -> Tensor:
        weights = q + (log_b if log_weights is None else log_weights)
        return gibbs_sum(problem.x, problem.y, p, weights, v.to(dtype)[:, None], eps, solved.reduce)[
            :, 0
        ].double()

    def columns_of(v: Tensor, log_weights: Tensor | None = None) -> Tensor:
        weights = p + (log_a if log_weights is None else log_weights)
        return gibbs_sum(problem.y, problem.x, q, weights, v.to(dtype)[:, None], eps, solved.reduce)[
            :, 0
        ].double()

    # Points without weight answer to the others but do not act on them: they are solved first.
    here_x, here_y = a > 0, b > 0
    zero_x, zero_y = torch.zeros_like(a), torch.zeros_like(b)
    alone_x = torch.where(here_x, zero_x, eps * cotangent_f / diagonal_x)
    alone_y = torch.where(here_y, zero_y, eps * cotangent_g / diagonal_y)
    right_x = torch.where(here_x, eps * cotangent_f / torch.where(here_x, a, torch.ones_like(a)), zero_x)
    right_y = torch.where(here_y, eps * cotangent_g / torch.where(here_y, b, torch.ones_like(b)), zero_y)
    if bool((alone_y != 0).any()):
        right_x = torch.where(here_x, right_x - rows_of(alone_y, zero_y), zero_x)
    if bool((alone_x != 0).any()):
        right_y = torch.where(here_y, right_y - columns_of(alone_x, zero_x), zero_y)

    root = a.sqrt()
    right = root * (right_x - rows_of(right_y / diagonal_y))
    constant = root / root.norm()

    def project(v: Tensor) -> Tensor:
        return v - constant * (constant * v).sum() if problem.balanced else v

    def schur(v: Tensor) -> Tensor:
        omega = torch.where(here_x, v / torch.where(here_x, root, torch.ones_like(root)), zero_x)
        image = diagonal_x * omega - rows_of(columns_of(omega) / diagonal_y)
        return project(root * image)

    tol = 1e-10 if dtype == torch.float64 else 1e-5
    found = solve(schur, project(right), tol=tol, max_iterations=1000)
    residual = float(found.residual)
    if residual > 1e3 * tol:
        warnings.warn(
            f"implicit differentiation stopped at a relative residual of {residual:.1g}: "
            "use float64 points or a larger blur",
            RuntimeWarning,
            stacklevel=2,
        )
    omega_x = torch.where(here_x, found.solution / torch.where(here_x, root, torch.ones_like(root)), zero_x)
    omega_y = (right_y - columns_of(omega_x)) / diagonal_y
    return a * omega_x + alone_x, b * omega_y + alone_y


def _diagonal(density: Tensor, potential: Tensor, eps: float, rho: float) -> Tensor:
    """eps times the derivative of a residual in its own potential."""
    return density + (eps / rho) * torch.exp(-potential / rho) if math.isfinite(rho) else density
