"""Sums of mixtures of Gaussians over all pairs, by the library in C: what flows and splines are evaluated with."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from otreg.reductions import compiled, library
from otreg.reductions.library import TYPES, Mixture, pointer
from otreg.reductions.pair_weights import Ingredient

SMALLEST_TO_DIVIDE = 1 << 16
"""Pairs below which starting threads costs more than it saves."""


def takes(x: Tensor, y: Tensor, orders: Sequence[int], channels: int) -> bool:
    """Whether the library sums these: points (N, 3) and finite ones (M, 3) on a CPU, orders, columns of values."""
    if x.device.type != "cpu" or x.dtype not in TYPES or not compiled.is_available():
        return False
    built = library.find()
    assert built is not None
    few = len(set(orders)) <= built.otreg_most_orders() and 0 < channels <= built.otreg_most_channels()
    return few and len(x) > 0 and bool(torch.isfinite(y).all())


def mix(
    recipe: Sequence[Ingredient],
    x: Tensor,
    y: Tensor,
    values: Tensor,
    orders: Sequence[int],
    counts: Sequence[int],
) -> Tensor:
    """``Σ_j K⁽ᵒ⁾(|x_i - y_j|²) v_j``, (N, V), the order of each column as the counts of columns say.

    Parameters
    ----------
    recipe : sequence of Ingredient
        Gaussians from wide to narrow.
    x, y : Tensor, shapes (N, 3) and (M, 3)
    values : Tensor, shape (M, V)
    orders, counts : sequences of int
        Orders of derivative in r², and how many columns in turn have each.
    """
    built = library.find()
    assert built is not None
    different = sorted(set(orders))
    exponents = [ingredient.exponent for ingredient in recipe]
    factors = [
        [ingredient.amplitude * (ingredient.exponent * math.log(2.0)) ** order for order in different]
        for ingredient in recipe
    ]
    squarings = [-1 if ingredient.squarings is None else ingredient.squarings for ingredient in recipe]
    columns = [
        different.index(order) for order, count in zip(orders, counts, strict=True) for _ in range(count)
    ]
    x, y, values = (tensor.detach().contiguous() for tensor in (x, y, values))
    result = x.new_empty(len(x), values.shape[1])
    # kept in variables: the library is given their addresses
    numbers = [x.new_tensor(exponents), x.new_tensor(factors).contiguous()]
    places = [torch.tensor(given, dtype=torch.int64) for given in (squarings, columns)]
    mixture = Mixture(
        *(pointer(tensor) for tensor in (x, y, values, result)),
        len(y), values.shape[1], len(recipe), len(different),
        *(pointer(tensor) for tensor in (*numbers, *places)),
    )  # fmt: skip
    threads = torch.get_num_threads() if len(x) * len(y) >= SMALLEST_TO_DIVIDE else 1
    getattr(built, f"otreg_mix_{TYPES[x.dtype]}")(ctypes.byref(mixture), len(x), threads)
    return result
