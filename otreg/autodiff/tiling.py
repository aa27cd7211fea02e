"""An array of pairs cut into tiles, and where on them a tensor lies."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Place(enum.Enum):
    """How a tensor belongs to an array of pairs (i, j)."""

    ROWS = "one slice for each i"
    COLUMNS = "one slice for each j"
    WHOLE = "the same for all pairs"
    PAIRS = "one entry for each pair"


class Tile(NamedTuple):
    """A rectangle of pairs; ``mirrored`` if it stands for the transposed rectangle too."""

    number: int
    rows: slice
    columns: slice
    mirrored: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


class Tiling(NamedTuple):
    """``rows`` times ``columns`` pairs in tiles of at most ``block``; an array without pairs has empty tiles.

    With ``symmetric`` the tiles below the diagonal are left out, and those above it stand for them.
    """

    rows: int
    columns: int
    block: tuple[int, int]
    symmetric: bool

    def tiles(self) -> Iterator[Tile]:
        """The tiles, row by row."""
        number = 0
        for top in range(0, max(self.rows, 1), self.block[0]):
            for left in range(top if self.symmetric else 0, max(self.columns, 1), self.block[1]):
                rows = slice(top, min(top + self.block[0], self.rows))
                columns = slice(left, min(left + self.block[1], self.columns))
                yield Tile(number, rows, columns, self.symmetric and left > top)
                number += 1


def read(place: Place, tensor: Tensor, tile: Tile) -> Tensor:
    """The part of a tensor that belongs to a tile; of pairs, the sum of the tile and its mirror image."""
    if place is Place.ROWS:
        return tensor[tile.rows]
    if place is Place.COLUMNS:
        return tensor[tile.columns]
    if place is Place.WHOLE:
        return tensor
    part = tensor[tile.rows, tile.columns]
    return part + tensor[tile.columns, tile.rows].transpose(0, 1) if tile.mirrored else part


def enter(place: Place, target: Tensor, tile: Tile, value: Tensor) -> None:
    """Transpose of :func:`read`: pairs are written, for each tile once, and everything else is added."""
    if place is Place.PAIRS:
        target[tile.rows, tile.columns] = value.to(target.device)
        if tile.mirrored:
            target[tile.columns, tile.rows] = value.transpose(0, 1).to(target.device)
        return
    part = read(place, target, tile)
    part.add_(value.to(target.device))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which numbers of a dtype are summed over tiles."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
