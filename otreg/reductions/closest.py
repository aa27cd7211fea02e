"""The triangle nearest to each of many points, by the library in C: boxes in a tree, built and asked in a moment."""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from otreg.reductions import compiled, library
from otreg.reductions.library import ClosestProblem

SMALLEST_TO_DIVIDE = 1024
"""Points below which starting threads costs more than it saves."""


class TriangleTree:
    """Triangles prepared for the library, which must be there (:func:`otreg.reductions.compiled.is_available`).

    Parameters
    ----------
    corners : array, shape (T, 3, 3)
        At least one triangle, finite.
    prepared : array, shape (T, 16)
        Of each triangle the first corner, the edges to the two others, the part of the second edge across the first,
        and the products aa, ab, bb of the edges and that of the part across with itself.
    """

    def __init__(self, corners: np.ndarray, prepared: np.ndarray) -> None:
        built = library.find()
        assert built is not None
        leaf = int(built.otreg_closest_leaf())
        order = _near_order(np.ascontiguousarray(corners.mean(axis=1)), int(built.otreg_unordered()), leaf)
        self._names, self._triangles = order, np.ascontiguousarray(prepared[order])
        self._leaves = 1
        while self._leaves * leaf < len(order):
            self._leaves *= 2
        # node n has the children 2 n and 2 n + 1; leaves beyond the last triangle are farther than anything
        self._boxes = np.empty((2 * self._leaves, 6))
        for side, least, beyond in ((slice(3), np.minimum, np.inf), (slice(3, 6), np.maximum, -np.inf)):
            ends = np.full((self._leaves * leaf, 3), beyond)
            ends[: len(order)] = least.reduce(corners[order], axis=1)
            level = least.reduce(ends.reshape(self._leaves, leaf, 3), axis=1)
            while True:
                self._boxes[len(level) : 2 * len(level), side] = level
                if len(level) == 1:
                    break
                level = least(level[0::2], level[1::2])

    def nearest(
        self, points: np.ndarray, limit: float = np.inf, enough: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row of the triangle nearest to each point, and its squared distance.

        Parameters
        ----------
        points : array, shape (Q, 3)
            Finite.
        limit : float
            Look no farther than this.
        enough : float
            A triangle as near as this will do, even if others are nearer.

        Returns
        -------
        rows : array of int, shape (Q,)
            -1 where nothing lies within the limit. Of equally near triangles the first, unless one was near enough.
        squared : array, shape (Q,)
            To rounding; that of the limit where nothing lies within it.
        """
        built = library.find()
        assert built is not None
        queries = np.ascontiguousarray(points, dtype=np.float64)
        found, squared = np.empty(len(queries), np.int64), np.empty(len(queries))
        addresses = (part.ctypes.data for part in (queries, self._triangles, self._names, self._boxes))
        problem = ClosestProblem(
            *addresses,
            len(self._names),
            self._leaves,
            limit**2,
            enough**2,
            found.ctypes.data,
            squared.ctypes.data,
        )
        threads = torch.get_num_threads() if len(queries) >= SMALLEST_TO_DIVIDE else 1
        built.otreg_closest(ctypes.byref(problem), len(queries), threads)
        return found, squared


def _near_order(points: np.ndarray, size: int, leaf: int) -> np.ndarray:
    """An order of points (N, 3) in which any ``leaf`` from a multiple of it on are near.

    The library's has none among ``size`` points: it is halved on from there.
    """
    order = compiled.near_order(torch.from_numpy(points)).numpy()
    whole = len(order) // size * size
    while size > leaf:
        groups = order[:whole].reshape(-1, size)
        places = points[groups]
        axis = np.ptp(places, axis=1).argmax(axis=1)
        along = np.take_along_axis(places, axis[:, None, None], axis=2)[:, :, 0]
        order[:whole] = np.take_along_axis(groups, along.argsort(axis=1, kind="stable"), axis=1).ravel()
        size //= 2
    return order
