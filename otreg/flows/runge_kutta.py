"""Explicit Runge-Kutta steps, on the flat list of the tensors of a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from otreg.autodiff.nested import Nested, flatten, unflatten
from otreg.errors import InputError

Field = Callable[[float, Nested], Nested]
"""``(time, state) -> derivative``, the derivative in the structure of the state."""

Leaves = Sequence[Tensor]


class Tableau(NamedTuple):
    """Coefficients of an explicit Runge-Kutta method (Butcher's tableau).

    Stage i is ``k_i = f(t + c_i h, x + h Σ_j a_ij k_j)``, the step ``x + h Σ_i b_i k_i``. ``error`` holds the
    weights of the embedded method of lower order minus b: ``h Σ_i e_i k_i`` estimates the error of the step.
    """

    order: int
    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    error: tuple[float, ...] = ()


EULER = Tableau(1, (0.0,), ((),), (1.0,))
MIDPOINT = Tableau(2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0))
RK4 = Tableau(
    4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
)
# Dormand & Prince, A family of embedded Runge-Kutta formulae, J. Comp. Appl. Math. 6 (1980), RK5(4)7M. The
# seventh stage is the first of the next step, and only the error estimate uses it.
DORMAND_PRINCE = Tableau(
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
METHODS = {"euler": EULER, "midpoint": MIDPOINT, "rk4": RK4}


class FlatField:
    """A field over flat lists of tensors, which checks what the user's returns.

    Raises
    ------
    InputError
        At construction for a state that is not made of floating (or complex) tensors; when called, for a
        derivative of another structure, of other shapes, or of a dtype that the state cannot hold.
    """

    def __init__(self, field: Field, state: Nested) -> None:
        leaves, self.structure = flatten(state)
        for leaf in leaves:
            if not (leaf.is_floating_point() or leaf.is_complex()):
                raise InputError(f"state must be made of floating-point tensors, got one of {leaf.dtype}")
        self._field = field

    def __call__(self, time: float, leaves: Leaves) -> list[Tensor]:
        derivative, structure = flatten(
            self._field(time, unflatten(leaves, self.structure)), "what field returns"
        )
        if structure != self.structure:
            raise InputError(
                f"field must return a derivative like the state, {self.structure}, got {structure}"
            )
        for leaf, slope in zip(leaves, derivative, strict=True):
            if slope.shape != leaf.shape or torch.promote_types(leaf.dtype, slope.dtype) != leaf.dtype:
                raise InputError(
                    f"field must return a derivative of shape {tuple(leaf.shape)} and {leaf.dtype} for such a "
                    f"tensor of the state, got {tuple(slope.shape)} and {slope.dtype}"
                )
        return derivative


def combined(stages: Sequence[Leaves], weights: Sequence[float]) -> list[Tensor]:
    """``Σ_i w_i k_i`` for each tensor; at least one weight is not zero."""
    used = [(stage, weight) for stage, weight in zip(stages, weights, strict=False) if weight]
    (first, scale), *others = used
    totals = [scale * leaf if scale != 1 else leaf for leaf in first]
    for stage, weight in others:
        totals = [torch.add(total, leaf, alpha=weight) for total, leaf in zip(totals, stage, strict=True)]
    return totals


def moved(leaves: Leaves, slopes: Leaves, amount: float) -> list[Tensor]:
    """``x + h k`` for each tensor, in the dtype of x."""
    return [torch.add(leaf, slope, alpha=amount) for leaf, slope in zip(leaves, slopes, strict=True)]


def stages_of(
    tableau: Tableau, field: FlatField, time: float, leaves: Leaves, size: float, first: Leaves | None = None
) -> list[Leaves]:
    """All stages of a step that the step itself needs; ``first`` is k_1 where it is known already."""
    stages: list[Leaves] = [field(time, leaves) if first is None else first]
    needed = max(index for index, weight in enumerate(tableau.weights) if weight) + 1
    for node, row in zip(tableau.nodes[1:needed], tableau.matrix[1:needed], strict=True):
        stages.append(field(time + node * size, moved(leaves, combined(stages, row), size)))
    return stages


def advanced(tableau: Tableau, leaves: Leaves, stages: Sequence[Leaves], size: float) -> list[Tensor]:
    """The state after a step whose stages are known."""
    return moved(leaves, combined(stages, tableau.weights), size)


def all_finite(leaves: Leaves) -> bool:
    """Whether every number of a state is finite."""
    return all(bool(leaf.detach().isfinite().all()) for leaf in leaves)
