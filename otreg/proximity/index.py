"""Closest points on a surface: exact, on its triangles rather than its vertices.

The library in C finds the closest triangles (:mod:`otreg.reductions.closest`). Installations without it go down a tree
of boxes (:mod:`otreg.proximity.boxes`) with all queries together, one level at a time, as arrays of (query, node)
pairs: the triangle whose centre is nearest gives a query a first upper bound on its distance, only the nodes whose box
is nearer than that can hold anything better, and the few triangles left at the bottom are measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from otreg.errors import InputError
from otreg.proximity.boxes import BoxTree
from otreg.proximity.triangles import Triangles
from otreg.reductions import compiled
from otreg.reductions.closest import TriangleTree
from otreg.surface import FloatArray, IntArray, Surface

_QUERIES_AT_ONCE = 2048  # queries that go down the tree together: the temporaries stay in the cache
_PAIRS_AT_ONCE = 500_000  # split queries that get more pairs than this: keeps the memory below 0.2 GB
_CROWD = 6  # pairs per query from which one more triangle is measured to tighten the bound
_PAIRS_PER_BLOCK = 16_384  # pairs measured in one pass


class Closest(NamedTuple):
    """Closest points, one row per query.

    Attributes
    ----------
    points : array, shape (Q, 3)
    distances : array, shape (Q,)
        In length units; infinite where nothing lies within ``max_distance``.
    triangles : array of int, shape (Q,)
        Row of the triangle that holds the point (of the nearest point for a cloud); -1 where there is none.
    barycentric : array, shape (Q, 3)
        Weights of the triangle's three corners, non-negative with sum 1; (1, 0, 0) for a cloud.
    """

    points: FloatArray
    distances: FloatArray
    triangles: IntArray
    barycentric: FloatArray


class SurfaceIndex:
    """A surface prepared for many closest-point queries.

    Parameters
    ----------
    surface : Surface
        A mesh, whose triangles are searched (vertices that no triangle uses do not count), or a point cloud.
        Degenerate triangles are fine: they count as the segment or point that they are.

    Raises
    ------
    InputError
        If the surface is empty or has non-finite coordinates.
    """

    def __init__(self, surface: Surface) -> None:
        if len(surface) == 0:
            raise InputError("the surface has no points, so there is no closest point on it")
        used = surface.triangle_corners if surface.has_triangles else surface.points
        if not np.isfinite(used).all():
            raise InputError("the surface has non-finite coordinates: read it with repair=True")
        self.surface = surface
        self._tree: TriangleTree | None = None
        if surface.has_triangles:
            corners = surface.triangle_corners
            self._triangles = Triangles(corners)
            if compiled.is_available():
                self._tree = TriangleTree(corners, self._triangles.prepared())
            else:
                self._seeds = cKDTree(surface.triangle_centres)
                self._boxes = BoxTree(corners)
        else:
            self._seeds = cKDTree(surface.points)

    def closest(self, queries: ArrayLike, *, max_distance: float | None = None) -> Closest:
        """Closest point of the surface to each query.

        Parameters
        ----------
        queries : array_like, shape (Q, 3)
            May be empty.
        max_distance : float, optional
            Look no farther than this (length units); a query with nothing within gets distance ``inf``,
            triangle -1, a NaN point and zero barycentric weights. Default: look as far as needed.

        Returns
        -------
        Closest

        Raises
        ------
        InputError
            If the queries are not finite (Q, 3) coordinates, or ``max_distance`` is negative or NaN.
        """
        array = np.ascontiguousarray(queries, dtype=np.float64)
        if array.size == 0:
            array = array.reshape(0, 3)
        if array.ndim != 2 or array.shape[1] != 3:
            raise InputError(f"queries must have shape (Q, 3), got {array.shape}")
        if not np.isfinite(array).all():
            raise InputError("queries have non-finite coordinates")
        limit = np.inf if max_distance is None else float(max_distance)
        if not limit >= 0:
            raise InputError(f"max_distance must be a length of 0 or more, got {max_distance}")
        search = self._on_triangles if self.surface.has_triangles else self._on_points
        return _drop_far(search(array, limit), limit)

    def farthest(self, queries: ArrayLike, at_least: float = 0.0) -> float:
        """Largest distance from any of the queries to the surface, or ``at_least`` where that is larger.

        Parameters
        ----------
        queries : array_like, shape (Q, 3)
            May be empty.
        at_least : float
            A distance that is known already: queries that lie no farther from some triangle cannot raise it, and
            are not searched for any further. Default 0: nothing is known.

        Returns
        -------
        float
            In length units.

        Raises
        ------
        InputError
            If the queries are not finite (Q, 3) coordinates.
        """
        array = np.asarray(queries, dtype=np.float64)
        well_formed = array.size > 0 and array.shape[1:] == (3,) and np.isfinite(array).all()
        if self._tree is not None and well_formed:
            near, squared = self._tree.nearest(array, enough=at_least)
            far = slice(last := int(squared.argmax()), last + 1)
            return max(float(self._measure(array[far], near[far]).distances[0]), at_least)
        if self.surface.has_triangles and well_formed:
            bound = self._measure(array, self._seeds.query(array)[1].astype(np.int64)).distances
            array = array[bound > at_least]
        return max(float(self.closest(array).distances.max(initial=0.0)), at_least)

    def _on_points(self, queries: FloatArray, limit: float) -> Closest:
        distances, index = self._seeds.query(queries)
        barycentric = np.tile([1.0, 0.0, 0.0], (len(queries), 1))
        return Closest(self.surface.points[index], distances, index.astype(np.int64), barycentric)

    def _on_triangles(self, queries: FloatArray, limit: float) -> Closest:
        if self._tree is not None:
            # where nothing lies within the limit any triangle will do: its distance says so
            found = self._tree.nearest(queries, np.nextafter(limit, np.inf))[0]
            return self._measure(queries, np.maximum(found, 0))
        best = self._seeds.query(queries)[1].astype(np.int64)
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            block = slice(start, start + _QUERIES_AT_ONCE)
            best[block] = self._descend(queries[block], best[block], limit)
        return self._measure(queries, best)

    def _descend(self, queries: FloatArray, best: IntArray, limit: float) -> IntArray:
        """Row of the closest triangle to each query, given some triangle for each to start from."""
        # The search ends at the limit: what lies farther is dropped in the end, whichever triangle it is.
        bound = np.minimum(self._measure(queries, best).distances, np.nextafter(limit, np.inf))
        best = best.copy()
        waiting = [(0, np.arange(len(queries)), np.zeros(len(queries), np.int64))]
        while waiting:
            level, owner, node = waiting.pop()
            while level < self._boxes.depth:
                lower = self._boxes.distances(level, queries[owner], node)
                near = lower < bound[owner]
                owner, node, lower = owner[near], node[near], lower[near]
                if len(owner) > _CROWD * len(queries):
                    self._probe(level, queries, owner, node, lower, best, bound)
                owner, node = np.repeat(owner, 2), np.stack([2 * node, 2 * node + 1], axis=1).ravel()
                level += 1
                if len(owner) > _PAIRS_AT_ONCE:
                    # Cut between queries: a query's pairs are compared with each other.
                    half = np.searchsorted(owner, owner[len(owner) // 2])
                    if half > 0:
                        waiting.append((level, owner[half:], node[half:]))
                        owner, node = owner[:half], node[:half]
            near = self._boxes.distances(level, queries[owner], node) < bound[owner]
            owner, triangles = owner[near], self._boxes.members[node[near]]
            owner, triangles = np.repeat(owner, triangles.shape[1]), triangles.ravel()
            self._improve(queries, owner, triangles, best, bound)
        return best

    def _probe(
        self,
        level: int,
        queries: FloatArray,
        owner: IntArray,
        node: IntArray,
        lower: FloatArray,
        best: IntArray,
        bound: FloatArray,
    ) -> None:
        """Measure one triangle of each query's most promising node: among long triangles, centres mislead."""
        first = _first_smallest(owner, lower)
        members = self._boxes.members
        triangles = members[node[first] * (len(members) >> level), 0]
        self._improve(queries, owner[first], triangles, best, bound)

    def _improve(
        self, queries: FloatArray, owner: IntArray, triangles: IntArray, best: IntArray, bound: FloatArray
    ) -> None:
        """Measure the pairs, ``owner`` being sorted, and write what is nearer into ``best`` and ``bound``."""
        if not len(owner):
            return
        measured = self._measure(queries[owner], triangles).distances
        first = _first_smallest(owner, measured)
        first = first[measured[first] < bound[owner[first]]]
        bound[owner[first]] = measured[first]
        best[owner[first]] = triangles[first]

    def _measure(self, queries: FloatArray, triangles: IntArray) -> Closest:
        """Closest point of one given triangle to each query."""
        points, barycentric = np.empty((len(queries), 3)), np.empty((len(queries), 3))
        distances = np.empty(len(queries))
        for start in range(0, len(queries), _PAIRS_PER_BLOCK):
            block = slice(start, start + _PAIRS_PER_BLOCK)
            points[block], distances[block], barycentric[block] = self._triangles.closest(
                queries[block], triangles[block]
            )
        return Closest(points, distances, triangles, barycentric)


def closest_points(queries: ArrayLike, surface: Surface, *, max_distance: float | None = None) -> Closest:
    """Exact closest points of a surface's triangles (a cloud's points) to some queries.

    Builds a :class:`SurfaceIndex` and asks it once; keep the index where the same surface is asked again.

    Parameters
    ----------
    queries : array_like, shape (Q, 3)
    surface : Surface
    max_distance : float, optional
        See :meth:`SurfaceIndex.closest`.

    Returns
    -------
    Closest
        ``points (Q, 3)``, ``distances (Q,)``, ``triangles (Q,)``, ``barycentric (Q, 3)``.

    Raises
    ------
    InputError
        If the surface is empty, or something is not finite or misshapen.
    """
    return SurfaceIndex(surface).closest(queries, max_distance=max_distance)


def _drop_far(found: Closest, limit: float) -> Closest:
    far = found.distances > limit
    if not far.any():
        return found
    points, distances = found.points.copy(), found.distances.copy()
    triangles, barycentric = found.triangles.copy(), found.barycentric.copy()
    points[far], distances[far], triangles[far], barycentric[far] = np.nan, np.inf, -1, 0.0
    return Closest(points, distances, triangles, barycentric)


def _first_smallest(owner: IntArray, values: FloatArray) -> IntArray:
    """Index of the first smallest value of each owner; ``owner`` is sorted and not empty."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    smallest = np.minimum.reduceat(values, starts)
    hits = np.flatnonzero(values == np.repeat(smallest, np.diff(starts, append=len(owner))))
    return hits[np.flatnonzero(np.diff(owner[hits], prepend=-1))]
