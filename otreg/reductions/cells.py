"""Pairs of points within a distance of each other, by a grid of cubic cells; on any device, in blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

_MOST_CELLS = 1024  # along an axis: ids of cells stay far from overflow however small the reach is


@dataclasses.dataclass(eq=False)
class Near:
    """For points sorted by cell: the centres that may lie within reach of each.

    Attributes
    ----------
    order : Tensor of int, shape (K,)
        The points that have any candidate, cell by cell.
    owners : Tensor of int, shape (K,)
        Cell of each of these, ascending.
    offsets : Tensor of int, shape (U + 1,)
        Where the candidates of each cell begin and end in ``members``.
    members : Tensor of int, shape (M,)
        Indices of centres.
    """

    order: Tensor
    owners: Tensor
    offsets: Tensor
    members: Tensor

    def __post_init__(self) -> None:
        self._counts = self.offsets.diff()
        self._ends = torch.cumsum(self._counts[self.owners], dim=0)

    @property
    def pair_count(self) -> int:
        """Number of candidate pairs."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def cell_count(self) -> int:
        """Number of cells that hold a point with a candidate."""
        return len(torch.unique_consecutive(self.owners))

    def cells(self) -> Iterator[tuple[slice, Tensor]]:
        """Give, for each such cell, its run of ``order`` and the centres that are candidates there."""
        owners, lengths = torch.unique_consecutive(self.owners, return_counts=True)
        start = 0
        for length, begin, end in zip(
            lengths.tolist(), self.offsets[owners].tolist(), self.offsets[owners + 1].tolist(), strict=True
        ):
            yield slice(start, start + length), self.members[begin:end]
            start += length

    def blocks(self, size: int) -> Iterator[slice]:
        """Cut ``order`` into runs of at most ``size`` candidate pairs (or of one point)."""
        start, done, count = 0, 0, len(self.order)
        while start < count:
            stop = int(torch.searchsorted(self._ends, done + size, right=True))
            stop = max(stop, start + 1)
            yield slice(start, stop)
            start, done = stop, int(self._ends[stop - 1])

    def pairs(self, block: slice) -> tuple[Tensor, Tensor]:
        """Candidate pairs of a block: positions within it, ascending, and indices of centres, both (P,)."""
        owners = self.owners[block]
        first, counts = self.offsets[owners], self._counts[owners]
        rows = torch.repeat_interleave(counts)
        start = torch.cumsum(counts, dim=0) - counts
        places = torch.arange(len(rows), device=rows.device) + (first - start)[rows]
        return rows, self.members[places]


class CellGrid:
    """Centres sorted into cubic cells at least as wide as the reach.

    Parameters
    ----------
    centres : Tensor, shape (C, 3)
        Finite, at least one.
    reach : float
        Distance within which pairs are wanted.
    """

    def __init__(self, centres: Tensor, reach: float) -> None:
        self._origin = centres.amin(dim=0)
        extent = float((centres - self._origin).max())
        self._side = max(reach, extent / _MOST_CELLS)
        cells = torch.floor((centres - self._origin) / self._side).long()
        self._counts = cells.amax(dim=0) + 1
        self._sorted, self._order = torch.sort(self._identifier(cells))

    def _identifier(self, cells: Tensor) -> Tensor:
        return (cells[..., 0] * self._counts[1] + cells[..., 1]) * self._counts[2] + cells[..., 2]

    def near(self, points: Tensor) -> Near:
        """Return, for points (N, 3), all centres of the 27 cells around the cell that holds each."""
        scaled = torch.floor((points - self._origin) / self._side)
        # Two cells outside the grid is as good as any place further out, or nowhere.
        scaled = torch.where(torch.isfinite(scaled).all(dim=1, keepdim=True), scaled, -2.0)
        cells = torch.minimum(scaled.clamp_min(-2.0), (self._counts + 1).to(scaled)).long()
        sides = self._counts + 4
        shifted = cells + 2
        code = (shifted[:, 0] * sides[1] + shifted[:, 1]) * sides[2] + shifted[:, 2]
        code, order = torch.sort(code)
        code, lengths = torch.unique_consecutive(code, return_counts=True)
        occupied = torch.stack(
            [code // (sides[1] * sides[2]), code // sides[2] % sides[1], code % sides[2]], dim=1
        )
        offsets, members = self._neighbours(occupied - 2)
        owner = torch.repeat_interleave(lengths)
        some = offsets.diff()[owner] > 0
        return Near(order[some], owner[some], offsets, members)

    def _neighbours(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Centres in the 3×3×3 cells around each of the cells (U, 3), as offsets (U + 1,) and members."""
        steps = torch.arange(-1, 2, device=cells.device)
        columns = cells[:, None, :2] + torch.cartesian_prod(steps, steps)  # (U, 9, 2)
        low = (cells[:, 2] - 1).clamp_min(0)[:, None].expand(-1, 9)
        high = torch.minimum(cells[:, 2] + 1, self._counts[2] - 1)[:, None].expand(-1, 9)
        inside = ((columns >= 0) & (columns < self._counts[:2])).all(dim=2) & (low <= high)
        # Cells that follow each other along the last axis are one run of the sorted centres.
        begin = self._identifier(torch.cat([columns, low[..., None]], dim=2))
        end = self._identifier(torch.cat([columns, high[..., None]], dim=2))
        first = torch.searchsorted(self._sorted, begin)
        last = torch.searchsorted(self._sorted, end, right=True)
        counts = torch.where(inside, last - first, 0)
        offsets = torch.cat([counts.new_zeros(1), torch.cumsum(counts.sum(dim=1), dim=0)])
        counts, first = counts.flatten(), first.flatten()
        runs = torch.repeat_interleave(counts)
        start = torch.cumsum(counts, dim=0) - counts
        places = torch.arange(len(runs), device=runs.device) + (first - start)[runs]
        return offsets, self._order[places]
