"""Pairs of points within a radius of one another, as a sparse matrix: for sums whose kernel ends, or might as well."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree
from torch import Tensor

from otreg.reductions import compiled, library
from otreg.reductions.library import NearProblem, pointer

MOST_CELLS = 1 << 18
"""Of the grid that columns are put into; cells are wider than the radius where more would be needed."""


def near_pairs(
    x: np.ndarray, y: np.ndarray, radius: float, most: int | None = None
) -> sparse.csr_matrix | None:
    """Squared distances of all pairs within a radius.

    Parameters
    ----------
    x, y : array, shapes (N, D) and (M, D)
        Finite; taken in single precision.
    radius : float
        Pairs at exactly this distance count.
    most : int, optional
        Pairs beyond which none are stored.

    Returns
    -------
    csr_matrix, shape (N, M), of float32
        The columns of a row in any order; the zeros of equal points are stored. None if there are more than ``most``
        pairs.

    Raises
    ------
    ValueError
        On coordinates that are not finite.
    """
    rows, columns = (np.ascontiguousarray(points, dtype=np.float32) for points in (x, y))
    if not (np.isfinite(rows).all() and np.isfinite(columns).all()):
        raise ValueError("near pairs are of points with finite coordinates")
    if len(rows) == 0 or len(columns) == 0:
        return sparse.csr_matrix((len(rows), len(columns)), dtype=np.float32)
    if compiled.is_available():
        return _by_cells(torch.from_numpy(rows), torch.from_numpy(columns), radius, most)
    return _by_trees(rows, columns, radius, most)


def _by_trees(x: np.ndarray, y: np.ndarray, radius: float, most: int | None) -> sparse.csr_matrix | None:
    trees = cKDTree(x), cKDTree(y)
    if most is not None and trees[0].count_neighbors(trees[1], radius) > most:
        return None
    pairs = trees[0].sparse_distance_matrix(trees[1], radius, output_type="coo_matrix").tocsr()
    pairs.data = np.square(pairs.data).astype(np.float32)
    return pairs


def _by_cells(x: Tensor, y: Tensor, radius: float, most: int | None) -> sparse.csr_matrix | None:
    built = library.find()
    assert built is not None
    dimension = y.shape[1]
    low, counts, cell = _grid(y[:, :3].double(), radius)
    places = ((y[:, :3].double() - low) / cell).long()
    places = torch.minimum(places, counts - 1)
    cells = places[:, 0]
    for axis in range(1, places.shape[1]):
        cells = cells * counts[axis] + places[:, axis]
    total = int(counts.prod())
    order = torch.argsort(cells, stable=True)
    first = torch.zeros(total + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(cells, minlength=total), dim=0, out=first[1:])
    # eight at a time are read, the last of them beyond the end
    axes = torch.zeros(dimension, len(y) + 8, dtype=torch.float32)
    axes[:, : len(y)] = y[order].T
    starts = torch.zeros(len(x) + 1, dtype=torch.int64)
    problem = NearProblem(
        pointer(x),
        pointer(axes),
        pointer(order),
        pointer(first),
        (ctypes.c_double * 3)(*low.tolist()),
        cell,
        dimension,
        axes.shape[1],
        (ctypes.c_int64 * 3)(*counts.tolist(), *[1] * (3 - len(counts))),
        float(np.float32(radius)) ** 2,
        pointer(starts),
        None,
        None,
    )
    threads = torch.get_num_threads() if len(x) >= compiled.SMALLEST_TO_DIVIDE // 64 else 1
    built.otreg_near(ctypes.byref(problem), len(x), threads)
    count = int(starts.sum())
    if most is not None and count > most:
        return None
    starts[1:] = torch.cumsum(starts[:-1].clone(), dim=0)
    starts[0] = 0
    columns, squared = torch.empty(count, dtype=torch.int32), torch.empty(count, dtype=torch.float32)
    problem.found, problem.squared = pointer(columns), pointer(squared)
    built.otreg_near(ctypes.byref(problem), len(x), threads)
    parts = (squared.numpy(), columns.numpy(), starts.numpy())
    return sparse.csr_matrix(parts, shape=(len(x), len(y)), copy=False)


def _grid(points: Tensor, radius: float) -> tuple[Tensor, Tensor, float]:
    """Lowest corner, numbers of cells along each axis and width of cells, not narrower than the radius."""
    low = points.amin(dim=0)
    extent = points.amax(dim=0) - low
    # rows and columns are compared in single precision, cells in double
    cell = max(radius * (1.0 + 1e-5), float(extent.max()) * 1e-6, 1e-300)
    counts = (extent / cell).floor().long() + 1
    while float(counts.double().prod()) > MOST_CELLS:
        cell *= 1.25
        counts = (extent / cell).floor().long() + 1
    return low, counts, cell
