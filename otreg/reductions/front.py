"""Sums over all pairs of points, streamed: the one front behind which the engines stand."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions import blocks, fused

Engine = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], tuple[Tensor, Tensor | None]]

ENGINES = ("auto", "fused", "blocks")


class Softmin(NamedTuple):
    """What :func:`softmin` gives back."""

    value: Tensor
    mean: Tensor | None


def softmin(
    x: Tensor,
    y: Tensor,
    potential: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    blur: float,
    values: Tensor | None = None,
    engine: str = "auto",
) -> Softmin:
    """Smooth minimum over y of ``|x-y|²/2 - potential``, and the weighted mean that goes with it.

    ``value_i = -eps log Σ_j b_j exp((g_j - |x_i - y_j|²/2) / eps)`` with ``eps = blur²``.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
    potential : Tensor, shape (M,), optional
        g, in squared length units; 0 by default.
    weights : Tensor, shape (M,), optional
        b, 1 by default; zeros are allowed.
    blur : float
        Length over which the minimum is smoothed.
    values : Tensor, shape (M, V), optional
        What to average with the softmin's own weights.
    engine : {"auto", "fused", "blocks"}

    Returns
    -------
    Softmin
        ``value`` (N,) in float64, and ``mean`` (N, V) in the dtype of the points or None.
    """
    h = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    if potential is not None:
        h = h + potential.double() / blur**2
    if weights is not None:
        h = h + weights.double().log()
    log_sum, mean = choose(engine, x)(x, y, h, blur**2, values)
    return Softmin(-(blur**2) * log_sum, mean)


def choose(engine: str, x: Tensor) -> Engine:
    """Return the engine of that name; ``auto`` picks, and the environment variable ``OTREG_ENGINE`` overrides it."""
    if engine == "auto":
        engine = os.environ.get("OTREG_ENGINE", "auto")
    if engine not in ENGINES:
        raise InputError(f"unknown engine {engine!r}: use one of {', '.join(ENGINES)}")
    if engine == "blocks":
        return blocks.log_sum_exp_mean
    return fused.log_sum_exp_mean
