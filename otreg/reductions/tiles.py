"""Tiles of rows and leaves of columns: how the pairs that were chosen are summed.

Coordinates are centred for each tile, in float64, so that float32 sums stay exact when the blur is far below
the size of the cloud.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from otreg.reductions.fused import ABSENT, attention
from otreg.reductions.stored import Block, StoredKernel
from otreg.reductions.tree import Tree, build_tree

LOG_2 = math.log(2.0)

HIGHEST = 60.0
"""Largest exponent of 2 of a share, against the level at its tile's centre, that is taken for what it is."""

TILE = 32
"""Rows in a tile, about: fewer cut closer, more waste less time on preparing the columns."""


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Points in the order of their tree, in float64, with what the bound needs of leaves and tiles."""

    points: Tensor
    origin: Tensor
    tree: Tree
    sorted: Tensor
    leaf_low: Tensor
    leaf_high: Tensor
    tiles: Tensor
    tile_centre: Tensor
    tile_half: Tensor


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
class Prepared:
    """A batch made ready: its scores are ``log(2) queries @ keysᵀ + constant``.

    ``queries`` (B, H, D+1) and ``keys`` (B, C, D+1), float32 where that is exact enough; ``constant``
    (B, H), float64.
    """

    batch: Batch
    queries: Tensor
    keys: Tensor
    constant: Tensor


def make_cloud(points: Tensor) -> Cloud:
    """Sort points into leaves and tiles."""
    tree = build_tree(points)
    ordered = points[tree.order].double()
    leaves = ordered.reshape(tree.leaves, tree.leaf_size, -1)
    low, high = leaves.amin(dim=1), leaves.amax(dim=1)
    together = 1 << max(0, min(tree.depth, round(math.log2(TILE / tree.leaf_size))))
    tiles = ordered.reshape(tree.leaves // together, -1, points.shape[1])
    tile_low, tile_high = tiles.amin(dim=1), tiles.amax(dim=1)
    return Cloud(
        points,
        points.mean(dim=0, dtype=torch.float64),
        tree,
        leaves,
        low,
        high,
        tiles,
        0.5 * (tile_low + tile_high),
        0.5 * (tile_high - tile_low),
    )


def leaf_logs(columns: Cloud, h: Tensor) -> Tensor:
    """Log-weights by leaf, (L, S), repetitions left out."""
    ordered = h[columns.tree.order].masked_fill(columns.tree.repeated, -torch.inf)
    return ordered.reshape(columns.tree.leaves, -1)


def reduce_tiles(
    rows: Cloud,
    columns: Cloud,
    batches: Iterable[Batch],
    level: Tensor,
    barycentre: Tensor,
    h: Tensor,
    eps: float,
    values: Tensor | None = None,
    room: Callable[[int], bool] | None = None,
    least_share: float = 0.0,
    bound: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, StoredKernel | None]:
    """Sum over the leaves that each tile keeps.

    Parameters
    ----------
    level, barycentre : Tensor, shapes (tiles,) and (tiles, D), float64
        Log-sum-exp and barycentre at the centres of the tiles, about.
    h, eps, values
        See :func:`otreg.reductions.blocks.log_sum_exp_mean`.
    room : callable, optional
        Asked, with the bytes of all shares so far, whether these may be kept. None: nothing is.
    least_share : float
        Columns of which no row of a tile takes more than this share are not stored.
    bound : Tensor, shape (tiles, groups of leaves), optional
        Where some shares of a leaf are not stored, the logarithm of the largest sum of them is entered here.

    Returns
    -------
    log_sum, mean
        See :func:`otreg.reductions.blocks.log_sum_exp_mean`.
    stored : StoredKernel or None
        None where there is not room enough.
    """
    tree, order = columns.tree, rows.tree.order
    width = 0 if values is None else values.shape[1]
    channels = None if values is None else torch.cat([values[tree.order], values[:1]])
    top, sums = h.new_empty(rows.tiles.shape[:2]), h.new_empty(*rows.tiles.shape[:2], 1 + width)
    stored: list[Block] | None = None if room is None else []
    size = 0
    for part in prepare(rows, columns, batches, level, barycentre, h, eps):
        if stored is None or room is None:
            # nothing is kept: one pass over the pairs, all tiles of a batch at once
            near = None if channels is None else channels[_places(part.batch, tree)].to(part.keys.dtype)
            logs, average = attention(part.queries * LOG_2, part.keys, near)
            top[part.batch.tiles] = logs.double() + part.constant
            sums[part.batch.tiles, :, :1] = 1.0
            if average is not None:
                sums[part.batch.tiles, :, 1:] = average.double()
            continue
        block, highest = make_block(part, rows, columns, least_share, bound)
        top[part.batch.tiles] = highest
        weights = block.shares.new_ones(*block.columns.shape, 1)
        if channels is not None:
            weights = torch.cat([weights, channels[block.columns]], dim=2)
        sums[part.batch.tiles] = block.product(weights).double()
        size += block.size
        stored = [*stored, block] if room(size) else None
    highest, total = h.new_empty(len(rows.points)), h.new_empty(len(rows.points), 1 + width)
    highest[order], total[order] = top.reshape(-1), sums.reshape(-1, 1 + width)
    log_sum = highest + total[:, 0].log()
    mean = None if values is None else (total[:, 1:] / total[:, :1]).to(values.dtype)
    if stored is None:
        return log_sum, mean, None
    return log_sum, mean, StoredKernel(stored, h, highest, order, tree.order, ~tree.repeated)


def _places(batch: Batch, tree: Tree) -> Tensor:
    """Where the columns of each tile stand in the order of the tree, (B, C); the last place stands for nothing."""
    size = tree.leaf_size
    places = batch.leaves[:, :, None] * size + torch.arange(size, device=batch.leaves.device)
    return places.flatten(1).clamp_max_(tree.leaves * size)


def make_block(
    part: Prepared, rows: Cloud, columns: Cloud, least_share: float, bound: Tensor | None
) -> tuple[Block, Tensor]:
    """Shares of the columns that matter, relative to a reference of each row, which comes along as a score (B, H).

    Exponentials are slow (and slowest where they underflow): columns are left out before.
    """
    leaves, height, size = part.batch.leaves, rows.tiles.shape[1], columns.tree.leaf_size
    nothing, least = columns.tree.leaves * size, math.log2(least_share)
    scores = part.keys.new_empty(*part.keys.shape[:2], height)
    largest = part.keys.new_empty(part.keys.shape[:2])
    # tile by tile: what is at hand stays in the fastest caches. Columns first, as blocks want them
    for tile, (queries, keys) in enumerate(zip(part.queries, part.keys, strict=True)):
        torch.mm(keys, queries.T, out=scores[tile])
        torch.amax(scores[tile], dim=1, out=largest[tile])
    tops = largest.new_zeros(len(leaves), height)
    if float(largest.max()) > HIGHEST:
        torch.amax(scores, dim=1, out=tops)
        torch.amax(scores.sub_(tops[:, None]), dim=2, out=largest)
    keep = largest > least
    tiles, kept = keep.nonzero(as_tuple=True)
    counts = keep.sum(dim=1)
    inside = torch.arange(len(tiles), device=tiles.device) - (counts.cumsum(dim=0) - counts)[tiles]
    # one rectangle for all tiles, filled up with the place that stands for nothing
    chosen = torch.full((len(leaves), int(counts.max())), nothing, device=leaves.device)
    # all places of the leaf of absent points are one
    chosen[tiles, inside] = (leaves[tiles, kept // size] * size + kept % size).clamp_max_(nothing)
    source = torch.zeros_like(chosen)
    source[tiles, inside] = tiles * part.keys.shape[1] + kept
    shares = scores.reshape(-1, height).index_select(0, source.reshape(-1))
    shares = shares.exp2_().reshape(*chosen.shape, height).to(rows.points.dtype)
    for tile, count in enumerate(counts.tolist()):
        shares[tile, count:] = 0.0
    if bound is not None:
        left_out = largest.masked_fill_(keep, -torch.inf).reshape(*leaves.shape, size).amax(dim=2)
        _enter(bound, part.batch, left_out * LOG_2 + math.log(size), columns.tree.leaves)
    places = part.batch.tiles[:, None] * height + torch.arange(height, device=leaves.device)
    return Block(places, chosen, shares), tops.double() * LOG_2 + part.constant


def _enter(bound: Tensor, batch: Batch, left_out: Tensor, leaves: int) -> None:
    """Raise the bounds of groups of leaves to what was left out of these leaves."""
    groups = bound[batch.tiles]
    together = leaves // groups.shape[1]
    # the leaf of absent points is none
    groups = torch.cat([groups, groups[:, :1]], dim=1)
    groups.scatter_reduce_(1, batch.leaves // together, left_out.to(bound.dtype), "amax")
    bound[batch.tiles] = groups[:, :-1]


def prepare(
    rows: Cloud,
    columns: Cloud,
    batches: Iterable[Batch],
    level: Tensor,
    barycentre: Tensor,
    h: Tensor,
    eps: float,
) -> Iterator[Prepared]:
    """Centre each tile on itself and its columns on the barycentre of its sum.

    With centre c and barycentre m of a tile, ``x·y = (x-c)·(y-m) + (x-c)·m + c·y``: the first part is small
    for all pairs that matter, which is what float32 needs; the second belongs to the row and the third to
    the column, and both are added in float64.
    """
    dimension, origin = rows.points.shape[1], columns.origin
    places = columns.sorted - origin
    logs = leaf_logs(columns, h) - places.square().sum(dim=2) / (2.0 * eps)
    packed = torch.cat([places, logs.clamp_min_(ABSENT)[:, :, None]], dim=2)
    # one more leaf, of absent points, stands where a tile keeps fewer leaves than its batch
    nothing = packed[:1].clone()
    nothing[:, :, -1] = ABSENT
    packed = torch.cat([packed, nothing])
    for batch in batches:
        tiles, number = batch.tiles, len(batch.tiles)
        single = rows.points.dtype == torch.float32 and batch.single
        centre, middle = rows.tile_centre[tiles] - origin, barycentre[tiles] - origin
        shift = level[tiles] + centre.square().sum(dim=1) / (2.0 * eps)
        # keys ((y - m)/eps, log-weight + c·y/eps - shift) as one affine map of (y, log-weight)
        turn = torch.zeros(number, dimension + 1, dimension + 1, dtype=torch.float64, device=h.device)
        turn.diagonal(dim1=1, dim2=2).fill_(1.0 / eps)
        turn[:, :dimension, dimension] = centre / eps
        turn[:, dimension, dimension] = 1.0
        offset = torch.cat([middle / eps, shift[:, None]], dim=1)
        near = packed[batch.leaves].reshape(number, -1, dimension + 1)
        keys = torch.baddbmm(offset[:, None], near, turn, beta=-1.0)
        step = rows.tiles[tiles] - (centre + origin)[:, None]
        queries = torch.cat([step, torch.ones_like(step[:, :, :1])], dim=2)
        constant = (step * middle[:, None]).sum(dim=2) / eps
        constant -= (step + centre[:, None]).square().sum(dim=2) / (2.0 * eps)
        dtype = torch.float32 if single else torch.float64
        yield Prepared(batch, (queries / LOG_2).to(dtype), keys.to(dtype), constant + shift[:, None])
