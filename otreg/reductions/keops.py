"""The engine that takes any formula: KeOps lazy tensors, compiled once for each.

pykeops is imported at the first use. Dimensions and channels are padded to a few sizes, so that a whole
registration needs a handful of formulas. What KeOps says while it compiles goes to the error stream.
"""

from __future__ import annotations

import contextlib
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions.fused import ABSENT
from otreg.reductions.padding import padded, size_for

DIMENSIONS = (3, 6, 12, 24, 48)
CHANNELS = (4, 16, 64)
"""Sizes that points and values are padded to: each pair of sizes is one formula to compile."""


def log_sum_exp_mean(
    x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Reduce over j; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
    channels = None if values is None else values.shape[1]
    if len(x) == 0 or len(y) == 0:
        log_sum = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        return log_sum, None if channels is None else x.new_zeros(len(x), channels)
    if values is not None and values.shape[1] > CHANNELS[-1]:
        halves = [log_sum_exp_mean(x, y, h, eps, half) for half in values.tensor_split(2, dim=1)]
        return halves[0][0], torch.cat([mean for _, mean in halves if mean is not None], dim=1)
    shift = h.max()
    shift = torch.where(torch.isfinite(shift), shift, torch.zeros_like(shift))
    bias = (h - shift).clamp_min_(ABSENT).to(x.dtype)[:, None]
    # The origin does not matter to differences, but float32 coordinates far from it would.
    centre = y.mean(dim=0)
    dimension = size_for(x.shape[1], DIMENSIONS)
    arrays = [padded(x - centre, dimension), padded(y - centre, dimension), bias]
    arrays.append(torch.tensor([0.5 / eps], dtype=x.dtype, device=x.device))
    width = 0
    if values is not None:
        width = size_for(values.shape[1], CHANNELS)
        arrays.append(padded(values, width))
    with quietly():
        reduced = _formula(dimension, width)(*arrays)
    top, total = reduced[:, :1].double(), reduced[:, 1:2]
    empty = top[:, 0] < 0.5 * ABSENT
    log_sum = (total.double().log() + top)[:, 0] + shift
    log_sum = log_sum.masked_fill(empty, -torch.inf)
    if values is None:
        return log_sum, None
    mean = reduced[:, 2 : 2 + values.shape[1]] / total
    return log_sum, mean.masked_fill(empty[:, None], 0.0)


def radial_sum(x: Tensor, y: Tensor, values: Tensor, formula: str, constants: tuple[float, ...]) -> Tensor:
    """``Σ_j formula(|x_i - y_j|²) v_j``; the formula is KeOps code in ``{s}`` (that square) and ``w``."""
    # The origin does not matter to differences, but float32 coordinates far from it would.
    centre = y.detach().mean(dim=0) if len(y) else 0.0
    return pair_sum(x - centre, y - centre, values, formula.format(s="SqDist(p,q)"), constants)


def pair_sum(x: Tensor, y: Tensor, values: Tensor, formula: str, constants: tuple[float, ...]) -> Tensor:
    """``Σ_j formula(x_i, y_j) v_j``; the formula is KeOps code in ``p``, ``q`` and the constants ``w``."""
    if len(x) == 0 or len(y) == 0:
        return values.new_zeros(len(x), values.shape[1])
    if values.shape[1] > CHANNELS[-1]:
        parts = values.tensor_split(-(-values.shape[1] // CHANNELS[-1]), dim=1)
        return torch.cat([pair_sum(x, y, part, formula, constants) for part in parts], dim=1)
    dimension, width = size_for(x.shape[1], DIMENSIONS), size_for(values.shape[1], CHANNELS)
    aliases = (f"p=Vi({dimension})", f"q=Vj({dimension})", f"w=Pm({len(constants)})", f"v=Vj({width})")
    with quietly():
        reduce = _genred(f"({formula})*v", aliases, "Sum", None)
        weight = torch.tensor(constants, dtype=x.dtype, device=x.device)
        total = reduce(padded(x, dimension), padded(y, dimension), weight, padded(values, width))
    return total[:, : values.shape[1]]


def require() -> None:
    """Raise InputError, with the cure, when pykeops cannot be imported."""
    try:
        with quietly():
            import pykeops

            pykeops.set_verbose(False)
    except ImportError as error:
        raise InputError(
            f"engine 'keops' needs pykeops, which cannot be imported ({error}): "
            "install it with pip install pykeops, or use engine='auto'"
        ) from None


@contextlib.contextmanager
def quietly() -> Any:
    """Send what KeOps prints to the error stream: stdout belongs to results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@cache
def _formula(dimension: int, width: int) -> Any:
    aliases = [f"p=Vi({dimension})", f"q=Vj({dimension})", "h=Vj(1)", "w=Pm(1)"]
    weight = "IntCst(1)"
    if width:
        aliases.append(f"v=Vj({width})")
        weight = "Concat(IntCst(1),v)"
    return _genred("h-w*SqDist(p,q)", tuple(aliases), "Max_SumShiftExpWeight", weight)


@cache
def _genred(formula: str, aliases: tuple[str, ...], operation: str, weight: str | None) -> Any:
    require()
    from pykeops.torch import Genred

    extra = {} if weight is None else {"formula2": weight}
    return Genred(formula, list(aliases), reduction_op=operation, axis=1, **extra)
