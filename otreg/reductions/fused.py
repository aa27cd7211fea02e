"""The fast engine on CPUs: torch's fused attention, which streams pairs through the cache.

A softmin IS attention: with queries (x, 1), keys (y/eps, h - |y|²/2eps) and scale 1, the operator gives back the
log-sum-exp and the softmax-weighted mean of the values in one pass. No compiler is needed.

The operator is private to torch, so it is tried once on a small known case; where it is missing or wrong, the engine
``blocks`` takes over.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from otreg.reductions import blocks

CHANNELS_AT_ONCE = 64
"""Values averaged per call: the operator wants as many value channels as query channels, and pads the fewer."""

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
    # |x - y|² is expanded into products, which cancel badly far from the origin: centre, in float64, both clouds
    # on the same point (their difference must not change).
    centre = 0.5 * (x.mean(dim=0, dtype=torch.float64) + y.mean(dim=0, dtype=torch.float64))
    x64, y64 = x.double() - centre, y.double() - centre
    x_squared, y_squared = x64.square().sum(dim=1), y64.square().sum(dim=1)
    radius_squared = float((x_squared.max() * y_squared.max()).sqrt())
    compute = (
        dtype if dtype == torch.float32 and radius_squared <= SINGLE_PRECISION_LIMIT * eps else torch.float64
    )

    bias = h - y_squared / (2.0 * eps)
    shift = bias.max()
    shift = torch.where(torch.isfinite(shift), shift, torch.zeros_like(shift))
    bias = (bias - shift).clamp_min_(ABSENT)
    queries = torch.cat([x64, torch.ones_like(x64[:, :1])], dim=1).to(compute)
    keys = torch.cat([y64 / eps, bias[:, None]], dim=1).to(compute)
    log_sum, mean = attention(queries, keys, None if values is None else values.to(compute))
    log_sum = log_sum.double()
    empty = log_sum < 0.5 * ABSENT
    log_sum = (log_sum + shift - x_squared / (2.0 * eps)).masked_fill_(empty, -torch.inf)
    if mean is not None:
        mean = mean.masked_fill_(empty[:, None], 0.0).to(dtype)
    return log_sum, mean


def attention(queries: Tensor, keys: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Log-sum-exp over keys of ``queries @ keysᵀ`` (N,), and the softmax-weighted mean of ``values`` (N, V)."""
    channels = 0 if values is None else values.shape[1]
    if values is None or channels <= CHANNELS_AT_ONCE:
        log_sum, mean = _attend(queries, keys, keys[:, :0] if values is None else values)
        return log_sum, None if values is None else mean
    means = []
    for start in range(0, channels, CHANNELS_AT_ONCE):
        log_sum, mean = _attend(queries, keys, values[:, start : start + CHANNELS_AT_ONCE])
        means.append(mean)
    return log_sum, torch.cat(means, dim=1)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    width = max(queries.shape[1], values.shape[1])
    # Measured: the operator's matrix products like whole vector registers.
    width = -(-width // 16) * 16 if queries.dtype == torch.float32 else -(-width // 4) * 4
    mean, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        _padded(queries, width), _padded(keys, width), _padded(values, width), scale=1.0
    )
    return log_sum.reshape(-1), mean[0, 0, :, : values.shape[1]]


def _padded(rows: Tensor, width: int) -> Tensor:
    padded = rows.new_zeros(1, 1, len(rows), width)
    padded[0, 0, :, : rows.shape[1]] = rows
    return padded


@cache
def is_available(device_type: str) -> bool:
    """Whether the operator exists here and gives the right answer on a small known case."""
    if device_type != "cpu":
        return False
    try:
        for dtype in (torch.float32, torch.float64):
            # deterministic, without touching the caller's random state; long enough to use several blocks
            queries = torch.linspace(-1.0, 1.0, 70 * 3, dtype=dtype).sin().reshape(70, 3)
            keys = torch.linspace(-9.0, 2.0, 1030 * 3, dtype=dtype).cos().reshape(1030, 3)
            log_sum, mean = _attend(queries, keys, keys)
            scores = queries @ keys.T
            good = torch.allclose(log_sum, scores.logsumexp(dim=1), atol=1e-4)
            good = good and torch.allclose(mean, scores.softmax(dim=1) @ keys, atol=1e-4)
            if not good:
                return False
    except (AttributeError, RuntimeError, TypeError, IndexError):
        return False
    return True
