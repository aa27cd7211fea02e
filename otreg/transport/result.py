"""What a solve gives back: potentials, value, and the plan as an operator that is never stored."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions.checks import as_tensor
from otreg.reductions.front import logarithm
from otreg.reductions.gibbs import gibbs_sum, log_sum
from otreg.transport.gradients import Solved, attached_potentials
from otreg.transport.validation import Problem

LARGEST_DENSE_PLAN = 50_000_000
"""Entries of the largest plan that :meth:`TransportResult.plan` will store."""


@dataclasses.dataclass(frozen=True, eq=False)
class TransportResult:
    """An entropic transport plan ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)`` and what it cost.

    Everything it gives is of the kind of the points (NumPy or torch, dtype, device). With torch input that
    requires gradients, value, potentials, confidences and everything the plan is applied to are
    differentiable.

    Attributes
    ----------
    value : Tensor or float
        The optimal value; debiased if that was asked for. Twice differentiable.
    problem : Problem
        The checked input, attached to its graph.
    solved : Solved
        The same without graph, with the raw potentials and the engine.
    own : tuple of Solved
        The self terms of x and y when debiased, else empty.
    """

    value: Any
    problem: Problem
    solved: Solved
    own: tuple[Solved, ...] = ()
    dtype: torch.dtype = torch.float64

    @property
    def potentials(self) -> tuple[Any, Any]:
        """``(f, g)``, shapes (N,) and (M,), in squared length units: start a later solve with them.

        Balanced problems fix f + g only; the constant is shared so that both have the same mean.
        """
        return tuple(self._out(potential) for potential in self._attached)  # type: ignore[return-value]

    @property
    def marginal_error(self) -> float:
        """L1 error of the rows plus that of the columns, relative to the mean of the two masses."""
        return self.solved.solution.marginal_error

    @property
    def converged(self) -> bool:
        """Whether the marginal error (and that of the self terms) is within the tolerance."""
        return self.solved.solution.converged and all(own.solution.converged for own in self.own)

    @property
    def iterations(self) -> int:
        """Alternating updates of both potentials, annealing and coarse levels included."""
        return self.solved.solution.iterations

    @cached_property
    def confidence(self) -> Any:
        """``Σ_j P_ij / a_i``, shape (N,): 1 where the mass of x_i is matched, near 0 where it is left out."""
        if not self.problem.needs_grad:
            return self._out(self.solved.solution.row_density)
        return self._out(self._sum_x(torch.ones_like(self._current.y[:, :1]))[:, 0])

    @cached_property
    def confidence_y(self) -> Any:
        """``Σ_i P_ij / b_j``, shape (M,)."""
        if not self.problem.needs_grad:
            return self._out(self.solved.solution.column_density)
        return self._out(self._sum_y(torch.ones_like(self._current.x[:, :1]))[:, 0])

    def apply(self, values: Any) -> Any:
        """``Σ_j P_ij v_j`` for values (M,) or (M, V) on y: shape (N,) or (N, V)."""
        matrix = self._matrix(values, self._current.y)
        total = self._sum_x(matrix) * self._current.a.to(matrix.dtype)[:, None]
        return self._out(total if as_tensor(values, "values").ndim == 2 else total[:, 0])

    def apply_transpose(self, values: Any) -> Any:
        """``Σ_i P_ij v_i`` for values (N,) or (N, V) on x: shape (M,) or (M, V)."""
        matrix = self._matrix(values, self._current.x)
        total = self._sum_y(matrix) * self._current.b.to(matrix.dtype)[:, None]
        return self._out(total if as_tensor(values, "values").ndim == 2 else total[:, 0])

    def barycentric_map(self, values: Any = None) -> Any:
        """Plan-weighted mean over y of some values, for each point of x; by default of y's positions.

        ``Σ_j P_ij v_j / Σ_j P_ij``: with positions, the target of each point of x, shape (N, D).
        """
        problem = self._current
        if values is None:
            return self._out(self._mean_x(problem.y[:, : problem.dimension]))
        mean = self._mean_x(self._matrix(values, problem.y))
        return self._out(mean if as_tensor(values, "values").ndim == 2 else mean[:, 0])

    def plan(self) -> Any:
        """The plan as a dense (N, M) array, in float64; for small problems only, and without gradients.

        Raises
        ------
        InputError
            Above 50 million entries.
        """
        problem, solution = self.solved.problem, self.solved.solution
        if len(problem.x) * len(problem.y) > LARGEST_DENSE_PLAN:
            raise InputError(
                f"a dense plan of {len(problem.x)} × {len(problem.y)} is too large: "
                "use apply or barycentric_map"
            )
        difference = problem.x.double()[:, None, :] - problem.y.double()[None, :, :]
        cost = 0.5 * difference.square().sum(dim=2)
        exponent = (solution.f[:, None] + solution.g[None, :] - cost) / problem.eps
        plan = problem.a[:, None] * problem.b[None, :] * exponent.exp()
        return plan.cpu().numpy() if problem.numpy else plan

    @property
    def _current(self) -> Problem:
        """The problem with its graph where one is needed, else the copy that the engine knows."""
        return self.problem if self.problem.needs_grad else self.solved.problem

    @property
    def _attached(self) -> tuple[Tensor, Tensor]:
        problem, solution = self.problem, self.solved.solution
        if not problem.needs_grad:
            return solution.f, solution.g
        return attached_potentials(problem.x, problem.y, problem.a, problem.b, self.solved)

    def _sum_x(self, values: Tensor) -> Tensor:
        """``Σ_j P_ij v_j / a_i``."""
        problem, (f, g) = self._current, self._attached
        logs = logarithm(problem.b) + g / problem.eps
        return gibbs_sum(problem.x, problem.y, f / problem.eps, logs, values, problem.eps, self.solved.reduce)

    def _sum_y(self, values: Tensor) -> Tensor:
        """``Σ_i P_ij v_i / b_j``."""
        problem, (f, g) = self._current, self._attached
        logs = logarithm(problem.a) + f / problem.eps
        return gibbs_sum(problem.y, problem.x, g / problem.eps, logs, values, problem.eps, self.solved.reduce)

    def _mean_x(self, values: Tensor) -> Tensor:
        problem, (_, g) = self._current, self._attached
        logs = logarithm(problem.b) + g / problem.eps
        if problem.needs_grad or (torch.is_grad_enabled() and values.requires_grad):
            total = log_sum(problem.x, problem.y, logs, problem.eps, self.solved.reduce)
            return gibbs_sum(problem.x, problem.y, -total, logs, values, problem.eps, self.solved.reduce)
        mean = self.solved.reduce(problem.x, problem.y, logs, problem.eps, values)[1]
        assert mean is not None
        return mean

    def _matrix(self, values: Any, points: Tensor) -> Tensor:
        given = as_tensor(values, "values")
        if given.ndim not in (1, 2) or len(given) != len(points):
            count = len(points)
            raise InputError(f"values must have shape ({count},) or ({count}, V), got {tuple(given.shape)}")
        return given.to(points.device, points.dtype).reshape(len(points), -1)

    def _out(self, tensor: Tensor) -> Any:
        tensor = tensor.to(self.dtype)
        return tensor.detach().cpu().numpy() if self.problem.numpy else tensor
