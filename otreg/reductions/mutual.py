"""Both softmins of a pair of potentials at once: one exponential per pair serves both directions.

``K_ij = exp((f_i + g_j - |x_i - y_j|²/2) / eps)`` gives ``f_i - eps log Σ_j b_j K_ij`` for the rows and
``g_j - eps log Σ_i a_i K_ij`` for the columns. Between a cloud and itself K is symmetric, so that half of it
is enough. No maximum is searched for: with potentials that are anywhere near an answer to each other the
sums are near 1, and rows or columns for which they are not are summed again by the safe way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from otreg.reductions.engines import Engine
from otreg.reductions.fused import SINGLE_PRECISION_LIMIT
from otreg.reductions.tree import build_tree
from otreg.together import shared

ROWS_AT_ONCE, COLUMNS_AT_ONCE = 500, 2000
"""Pairs at hand at a time: 4 MB of float32, which stay in cache; powers of 2 would collide there."""

LOWEST = -125.0
"""Least exponent of 2 that is taken for what it is."""

LOG_2 = math.log(2.0)

SORTED_FROM = 256.0
"""(radius/blur)² from which rows are sorted: below, float32 is exact enough without."""

SMALLEST_SUM, LARGEST_SUM = 1e-20, 1e30
"""Sums of exponentials outside are taken again: small ones may lack what underflowed."""


def log_sum_exp_pair(
    x: Tensor, y: Tensor, p: Tensor, q: Tensor, a: Tensor, b: Tensor, eps: float, engine: Engine
) -> tuple[Tensor, Tensor]:
    """Log-sum-exps in both directions.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
        Points of one dtype. The same tensor twice stands for a cloud and itself; then p and q, a and b must
        be the same too.
    p, q : Tensor, shapes (N,) and (M,), float64
        Potentials over eps.
    a, b : Tensor, shapes (N,) and (M,), float64
        Weights.
    eps : float
    engine : Engine
        Sums the rows and columns that need the safe way.

    Returns
    -------
    rows : Tensor, shape (N,), float64
        ``log Σ_j b_j exp(q_j - |x_i - y_j|²/(2 eps))``
    columns : Tensor, shape (M,), float64
        ``log Σ_i a_i exp(p_i - |x_i - y_j|²/(2 eps))``
    """
    same = x is y
    # close rows together, so that each block of them can be centred on itself
    order, parts, by_tree = _row_blocks(x, eps)
    x64, p_sorted, a_sorted = x[order].double(), p[order], a[order]
    y64, q_sorted, b_sorted = (x64, p_sorted, a_sorted) if same else (y.double(), q, b)
    centres = [(x64[part] if by_tree else x64).mean(dim=0) for part in parts]
    spread = max(
        float((x64[part] - centre).square().sum(dim=1).max())
        for part, centre in zip(parts, centres, strict=True)
    )
    exact_enough = spread <= SINGLE_PRECISION_LIMIT * eps
    dtype = torch.float32 if x.dtype == torch.float32 and exact_enough else torch.float64
    row_sums = torch.zeros_like(p_sorted)
    tallest = max(part.stop - part.start for part in parts)

    def summed(blocks: list[tuple[slice, Tensor]]) -> Tensor:
        """Sums of some blocks of rows, entered in ``row_sums``, and their part of those of the columns."""
        column_sums = torch.zeros_like(q_sorted)
        room = torch.empty(tallest * COLUMNS_AT_ONCE, dtype=dtype, device=x.device)
        columns_side: tuple[Tensor, Tensor, Tensor] | None = None
        for rows, centre in blocks:
            near = slice(rows.start if same else 0, len(y))
            queries, weights_x, lost_x = _side(x64[rows] - centre, p_sorted[rows], a_sorted[rows], eps, dtype)
            begins = near.start if by_tree else 0
            if by_tree or columns_side is None:
                columns_side = _side(y64[begins:] - centre, q_sorted[begins:], b_sorted[begins:], eps, dtype)
            keys, weights_y, lost_y = (part[near.start - begins :] for part in columns_side)
            keys = keys[:, [*range(x.shape[1]), -1, -2]].T.contiguous()
            received = torch.zeros_like(lost_y)
            for first in range(0, keys.shape[1], COLUMNS_AT_ONCE):
                columns = slice(first, min(first + COLUMNS_AT_ONCE, keys.shape[1]))
                terms = room[: len(queries) * (columns.stop - first)].view(len(queries), -1)
                torch.mm(queries, keys[:, columns], out=terms)
                # below this range exponentials are slow
                terms.clamp_min_(LOWEST).exp2_()
                row_sums[rows] += (terms @ weights_y[columns]) * lost_x
                received[columns] = (weights_x @ terms).double()
            if same:
                # the square on the diagonal has both directions in its rows
                received[: len(queries)] = 0.0
            column_sums[near] += received * lost_y
        return column_sums

    column_sums = torch.stack(shared(summed, list(zip(parts, centres, strict=True)), x.device)).sum(dim=0)
    if same:
        row_sums = column_sums = row_sums + column_sums
    rows_of = torch.empty_like(p).index_copy_(0, order, _checked(row_sums, p_sorted))
    columns_of = rows_of if same else _checked(column_sums, q)
    return (
        _again(rows_of, x, y, q + b.log(), eps, engine),
        _again(columns_of, y, x, p + a.log(), eps, engine),
    )


def _side(
    points: Tensor, potential: Tensor, weights: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Points (N, D+2) with their exponent of 2, weights, and the factor that rounding took from both."""
    exponent = potential - points.square().sum(dim=1) / (2.0 * eps)
    rounded = (exponent / LOG_2).to(dtype)
    lost = (exponent - rounded.double() * LOG_2).clamp_(-1.0, 1.0).exp()
    one = torch.ones_like(rounded)
    # the scale goes to both sides alike, before rounding
    scaled = (points / math.sqrt(eps * LOG_2)).to(dtype)
    columns = torch.cat([scaled, one[:, None], rounded[:, None]], dim=1)
    return columns, (weights * lost).to(dtype), lost


def _row_blocks(points: Tensor, eps: float) -> tuple[Tensor, list[slice], bool]:
    """An order of the rows and the blocks it is cut into: by nodes of a tree where the blur is small (True)."""
    count = len(points)
    if float((points - points.mean(dim=0)).square().sum(dim=1).max()) < SORTED_FROM * eps:
        starts = range(0, count, ROWS_AT_ONCE)
        order = torch.arange(count, device=points.device)
        return order, [slice(start, min(start + ROWS_AT_ONCE, count)) for start in starts], False
    tree = build_tree(points)
    nodes = 1 << min(tree.depth, max(0, round(math.log2(count / ROWS_AT_ONCE))))
    ends = (~tree.repeated).reshape(nodes, -1).sum(dim=1).cumsum(dim=0).tolist()
    return (
        tree.order[~tree.repeated],
        [slice(*pair) for pair in zip([0, *ends[:-1]], ends, strict=True)],
        True,
    )


def _checked(sums: Tensor, reference: Tensor) -> Tensor:
    """Logarithm without the reference, NaN where the sum is out of range."""
    good = (sums > SMALLEST_SUM) & (sums < LARGEST_SUM)
    return torch.where(good, sums.log() - reference, torch.nan)


def _again(logs: Tensor, x: Tensor, y: Tensor, h: Tensor, eps: float, engine: Engine) -> Tensor:
    bad = logs.isnan()
    if bool(bad.any()):
        logs[bad] = engine(x[bad], y, h, eps, None)[0]
    return logs
