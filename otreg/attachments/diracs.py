"""Shapes as clouds of Diracs, and how those that stand close together are merged into one."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

STRETCH = 2.0
"""How many cell diagonals a Dirac may come to stand from the one it was merged into."""


class Diracs(NamedTuple):
    """A cloud of Diracs, differentiable in the points of the shape that it was made of.

    Attributes
    ----------
    positions : Tensor, shape (K, D)
        The first three columns are places in space; others may follow.
    vectors : Tensor, shape (K, V)
        What each carries.
    masses : Tensor, shape (K,), float64
        How much each counts, not negative.
    """

    positions: Tensor
    vectors: Tensor
    masses: Tensor


@dataclasses.dataclass(frozen=True)
class Cells:
    """Which Diracs go into which cell: they are chosen once, and then travel with the shape.

    Attributes
    ----------
    labels : Tensor of int64, shape (K,)
    shares : Tensor, shape (K, 1)
        Part of each Dirac in the position of its cell; those of a cell sum to 1.
    count : int
    """

    labels: Tensor
    shares: Tensor
    count: int

    def merge(self, diracs: Diracs) -> Diracs:
        """One Dirac for each cell: mean position, sum of vectors and of masses."""
        return Diracs(
            self._sum(self.shares.to(diracs.positions.dtype) * diracs.positions),
            self._sum(diracs.vectors),
            self._sum(diracs.masses[:, None])[:, 0],
        )

    def _sum(self, rows: Tensor) -> Tensor:
        return rows.new_zeros(self.count, rows.shape[1]).index_add(0, self.labels, rows)

    def fit(self, diracs: Diracs, side: float) -> bool:
        """Whether these are still cells of about that side, for Diracs that may have moved since."""
        if len(diracs.positions) != len(self.labels) or diracs.positions.device != self.labels.device:
            return False
        positions = diracs.positions.detach()
        middles = self._sum(self.shares.to(positions.dtype) * positions)
        furthest = float((positions - middles[self.labels]).square().sum(dim=1).max())
        return furthest <= (STRETCH * side) ** 2 * positions.shape[1]


def make_cells(diracs: Diracs, side: float, origin: Tensor) -> Cells:
    """Sort Diracs into cubic cells of some side, one corner of which is at the origin (D,)."""
    positions, masses = diracs.positions.detach(), diracs.masses.detach()
    places = torch.floor((positions - origin) / side).long()
    unique, labels = torch.unique(places, dim=0, return_inverse=True)
    total = masses.new_zeros(len(unique)).index_add(0, labels, masses)
    # cells without mass sit at the plain mean
    masses = torch.where(total[labels] > 0, masses, torch.ones_like(masses))
    total = masses.new_zeros(len(unique)).index_add(0, labels, masses)
    return Cells(labels, (masses / total[labels])[:, None].to(positions.dtype), len(unique))
