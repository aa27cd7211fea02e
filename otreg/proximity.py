"""Closest points on a surface: exact, on its triangles rather than its vertices.

How it stays exact and fast. The triangles are sorted into a binary tree, each node with a box around its
triangles, turned along their principal axes so that it hugs a patch of surface. The triangle whose centre is
nearest gives a query a first upper bound on its distance; going down the tree, only the nodes whose box is
nearer than that can hold anything better, and the few triangles left at the bottom are measured. All queries
go down together, one level at a time, as arrays of (query, node) pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from otreg.errors import InputError
from otreg.surface import FloatArray, IntArray, Surface

_LEAF = 4  # triangles in the last boxes, at most: measuring one costs about as much as looking at a box
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
        if surface.has_triangles:
            self._seeds = cKDTree(surface.triangle_centres)
            self._triangles = _Triangles(surface.triangle_corners)
            self._boxes = _BoxTree(surface.triangle_corners)
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
            A distance that is known already: queries whose distance to the triangle with the nearest centre is no
            larger cannot raise it, and are not searched for. Default 0: nothing is known.

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
        if self.surface.has_triangles and well_formed:
            bound = self._measure(array, self._seeds.query(array)[1].astype(np.int64)).distances
            array = array[bound > at_least]
        return max(float(self.closest(array).distances.max(initial=0.0)), at_least)

    def _on_points(self, queries: FloatArray, limit: float) -> Closest:
        distances, index = self._seeds.query(queries)
        barycentric = np.tile([1.0, 0.0, 0.0], (len(queries), 1))
        return Closest(self.surface.points[index], distances, index.astype(np.int64), barycentric)

    def _on_triangles(self, queries: FloatArray, limit: float) -> Closest:
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


def nearly_distances(queries: FloatArray, surface: Surface, candidates: int = 8) -> FloatArray:
    """Distance from each query to a surface, by the triangles with the nearest centres (a cloud's nearest point).

    Exact for most queries of a mesh without slivers, never too small, and much quicker to ask for once than
    :class:`SurfaceIndex`, which takes a tree of boxes to be exact for all.

    Parameters
    ----------
    queries : array, shape (Q, 3)
        Finite.
    surface : Surface
        Not empty, finite.
    candidates : int
        Triangles looked at for each query.

    Returns
    -------
    array, shape (Q,)
    """
    if not surface.has_triangles:
        return np.asarray(cKDTree(surface.points).query(queries)[0], dtype=np.float64)
    found = cKDTree(surface.triangle_centres).query(queries, k=min(candidates, len(surface.triangles)))[1]
    triangles = _Triangles(surface.triangle_corners)
    nearest = np.full(len(queries), np.inf)
    for index in found.reshape(len(queries), -1).T:
        np.minimum(nearest, triangles.closest(queries, index)[1], out=nearest)
    return nearest


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


class _Triangles:
    """Edges of the triangles and their dot products, and the distance from points to given triangles."""

    def __init__(self, corners: FloatArray) -> None:
        first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        self._origin, self._first, self._second = corners[:, 0], first, second
        self._dots = np.stack([_dot(first, first), _dot(first, second), _dot(second, second)], axis=1)
        # the part of the second edge across the first: aa bb - ab², its square times aa, loses all digits on thin ones
        across = second
        for _ in range(2):
            share = np.divide(
                _dot(first, across), self._dots[:, 0], out=np.zeros(len(first)), where=self._dots[:, 0] > 0
            )
            across = across - share[:, None] * first
        self._across = across

    def closest(self, queries: FloatArray, triangles: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Closest point of triangle ``triangles[n]`` to ``queries[n]``: points, distances, barycentric.

        The point of a triangle nearest to p is the foot of p on its plane where that falls inside, else the
        nearest point of the three edges: the regions of C. Ericson, Real-Time Collision Detection (2005),
        section 5.1.5. Rather than by the signs that tell the regions apart, which lose their digits on thin
        triangles, the choice is made by measured distance; a triangle without area is served by its edges.
        """
        origin, first, second = self._origin[triangles], self._first[triangles], self._second[triangles]
        aa, ab, bb = self._dots[triangles].T
        offset = queries - origin
        along_first, along_second = _dot(offset, first), _dot(offset, second)

        w_third = _clamped_ratio((along_second - along_first) - (ab - aa), aa - 2.0 * ab + bb)
        across = self._across[triangles]
        height = _dot(across, across)
        has_area = (aa > 0) & (height > 0)
        w_inside = _dot(offset, across) / np.where(has_area, height, 1.0)
        v_inside = (along_first - w_inside * ab) / np.where(has_area, aa, 1.0)
        inside = has_area & (v_inside >= 0) & (w_inside >= 0) & (v_inside + w_inside <= 1)

        zero = np.zeros(len(queries))
        best_v, best_w = _clamped_ratio(along_first, aa), zero
        best = _squared_residual(offset, first, second, best_v, best_w)
        for v, w in (
            (zero, _clamped_ratio(along_second, bb)),
            (1.0 - w_third, w_third),
            (np.where(inside, v_inside, 0.0), np.where(inside, w_inside, 0.0)),
        ):
            squared = _squared_residual(offset, first, second, v, w)
            nearer = squared < best
            best = np.where(nearer, squared, best)
            best_v, best_w = np.where(nearer, v, best_v), np.where(nearer, w, best_w)
        barycentric = np.stack([np.maximum(1.0 - best_v - best_w, 0.0), best_v, best_w], axis=1)
        points = origin + best_v[:, None] * first + best_w[:, None] * second
        return points, np.sqrt(best), barycentric


def _dot(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.einsum("nd,nd->n", first, second)


def _clamped_ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """``numerator / denominator`` in [0, 1], and 0 where an edge has no length."""
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return np.clip(ratio, 0.0, 1.0)


def _squared_residual(
    offset: FloatArray, first: FloatArray, second: FloatArray, v: FloatArray, w: FloatArray
) -> FloatArray:
    residual = offset - v[:, None] * first - w[:, None] * second
    return _dot(residual, residual)


class _BoxTree:
    """A complete binary tree of boxes over triangles; the children of node ``n`` are ``2n`` and ``2n + 1``.

    Attributes
    ----------
    depth : int
        Level of the leaves; the root is level 0.
    members : array of int, shape (2**depth, leaf size)
        Triangles of each leaf. Where their number does not come out even, some are listed twice.
    """

    def __init__(self, corners: FloatArray) -> None:
        self.depth = max(int(np.ceil(np.log2(max(len(corners), 1) / _LEAF))), 0)
        leaves = 2**self.depth
        size = -(-len(corners) // leaves) * leaves
        order = np.arange(size) % len(corners)
        centres = corners.mean(axis=1)
        by_axis = np.ascontiguousarray(corners.transpose(2, 0, 1))
        self._boxes = []
        for level in range(self.depth + 1):
            nodes = order.reshape(2**level, -1)
            self._boxes.append(_boxes(by_axis[:, nodes].transpose(1, 0, 2, 3).reshape(len(nodes), 3, -1)))
            if level < self.depth:
                inside = centres[nodes]
                axis = np.ptp(inside, axis=1).argmax(axis=1)
                along = np.take_along_axis(inside, axis[:, None, None], axis=2)[..., 0]
                rank = np.argpartition(along, nodes.shape[1] // 2, axis=1)
                order = np.take_along_axis(nodes, rank, axis=1).ravel()
        self.members = order.reshape(leaves, -1)

    def distances(self, level: int, points: FloatArray, nodes: IntArray) -> FloatArray:
        """A lower bound of the distance from each point to all that the given node of this level holds."""
        boxes = self._boxes[level][nodes]
        offset = points - boxes[:, :3]
        squared, largest = np.zeros(len(nodes)), np.zeros(len(nodes))
        for axis in range(3):
            along = np.abs(_dot(offset, boxes[:, 3 + 3 * axis : 6 + 3 * axis]))
            np.maximum(largest, along, out=largest)
            along -= boxes[:, 12 + axis]
            np.maximum(along, 0.0, out=along)
            squared += along * along
        # Rounded down by far more than the rounding of the lines above, so that it stays a bound.
        return np.sqrt(squared) * (1.0 - 1e-12) - 1e-14 * largest


def _boxes(points: FloatArray) -> FloatArray:
    """Boxes around point sets (n, 3, k) along their principal axes: centre, three axes, half sizes, (n, 15).

    One row a box, because a single look-up of a row is quicker than three.
    """
    mean = points.mean(axis=2, keepdims=True)
    offset = points - mean
    axes = np.linalg.eigh(offset @ offset.transpose(0, 2, 1))[1]
    local = axes.transpose(0, 2, 1) @ offset
    low, high = local.min(axis=2), local.max(axis=2)
    centres = mean[..., 0] + np.einsum("nij,nj->ni", axes, 0.5 * (low + high))
    rounding = 8 * np.finfo(np.float64).eps * np.abs(points).max()
    rows = axes.transpose(0, 2, 1).reshape(-1, 9)
    return np.concatenate([centres, rows, 0.5 * (high - low) + rounding], axis=1)
