"""Polygons and triangle strips made into triangles."""

from __future__ import annotations

import numpy as np

from otreg.errors import InputError
from otreg.surface import IntArray


def fan(corners: IntArray, sizes: IntArray) -> IntArray:
    """Split polygons into triangles that share each polygon's first corner.

    Exact for convex polygons, which is what meshes hold; the order of polygons and their orientation are kept.

    Parameters
    ----------
    corners : array of int, shape (sum(sizes),)
        Corners of all polygons, one polygon after the other.
    sizes : array of int, shape (P,)
        Corners of each polygon. Those with fewer than three (points, lines) give no triangle.

    Returns
    -------
    array of int64, shape (T, 3)
    """
    sizes = np.asarray(sizes, np.int64)
    corners = np.asarray(corners, np.int64)
    if sizes.size and np.all(sizes == 3):
        return corners.reshape(-1, 3)
    first = np.cumsum(sizes) - sizes
    parts = np.maximum(sizes - 2, 0)
    # Corner k+1 and k+2 of its polygon, for the k-th triangle of each.
    start = np.repeat(first, parts)
    step = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    return np.stack([corners[start], corners[start + step + 1], corners[start + step + 2]], axis=1)


def strip(corners: IntArray) -> IntArray:
    """Triangles of one strip, every second one turned so that all keep the strip's orientation; (T, 3).

    Triangles that repeat a corner are left out: strips use them as joints.
    """
    corners = np.asarray(corners, np.int64)
    if len(corners) < 3:
        return np.zeros((0, 3), np.int64)
    triangles = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    triangles[1::2] = triangles[1::2][:, [1, 0, 2]]
    a, b, c = triangles.T
    return triangles[(a != b) & (b != c) & (c != a)]


def check_indices(corners: IntArray, count: int) -> None:
    """Refuse indices outside ``0..count-1``, naming how many there are."""
    corners = np.asarray(corners)
    outside = (corners < 0) | (corners >= count)
    if outside.any():
        raise InputError(
            f"{int(outside.sum())} triangle corners name points outside 0..{count - 1} "
            f"(first: {int(corners[outside][0])}); the file is damaged, export it again"
        )
