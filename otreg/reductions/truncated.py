"""Sums over the pairs that matter: far pairs are left out under a bound.

Rows are cut into tiles and columns into leaves (:mod:`otreg.reductions.tree`). For a tile with centre c and
radius r, let ℓ be the log-sum-exp at c and m the barycentre there. The log-sum-exp plus |x-c|²/2eps is a
convex function of x with gradient (m-c)/eps at c, so for every x of the tile the share of y_j in the sum of
x is at most

``exp(h_j - |y_j - c|²/(2 eps) + r |y_j - m| / eps - ℓ)``.

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
from otreg.reductions.fused import ABSENT, attention, good_width
from otreg.reductions.tree import Tree, build_tree

SMALLEST_PROBLEM = 4_000_000
"""Pairs below which choosing costs more than it saves."""

LARGEST_SHARE = 0.5
"""Share of the pairs above which all of them are summed by the dense engine."""

TILE = 64
"""Rows in a tile, about: fewer cut closer, more waste less time on preparing the columns."""

MARGIN = 3.0
"""How far log-weights may move, up to a constant, before the choice of leaves is made anew."""

SINGLE_PRECISION_LIMIT = 1024.0
"""Largest ``radius · reach / eps`` of a tile for which float32 is exact enough: measured error below 1e-3."""

BOUNDS_AT_ONCE = 1 << 18
"""Pairs of a tile and a leaf compared at a time: bounds the memory."""

COLUMNS_AT_ONCE = 1 << 16
"""Columns prepared for one batch of tiles: bounds the memory."""


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Points in the order of their tree, in float64, with what the bound needs of leaves and tiles."""

    points: Tensor
    origin: Tensor
    tree: Tree
    sorted: Tensor
    leaf_low: Tensor
    leaf_high: Tensor
    leaf_centre: Tensor
    leaf_radius: Tensor
    tiles: Tensor
    tile_centre: Tensor
    tile_radius: Tensor


@dataclasses.dataclass(frozen=True)
class Batch:
    """Tiles that keep about equally many leaves.

    ``tiles`` (B,); ``leaves`` (B, K), filled up with the number of leaves, which stands for nothing;
    ``single``: whether float32 is exact enough.
    """

    tiles: Tensor
    leaves: Tensor
    single: bool


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which leaves each tile keeps; ``batches`` is None when all pairs are to be summed.

    ``level`` and ``barycentre`` are the log-sum-exp and the barycentre at the centres of the tiles, for the
    log-weights ``h``.
    """

    h: Tensor
    batches: list[Batch] | None
    level: Tensor
    barycentre: Tensor
    share: float


class TruncatedEngine:
    """An engine (:data:`otreg.reductions.engines.Engine`) that leaves out pairs of no consequence.

    It remembers trees and choices between calls, so one instance should live as long as one problem.

    Parameters
    ----------
    dense : Engine
        Used where truncation does not pay.
    accuracy : float
        Largest relative error of a sum.
    """

    def __init__(self, dense: Engine, accuracy: float = 1e-5) -> None:
        self.dense, self.accuracy = dense, accuracy
        self._clouds: dict[tuple[int, ...], Cloud] = {}
        self._choices: dict[tuple[int, int], tuple[float, Choice]] = {}

    def __call__(
        self, x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Reduce over j; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
        if len(x) * len(y) < SMALLEST_PROBLEM or not bool(torch.isfinite(h).any()):
            return self.dense(x, y, h, eps, values)
        rows, columns = self._cloud(x), self._cloud(y)
        choice = self._choice(rows, columns, h, eps)
        if choice.batches is None:
            return self.dense(x, y, h, eps, values)
        return _reduce(rows, columns, choice, h, eps, values)

    def tree(self, points: Tensor) -> Tree:
        """The tree of these points, built once."""
        return self._cloud(points).tree

    def _cloud(self, points: Tensor) -> Cloud:
        key = (points.data_ptr(), *points.shape, *points.stride(), points._version)
        if key not in self._clouds:
            self._clouds[key] = _cloud(points.detach())
        return self._clouds[key]

    def _choice(self, rows: Cloud, columns: Cloud, h: Tensor, eps: float) -> Choice:
        key = (id(rows), id(columns))
        if key in self._choices:
            made_for, choice = self._choices[key]
            # infinities of both cancel to NaN: they are the points without weight, which stay so
            moved = (h - choice.h)[torch.isfinite(h)]
            if (
                made_for == eps
                and bool(torch.isfinite(moved).all())
                and float(moved.max() - moved.min()) < MARGIN
            ):
                return choice
        choice = _choose(rows, columns, h, eps, self.accuracy)
        self._choices[key] = (eps, choice)
        return choice


def _cloud(points: Tensor) -> Cloud:
    tree = build_tree(points)
    ordered = points[tree.order].double()
    leaves = ordered.reshape(tree.leaves, tree.leaf_size, -1)
    low, high = leaves.amin(dim=1), leaves.amax(dim=1)
    centre = 0.5 * (low + high)
    radius = (leaves - centre[:, None]).square().sum(dim=2).amax(dim=1).sqrt()
    together = 1 << max(0, min(tree.depth, round(math.log2(TILE / tree.leaf_size))))
    tiles = ordered.reshape(tree.leaves // together, -1, points.shape[1])
    tile_centre = 0.5 * (tiles.amin(dim=1) + tiles.amax(dim=1))
    tile_radius = (tiles - tile_centre[:, None]).square().sum(dim=2).amax(dim=1).sqrt()
    return Cloud(
        points,
        points.mean(dim=0, dtype=torch.float64),
        tree,
        leaves,
        low,
        high,
        centre,
        radius,
        tiles,
        tile_centre,
        tile_radius,
    )


def _leaf_logs(columns: Cloud, h: Tensor) -> Tensor:
    """Log-weights by leaf, (L, S), repetitions left out."""
    ordered = h[columns.tree.order].masked_fill(columns.tree.repeated, -torch.inf)
    return ordered.reshape(columns.tree.leaves, -1)


def _choose(rows: Cloud, columns: Cloud, h: Tensor, eps: float, accuracy: float) -> Choice:
    centres = rows.tile_centre
    level, barycentre = _at_centres(rows, columns, h, eps)
    mass = torch.logsumexp(_leaf_logs(columns, h), dim=1)
    leaves = columns.tree.leaves
    least = level + math.log(accuracy / leaves) - MARGIN
    kept, counts, reach = [], [], []
    step = max(1, BOUNDS_AT_ONCE // leaves)
    for start in range(0, len(centres), step):
        part = slice(start, start + step)
        near, far = torch.zeros_like(mass), torch.zeros_like(mass)
        for axis in range(centres.shape[1]):
            here = centres[part, axis, None]
            outside = torch.maximum(columns.leaf_low[:, axis] - here, here - columns.leaf_high[:, axis])
            near = near + outside.clamp_min_(0.0).square_()
            far = far + (columns.leaf_centre[:, axis] - barycentre[part, axis, None]).square_()
        far = far.sqrt_() + columns.leaf_radius
        most = torch.addcmul(mass, far, rows.tile_radius[part, None], value=1.0 / eps).sub_(
            near, alpha=0.5 / eps
        )
        keep = most > least[part, None]
        kept.append(keep.nonzero()[:, 1])
        counts.append(keep.sum(dim=1))
        reach.append(far.masked_fill_(~keep, 0.0).amax(dim=1))
    count = torch.cat(counts)
    share = float(count.sum()) / (len(centres) * leaves)
    batches = None
    if share <= LARGEST_SHARE:
        single = torch.cat(reach) * rows.tile_radius <= SINGLE_PRECISION_LIMIT * eps
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


def _reduce(
    rows: Cloud, columns: Cloud, choice: Choice, h: Tensor, eps: float, values: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Sum over the chosen leaves.

    With centre c and barycentre m of a tile, ``x·y = (x-c)·(y-m) + (x-c)·m + c·y``: the first part is small
    for all pairs that matter, which is what float32 needs; the second belongs to the row and the third to
    the column, and both are added in float64.
    """
    dtype, dimension, size = rows.points.dtype, rows.points.shape[1], columns.tree.leaf_size
    origin = columns.origin
    places = columns.sorted - origin
    logs = _leaf_logs(columns, h) - places.square().sum(dim=2) / (2.0 * eps)
    packed = torch.cat([places, logs.clamp_min_(ABSENT)[:, :, None]], dim=2)
    # one more leaf, of absent points, stands where a tile keeps fewer leaves than its batch
    nothing = packed[:1].clone()
    nothing[:, :, -1] = ABSENT
    packed = torch.cat([packed, nothing])
    channels = None
    if values is not None:
        channels = values[columns.tree.order].reshape(-1, size, values.shape[1])
        channels = torch.cat([channels, channels[:1]])
    moved = (h - choice.h)[torch.isfinite(h)].max()
    count, height = rows.tiles.shape[:2]
    log_sum = h.new_empty(count, height)
    mean = None if values is None else values.new_empty(count, height, values.shape[1])
    for batch in choice.batches or []:
        tiles, number = batch.tiles, len(batch.tiles)
        compute = torch.float32 if dtype == torch.float32 and batch.single else torch.float64
        width = good_width(dimension + 1, compute)
        centre, barycentre = rows.tile_centre[tiles] - origin, choice.barycentre[tiles] - origin
        shift = choice.level[tiles] + centre.square().sum(dim=1) / (2.0 * eps) + moved
        # keys ((y - m)/eps, log-weight + c·y/eps - shift) as one affine map of (y, log-weight)
        turn = torch.zeros(number, dimension + 1, dimension + 1, dtype=torch.float64, device=h.device)
        turn.diagonal(dim1=1, dim2=2).fill_(1.0 / eps)
        turn[:, :dimension, dimension] = centre / eps
        turn[:, dimension, dimension] = 1.0
        offset = torch.cat([barycentre / eps, shift[:, None]], dim=1)
        near = packed[batch.leaves].reshape(number, -1, dimension + 1)
        keys = torch.zeros(number, near.shape[1], width, dtype=compute, device=h.device)
        keys[:, :, : dimension + 1] = torch.baddbmm(offset[:, None], near, turn, beta=-1.0)
        step = rows.tiles[tiles] - (centre + origin)[:, None]
        asked = torch.zeros(number, height, width, dtype=compute, device=h.device)
        asked[:, :, :dimension], asked[:, :, dimension] = step, 1.0
        given = None
        if channels is not None:
            given = channels[batch.leaves].reshape(number, near.shape[1], -1).to(compute)
        part, part_mean = attention(asked, keys, given)
        constant = (step * barycentre[:, None]).sum(dim=2) / eps
        constant -= (step + centre[:, None]).square().sum(dim=2) / (2.0 * eps)
        log_sum[tiles] = part.double() + constant + shift[:, None]
        if mean is not None and part_mean is not None:
            mean[tiles] = part_mean.to(mean.dtype)
    order = rows.tree.order
    result = h.new_empty(len(rows.points))
    result[order] = log_sum.reshape(-1)
    if mean is None:
        return result, None
    averaged = mean.new_empty(len(rows.points), mean.shape[2])
    averaged[order] = mean.reshape(len(order), -1)
    return result, averaged
