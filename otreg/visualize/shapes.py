"""Lines and arrows that explain a map: thinned arrows, grids that deform, threads, contours."""

from __future__ import annotations

import numpy as np

from otreg.registration.sampling import farthest_points
from otreg.surface import FloatArray, IntArray, Surface
from otreg.visualize.view import View, used_rows

_PIECES = 6
"""Pieces that an edge of a grid's cell is drawn in, so that bent edges look bent."""
_MARGIN = 0.12
"""How far a grid reaches beyond the shape, as a share of its size."""
_LIFT = 0.004
"""How far contours float above their surface, as a share of its size: so much disagreement does not hide them."""

Lines = tuple[FloatArray, IntArray]
"""Points (N, 3) and segments (S, 2) between them."""


def spread_points(shape: Surface, count: int) -> IntArray:
    """Choose ``count`` vertices spread evenly over a shape, (count,): each the farthest from those before it.

    Only finite points are chosen, and on meshes only points of triangles. The same shape gives the same points.
    """
    usable = np.isfinite(shape.points).all(axis=1)
    if shape.has_triangles:
        usable &= used_rows(shape.triangles, len(shape))
    rows = np.flatnonzero(usable)
    return rows[farthest_points(shape.points[rows], count)]


def grid_lines(points: FloatArray, axes: FloatArray, cells: int, *, planes: str) -> Lines:
    """Lines of a regular grid in the box of ``points`` (N, 3) along given axes, a little larger.

    Parameters
    ----------
    points : array (N, 3)
        Finite.
    axes : array (3, 3)
        Rows, orthonormal: those of the grid; of a view, right, up and towards the viewer.
    cells : int
        Along the longest side; the other sides have cells of the same size.
    planes : {"facing", "three", "lattice"}
        One plane through the middle along the first two axes, three planes across each other, or lines through
        the whole box.

    Returns
    -------
    points (N, 3), segments (S, 2)
    """
    local = points @ axes.T
    low, high = local.min(axis=0), local.max(axis=0)
    margin = _MARGIN * float((high - low).max())
    low, high = low - margin, high + margin
    step = max(float((high - low).max()) / cells, 1e-12)
    counts = np.maximum(np.ceil((high - low) / step - 1e-9).astype(int), 1)
    middle = 0.5 * (low + high)
    starts = middle - 0.5 * counts * step
    ticks = [starts[axis] + step * np.arange(counts[axis] + 1) for axis in range(3)]
    halves = [middle[axis : axis + 1] for axis in range(3)]
    if planes == "lattice":
        families = [(axis, [ticks[other] for other in range(3)]) for axis in range(3)]
    else:
        across = (2,) if planes == "facing" else (0, 1, 2)
        families = [
            (axis, [halves[other] if other == normal else ticks[other] for other in range(3)])
            for normal in across
            for axis in range(3)
            if axis != normal
        ]
    clouds, segments, count = [], [], 0
    for axis, positions in families:
        fine = starts[axis] + step / _PIECES * np.arange(counts[axis] * _PIECES + 1)
        others = [other for other in range(3) if other != axis]
        first, second = np.meshgrid(positions[others[0]], positions[others[1]], indexing="ij")
        line = np.empty((first.size, len(fine), 3))
        line[..., axis] = fine
        line[..., others[0]] = first.reshape(-1, 1)
        line[..., others[1]] = second.reshape(-1, 1)
        number = count + np.arange(first.size * len(fine)).reshape(first.size, len(fine))
        clouds.append(line.reshape(-1, 3))
        segments.append(np.stack([number[:, :-1].reshape(-1), number[:, 1:].reshape(-1)], axis=1))
        count += number.size
    return np.concatenate(clouds) @ axes, np.concatenate(segments)


def contour_lines(shape: Surface, view: View, count: int) -> Lines:
    """Cuts of a mesh by ``count`` parallel planes, spread evenly along its longer side in the picture.

    All planes contain the line of sight. The cuts lie a little outside the surface (0.4 % of its size), so that
    they are seen on another surface that agrees with it.

    Returns
    -------
    points (N, 3), segments (S, 2); empty for a cloud.
    """
    if not shape.has_triangles:
        return np.zeros((0, 3)), np.zeros((0, 2), np.int64)
    corners = shape.triangle_corners
    known = np.isfinite(corners).all(axis=(1, 2))
    lift = _LIFT * np.linalg.norm(np.ptp(corners[known].reshape(-1, 3), axis=0))
    corners, raised = corners[known], lift * shape.normals[shape.triangles[known]]
    extent = [np.ptp(corners @ axis) for axis in (view.right, view.up)]
    normal = view.right if extent[0] >= extent[1] else view.up
    depth = corners @ normal  # (T, 3)
    low, high = depth.min(), depth.max()
    clouds = []
    for level in low + (high - low) * (np.arange(count) + 0.5) / count:
        above = depth > level
        cut = above.any(axis=1) & ~above.all(axis=1)
        side, height, triangle, rise = above[cut], depth[cut] - level, corners[cut], raised[cut]
        # The corner that is alone on its side: the two edges from it are cut.
        alone = np.where(side.sum(axis=1) == 1, side.argmax(axis=1), (~side).argmax(axis=1))
        rows = np.arange(len(triangle))
        ends = []
        for turn in (1, 2):
            other = (alone + turn) % 3
            share = height[rows, alone] / (height[rows, alone] - height[rows, other])
            ends.append(
                (1.0 - share)[:, None] * (triangle + rise)[rows, alone]
                + share[:, None] * (triangle + rise)[rows, other]
            )
        clouds.append(np.stack(ends, axis=1).reshape(-1, 3))
    points = np.concatenate(clouds)
    return points, np.arange(len(points)).reshape(-1, 2)
