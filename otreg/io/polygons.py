"""Polygons and triangle strips made into triangles."""

from __future__ import annotations

import numpy as np

from otreg.errors import InputError
from otreg.surface import IntArray


def fan(corners: IntArray, sizes: IntArray) -> IntArray:
    """Split polygons into triangles that share each polygon's first corner.

    Exact for convex polygons, which is what meshes hold; the order of polygons and their orientation are
    kept.

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


def strip(corners: IntArray, sizes: IntArray) -> IntArray:
    """Triangles of strips, every second one turned so that all keep their strip's orientation.

    Triangles that repeat a corner are left out: strips use them as joints.

    Parameters
    ----------
    corners : array of int, shape (sum(sizes),)
        Corners of all strips, one strip after the other.
    sizes : array of int, shape (S,)
        Corners of each strip. Those with fewer than three give no triangle.

    Returns
    -------
    array of int64, shape (T, 3)
    """
    sizes = np.asarray(sizes, np.int64)
    corners = np.asarray(corners, np.int64)
    first = np.cumsum(sizes) - sizes
    parts = np.maximum(sizes - 2, 0)
    step = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    start = np.repeat(first, parts) + step
    turned = step % 2
    a, b, c = corners[start + turned], corners[start + 1 - turned], corners[start + 2]
    triangles = np.stack([a, b, c], axis=1)
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


def join_cells(
    polygons: list[tuple[IntArray, IntArray]], strips: list[tuple[IntArray, IntArray]], count: int
) -> IntArray:
    """Triangles of polygons, then of strips, (corners, sizes) each; indices must be below ``count``."""
    parts = []
    for corners, _ in polygons + strips:
        check_indices(corners, count)
    for corners, sizes in polygons:
        parts.append(fan(corners, sizes))
    for corners, sizes in strips:
        parts.append(strip(corners, sizes))
    return np.concatenate(parts) if parts else np.zeros((0, 3), np.int64)
