"""Columns added so that a few compiled sizes serve all dimensions and channels."""

from __future__ import annotations

from torch import Tensor


def size_for(needed: int, sizes: tuple[int, ...]) -> int:
    """The least of some sizes that holds so many columns; as many as are needed where none does."""
    return next((size for size in sizes if size >= needed), needed)


def padded(rows: Tensor, width: int) -> Tensor:
    """Rows (N, C), contiguous, with zeros up to a width; the same tensor where nothing is missing."""
    if rows.shape[1] == width:
        return rows.contiguous()
    wider = rows.new_zeros(len(rows), width)
    wider[:, : rows.shape[1]] = rows
    return wider
