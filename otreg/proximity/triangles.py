"""Triangles prepared for measuring, and the distance from points to given ones."""

from __future__ import annotations

import numpy as np

from otreg.surface import FloatArray, IntArray


class Triangles:
    """Edges of the triangles and their dot products, and the distance from points to given triangles."""

    def __init__(self, corners: FloatArray) -> None:
        first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        self._origin, self._first, self._second = corners[:, 0], first, second
        self._dots = np.stack([dot(first, first), dot(first, second), dot(second, second)], axis=1)
        # the part of the second edge across the first: aa bb - ab², its square times aa, loses all digits on thin ones
        across = second
        for _ in range(2):
            share = np.divide(
                dot(first, across), self._dots[:, 0], out=np.zeros(len(first)), where=self._dots[:, 0] > 0
            )
            across = across - share[:, None] * first
        self._across = across

    def prepared(self) -> FloatArray:
        """What :class:`~otreg.reductions.closest.TriangleTree` wants, (T, 16)."""
        height = dot(self._across, self._across)
        parts = (self._origin, self._first, self._second, self._across, self._dots, height[:, None])
        return np.concatenate(parts, axis=1)

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
        along_first, along_second = dot(offset, first), dot(offset, second)

        w_third = _clamped_ratio((along_second - along_first) - (ab - aa), aa - 2.0 * ab + bb)
        across = self._across[triangles]
        height = dot(across, across)
        has_area = (aa > 0) & (height > 0)
        w_inside = dot(offset, across) / np.where(has_area, height, 1.0)
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


def dot(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.einsum("nd,nd->n", first, second)


def _clamped_ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """``numerator / denominator`` in [0, 1], and 0 where an edge has no length."""
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return np.clip(ratio, 0.0, 1.0)


def _squared_residual(
    offset: FloatArray, first: FloatArray, second: FloatArray, v: FloatArray, w: FloatArray
) -> FloatArray:
    residual = offset - v[:, None] * first - w[:, None] * second
    return dot(residual, residual)
