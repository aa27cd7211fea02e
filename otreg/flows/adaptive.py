"""An integrator that chooses its steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otreg.autodiff import scan
from otreg.autodiff.nested import Nested, flatten, unflatten
from otreg.autodiff.schedule import schedule_of
from otreg.autodiff.surroundings import transformed
from otreg.errors import InputError, IntegrationError
from otreg.flows.fixed import check_state, check_times
from otreg.flows.runge_kutta import (
    DORMAND_PRINCE,
    Field,
    FlatField,
    Leaves,
    advanced,
    all_finite,
    combined,
    moved,
    stages_of,
)

SAFETY = 0.9
LEAST_FACTOR, GREATEST_FACTOR = 0.2, 5.0


class _Search(NamedTuple):
    """The times that were accepted, the state at the last, and whether any of it asked for gradients."""

    times: list[float]
    leaves: Leaves
    wanted: bool


def integrate_adaptive(
    field: Field,
    state: Nested,
    *,
    start: float = 0.0,
    end: float = 1.0,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 1000,
    memory: Any = "sqrt",
) -> Nested:
    """Follow ``dx/dt = field(t, x)`` from ``start`` to ``end``, in steps as long as the tolerances allow.

    The embedded pair of Dormand and Prince: order 5, with an error estimate from order 4. Steps are found first,
    without a graph; then the accepted ones are run by :func:`otreg.autodiff.scan`, if anything in the state or
    the field requires a gradient. So a gradient costs the search besides; without one there is only the search.

    Parameters
    ----------
    field, state, start, end, memory
        As for :func:`otreg.flows.integrate`. The field must be a function of time and state, not random.
    rtol, atol : float, default 1e-6 and 1e-9
        A step is accepted if its estimated error is at most ``atol + rtol |x|``, in the root mean square of each
        tensor of the state. Below the precision of the state's dtype no step can be good enough.
    max_steps : int, default 1000
        Most steps that are tried, rejected ones among them.

    Returns
    -------
    Tensor, or nested tuples and dicts of Tensors
        x at ``end``. Its gradient is that of the accepted steps, their sizes taken as constants.

    Raises
    ------
    InputError
        On bad arguments, as for :func:`otreg.flows.integrate`.
    IntegrationError
        If ``max_steps`` do not suffice, or the steps become too short for the precision of the times: the field
        is stiff, has a jump, or the flow leaves the finite numbers.

    References
    ----------
    Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, 2nd ed. 1993, section II.4.
    """
    schedule_of(memory, 1, "memory")
    searched = _search(field, state, start, end, rtol, atol, max_steps, graph=memory != "none")
    flat = FlatField(field, state)
    if not searched.wanted:
        return unflatten(searched.leaves, flat.structure)

    def step(here: tuple[Tensor, ...], interval: tuple[float, float]) -> tuple[Tensor, ...]:
        time, size = interval[0], interval[1] - interval[0]
        return tuple(advanced(DORMAND_PRINCE, here, stages_of(DORMAND_PRINCE, flat, time, here, size), size))

    last = scan(step, tuple(flatten(state)[0]), list(pairwise(searched.times)), checkpoints=memory)
    return unflatten(last, flat.structure)


def adaptive_times(
    field: Field,
    state: Nested,
    *,
    start: float = 0.0,
    end: float = 1.0,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 1000,
) -> list[float]:
    """The times that :func:`integrate_adaptive` stops at, ``start`` and ``end`` among them.

    Parameters, errors: see there.
    """
    return _search(field, state, start, end, rtol, atol, max_steps, graph=False).times


def _search(
    field: Field,
    state: Nested,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    max_steps: int,
    graph: bool,
) -> _Search:
    """Find the steps; with ``graph`` in the grad mode of the caller, to learn whether there is a gradient."""
    check_times(start, end)
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise InputError(f"rtol and atol must not be negative nor both zero, got {rtol!r} and {atol!r}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise InputError(f"max_steps must be a whole number of at least 1, got {max_steps!r}")
    flat = FlatField(field, state)
    leaves = flatten(state)[0]
    check_state(tuple(leaves))
    time, times, wanted = start, [start], False
    if transformed():  # what is to be differentiated cannot be seen from here
        graph, wanted = False, graph
    with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
        leaves = _fresh(leaves, graph)
        if start == end:
            return _Search(times, leaves, wanted or any(leaf.requires_grad for leaf in leaves))
        first: Leaves = flat(time, leaves)
        size = _first_size(flat, time, leaves, first, end - start, rtol, atol)
        for _ in range(max_steps):
            reached = end if abs(size) >= (1 - 1e-9) * abs(end - time) else time + size
            size = reached - time
            if time + size / 16 == time:
                raise IntegrationError(
                    f"steps became too short at time {time:g}: the field is too stiff, or the flow leaves the "
                    "finite numbers"
                )
            stages = stages_of(DORMAND_PRINCE, flat, time, leaves, size, first)
            new = advanced(DORMAND_PRINCE, leaves, stages, size)
            wanted = wanted or any(leaf.requires_grad for leaf in new)
            if all_finite(new):
                stages.append(flat(reached, new))
                errors = combined(stages, DORMAND_PRINCE.error)
                error = abs(size) * _norm(errors, _scales(leaves, new, rtol, atol))
            else:
                error = float("inf")
            good = error <= 1.0  # false for NaN
            factor = SAFETY * error ** (-1 / DORMAND_PRINCE.order) if error > 0 else GREATEST_FACTOR
            if good:
                time, leaves = reached, _fresh(new, graph)
                first = [slope.detach() for slope in stages[-1]]
                times.append(time)
                if time == end:
                    return _Search(times, leaves, wanted)
            largest = GREATEST_FACTOR if good else 1.0
            size *= min(largest, max(LEAST_FACTOR, factor if factor == factor else LEAST_FACTOR))
    raise IntegrationError(
        f"more than max_steps = {max_steps} steps are needed: reached time {time:g} of {end:g}; "
        "allow more, or loosen rtol and atol"
    )


def _fresh(leaves: Leaves, graph: bool) -> list[Tensor]:
    """The same numbers without a history; they require gradients as before: the field may look at that."""
    fresh = [leaf.detach() for leaf in leaves]
    if graph:
        fresh = [new.requires_grad_(leaf.requires_grad) for new, leaf in zip(fresh, leaves, strict=True)]
    return fresh


def _scales(before: Leaves, after: Leaves, rtol: float, atol: float) -> list[Tensor]:
    return [
        atol + rtol * torch.maximum(x.detach().abs(), y.detach().abs())
        for x, y in zip(before, after, strict=True)
    ]


def _norm(leaves: Leaves, scales: Leaves) -> float:
    """The largest root mean square of the tensors, in units of their tolerances."""
    sizes = [
        float((leaf.detach().abs() / scale).square().mean().sqrt())
        for leaf, scale in zip(leaves, scales, strict=True)
        if leaf.numel()
    ]
    return max(sizes, default=0.0)


def _first_size(
    field: FlatField, time: float, leaves: Leaves, slopes: Leaves, span: float, rtol: float, atol: float
) -> float:
    """A first step from the size of the first and second derivative (Hairer, Nørsett & Wanner, II.4)."""
    sign = 1.0 if span > 0 else -1.0
    scales = _scales(leaves, leaves, rtol, atol)
    position, speed = _norm(leaves, scales), _norm(slopes, scales)
    guess = 0.01 * position / speed if position > 1e-5 and 1e-5 < speed < float("inf") else 1e-6
    guess = min(guess, abs(span))
    further = field(time + sign * guess, moved(leaves, slopes, sign * guess))
    bend = _norm([b - a for a, b in zip(slopes, further, strict=True)], scales) / guess
    steepest = max(speed, bend)
    if steepest <= 1e-15:
        size = max(1e-6, 1e-3 * guess)
    elif steepest < float("inf"):
        size = (0.01 / steepest) ** (1 / DORMAND_PRINCE.order)
    else:
        size = guess
    return sign * min(100 * guess, size, abs(span))
