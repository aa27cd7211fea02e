"""Points sorted into small boxes of equal count: what truncated and coarse sums stand on."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

SMALLEST_LEAF = 4
"""Leaves hold from this many points to twice as many."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """Points in the order of a balanced binary tree whose leaves all hold ``leaf_size`` points.

    The last places of some leaves repeat a point, so that all leaves are full; ``repeated`` tells which.

    Attributes
    ----------
    order : Tensor of int64, shape (L·S,)
        Index of the point in each place; places ``[k·S, (k+1)·S)`` are leaf k, and consecutive leaves are
        close.
    repeated : Tensor of bool, shape (L·S,)
    depth : int
        There are 2**depth leaves.
    leaf_size : int
        S.
    """

    order: Tensor
    repeated: Tensor
    depth: int
    leaf_size: int

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return 1 << self.depth


def build_tree(points: Tensor) -> Tree:
    """Halve the points along the widest axis of their box, and so on, until few are left in each.

    Every step sorts all groups at once, so the time is that of ``depth`` sorts.

    Parameters
    ----------
    points : Tensor, shape (N, D), N ≥ 1
    """
    count = len(points)
    depth = max(0, (count // SMALLEST_LEAF).bit_length() - 1)
    leaf_size = -(-count // (1 << depth))
    padded = leaf_size << depth
    order = torch.arange(padded, device=points.device)
    repeated = order >= count
    # The places to fill repeat points spread over the whole set, so that no leaf is made of repetitions
    # alone.
    order[count:] = torch.linspace(
        0, count - 1, padded - count, dtype=torch.float64, device=points.device
    ).long()
    order, repeated = order[None], repeated[None]
    for _ in range(depth):
        groups = points[order]
        widest = (groups.amax(dim=1) - groups.amin(dim=1)).argmax(dim=1)
        coordinate = groups.gather(2, widest[:, None, None].expand(-1, groups.shape[1], 1)).squeeze(2)
        rank = coordinate.argsort(dim=1)
        order = order.gather(1, rank).reshape(2 * len(order), -1)
        repeated = repeated.gather(1, rank).reshape(order.shape)
    return Tree(order.reshape(-1), repeated.reshape(-1), depth, leaf_size)


def coarsen(points: Tensor, weights: Tensor, tree: Tree, depth: int) -> tuple[Tensor, Tensor, float]:
    """Replace the points under each node at some depth by their centroid.

    Returns
    -------
    centroids : Tensor, shape (2**depth, D)
    weights : Tensor, shape (2**depth,)
        Sum of the weights under each node.
    spread : float
        Root mean square distance of the points from their centroid, weighted.
    """
    nodes = 1 << depth
    mass = torch.where(tree.repeated, torch.zeros_like(tree.order, dtype=weights.dtype), weights[tree.order])
    mass = mass.reshape(nodes, -1)
    total = mass.sum(dim=1)
    # nodes without weight sit at the plain mean of their points
    share = torch.where(total[:, None] > 0, mass, torch.ones_like(mass))
    share = (share / share.sum(dim=1, keepdim=True))[:, :, None]
    groups = points[tree.order].double().reshape(nodes, -1, points.shape[1])
    centroids = (share * groups).sum(dim=1)
    squared = (groups - centroids[:, None]).square().sum(dim=2)
    spread = float(((mass * squared).sum() / total.sum()).sqrt())
    return centroids.to(points.dtype), total, spread
