"""Tiles of rows and leaves of columns: how the pairs that were chosen are summed.

Coordinates are centred for each tile, in float64, so that float32 sums stay exact when the blur is far below
the size of the cloud.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from otreg.reductions.blocks import chunks
from otreg.reductions.fused import ABSENT
from otreg.reductions.stored import Block, StoredKernel
from otreg.reductions.tree import Tree, build_tree

LOG_2 = math.log(2.0)

TILE = 64
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
    """A batch made ready: its scores are ``log(2) keys @ queriesᵀ + constant``.

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
    room: int = 0,
    least_share: float = 0.0,
) -> tuple[Tensor, Tensor | None, StoredKernel | None]:
    """Sum over the leaves that each tile keeps.

    Parameters
    ----------
    level, barycentre : Tensor, shapes (tiles,) and (tiles, D), float64
        Log-sum-exp and barycentre at the centres of the tiles, about.
    h, eps, values
        See :func:`otreg.reductions.blocks.log_sum_exp_mean`.
    room : int
        Bytes that stored shares may take.
    least_share : float
        Columns of which no row of a tile takes more than this share are not stored.

    Returns
    -------
    log_sum, mean
        See :func:`otreg.reductions.blocks.log_sum_exp_mean`.
    stored : StoredKernel or None
        None where there is not room enough.
    """
    order, height = rows.tree.order, rows.tiles.shape[1]
    width = 0 if values is None else values.shape[1]
    channels = None
    if values is not None:
        channels = values[columns.tree.order].reshape(columns.tree.leaves, -1, width)
        channels = torch.cat([channels, channels[:1]])
    top = h.new_empty(rows.tiles.shape[:2])
    sums = h.new_empty(*rows.tiles.shape[:2], 1 + width)
    stored: list[Block] | None = [] if room else None
    for part in prepare(rows, columns, batches, level, barycentre, h, eps):
        tiles, block = part.batch.tiles, BlockInTheMaking(part.batch, columns, height)
        for some in chunks(len(tiles), part.keys.shape[1] * height):
            # base 2: its exponential is the faster one
            scores = torch.bmm(part.keys[some], part.queries[some].transpose(1, 2))
            highest = scores.amax(dim=1)
            shares = scores.sub_(highest[:, None]).exp2_()
            top[tiles[some]] = highest.double() * LOG_2 + part.constant[some]
            sums[tiles[some], :, 0] = shares.sum(dim=1).double()
            if channels is not None:
                given = channels[part.batch.leaves[some]].reshape(len(shares), -1, width).to(shares.dtype)
                sums[tiles[some], :, 1:] = torch.bmm(given.transpose(1, 2), shares).transpose(1, 2).double()
            if stored is not None:
                block.add(some, shares, least_share)
        if stored is not None:
            made = block.finish(rows.points.dtype)
            room -= made.size
            stored = [*stored, made] if room >= 0 else None
    highest, total = h.new_empty(len(rows.points)), h.new_empty(len(rows.points), 1 + width)
    highest[order], total[order] = top.reshape(-1), sums.reshape(-1, 1 + width)
    log_sum = highest + total[:, 0].log()
    mean = None if values is None else (total[:, 1:] / total[:, :1]).to(values.dtype)
    if stored is None:
        return log_sum, mean, None
    tree = columns.tree
    return log_sum, mean, StoredKernel(stored, h, highest, order, tree.order, ~tree.repeated)


class BlockInTheMaking:
    """Collects the columns that matter, tile by tile."""

    def __init__(self, batch: Batch, columns: Cloud, height: int) -> None:
        self.batch, self.size, self.height = batch, columns.tree.leaf_size, height
        self.nothing = columns.tree.leaves * self.size
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, some: slice, shares: Tensor, least: float) -> None:
        """Keep the columns of these tiles that have a share above the least in some row; (B, C, H)."""
        matters = shares.amax(dim=2) > least
        inside = torch.arange(self.size, device=shares.device)
        # all places of the leaf of absent points are one
        places = (self.batch.leaves[some][:, :, None] * self.size + inside).flatten(1)
        self.kept.append((matters.sum(dim=1), places.clamp_max_(self.nothing)[matters], shares[matters]))

    def finish(self, dtype: torch.dtype) -> Block:
        """One rectangle for all tiles, filled up with the place that stands for nothing."""
        counts = torch.cat([count for count, _, _ in self.kept])
        place = torch.arange(int(counts.max()), device=counts.device)
        taken = place < counts[:, None]
        columns = torch.full(taken.shape, self.nothing, device=counts.device)
        columns[taken] = torch.cat([places for _, places, _ in self.kept])
        shares = torch.zeros(*taken.shape, self.height, dtype=dtype, device=counts.device)
        shares[taken] = torch.cat([shares for _, _, shares in self.kept]).to(dtype)
        rows = self.batch.tiles[:, None] * self.height + torch.arange(self.height, device=counts.device)
        return Block(rows, columns, shares)


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


