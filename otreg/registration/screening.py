"""The inverse of a kernel matrix, nearly, as a product of two sparse triangles: the preconditioner of fine fits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from otreg.reductions.sparse import SparseMatrix
from otreg.surface import FloatArray

NEIGHBOURS = 20
"""That each point is conditioned on, itself among them: with 50 a fit takes one iteration fewer."""

RIDGE = 1e-3
"""Added to the diagonal, as a share of it: points may lie close together."""

ROWS_AT_ONCE = 512


class InverseKernel:
    """``v -> GᵀG v`` with ``GᵀG`` near ``K⁻¹`` for ``K_ij = k(|z_i - z_j|²)``, in memory that grows as the points.

    Points are put in a random order. Row i of the triangle G is what is left of point i when its nearest
    predecessors are known, scaled to variance one: these screen it from all others (Vecchia 1988; Kaporin 1994, Numer.
    Linear Algebra Appl. 1; Schäfer, Katzfuss & Owhadi 2021, SIAM J. Sci. Comput. 43, theorem 2.1).

    Parameters
    ----------
    points : array, shape (M, 3)
        z.
    profile : callable
        k, of squared distances, with k(0) = 1.
    """

    def __init__(self, points: FloatArray, profile: Callable[[Tensor], Tensor]) -> None:
        count = len(points)
        order = np.random.default_rng(0).permutation(count)
        ordered = torch.from_numpy(points[order]).float()
        ordered = ordered - ordered.mean(dim=0)
        kept = min(NEIGHBOURS, count)
        rows, columns, values = [], [], []
        for begin in range(0, count, ROWS_AT_ONCE):
            end = min(begin + ROWS_AT_ONCE, count)
            nearest, known = _nearest_predecessors(ordered, begin, end, kept)
            factors = _conditioned(ordered[nearest], known, profile)
            where = known.nonzero(as_tuple=True)
            rows.append((where[0] + begin).numpy())
            columns.append(order[nearest[where].numpy()])
            values.append(factors[where].numpy())
        triangle = sparse.csr_matrix(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(count, count)
        )
        self._triangle, self._transposed = SparseMatrix(triangle), SparseMatrix(triangle.T)

    def __call__(self, vectors: FloatArray) -> FloatArray:
        """``GᵀG v``, (M, V), in single precision."""
        return self._transposed @ (self._triangle @ vectors)


def _nearest_predecessors(points: Tensor, begin: int, end: int, count: int) -> tuple[Tensor, Tensor]:
    """Indices (rows, count) of the points nearest to each row among those up to itself, and which of them there are."""
    distance = torch.cdist(points[begin:end], points[:end], compute_mode="donot_use_mm_for_euclid_dist")
    places = torch.arange(begin, end)
    distance.masked_fill_(torch.arange(end)[None, :] > places[:, None], torch.inf)
    # each point before all others, whatever lies at the same place
    distance[places - begin, places] = -1.0
    if end < count:
        distance = torch.nn.functional.pad(distance, (0, count - end), value=torch.inf)
    found, index = distance.topk(count, dim=1, largest=False)
    known = found < torch.inf
    return torch.where(known, index, 0), known


def _conditioned(points: Tensor, known: Tensor, profile: Callable[[Tensor], Tensor]) -> Tensor:
    """Rows of the triangle (rows, k) from points (rows, k, 3), the first of which each row belongs to."""
    squared = (points[:, :, None] - points[:, None, :]).square().sum(dim=-1)
    matrix = torch.where(known[:, :, None] & known[:, None, :], profile(squared), 0.0)
    matrix.diagonal(dim1=1, dim2=2).fill_(1.0 + RIDGE)
    first = torch.zeros(len(points), points.shape[1], 1)
    first[:, 0] = 1.0
    solved = torch.cholesky_solve(first, torch.linalg.cholesky(matrix))[:, :, 0]
    return solved / solved[:, :1].sqrt()
