"""Integrators with a fixed number of steps, over any vector field."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from otreg.autodiff import scan
from otreg.autodiff.nested import Nested, flatten, unflatten
from otreg.autodiff.schedule import schedule_of
from otreg.autodiff.surroundings import transformed
from otreg.errors import InputError, IntegrationError
from otreg.flows.runge_kutta import METHODS, Field, FlatField, advanced, all_finite, stages_of


def integrate(
    field: Field,
    state: Nested,
    *,
    start: float = 0.0,
    end: float = 1.0,
    steps: int = 10,
    method: str = "rk4",
    memory: Any = "sqrt",
    trajectory: bool = False,
    finite: bool = True,
) -> Nested:
    """Follow ``dx/dt = field(t, x)`` from ``start`` to ``end`` in equal steps.

    Parameters
    ----------
    field : callable
        ``field(time, state)``: the derivative, in the structure, shapes and dtypes of the state. ``time`` is a
        float. Parameters and other tensors that it closes over get their gradients. It must do the same when
        it is called again.
    state : Tensor, or nested tuples and dicts of Tensors
        x at ``start``; floating point or complex, any shapes, each tensor on a device of its own if need be.
    start, end : float, default 0 and 1
        In the unit of the field's time. An ``end`` before ``start`` follows the field backwards.
    steps : int, default 10
        Number of steps, all of size ``(end - start) / steps``.
    method : {"rk4", "midpoint", "euler"}
        Explicit Runge-Kutta of order 4 (default; four calls of the field a step), 2 (two calls) or 1 (one call).
        The error falls as ``steps`` to that power, where the field is smooth.
    memory : {"sqrt", "all", "none"}, int or Snapshots, default "sqrt"
        What the backward pass keeps, see :func:`otreg.autodiff.scan`: the states every √steps steps, all that
        autograd saves, nothing (the result is detached), the states every so many steps, or a budget of states
        for the binomial schedule. The gradient is the same to rounding, that of the discrete flow.
    trajectory : bool, default False
        Return all states instead of the last.
    finite : bool, default True
        Refuse a state that is not finite, and say so when the flow leaves the finite numbers. Two looks at all
        numbers (on a GPU: two waits). Under ``torch.func`` transforms it is not looked at.

    Returns
    -------
    Tensor, or nested tuples and dicts of Tensors
        x at ``end``. With ``trajectory`` each tensor has a new first axis of ``steps + 1``: x at ``start + i
        (end - start) / steps``, the first state among them.

    Raises
    ------
    InputError
        On an unknown method or memory, a number of steps below 1, times or a state that are not finite, and a
        field whose derivative does not fit the state.
    IntegrationError
        If the last state is not finite.

    References
    ----------
    Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, 2nd ed. 1993, sections II.1 and II.2.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a whole number of at least 1, got {steps!r}")
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    schedule_of(memory, steps, "memory")
    check_times(start, end)
    flat = FlatField(field, state)
    leaves = tuple(flatten(state)[0])
    looked_at = finite and not transformed()
    if looked_at:
        check_state(leaves)
    tableau, size = METHODS[method], (end - start) / steps

    def step(here: tuple[Tensor, ...], index: int) -> Any:
        time = start + index * size
        new = tuple(advanced(tableau, here, stages_of(tableau, flat, time, here, size), size))
        return (new, new) if trajectory else new

    found = scan(step, leaves, range(steps), checkpoints=memory)
    last, path = found if trajectory else (found, None)
    if looked_at and not all_finite(last):
        raise IntegrationError(
            f"the flow left the finite numbers between times {start:g} and {end:g}: "
            f"take more than {steps} steps, or a field that grows less"
        )
    if path is None:
        return unflatten(last, flat.structure)
    # the first state belongs to the graph only where the others do
    first = [leaf.detach() if memory == "none" else leaf for leaf in leaves]
    whole = [torch.cat([x[None], later]) for x, later in zip(first, path, strict=True)]
    return unflatten(whole, flat.structure)


def check_times(start: float, end: float) -> None:
    """Refuse times that are not finite numbers."""
    for name, value in (("start", start), ("end", end)):
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{name} must be a finite number, got {value!r}")


def check_state(leaves: tuple[Tensor, ...]) -> None:
    """Refuse a state that is not finite."""
    if not all_finite(leaves):
        raise InputError("state must be finite, got NaN or infinity in it")
