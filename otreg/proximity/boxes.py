"""A tree of boxes over triangles, turned along their principal axes so that they hug a patch of surface."""

from __future__ import annotations

import numpy as np

from otreg.proximity.triangles import dot
from otreg.surface import FloatArray, IntArray

LEAF = 4  # triangles in the last boxes, at most: measuring one costs about as much as looking at a box


class BoxTree:
    """A complete binary tree of boxes over triangles; the children of node ``n`` are ``2n`` and ``2n + 1``.

    Attributes
    ----------
    depth : int
        Level of the leaves; the root is level 0.
    members : array of int, shape (2**depth, leaf size)
        Triangles of each leaf. Where their number does not come out even, some are listed twice.
    """

    def __init__(self, corners: FloatArray) -> None:
        self.depth = max(int(np.ceil(np.log2(max(len(corners), 1) / LEAF))), 0)
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
            along = np.abs(dot(offset, boxes[:, 3 + 3 * axis : 6 + 3 * axis]))
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
