"""The public entry: solve a transport problem between two weighted point clouds."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor

from otreg.errors import ConvergenceWarning, InputError
from otreg.reductions.checks import as_tensor, finite, positive
from otreg.reductions.engines import Engine
from otreg.reductions.for_problem import engine_for_problem
from otreg.transport.gradients import Solved, transport_value
from otreg.transport.result import TransportResult
from otreg.transport.schedule import annealing
from otreg.transport.solver import solve_pair, solve_self
from otreg.transport.validation import Problem, make_problem

SINGLE_PRECISION_TOLERANCE = 1e-4
"""Tolerance below which float32 points are summed in float64."""


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
        Weights of any mass, zeros included; uniform of total mass 1 by default. A balanced problem wants
        equal masses.
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
    engine : {"auto", "fused", "keops", "blocks"}
        See :func:`otreg.reductions.softmin`. The fused engine leaves out far pairs where that pays.
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
    given = make_problem(
        x, y, a, b, blur=blur, reach=reach, reach_x=reach_x, reach_y=reach_y,
        x_features=x_features, y_features=y_features, feature_weight=feature_weight,
    )  # fmt: skip
    tol, scaling = positive(tol, "tol"), positive(scaling, "scaling")
    if int(max_iterations) < 1:
        raise InputError(f"max_iterations must be at least 1, got {max_iterations}")
    if debias and given.rho_x != given.rho_y:
        raise InputError(
            "debias needs the same reach on both sides: give reach, or neither reach_x nor reach_y"
        )
    # float32 sums have a marginal error of about 1e-5 of their own: a tight tolerance needs float64
    precise = tol < SINGLE_PRECISION_TOLERANCE
    problem = given.at_precision(torch.float64 if precise else given.x.dtype)
    plain = problem.detached()
    follow = {side: problem.needs_grad and getattr(problem, side).requires_grad for side in "xy"}
    with torch.no_grad():
        start = _initial(init, plain)
        if start_blur is not None:
            start_blur = positive(start_blur, "start_blur")
        else:
            start_blur = plain.blur if init is not None else max(plain.diameter, plain.blur)
        blurs = annealing(start_blur, plain.blur, scaling)
        reduce = engine_for_problem(engine, plain.x.device.type, accuracy=min(1e-5, 1e-2 * tol))
        solution = solve_pair(plain, reduce, blurs, start, tol, max_iterations)
        solved = Solved(plain, solution, reduce).with_sums(follow["x"], follow["y"])
        own: tuple[Solved, ...] = ()
        if debias:
            own = tuple(
                _own(plain.own(side), reduce, blurs, init, tol, max_iterations, place).with_sums(
                    follow[side], False
                )
                for place, side in enumerate("xy")
            )
        # results are kept for long; what they need again is little
        getattr(reduce, "forget", lambda: None)()
    value = transport_value(problem.x, problem.y, problem.a, problem.b, solved)
    for side, term in zip("xy", own, strict=False):
        part = problem.own(side)
        value = value - 0.5 * transport_value(part.x, part.y, part.a, part.b, term)
    if debias:
        value = value + 0.5 * problem.eps * (problem.a.sum() - problem.b.sum()) ** 2
    result = TransportResult(
        float(value) if problem.numpy else value.to(given.x.dtype), problem, solved, own, given.x.dtype
    )
    if not result.converged:
        worst = max(part.solution.marginal_error for part in (solved, *own))
        warnings.warn(
            f"transport stopped after {result.iterations} iterations with marginal error {worst:.2g}, "
            f"above tol={tol:g}: raise max_iterations, blur or tol",
            ConvergenceWarning,
            stacklevel=2,
        )
    return result


def _own(
    problem: Problem,
    reduce: Engine,
    blurs: list[float],
    init: Any,
    tol: float,
    max_iterations: int,
    place: int,
) -> Solved:
    """Solve a self term, or take it from an earlier result where the shape has not changed."""
    start = None
    if isinstance(init, TransportResult) and init.own:
        kept = init.own[place]
        before = kept.problem
        same_size = before.x.shape == problem.x.shape and before.x.device == problem.x.device
        start = kept.solution.f if same_size else None
        if (
            same_size
            and before.x.dtype == problem.x.dtype
            and (before.blur, before.rho_x) == (problem.blur, problem.rho_x)
            and kept.solution.marginal_error <= tol
            and torch.equal(before.x, problem.x)
            and torch.equal(before.a, problem.a)
        ):
            return dataclasses.replace(kept, reduce=reduce)
    return Solved(problem, solve_self(problem, reduce, blurs, start, tol, max_iterations), reduce)


def _initial(
    init: TransportResult | tuple[Any, Any] | None, problem: Problem
) -> tuple[Tensor, Tensor] | None:
    if init is None:
        return None
    pair = (
        (init.solved.solution.f, init.solved.solution.g) if isinstance(init, TransportResult) else tuple(init)
    )
    if len(pair) != 2:
        raise InputError(
            f"init must be a pair of potentials (f, g) or a TransportResult, got {len(pair)} arrays"
        )
    tensors = []
    for given, weights, name in zip(pair, (problem.a, problem.b), ("init[0]", "init[1]"), strict=True):
        tensor = as_tensor(given, name).detach().double().to(weights.device)
        if tensor.shape != weights.shape:
            raise InputError(f"{name} must have shape {tuple(weights.shape)}, got {tuple(tensor.shape)}")
        finite(tensor, name)
        tensors.append(tensor)
    return tensors[0], tensors[1]
