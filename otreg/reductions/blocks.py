"""The readable engine: plain torch over chunks of rows, in place.

It is the reference for the others, and the fallback. An engine is a function with the signature and the
promises of :func:`log_sum_exp_mean` here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 20
"""Pairs held in memory at a time: 4 MB of float32, which stays in the cache of most machines."""

PAIRS_OF_PROFILES = 1 << 18
"""The same for functions of many steps, each with an array of its own: measured, twice as quick."""

PAIRS_ON_A_GPU = 1 << 24
"""The same on a GPU, which wants many at a time to be busy."""


def log_sum_exp_mean(
    x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Reduce ``s_ij = h_j - |x_i - y_j|² / (2 eps)`` over j.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
        Points of one floating dtype on one device.
    h : Tensor, shape (M,), float64
        Log-weights; ``-inf`` leaves a point out.
    eps : float
        Squared blur, positive.
    values : Tensor, shape (M, V), optional
        What to average, of the dtype of the points.

    Returns
    -------
    log_sum : Tensor, shape (N,), float64
        ``log Σ_j exp(s_ij)``; ``-inf`` for a row with nothing to sum.
    mean : Tensor, shape (N, V), or None
        ``Σ_j exp(s_ij) v_j / Σ_j exp(s_ij)``, in the dtype of the points; 0 for a row with nothing to sum.
    """
    count, channels = len(x), 0 if values is None else values.shape[1]
    log_sum = torch.empty(count, dtype=torch.float64, device=x.device)
    mean = None if values is None else x.new_zeros(count, channels)
    if len(y) == 0:
        return log_sum.fill_(-torch.inf), mean
    # The largest weight is taken out in float64, so that a constant in h, however large, costs no precision.
    shift = finite_or_zero(h.max())
    bias = (h - shift).to(x.dtype)
    for part in chunks(count, len(y), pairs_at_once(x, PAIRS_AT_ONCE)):
        scores = squared_distances(x[part], y).mul_(-0.5 / eps).add_(bias)
        top = finite_or_zero(scores.amax(dim=1, keepdim=True))
        weights = scores.sub_(top).exp_()
        total = weights.sum(dim=1, keepdim=True)
        log_sum[part] = (total.double().log() + top.double() + shift).squeeze(1)
        if mean is not None and values is not None:
            mean[part] = (weights @ values) / total.clamp_min(torch.finfo(x.dtype).tiny)
    return log_sum, mean


def radial_sum(x: Tensor, y: Tensor, values: Tensor, radial: Callable[[Tensor], Tensor]) -> Tensor:
    """``Σ_j radial(|x_i - y_j|²) v_j``, shape (N, V), for any function of the squared distance."""
    total = values.new_zeros(len(x), values.shape[1])
    for part in chunks(len(x), len(y), pairs_at_once(x, PAIRS_OF_PROFILES)):
        total[part] = radial(squared_distances(x[part], y)) @ values
    return total


def pairs_at_once(points: Tensor, on_a_cpu: int) -> int:
    """Pairs to hold at a time where these points are."""
    return on_a_cpu if points.device.type == "cpu" else PAIRS_ON_A_GPU


def chunks(rows: int, columns: int, pairs: int = PAIRS_AT_ONCE) -> list[slice]:
    """Slices of rows, each of at most so many pairs (or of one row)."""
    step = max(1, pairs // max(columns, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """``|x_i - y_j|²`` as an (N, M) array, summed axis by axis: no cancellation, at the price of D passes."""
    total = (x[:, :1] - y[:, 0]).square_() if x.shape[1] else x.new_zeros(len(x), len(y))
    for axis in range(1, x.shape[1]):
        total.add_((x[:, axis : axis + 1] - y[:, axis]).square_())
    return total


def finite_or_zero(top: Tensor) -> Tensor:
    """Replace -inf (nothing to sum) by 0, so that subtracting it gives -inf rather than NaN."""
    return torch.where(torch.isfinite(top), top, torch.zeros_like(top))
