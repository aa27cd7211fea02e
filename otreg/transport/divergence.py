"""The public entry: solve a transport problem between two weighted point clouds."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions.front import choose
from otreg.transport.result import ConvergenceWarning, TransportResult
from otreg.transport.schedule import annealing
from otreg.transport.solver import Solution, alternate, dual_value, solve_self, weighted
from otreg.transport.validation import Problem, as_tensor, make_problem, positive


def solve(
    x: Any,
    y: Any,
    a: Any = None,
    b: Any = None,
    *,
    blur: float,
    reach: float | None = None,
    reach_x: float | None = None,
    reach_y: float | None = None,
    debias: bool = False,
    tol: float = 1e-3,
    max_iterations: int = 1000,
    init: TransportResult | tuple[Any, Any] | None = None,
    engine: str = "auto",
    start_blur: float | None = None,
    scaling: float = 0.5,
    x_features: Any = None,
    y_features: Any = None,
    feature_weight: Any = 1.0,
) -> TransportResult:
    """Entropic optimal transport between two weighted point clouds, streamed over pairs.

    The cost is ``|x-y|²/2``; ``eps = blur²``, ``rho = reach²``.

    Parameters
    ----------
    x, y : array or Tensor, shapes (N, D) and (M, D)
        Points, float32 or float64, in length units.
    a, b : array or Tensor, shapes (N,) and (M,), optional
        Weights of any mass, zeros included; uniform of total mass 1 by default. A balanced problem wants equal masses.
    blur : float
        Length over which the matching is smoothed.
    reach : float, optional
        Length beyond which mass is rather dropped than moved. Balanced (never dropped) by default.
    reach_x, reach_y : float, optional
        The same for one side only: the other side's mass is then transported in full.
    debias : bool
        Subtract the self terms, so that the value is zero between equal shapes.
    tol : float
        Largest marginal error accepted: L1, rows plus columns, relative to the mass.
    max_iterations : int
        Most updates at the final blur.
    init : TransportResult or pair of arrays, optional
        Potentials to start from, which skips the annealing unless ``start_blur`` asks for it.
    engine : {"auto", "fused", "blocks"}
    start_blur : float, optional
        Where annealing starts: the diameter by default; a caller who knows the misfit may start lower.
    scaling : float
        Factor between successive blurs of the annealing.
    x_features, y_features : arrays, shapes (N, F) and (M, F), optional
        Further things that should agree (normals, scalars, one-hot labels).
    feature_weight : float or array of shape (F,)
        A length: a difference of 1 in a feature costs as much as this distance in space.

    Returns
    -------
    TransportResult

    Raises
    ------
    InputError
        On shapes that do not match, negative or non-finite numbers, zero mass, integer points, mixed kinds.

    Warns
    -----
    ConvergenceWarning
        When the marginal error is still above ``tol`` after ``max_iterations``.
    """
    problem = make_problem(
        x, y, a, b, blur=blur, reach=reach, reach_x=reach_x, reach_y=reach_y,
        x_features=x_features, y_features=y_features, feature_weight=feature_weight,
    )  # fmt: skip
    if debias and problem.rho_x != problem.rho_y:
        raise InputError(
            "debias needs the same reach on both sides: give reach, or neither reach_x nor reach_y"
        )
    reduce = choose(engine, problem.x)
    with torch.no_grad():
        start = _initial(init, problem)
        if start_blur is None:
            start_blur = problem.blur if init is not None else problem.diameter
        blurs = annealing(positive(start_blur, "start_blur") if start_blur else 0.0, problem.blur, scaling)
        solution = alternate(problem, reduce, blurs, start, tol, max_iterations)
        value = dual_value(problem, solution.f, solution.g, weighted(problem.a, solution.row_density))
        self_solutions: tuple[Solution, ...] = ()
        if debias:
            sides = (
                dataclasses.replace(problem, y=problem.x, b=problem.a),
                dataclasses.replace(problem, x=problem.y, a=problem.b),
            )
            self_solutions = tuple(
                solve_self(side, reduce, blurs, None, tol, max_iterations) for side in sides
            )
            for side, own in zip(sides, self_solutions, strict=True):
                value = value - 0.5 * dual_value(side, own.f, own.g, weighted(side.a, own.row_density))
            value = value + 0.5 * problem.eps * (problem.a.sum() - problem.b.sum()) ** 2
    result = TransportResult(
        float(value) if problem.numpy else value.to(problem.x.dtype),
        problem,
        solution,
        reduce,
        self_solutions,
    )
    if not result.converged:
        worst = max(part.marginal_error for part in (solution, *self_solutions))
        warnings.warn(
            f"transport stopped after {result.iterations} iterations with marginal error {worst:.2g}, above tol="
            f"{tol:g}: raise max_iterations, blur or tol",
            ConvergenceWarning,
            stacklevel=2,
        )
    return result


def _initial(
    init: TransportResult | tuple[Any, Any] | None, problem: Problem
) -> tuple[Tensor, Tensor] | None:
    if init is None:
        return None
    pair = (init.solution.f, init.solution.g) if isinstance(init, TransportResult) else init
    if len(pair) != 2:
        raise InputError(
            f"init must be a pair of potentials (f, g) or a TransportResult, got {len(pair)} arrays"
        )
    tensors = []
    for given, weights, name in zip(pair, (problem.a, problem.b), ("init[0]", "init[1]"), strict=True):
        tensor = as_tensor(given, name).detach().double().to(weights.device)
        if tensor.shape != weights.shape:
            raise InputError(f"{name} must have shape {tuple(weights.shape)}, got {tuple(tensor.shape)}")
        tensors.append(tensor)
    return tensors[0], tensors[1]
