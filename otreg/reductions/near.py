"""Pairs of points within a radius of one another, as a sparse matrix: for sums whose kernel ends, or might as well."""

from __future__ import annotations

import ctypes
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree
from torch import Tensor

from otreg.reductions import compiled, library
from otreg.reductions.library import NearProblem, pointer

MOST_STRIPS = 1 << 16
"""That columns are put into; strips are wider than the radius where more would be needed."""

SMALLEST_TO_DIVIDE = 4096
"""Rows below which starting threads costs more than it saves."""


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
        return _by_strips(torch.from_numpy(rows), torch.from_numpy(columns), radius, most)
    return _by_trees(rows, columns, radius, most)


def _by_trees(x: np.ndarray, y: np.ndarray, radius: float, most: int | None) -> sparse.csr_matrix | None:
    trees = cKDTree(x), cKDTree(y)
    if most is not None and trees[0].count_neighbors(trees[1], radius) > most:
        return None
    pairs = trees[0].sparse_distance_matrix(trees[1], radius, output_type="coo_matrix").tocsr()
    pairs.data = np.square(pairs.data).astype(np.float32)
    return pairs


def _by_strips(x: Tensor, y: Tensor, radius: float, most: int | None) -> sparse.csr_matrix | None:
    built = library.find()
    assert built is not None
    few = int(built.otreg_near_few())
    strips = _strips(y, radius)
    # along a strip one after the other
    order = torch.from_numpy(np.lexsort((y[:, strips.along].numpy(), strips.numbers.numpy())))
    first = torch.zeros(strips.total + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(strips.numbers, minlength=strips.total), dim=0, out=first[1:])
    # eight at a time are read, the last of them beyond the end
    axes = torch.zeros(y.shape[1], len(y) + 8, dtype=torch.float32)
    axes[:, : len(y)] = y[order].T
    starts = torch.zeros(len(x) + 1, dtype=torch.int64)
    kept = torch.empty(len(x), few, dtype=torch.int32), torch.empty(len(x), few, dtype=torch.float32)
    single = float(np.float32(radius))
    problem = NearProblem(
        *(pointer(part) for part in (x, axes, order, first)),
        (ctypes.c_double * 2)(*strips.low),
        strips.width,
        (ctypes.c_int64 * 2)(*strips.across),
        (ctypes.c_int64 * 2)(*strips.counts),
        strips.along,
        y.shape[1],
        axes.shape[1],
        single,
        single**2,
        *(pointer(part) for part in (starts, *kept)),
        None,
        None,
    )
    threads = torch.get_num_threads() if len(x) >= SMALLEST_TO_DIVIDE else 1
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


class _Strips(NamedTuple):
    """Where columns lie: the axis along strips and those across, the grid of strips, and the strip of each column."""

    along: int
    across: tuple[int, int]
    low: tuple[float, float]
    counts: tuple[int, int]
    width: float
    numbers: Tensor

    @property
    def total(self) -> int:
        """Number of strips."""
        return self.counts[0] * self.counts[1]


def _strips(points: Tensor, radius: float) -> _Strips:
    """Strips along the widest of the first axes (three at most), across the others not narrower than the radius."""
    places = points[:, :3].double()
    low, extent = places.amin(dim=0), places.amax(dim=0) - places.amin(dim=0)
    along = int(extent.argmax())
    across = [axis for axis in range(places.shape[1]) if axis != along]
    # rows and columns are compared in single precision, strips in double
    width = max(radius * (1.0 + 1e-5), float(extent.max()) * 1e-6, 1e-300)
    while math.prod(int(extent[axis] / width) + 1 for axis in across) > MOST_STRIPS:
        width *= 1.25
    counts, numbers = [1, 1], torch.zeros(len(points), dtype=torch.int64)
    for side, axis in enumerate(across):
        counts[side] = int(extent[axis] / width) + 1
        numbers = numbers * counts[side] + ((places[:, axis] - low[axis]) / width).long().clamp_max(
            counts[side] - 1
        )
    sides = [*across, along, along][:2]
    first, second = (float(low[axis]) for axis in sides)
    return _Strips(along, (sides[0], sides[1]), (first, second), (counts[0], counts[1]), width, numbers)
