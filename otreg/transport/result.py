"""What a solve gives back: potentials, value, and the plan as an operator that is never stored."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions.front import Engine
from otreg.transport.solver import Solution
from otreg.transport.validation import Problem, as_tensor

LARGEST_DENSE_PLAN = 50_000_000


class ConvergenceWarning(UserWarning):
    """The marginal error was still above the tolerance when the iterations ran out."""


@dataclasses.dataclass(frozen=True, eq=False)
class TransportResult:
    """An entropic transport plan ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)`` and what it cost.

    Attributes
    ----------
    value : Tensor or float
        The optimal value; debiased if that was asked for.
    problem, solution
        The checked input and the raw output of the solver.
    self_solutions : tuple of Solution
        The self terms of x and y when debiased, else empty.
    """

    value: Any
    problem: Problem
    solution: Solution
    reduce: Engine
    self_solutions: tuple[Solution, ...] = ()

    @property
    def potentials(self) -> tuple[Any, Any]:
        """``(f, g)``, shapes (N,) and (M,), in squared length units: start a later solve with them."""
        return self._out(self.solution.f), self._out(self.solution.g)

    @property
    def marginal_error(self) -> float:
        """L1 error of the rows plus that of the columns, relative to the mean of the two masses."""
        return self.solution.marginal_error

    @property
    def converged(self) -> bool:
        """Whether the marginal error (and that of the self terms) is within the tolerance."""
        return self.solution.converged and all(solution.converged for solution in self.self_solutions)

    @property
    def iterations(self) -> int:
        """Alternating updates of both potentials, annealing included."""
        return self.solution.iterations

    @cached_property
    def confidence(self) -> Any:
        """``Σ_j P_ij / a_i``, shape (N,): 1 where the mass of x_i is matched in full, near 0 where it is left out."""
        return self._out(self.solution.row_density)

    @cached_property
    def confidence_y(self) -> Any:
        """``Σ_i P_ij / b_j``, shape (M,)."""
        return self._out(self.solution.column_density)

    def apply(self, values: Any) -> Any:
        """``Σ_j P_ij v_j`` for values (M,) or (M, V) on y: shape (N,) or (N, V)."""
        mass = self.problem.a * self.solution.row_density
        return self._averaged(values, self.problem.y, self._mean_x, mass)

    def apply_transpose(self, values: Any) -> Any:
        """``Σ_i P_ij v_i`` for values (N,) or (N, V) on x: shape (M,) or (M, V)."""
        mass = self.problem.b * self.solution.column_density
        return self._averaged(values, self.problem.x, self._mean_y, mass)

    def barycentric_map(self, values: Any = None) -> Any:
        """Plan-weighted mean over y of some values, for each point of x; by default of y's positions.

        ``Σ_j P_ij v_j / Σ_j P_ij``: with positions, the target of each point of x, shape (N, D).
        """
        if values is None:
            return self._out(self._mean_x(self.problem.y[:, : self.problem.dimension]))
        return self._averaged(values, self.problem.y, self._mean_x, None)

    def plan(self) -> Any:
        """The plan as a dense (N, M) array, in float64; for small problems only."""
        problem, solution = self.problem, self.solution
        if len(problem.x) * len(problem.y) > LARGEST_DENSE_PLAN:
            raise InputError(
                f"a dense plan of {len(problem.x)} × {len(problem.y)} is too large: use apply or barycentric_map"
            )
        x, y = problem.x.detach().double(), problem.y.detach().double()
        cost = 0.5 * (x[:, None, :] - y[None, :, :]).square().sum(dim=2)
        exponent = (solution.f[:, None] + solution.g[None, :] - cost) / problem.eps
        plan = problem.a[:, None] * problem.b[None, :] * exponent.exp()
        return plan.detach().cpu().numpy() if problem.numpy else plan

    def _mean_x(self, values: Tensor) -> Tensor:
        problem = self.problem
        h = problem.b.log() + self.solution.g / problem.eps
        return _required(self.reduce(problem.x, problem.y, h, problem.eps, values)[1])

    def _mean_y(self, values: Tensor) -> Tensor:
        problem = self.problem
        h = problem.a.log() + self.solution.f / problem.eps
        return _required(self.reduce(problem.y, problem.x, h, problem.eps, values)[1])

    def _averaged(self, values: Any, points: Tensor, mean: Any, mass: Tensor | None) -> Any:
        given = as_tensor(values, "values").to(points.device, points.dtype)
        if given.ndim not in (1, 2) or len(given) != len(points):
            raise InputError(
                f"values must have shape ({len(points)},) or ({len(points)}, V), got {tuple(given.shape)}"
            )
        averaged = mean(given.reshape(len(points), -1))
        if mass is not None:
            averaged = averaged * mass[:, None].to(averaged.dtype)
        return self._out(averaged[:, 0] if given.ndim == 1 else averaged)

    def _out(self, tensor: Tensor) -> Any:
        tensor = tensor.to(self.problem.x.dtype)
        return tensor.detach().cpu().numpy() if self.problem.numpy else tensor


def _required(mean: Tensor | None) -> Tensor:
    if mean is None:
        raise RuntimeError("the engine gave no mean although values were given")
    return mean
