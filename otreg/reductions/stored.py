"""Sums over the same pairs again and again: the exponentials are kept instead of being taken anew.

Once ``L_i = log Σ_j exp(h_j - |x_i - y_j|²/(2 eps))`` is known for some log-weights h, the shares
``K_ij = exp(h_j - |x_i - y_j|²/(2 eps) - L_i)`` lie between 0 and 1, and for other log-weights h'

``log Σ_j exp(h'_j - |x_i - y_j|²/(2 eps)) = L_i + log Σ_j K_ij exp(h'_j - h_j)``

is a matrix product: about a tenth of the time of the exponentials. The shares are stored for blocks of rows
and columns, as many as fit in memory; a sum of exponentials that cannot grow needs no search for a maximum.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from otreg.reductions.blocks import chunks, finite_or_zero
from otreg.reductions.fused import ABSENT, SINGLE_PRECISION_LIMIT

ALIKE = 40.0
"""Spread of the gains of all columns up to which float32 holds their exponentials side by side."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Shares of some columns in some rows.

    ``rows`` (B, H) and ``columns`` (B, C) are places in the order of the kernel; ``shares`` (B, C, H):
    columns first, since matrix libraries multiply a row by a matrix far faster than a matrix by a column.
    """

    rows: Tensor
    columns: Tensor
    shares: Tensor

    @property
    def size(self) -> int:
        """Bytes of the shares."""
        return self.shares.numel() * self.shares.element_size()

    def product(self, weights: Tensor) -> Tensor:
        """Sum of weights (B, C, V) of the columns by shares, (B, H, V)."""
        return torch.bmm(weights.transpose(1, 2), self.shares).transpose(1, 2)


@dataclasses.dataclass(frozen=True)
class StoredKernel:
    """Blocks that hold every share that matters, for rows and columns in an order of their own.

    Attributes
    ----------
    blocks : list of Block
    log_weights : Tensor, shape (M,), float64
        h, for which the shares were taken.
    level : Tensor, shape (N,), float64
        L, for the same log-weights.
    row_order : Tensor of int64, shape (R,)
        Which row stands in each place; places may repeat a row.
    column_order : Tensor of int64, shape (C,)
        Which column stands in each place; one place more, beyond the last, stands for nothing.
    column_counts : Tensor of bool, shape (C,)
        False where a place repeats a column, which must not count twice.
    """

    blocks: list[Block]
    log_weights: Tensor
    level: Tensor
    row_order: Tensor
    column_order: Tensor
    column_counts: Tensor

    @property
    def size(self) -> int:
        """Bytes of the shares."""
        return sum(block.size for block in self.blocks)

    def __call__(self, h: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Reduce over columns; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
        dtype, order = self.blocks[0].shares.dtype, self.column_order
        change = torch.where(torch.isfinite(h), h - self.log_weights, -torch.inf)[order]
        change = change.masked_fill_(~self.column_counts, -torch.inf)
        change = torch.cat([change, change.new_full((1,), -torch.inf)])
        # where no column has gained far more than another, one exponential for each column serves all blocks
        present = torch.isfinite(change)
        highest = finite_or_zero(change.amax())
        lowest = torch.where(present, change, highest).amin()
        together = None
        if float(highest - lowest) < ALIKE:
            together = torch.exp(change - highest).to(dtype)
        channels = None if values is None else torch.cat([values[order], values[:1]])
        width = 0 if values is None else values.shape[1]
        tops = change.new_empty(len(self.row_order))
        sums = torch.empty(len(self.row_order), 1 + width, dtype=dtype, device=h.device)
        for block in self.blocks:
            if together is not None:
                top, weights = highest, together[block.columns][:, :, None]
            else:
                # what all columns of a tile have gained is taken out, so that nothing over- or underflows
                gained = change[block.columns]
                top = finite_or_zero(gained.amax(dim=1, keepdim=True))
                weights = torch.exp(gained - top).to(dtype)[:, :, None]
            if channels is not None:
                weights = torch.cat([weights, weights * channels[block.columns]], dim=2)
            sums[block.rows] = block.product(weights)
            tops[block.rows] = top
        result = sums.new_empty(len(self.level), sums.shape[1])
        result[self.row_order] = sums
        log_sum = self.level.clone()
        log_sum[self.row_order] = self.level[self.row_order] + tops
        log_sum += result[:, 0].double().log()
        return log_sum, None if values is None else (result[:, 1:] / result[:, :1]).to(values.dtype)


def store_all(x: Tensor, y: Tensor, h: Tensor, log_sum: Tensor, eps: float) -> StoredKernel:
    """Keep the shares of all pairs, given the log-sum-exp (N,) of each row for log-weights h (M,)."""
    centre = 0.5 * (x.mean(dim=0, dtype=torch.float64) + y.mean(dim=0, dtype=torch.float64))
    x64, y64 = x.double() - centre, y.double() - centre
    x_squared, y_squared = x64.square().sum(dim=1), y64.square().sum(dim=1)
    exact_enough = float((x_squared.max() * y_squared.max()).sqrt()) <= SINGLE_PRECISION_LIMIT * eps
    compute = torch.float32 if x.dtype == torch.float32 and exact_enough else torch.float64
    bias = h - y_squared / (2.0 * eps)
    shift = bias.max()
    below = shift - log_sum - x_squared / (2.0 * eps)
    queries = torch.cat([x64, torch.ones_like(x64[:, :1]), below[:, None]], dim=1) / math.log(2.0)
    keys = torch.cat(
        [y64 / eps, (bias - shift).clamp_min(ABSENT)[:, None], torch.ones_like(y64[:, :1])], dim=1
    )
    queries, keys = queries.to(compute).T, keys.to(compute)
    shares = x.new_empty(1, len(y), len(x))
    for part in chunks(len(y), len(x)):
        shares[0, part] = (keys[part] @ queries).exp2_()
    rows, columns = (torch.arange(len(points), device=h.device) for points in (x, y))
    block = Block(rows[None], columns[None], shares)
    return StoredKernel([block], h, log_sum, rows, columns, torch.ones_like(columns, dtype=torch.bool))
