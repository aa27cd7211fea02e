"""Weights ``K⁽ᵒ⁾(|x_i - y_j|²)`` of pairs, block after block, for the sums of :mod:`otreg.reductions.mixed`.

A block is small enough to stay in the cache while all that is done to it is done, and the arrays that hold one are
used again for the next: fresh ones would cost more than the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions.cells import Near

PAIRS_PER_THREAD = 1 << 15
"""Pairs that one thread has in hand (256 kB of float64 an array): what stays in its second-level cache."""

PAIRS_ELSEWHERE = 1 << 22
"""Pairs at once on devices that are not a CPU."""


class Ingredient(NamedTuple):
    """One width of a kernel: ``amplitude · k(c r²)``.

    Attributes
    ----------
    kernel : {"gaussian", "wendland"}
        ``k(u) = 2**u``, c being negative, or the Wendland profile.
    amplitude, exponent : float
        Amplitude, and c.
    squarings : int or None
        How often to square the Gaussian of the ingredient before to get this one; None where that would not do.
    """

    kernel: str
    amplitude: float
    exponent: float
    squarings: int | None


class Block(NamedTuple):
    """A run of x, the y beside it (None: all), and the weights of these pairs by order of derivative in r²."""

    rows: slice
    columns: Tensor | None
    weights: dict[int, Tensor]


def weight_blocks(
    recipe: Sequence[Ingredient], x: Tensor, y: Tensor, orders: Sequence[int], near: Near | None
) -> Iterator[Block]:
    """All pairs, or the near ones, in blocks.

    Parameters
    ----------
    recipe : sequence of Ingredient
        From wide to narrow, all of one kernel.
    x, y : Tensor, shapes (N, 3) and (M, 3)
        Not far from the origin; x in the order of ``near`` if that is given.
    orders : sequence of int
        Orders of derivative that are wanted.
    near : Near, optional

    Yields
    ------
    Block
        Its weights are overwritten by the next.
    """
    scale = recipe[0].exponent
    every = None if near is not None else (_left(x), _right(y, scale))
    at_once = PAIRS_PER_THREAD * torch.get_num_threads() if x.device.type == "cpu" else PAIRS_ELSEWHERE
    fill, spare = (_fill_gaussian, 1) if recipe[0].kernel == "gaussian" else (_fill_wendland, 4)
    different = sorted(set(orders))
    arrays: list[Tensor] = []
    size = 0
    for rows, columns in _runs(len(x), len(y), near, at_once):
        if every is not None:
            left, right = every[0][rows], every[1]
        else:
            # a cell is small: seen from its middle, squared distances keep the digits that a narrow kernel asks for
            some = y[columns]
            middle = some.mean(dim=0)
            left, right = _left(x[rows] - middle), _right(some - middle, scale)
        shape = (rows.stop - rows.start, right.shape[1])
        if shape[0] * shape[1] > size:
            size = max(shape[0] * shape[1], 0 if near is None else at_once)
            arrays = [x.new_empty(size) for _ in range(1 + spare + len(different))]
        scaled, *others = (array[: shape[0] * shape[1]].view(shape) for array in arrays)
        torch.mm(left, right, out=scaled)
        weights = dict(zip(different, others[spare:], strict=True))
        fill(recipe, scaled, others[:spare], weights)
        yield Block(rows, columns, weights)


def _left(x: Tensor) -> Tensor:
    """What of ``|x - y|²`` belongs to x, (N, 5): its product with :func:`_right` is the squared distance, scaled."""
    squares = (x * x).sum(dim=1, keepdim=True)
    return torch.cat([x, squares, torch.ones_like(squares)], dim=1)


def _right(y: Tensor, scale: float) -> Tensor:
    """What belongs to y, (5, M)."""
    squares = (y * y).sum(dim=1, keepdim=True)
    return (torch.cat([-2.0 * y, torch.ones_like(squares), squares], dim=1) * scale).T.contiguous()


def _runs(count: int, others: int, near: Near | None, at_once: int) -> Iterator[tuple[slice, Tensor | None]]:
    """Runs of x, each with the y beside it, of at most so many pairs unless a single row has more."""
    if near is None:
        size = max(1, at_once // others)
        for start in range(0, count, size):
            yield slice(start, min(start + size, count)), None
        return
    for run, members in near.cells():
        size = max(1, at_once // len(members))
        for start in range(run.start, run.stop, size):
            yield slice(start, min(start + size, run.stop)), members


def _fill_gaussian(
    recipe: Sequence[Ingredient], scaled: Tensor, spare: list[Tensor], weights: dict[int, Tensor]
) -> None:
    """Weights of Gaussians, given the squared distances times the first c."""
    (gaussian,) = spare
    for place, (_, amplitude, exponent, squarings) in enumerate(recipe):
        if place == 0:
            torch.exp2(scaled, out=gaussian)
        elif squarings is None:
            torch.mul(scaled, exponent / recipe[0].exponent, out=gaussian).exp2_()
        for _ in range(squarings or 0):
            gaussian.mul_(gaussian)
        for order, target in weights.items():
            factor = amplitude * (exponent * math.log(2.0)) ** order
            if place == 0:
                torch.mul(gaussian, factor, out=target)
            else:
                target.add_(gaussian, alpha=factor)


def _fill_wendland(
    recipe: Sequence[Ingredient], scaled: Tensor, spare: list[Tensor], weights: dict[int, Tensor]
) -> None:
    """Weights of Wendland kernels, given the squared distances times the first c.

    With s = √(c r²) and t = 1 - s the profile and its derivatives in s² are ``t⁶ (35 s² + 18 s + 3) / 3``,
    ``-28/3 t⁵ (5 s + 1)``, ``140 t⁴`` and ``-280 t³ / s``.
    """
    if max(weights) > 3:
        raise InputError("a Wendland kernel can be differentiated three times only")
    s, t, fourth, spare_term = spare
    one = s.new_ones(())
    for place, (_, amplitude, exponent, _) in enumerate(recipe):
        torch.mul(scaled, exponent / recipe[0].exponent, out=s).clamp_(0.0, 1.0).sqrt_()
        torch.sub(one, s, out=t)
        torch.mul(t, t, out=fourth).square_()
        for order, target in weights.items():
            factor = amplitude * exponent**order
            term = target if place == 0 else spare_term
            if order == 0:
                torch.mul(s, 35.0 / 3.0 * factor, out=term).add_(6.0 * factor).mul_(s).add_(factor)
                term.mul_(fourth).mul_(t).mul_(t)
            elif order == 1:
                torch.mul(s, -140.0 / 3.0 * factor, out=term).add_(-28.0 / 3.0 * factor).mul_(fourth).mul_(t)
            elif order == 2:
                torch.mul(fourth, 140.0 * factor, out=term)
            else:
                # unbounded at 0, but it only ever meets products of x - y, with which it vanishes there
                torch.mul(t, -280.0 * factor, out=term).mul_(t).mul_(t).div_(s).masked_fill_(s == 0.0, 0.0)
            if place > 0:
                target.add_(term)
