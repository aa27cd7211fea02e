"""Sums over the pairs that matter: far pairs are left out under a bound.

Rows are cut into tiles and columns into leaves (:mod:`otreg.reductions.tree`). For a tile with centre c and
half widths r, let ℓ be the log-sum-exp at c and m the barycentre there. The log-sum-exp plus |x-c|²/2eps is a
convex function of x with gradient (m-c)/eps at c, so for every x of the tile the share of y_j in the sum of
x is at most

``exp(h_j - |y_j - c|²/(2 eps) + Σ_k r_k |y_jk - m_k| / eps - ℓ)``.

Leaves whose points together stay below ``accuracy / number of leaves`` are left out: the relative error of a
row is then at most ``accuracy``. No earlier potential enters the bound. The choice is made with a margin, and
stays valid while no log-weight has gained more than that against the sums around it: the bounds tell, tile by
tile, so that a change which is smooth over the range of the blur is no reason to choose anew.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from otreg.reductions.blocks import chunks
from otreg.reductions.engines import Engine
from otreg.reductions.fused import ABSENT, attention
from otreg.reductions.remembering import Remembering
from otreg.reductions.stored import StoredKernel, store_all
from otreg.reductions.tiles import Batch, Cloud, leaf_logs, make_cloud, reduce_tiles
from otreg.reductions.tree import Tree

SMALLEST_PROBLEM = 4_000_000
"""Pairs below which choosing costs more than it saves."""

LARGEST_SHARE = 0.5
"""Share of the pairs above which all of them are summed by the dense engine."""

MARGIN = 20.0
"""How far log-weights may move against those around them before the choice of leaves is made anew."""

DENSE_MARGIN = 50.0
"""How far they may move where the shares of all pairs are stored."""

PAIRS_LOOKED_AT = 1 << 23
"""Most pairs looked at to tell whether bounds are too cautious."""

BOUNDS_KEPT = 1 << 20
"""Most bounds kept to tell whether a choice still holds."""

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
    log-weights ``h``. ``bound`` (tiles, groups of leaves) is the logarithm of the largest share of a row's
    sum that was left out. ``log_sum`` is that of all rows, and ``stored`` holds the shares where they fit.
    """

    h: Tensor
    batches: list[Batch] | None = None
    level: Tensor | None = None
    barycentre: Tensor | None = None
    bound: Tensor | None = None
    exact: Tensor | None = None
    share: float = 1.0
    log_sum: Tensor | None = None
    stored: StoredKernel | None = None

    def refine(self, rows: Cloud, columns: Cloud, tiles: Tensor, groups: Tensor, eps: float) -> Tensor:
        """Put the true shares in the place of some bounds; returns them."""
        assert self.bound is not None and self.exact is not None and self.log_sum is not None
        count, height = len(tiles), rows.tiles.shape[1]
        x = rows.tiles[tiles]
        y = columns.sorted.reshape(self.bound.shape[1], -1, x.shape[2])[groups]
        log_sum = self.log_sum[rows.tree.order].reshape(-1, height)[tiles]
        logs = leaf_logs(columns, self.h).reshape(self.bound.shape[1], -1)[groups]
        scores = logs[:, None, :] - log_sum[:, :, None]
        for axis in range(x.shape[2]):
            scores.sub_((x[:, :, None, axis] - y[:, None, :, axis]).square_(), alpha=0.5 / eps)
        refined = scores.reshape(count, -1).amax(dim=1).add_(math.log(y.shape[1])).float()
        self.bound[tiles, groups], self.exact[tiles, groups] = refined, True
        return refined


class TruncatedEngine(Remembering):
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
        super().__init__()
        self.dense, self.accuracy, self.memory = dense, accuracy, memory
        self._clouds: dict[tuple[int, ...], Cloud] = {}
        self._choices: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, Choice]] = {}

    def __call__(
        self, x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Reduce over j; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
        if len(x) == 0 or not bool(torch.isfinite(h).any()):
            return self.dense(x, y, h, eps, values)
        key = (self.key(x), self.key(y))
        made_for, choice = self._choices.get(key, (0.0, None))
        if choice is not None and made_for == eps:
            logs, mean = self._again(choice, x, y, h, eps, values)
            if self._still_good(choice, x, y, h, eps, logs):
                return logs, mean
        large = len(x) * len(y) >= SMALLEST_PROBLEM
        choice = _choose(self._cloud(x), self._cloud(y), h, eps, self.accuracy) if large else Choice(h)
        self._choices[key] = (eps, choice)
        if choice.batches is None:
            logs, mean = self.dense(x, y, h, eps, values)
        else:
            logs, mean = self._reduce(choice, x, y, h, eps, values, store=self.memory > 0)
        choice.log_sum = logs
        return logs, mean

    def tree(self, points: Tensor) -> Tree:
        """The tree of these points, built once."""
        return self._cloud(points).tree

    def forget(self) -> None:
        """Free the stored shares and store no more; trees and choices stay."""
        self.memory = 0
        for _, choice in self._choices.values():
            choice.stored = None

    def release(self, *clouds: Tensor) -> None:
        """Free the trees of these points and all choices among them."""
        gone = self.dropped(clouds)
        for key in gone:
            self._clouds.pop(key, None)
        self._choices = {pair: made for pair, made in self._choices.items() if not gone.intersection(pair)}

    def _cloud(self, points: Tensor) -> Cloud:
        key = self.key(points)
        if key not in self._clouds:
            self._clouds[key] = make_cloud(points.detach())
        return self._clouds[key]

    def _again(
        self, choice: Choice, x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Sum over the pairs of an earlier choice."""
        if choice.batches is None and choice.stored is None:
            assert choice.log_sum is not None
            if not self._make_room(len(x) * len(y) * x.element_size()):
                return self.dense(x, y, h, eps, values)
            choice.stored = store_all(x, y, choice.h, choice.log_sum, eps)
        if choice.stored is not None:
            return choice.stored(h, values)
        return self._reduce(choice, x, y, h, eps, values, store=False)

    def _reduce(
        self, choice: Choice, x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None, store: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Sum over the chosen leaves, and store their shares if there is room."""
        assert choice.batches is not None and choice.level is not None and choice.barycentre is not None
        rows, columns = self._cloud(x), self._cloud(y)
        # a constant added to h moves all sums alike
        level = choice.level + (h - choice.h)[torch.isfinite(h)].max()
        least = self.accuracy / len(y) * math.exp(-MARGIN)
        # shares that are not stored may matter later
        bound = choice.bound if store else None
        room = self._make_room if store else None
        logs, mean, stored = reduce_tiles(
            rows, columns, choice.batches, level, choice.barycentre, h, eps, values, room, least, bound
        )
        if stored is not None:
            choice.stored = stored
        return logs, mean

    def _still_good(self, choice: Choice, x: Tensor, y: Tensor, h: Tensor, eps: float, logs: Tensor) -> bool:
        """Whether nothing that a choice leaves out matters for other log-weights.

        What was at most a share s of a row's sum is at most ``s exp(gain of its log-weight - gain of the
        sum)`` now, and the gain of what was kept is at most that of the sum.
        """
        # infinities of both cancel to NaN: they are the points without weight, which stay so
        gain = torch.where(torch.isfinite(h), h - choice.h, -torch.inf)
        if bool((gain == torch.inf).any()):
            return False
        if choice.bound is None:
            # all pairs, but of stored shares the tiniest are zero
            finite = gain[torch.isfinite(gain)]
            return choice.stored is None or float(finite.max() - finite.min()) < DENSE_MARGIN
        assert choice.log_sum is not None and choice.exact is not None
        rows, columns = self._cloud(x), self._cloud(y)
        row_gain = (logs - choice.log_sum)[rows.tree.order].reshape(len(rows.tiles), -1).amin(dim=1)
        column_gain = gain[columns.tree.order].reshape(choice.bound.shape[1], -1).amax(dim=1)
        most = choice.bound + column_gain.float() - row_gain[:, None].float()
        limit = math.log(self.accuracy / columns.tree.leaves)
        tiles, groups = (most > limit).nonzero(as_tuple=True)
        if len(tiles) == 0:
            return True
        size = columns.sorted.shape[0] // choice.bound.shape[1] * columns.sorted.shape[1]
        if (
            bool(choice.exact[tiles, groups].any())
            or len(tiles) * rows.tiles.shape[1] * size > PAIRS_LOOKED_AT
        ):
            return False
        refined = choice.refine(rows, columns, tiles, groups, eps)
        gain = (column_gain[groups] - row_gain[tiles]).float()
        return bool((refined + gain <= limit).all())

    def _make_room(self, wanted: int) -> bool:
        """Drop the oldest shares until as many bytes are free; False, and nothing dropped, if they cannot be.

        Before new shares are made, not after: old and new ones together would take twice the limit for a moment.
        """
        if wanted > self.memory:
            return False
        held = [choice for _, choice in self._choices.values() if choice.stored is not None]
        size = wanted + sum(choice.stored.size for choice in held if choice.stored is not None)
        for choice in held:
            if size <= self.memory:
                break
            assert choice.stored is not None
            size -= choice.stored.size
            choice.stored = None
        return True


def _choose(rows: Cloud, columns: Cloud, h: Tensor, eps: float, accuracy: float) -> Choice:
    level, barycentre = _at_centres(rows, columns, h, eps)
    mass = torch.logsumexp(leaf_logs(columns, h), dim=1)
    leaves, count = columns.tree.leaves, len(level)
    least = math.log(accuracy / leaves) - MARGIN
    kept, counts, reach, bound = [], [], [], []
    # bounds are kept for groups of leaves where there are too many to keep them all
    together = 1
    while count * leaves > BOUNDS_KEPT * together and together < leaves:
        together *= 2
    # float32 will do: near the threshold, differences of log-weights and distances are small against 1/eps
    origin, shift = columns.origin, mass.max()
    mass, threshold = (mass - shift).float(), (level - shift).float()[:, None]
    centres, middles = (rows.tile_centre - origin).float(), (barycentre - origin).float()
    lows, highs = (columns.leaf_low - origin).float(), (columns.leaf_high - origin).float()
    halves = (rows.tile_half / eps).float()
    for part in chunks(count, leaves, BOUNDS_AT_ONCE):
        most = mass - threshold[part]
        far = torch.zeros_like(most)
        for axis in range(centres.shape[1]):
            here, there = centres[part, axis, None], middles[part, axis, None]
            low, high = lows[:, axis], highs[:, axis]
            outside = torch.maximum(low - here, here - high).clamp_min_(0.0)
            most.addcmul_(outside, outside, value=-0.5 / eps)
            far.addcmul_(torch.maximum(there - low, high - there), halves[part, axis, None])
        most += far
        keep = most > least
        # of what is kept, nothing is left out
        bound.append(most.masked_fill_(keep, -torch.inf).reshape(len(most), -1, together).amax(dim=2))
        kept.append(keep.nonzero()[:, 1])
        counts.append(keep.sum(dim=1))
        reach.append(far.masked_fill_(~keep, 0.0).amax(dim=1))
    number = torch.cat(counts)
    share = float(number.sum()) / (count * leaves)
    batches = None
    if share <= LARGEST_SHARE:
        single = torch.cat(reach) <= SINGLE_PRECISION_LIMIT
        batches = _batches(torch.cat(kept), number, single, leaves, columns.tree.leaf_size)
    if batches is None:
        return Choice(h)
    bounds = torch.cat(bound)
    return Choice(h, batches, level, barycentre, bounds, bounds == -torch.inf, share)


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
