"""Sums over the pairs that matter: far pairs are left out under a bound.

Rows are cut into tiles and columns into leaves (:mod:`otreg.reductions.tree`). For a tile with centre c and
half widths r, let ℓ be the log-sum-exp at c and m the barycentre there. The log-sum-exp plus |x-c|²/2eps is a
convex function of x with gradient (m-c)/eps at c, so for every x of the tile the share of y_j in the sum of
x is at most

``exp(h_j - |y_j - c|²/(2 eps) + Σ_k r_k |y_jk - m_k| / eps - ℓ)``.

Leaves whose points together stay below ``accuracy / number of leaves`` are left out: the relative error of a
row is then at most ``accuracy``. No earlier potential enters the bound. As h changes by less than a margin,
up to a constant, the choice stays valid with the margin added, so it is made anew only when h has moved
further.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from otreg.reductions.engines import Engine
from otreg.reductions.fused import ABSENT, attention
from otreg.reductions.stored import StoredKernel, store_all
from otreg.reductions.tiles import Batch, Cloud, leaf_logs, make_cloud, reduce_tiles
from otreg.reductions.tree import Tree

SMALLEST_PROBLEM = 4_000_000
"""Pairs below which choosing costs more than it saves."""

LARGEST_SHARE = 0.5
"""Share of the pairs above which all of them are summed by the dense engine."""

MARGIN = 10.0
"""How far log-weights may move, up to a constant, before the choice of leaves is made anew."""

SINGLE_PRECISION_LIMIT = 1024.0
"""Largest ``radius · reach / eps`` of a tile for which float32 is exact enough: measured error below 1e-3."""

BOUNDS_AT_ONCE = 1 << 18
"""Pairs of a tile and a leaf compared at a time: bounds the memory."""

COLUMNS_AT_ONCE = 1 << 16
"""Columns prepared for one batch of tiles: bounds the memory."""

MEMORY = 96 << 20
"""Bytes of shares stored at most."""


@dataclasses.dataclass
class Choice:
    """Which leaves each tile keeps; ``batches`` is None when all pairs are to be summed.

    ``level`` and ``barycentre`` are the log-sum-exp and the barycentre at the centres of the tiles, for the
    log-weights ``h``. ``log_sum`` is that of all rows, once it has been taken, and ``stored`` the shares,
    once they are worth storing.
    """

    h: Tensor
    batches: list[Batch] | None = None
    level: Tensor | None = None
    barycentre: Tensor | None = None
    share: float = 1.0
    log_sum: Tensor | None = None
    stored: StoredKernel | None = None


class TruncatedEngine:
    """An engine (:data:`otreg.reductions.engines.Engine`) that leaves out pairs of no consequence.

    It remembers trees and choices between calls, so one instance should live as long as one problem. Sums
    asked for again, with log-weights that moved little, are taken from stored shares
    (:mod:`otreg.reductions.stored`) where these fit in memory.

    Parameters
    ----------
    dense : Engine
        Used where truncation does not pay.
    accuracy : float
        Largest relative error of a sum.
    memory : int
        Bytes of shares stored at most.
    """

    def __init__(self, dense: Engine, accuracy: float = 1e-5, memory: int = MEMORY) -> None:
        self.dense, self.accuracy, self.memory = dense, accuracy, memory
        self._points: dict[tuple[int, ...], Tensor] = {}
        self._clouds: dict[tuple[int, ...], Cloud] = {}
        self._choices: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, Choice]] = {}

    def __call__(
        self, x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Reduce over j; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
        if len(x) == 0 or not bool(torch.isfinite(h).any()):
            return self.dense(x, y, h, eps, values)
        key = (self._key(x), self._key(y))
        made_for, choice = self._choices.get(key, (eps, None))
        new = choice is None or made_for != eps or not _still_good(choice, h)
        if choice is None or new:
            large = len(x) * len(y) >= SMALLEST_PROBLEM
            choice = _choose(self._cloud(x), self._cloud(y), h, eps, self.accuracy) if large else Choice(h)
            self._choices[key] = (eps, choice)
        if choice.stored is not None:
            return choice.stored(h, values)
        if choice.batches is not None:
            return self._reduce(choice, x, y, h, eps, values, new)
        if choice.log_sum is not None and len(x) * len(y) * x.element_size() <= self.memory:
            choice.stored = store_all(x, y, choice.h, choice.log_sum, eps)
            self._make_room(choice)
            return choice.stored(h, values)
        logs, mean = self.dense(x, y, h, eps, values)
        choice.log_sum = logs if new else None
        return logs, mean

    def tree(self, points: Tensor) -> Tree:
        """The tree of these points, built once."""
        return self._cloud(points).tree

    def forget(self) -> None:
        """Free the stored shares and store no more; trees and choices stay."""
        self.memory = 0
        for _, choice in self._choices.values():
            choice.stored = choice.log_sum = None

    def _key(self, points: Tensor) -> tuple[int, ...]:
        key = (points.data_ptr(), *points.shape, *points.stride(), points._version)
        # kept, so that no other points take the same place in memory
        self._points.setdefault(key, points.detach())
        return key

    def _cloud(self, points: Tensor) -> Cloud:
        key = self._key(points)
        if key not in self._clouds:
            self._clouds[key] = make_cloud(points.detach())
        return self._clouds[key]

    def _reduce(
        self, choice: Choice, x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None, new: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Sum over the chosen leaves; a new choice is stored, if there is room."""
        assert choice.batches is not None and choice.level is not None and choice.barycentre is not None
        rows, columns = self._cloud(x), self._cloud(y)
        # a constant added to h moves all sums alike
        level = choice.level + (h - choice.h)[torch.isfinite(h)].max()
        least = self.accuracy / len(y) * math.exp(-MARGIN)
        logs, mean, choice.stored = reduce_tiles(
            rows, columns, choice.batches, level, choice.barycentre, h, eps, values, new * self.memory, least
        )
        if choice.stored is not None:
            self._make_room(choice)
        return logs, mean

    def _make_room(self, latest: Choice) -> None:
        """Drop the oldest shares until all fit."""
        size = sum(choice.stored.size for _, choice in self._choices.values() if choice.stored is not None)
        for _, choice in self._choices.values():
            if size <= self.memory:
                break
            if choice.stored is not None and choice is not latest:
                size -= choice.stored.size
                choice.stored = None


def _still_good(choice: Choice, h: Tensor) -> bool:
    """Whether log-weights are within the margin of those of the choice, up to a constant."""
    # infinities of both cancel to NaN: they are the points without weight, which stay so
    moved = (h - choice.h)[torch.isfinite(h)]
    return bool(torch.isfinite(moved).all()) and float(moved.max() - moved.min()) < MARGIN


def _choose(rows: Cloud, columns: Cloud, h: Tensor, eps: float, accuracy: float) -> Choice:
    centres = rows.tile_centre
    level, barycentre = _at_centres(rows, columns, h, eps)
    mass = torch.logsumexp(leaf_logs(columns, h), dim=1)
    leaves = columns.tree.leaves
    least = level + math.log(accuracy / leaves) - MARGIN
    kept, counts, reach = [], [], []
    step = max(1, BOUNDS_AT_ONCE // leaves)
    for start in range(0, len(centres), step):
        part = slice(start, start + step)
        near, far = torch.zeros_like(mass), torch.zeros_like(mass)
        for axis in range(centres.shape[1]):
            here, there = centres[part, axis, None], barycentre[part, axis, None]
            low, high = columns.leaf_low[:, axis], columns.leaf_high[:, axis]
            outside = torch.maximum(low - here, here - high)
            near = near + outside.clamp_min_(0.0).square_()
            far = far + rows.tile_half[part, axis, None] * torch.maximum(there - low, high - there)
        most = torch.add(mass, far, alpha=1.0 / eps).sub_(near, alpha=0.5 / eps)
        keep = most > least[part, None]
        kept.append(keep.nonzero()[:, 1])
        counts.append(keep.sum(dim=1))
        reach.append(far.masked_fill_(~keep, 0.0).amax(dim=1))
    count = torch.cat(counts)
    share = float(count.sum()) / (len(centres) * leaves)
    batches = None
    if share <= LARGEST_SHARE:
        single = torch.cat(reach) <= SINGLE_PRECISION_LIMIT * eps
        batches = _batches(torch.cat(kept), count, single, leaves, columns.tree.leaf_size)
    return Choice(h, batches, level, barycentre, share)


def _at_centres(rows: Cloud, columns: Cloud, h: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and barycentre at the centres of the tiles, in float32: they only steer the choice."""
    origin = columns.origin
    centres, points = rows.tile_centre - origin, columns.points.double() - origin
    bias = h - points.square().sum(dim=1) / (2.0 * eps)
    shift = bias.max()
    keys = torch.cat([points / eps, (bias - shift).clamp_min_(ABSENT)[:, None]], dim=1)
    asked = torch.cat([centres, torch.ones_like(centres[:, :1])], dim=1)
    logs, mean = attention(asked.float()[None], keys.float()[None], points.float()[None])
    assert mean is not None
    level = logs[0].double() + shift - centres.square().sum(dim=1) / (2.0 * eps)
    return level, mean[0].double() + origin


def _batches(kept: Tensor, count: Tensor, single: Tensor, nothing: int, leaf_size: int) -> list[Batch]:
    """Group tiles that keep about equally many leaves, as many as fit in :data:`COLUMNS_AT_ONCE` columns."""
    batches, start = [], 0
    first = count.cumsum(0) - count
    # tiles that need float64 apart from the others
    order = (count + single * (count.max() + 1)).argsort(descending=True)
    sizes, alone = count[order].tolist(), single[order].tolist()
    while start < len(sizes):
        longest = max(sizes[start], 1)
        most = max(1, COLUMNS_AT_ONCE // (longest * leaf_size))
        stop = start + 1
        while (
            stop < min(len(sizes), start + most)
            and sizes[stop] > 0.75 * longest
            and alone[stop] == alone[start]
        ):
            stop += 1
        tiles = order[start:stop]
        place = torch.arange(longest, device=kept.device)
        inside = place < count[tiles, None]
        index = torch.where(inside, first[tiles, None] + place, torch.zeros_like(place))
        leaves = torch.where(inside, kept[index], torch.full_like(index, nothing))
        batches.append(Batch(tiles, leaves, bool(alone[start])))
        start = stop
    return batches


