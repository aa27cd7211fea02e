"""Integrators with a fixed number of steps, over any vector field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from otreg.autodiff.nested import Nested, combine, stack
from otreg.errors import InputError

Field = Callable[[float, Nested], Nested]
"""``(time, state) -> derivative``, the derivative in the structure of the state."""


def _moved(state: Nested, amount: float, derivative: Nested) -> Nested:
    return combine(lambda x, d: x + amount * d, state, derivative)


def euler(field: Field, time: float, state: Nested, step: float) -> Nested:
    """One step of order 1: ``x + h f(t, x)``."""
    return _moved(state, step, field(time, state))


def midpoint(field: Field, time: float, state: Nested, step: float) -> Nested:
    """One step of order 2: ``x + h f(t + h/2, x + h/2 f(t, x))``."""
    half = _moved(state, step / 2, field(time, state))
    return _moved(state, step, field(time + step / 2, half))


def rk4(field: Field, time: float, state: Nested, step: float) -> Nested:
    """One step of order 4, the classical Runge-Kutta."""
    k1 = field(time, state)
    k2 = field(time + step / 2, _moved(state, step / 2, k1))
    k3 = field(time + step / 2, _moved(state, step / 2, k2))
    k4 = field(time + step, _moved(state, step, k3))
    return combine(lambda x, a, b, c, d: x + (step / 6) * (a + 2 * b + 2 * c + d), state, k1, k2, k3, k4)


METHODS = {"euler": euler, "midpoint": midpoint, "rk4": rk4}


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
) -> Nested:
    """Follow ``dx/dt = field(t, x)`` from ``start`` to ``end`` in equal steps."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a whole number of at least 1, got {steps!r}")
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    one = METHODS[method]
    size = (end - start) / steps
    states = [state]
    for index in range(steps):
        state = one(field, start + index * size, state, size)
        if trajectory:
            states.append(state)
    return stack(states) if trajectory else state
