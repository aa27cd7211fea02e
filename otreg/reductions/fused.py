"""The fast engine on CPUs: torch's fused attention, which streams pairs through the cache.

A softmin IS attention: with queries (x, 1), keys (y/eps, h - |y|²/2eps) and scale 1, the operator gives back
the log-sum-exp and the softmax-weighted mean of the values in one pass. No compiler is needed.

The operator is private to torch, so it is tried once on a small known case; where it is missing or wrong,
in-place chunks of plain torch take over.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from otreg.reductions import blocks

CHANNELS_AT_ONCE = 64
"""Values averaged per call: the operator wants as many value as query channels, and pads the fewer."""

ABSENT = -1e30
"""Score of a point that is left out. Finite, since a block of -inf would give NaN inside the operator."""

SINGLE_PRECISION_LIMIT = 4096.0
"""Largest (radius/blur)² for which float32 products are exact enough (rounding 6e-8 times this: 2.5e-4)."""


def log_sum_exp_mean(
    x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Reduce over j; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
    if len(x) == 0 or len(y) == 0 or not is_available(x.device.type):
        return blocks.log_sum_exp_mean(x, y, h, eps, values)
    dtype = x.dtype
    # |x - y|² is expanded into products, which cancel badly far from the origin: centre both clouds, in
    # float64, on the same point (their difference must not change).
    centre = 0.5 * (x.mean(dim=0, dtype=torch.float64) + y.mean(dim=0, dtype=torch.float64))
    x64, y64 = x.double() - centre, y.double() - centre
    x_squared, y_squared = x64.square().sum(dim=1), y64.square().sum(dim=1)
    radius_squared = float((x_squared.max() * y_squared.max()).sqrt())
    exact_enough = radius_squared <= SINGLE_PRECISION_LIMIT * eps
    compute = torch.float32 if dtype == torch.float32 and exact_enough else torch.float64

    bias = h - y_squared / (2.0 * eps)
    shift = blocks.finite_or_zero(bias.max())
    bias = (bias - shift).clamp_min_(ABSENT)
    queries = torch.cat([x64, torch.ones_like(x64[:, :1])], dim=1).to(compute)
    keys = torch.cat([y64 / eps, bias[:, None]], dim=1).to(compute)
    log_sum, mean = attention(queries[None], keys[None], None if values is None else values.to(compute)[None])
    log_sum = log_sum[0].double()
    empty = log_sum < 0.5 * ABSENT
    log_sum = (log_sum + shift - x_squared / (2.0 * eps)).masked_fill_(empty, -torch.inf)
    if mean is None:
        return log_sum, None
    return log_sum, mean[0].masked_fill(empty[:, None], 0.0).to(dtype)


def attention(queries: Tensor, keys: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Reduce ``queries @ keysᵀ`` over keys, for a batch of independent problems.

    Parameters
    ----------
    queries, keys : Tensor, shapes (B, N, C) and (B, M, C)
    values : Tensor, shape (B, M, V), optional

    Returns
    -------
    log_sum : Tensor, shape (B, N)
    mean : Tensor, shape (B, N, V), or None
        Softmax-weighted mean of the values.
    """
    if not is_available(queries.device.type):
        return _attend_plainly(queries, keys, values)
    if values is None:
        # the operator insists on values: the keys will do, they need no copy
        return _attend(queries, keys, keys)[0], None
    means = []
    for start in range(0, max(values.shape[2], 1), CHANNELS_AT_ONCE):
        log_sum, mean = _attend(queries, keys, values[:, :, start : start + CHANNELS_AT_ONCE])
        means.append(mean)
    return log_sum, means[0] if len(means) == 1 else torch.cat(means, dim=2)


def good_width(columns: int, dtype: torch.dtype) -> int:
    """Columns to pad to: measured, the operator's matrix products like whole vector registers."""
    unit = 16 if dtype == torch.float32 else 4
    return -(-columns // unit) * unit


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    width = good_width(max(queries.shape[2], values.shape[2]), queries.dtype)
    padded_keys = _padded(keys, width)
    mean, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        _padded(queries, width),
        padded_keys,
        padded_keys if values is keys else _padded(values, width),
        scale=1.0,
    )
    return log_sum[:, 0], mean[:, 0, :, : values.shape[2]]


def _padded(rows: Tensor, width: int) -> Tensor:
    if rows.shape[2] == width:
        return rows[:, None]
    padded = rows.new_zeros(len(rows), 1, rows.shape[1], width)
    padded[:, 0, :, : rows.shape[2]] = rows
    return padded


def _attend_plainly(queries: Tensor, keys: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor | None]:
    log_sum = queries.new_empty(queries.shape[:2])
    mean = None if values is None else values.new_zeros(*queries.shape[:2], values.shape[2])
    for batch in range(len(queries)):
        for part in blocks.chunks(queries.shape[1], keys.shape[1]):
            scores = queries[batch, part] @ keys[batch].T
            top = scores.amax(dim=1, keepdim=True)
            weights = scores.sub_(top).exp_()
            total = weights.sum(dim=1, keepdim=True)
            log_sum[batch, part] = (total.log() + top).squeeze(1)
            if mean is not None and values is not None:
                mean[batch, part] = (weights @ values[batch]) / total
    return log_sum, mean


@cache
def is_available(device_type: str) -> bool:
    """Whether the operator exists here and gives the right answer on a small known case."""
    if device_type != "cpu":
        return False
    try:
        for dtype in (torch.float32, torch.float64):
            # deterministic, without touching the caller's random state; long enough to use several blocks
            queries = torch.linspace(-1.0, 1.0, 2 * 70 * 3, dtype=dtype).sin().reshape(2, 70, 3)
            keys = torch.linspace(-9.0, 2.0, 2 * 1030 * 3, dtype=dtype).cos().reshape(2, 1030, 3)
            log_sum, mean = _attend(queries, keys, keys)
            scores = queries @ keys.transpose(1, 2)
            good = torch.allclose(log_sum, scores.logsumexp(dim=2), atol=1e-4)
            if not (good and torch.allclose(mean, scores.softmax(dim=2) @ keys, atol=1e-4)):
                return False
    except (AttributeError, RuntimeError, TypeError, IndexError):
        return False
    return True
