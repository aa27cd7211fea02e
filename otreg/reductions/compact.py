"""Sums of a compactly supported kernel over near pairs alone, which the library finds: without gradients, on CPUs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from otreg.reductions.near import near_pairs
from otreg.reductions.radial import wendland_profile
from otreg.reductions.sparse import SparseMatrix

ROWS_AT_ONCE = 4096
"""Points whose pairs are found and summed together: what they take is given back before the next."""

PAIRS_AT_ONCE = 1 << 17
"""Most pairs of these; where they have more, fewer points are taken."""

FEWEST_ROWS = 128
"""Below that many (a thousand near centres each), products of matrices are quicker than pairs."""

MARGIN = 1e-4
"""Share by which the search, in single precision, reaches farther than the kernel, which is zero beyond."""

MOST_WIDTHS = 400.0
"""Largest coordinate, in widths, whose rounding to single precision stays within half of that."""


def sums_over_near_pairs(
    points: Tensor, centres: Tensor, parts: Sequence[tuple[int, Tensor]], width: float
) -> list[Tensor] | None:
    """``Σ_j k⁽ᵒ⁾(|x_i - z_j|² / width²) v_j`` with the Wendland kernel for each part (o, v).

    Parameters
    ----------
    points, centres : Tensor, shapes (N, 3) and (M, 3)
        Finite, on a CPU, M at least 1, coordinates up to :data:`MOST_WIDTHS` widths.
    parts : sequence of int and Tensor of shape (M, V)
        Order of derivative with respect to (r / width)², and values.
    width : float
        Radius of support.

    Returns
    -------
    list of Tensor, shape (N, V)
        One per part, in the precision of the points; None where points have so many near centres that products of
        matrices serve better.
    """
    orders = sorted({order for order, _ in parts})
    x, z = points.detach() / width, centres.detach() / width
    values = {order: torch.cat([v for o, v in parts if o == order], dim=1).numpy() for order in orders}
    totals = {order: np.empty((len(x), values[order].shape[1]), values[order].dtype) for order in orders}
    columns = z.numpy()
    start, rows = 0, ROWS_AT_ONCE
    while start < len(x):
        block = slice(start, start + rows)
        pairs = near_pairs(x[block].numpy(), columns, 1.0 + MARGIN, PAIRS_AT_ONCE)
        if pairs is None:
            rows //= 2
            if rows < FEWEST_ROWS:
                return None
            continue
        squared = torch.from_numpy(pairs.data)
        if x.dtype == torch.float64:
            squared = _squared_distances(x[block], z, pairs.indptr, pairs.indices)
        for order in orders:
            pairs.data = wendland_profile(squared, order).numpy()
            totals[order][block] = SparseMatrix(pairs) @ values[order]
        start = block.stop
    taken = dict.fromkeys(orders, 0)
    found = []
    for order, v in parts:
        here = slice(taken[order], taken[order] + v.shape[1])
        taken[order] = here.stop
        found.append(torch.from_numpy(totals[order][:, here]))
    return found


def _squared_distances(x: Tensor, z: Tensor, starts: np.ndarray, columns: np.ndarray) -> Tensor:
    """Of the pairs of a compressed sparse matrix, to the last digits: by differences."""
    rows = torch.from_numpy(np.repeat(np.arange(len(x)), np.diff(starts)))
    there = torch.from_numpy(columns.astype(np.int64))
    squared = torch.zeros(len(rows), dtype=x.dtype)
    for a, b in zip(x.unbind(dim=1), z.unbind(dim=1), strict=True):
        squared += (a.take(rows) - b.take(there)).square_()
    return squared
