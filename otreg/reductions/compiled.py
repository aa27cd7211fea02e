"""The fast engine on CPUs: a kernel of our own (native/library.c), built at installation, where there is a compiler.

Nothing leaves the registers between the dozen operations of each pair. The library has one version for each set of
instructions (AVX-512, AVX2, whatever else), between which the processor decides. Where it could not be built, and above
16 dimensions, torch's fused attention takes over (:mod:`otreg.reductions.fused`), two to three times slower.
"""

from __future__ import annotations

import math
import warnings
from functools import cache

import torch
from torch import Tensor

from otreg.reductions import blocks, fused, library
from otreg.reductions.library import TYPES, pointer
from otreg.reductions.remembering import RememberingOrder

SMALLEST_TO_DIVIDE = 1 << 18
"""Pairs below which starting threads costs more than it saves."""

PAIRS_AT_ONCE = 1 << 33
"""Pairs that one call sums, in a few seconds: between two calls Ctrl-C is heard."""

SMALLEST_TO_SORT = 1 << 22
"""Pairs below which sorting the points costs more than it saves."""

BLOCK = 64
"""Points that are looked at together when the farthest is chosen, as farthest.h says."""

LARGEST_SINGLE = 4096.0
"""How far the log-sum of a row may lie below the largest log-weight for float32 to do: about half the squared distance
of its partners, in blurs, whose rounding its scores carry (5e-4)."""

LARGEST_EXTENT = {torch.float32: 1e15, torch.float64: 1e100}
"""Extent of the points, against the blur, that is far below where squares overflow."""


def log_sum_exp_mean(
    x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Reduce over j; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
    return _reduce(x, y, h, eps, values) if _takes(x, y) else fused.log_sum_exp_mean(x, y, h, eps, values)


class CompiledEngine(RememberingOrder[Tensor]):
    """The engine for one problem: columns of no consequence are left out, a few at a time.

    Points are put into an order in which neighbours are near. The tiles of columns nearest to a group of rows are
    summed first, which tells what the rows sum up to at least. A column that, by the box of the rows, could add to
    none of them more than ``accuracy`` over the number of columns is left out. The choice is made anew in each sum, so
    that it is right for any log-weights.

    Parameters
    ----------
    accuracy : float
        Largest relative error of a sum.
    """

    def __init__(self, accuracy: float) -> None:
        super().__init__()
        self.accuracy = accuracy

    def __call__(
        self, x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Reduce over j; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
        if len(x) * len(y) < SMALLEST_TO_SORT or not _takes(x, y):
            return log_sum_exp_mean(x, y, h, eps, values)
        margin = math.log2(len(y) / self.accuracy)
        return _reduce(x, y, h, eps, values, (self.in_order(x), self.in_order(y)), margin)

    def _put_in_order(self, points: Tensor) -> Tensor:
        return near_order(points)


@cache
def is_available() -> bool:
    """Whether the library was built and gives the right answer on a small known case."""
    if library.find() is None:
        return False
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        # deterministic, without touching the caller's random state; several tiles, and a part of one
        x = torch.linspace(-1.0, 1.0, 150 * 3, dtype=dtype, device="cpu").sin().reshape(150, 3)
        y = torch.linspace(-9.0, 2.0, 300 * 3, dtype=dtype, device="cpu").cos().reshape(300, 3)
        h = y[:, 0].double() * 30.0
        wanted = blocks.log_sum_exp_mean(x.double(), y.double(), h, 0.01, y.double())
        found = [_reduce(x, y, h, 0.01, y), _reduce(x, y, h, 0.01, y, (near_order(x), near_order(y)), 60.0)]
        for one, other in ((each[k], wanted[k]) for each in found for k in (0, 1)):
            assert one is not None and other is not None
            if not torch.allclose(one.double(), other, rtol=tolerance, atol=10 * tolerance):
                warnings.warn(
                    "sums over pairs run through torch, some times slower: the library that was built for "
                    "them gives wrong sums on a known case",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return False
    return True


def near_order(points: Tensor) -> Tensor:
    """An order (N,) of points (N, D) in which neighbours are near."""
    built, points = library.find(), points.detach().contiguous()
    assert built is not None
    order = torch.empty(len(points), dtype=torch.int64)
    getattr(built, f"otreg_order_{TYPES[points.dtype]}")(
        pointer(points), len(points), points.shape[1], pointer(order)
    )
    return order


def farthest(points: Tensor, count: int, first: int) -> Tensor:
    """Places (count,) of points (N, D), float32, that are each the farthest from those before; the first is given."""
    built = library.find()
    assert built is not None
    order = near_order(points)
    places = -(-len(points) // BLOCK) * BLOCK
    axes = points.new_zeros(points.shape[1], places)
    axes[:, : len(points)] = points[order].T
    nearest = points.new_full((places,), -1.0)
    nearest[: len(points)] = torch.inf
    places_of = torch.empty_like(order)
    places_of[order] = torch.arange(len(order))
    padded = torch.nn.functional.pad(order, (0, places - len(order)), value=len(order))
    chosen = torch.full((count,), first, dtype=torch.int64)
    given = (pointer(part) for part in (nearest, padded, places_of))
    if not built.otreg_farthest(pointer(axes), places, points.shape[1], *given, count, pointer(chosen)):
        raise MemoryError(f"no memory for choosing among {len(points)} points")
    return chosen


def most_dimensions() -> int:
    """Most dimensions of the points that the library takes."""
    built = library.find()
    assert built is not None
    return int(built.otreg_most_dimensions())


def _takes(x: Tensor, y: Tensor) -> bool:
    some = len(x) > 0 and len(y) > 0 and x.device.type == "cpu" and x.dtype in TYPES
    return some and is_available() and 0 < x.shape[1] <= most_dimensions()


def _reduce(
    x: Tensor,
    y: Tensor,
    h: Tensor,
    eps: float,
    values: Tensor | None,
    orders: tuple[Tensor, Tensor] | None = None,
    margin: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    built = library.find()
    assert built is not None
    channels = 0 if values is None else values.shape[1]
    most = int(built.otreg_most_channels())
    if values is not None and channels > most:
        parts = [_reduce(x, y, h, eps, part, orders, margin) for part in values.split(most, dim=1)]
        return parts[0][0], torch.cat([mean for _, mean in parts if mean is not None], dim=1)
    x, y, h = x.detach(), y.detach(), h.detach().contiguous()
    dtype, highest = x.dtype, float(h.max())
    if highest == -math.inf:
        nothing = None if values is None else x.new_zeros(len(x), channels)
        return h.new_full((len(x),), -math.inf), nothing
    low, high = torch.minimum(x.amin(dim=0), y.amin(dim=0)), torch.maximum(x.amax(dim=0), y.amax(dim=0))
    extent = float((high.double() - low.double()).max()) / math.sqrt(eps)
    # also where a number is none, so that nobody takes the result for one
    if not extent <= LARGEST_EXTENT[torch.float64] or math.isnan(highest):
        return blocks.log_sum_exp_mean(x, y, h, eps, values)
    if extent > LARGEST_EXTENT[x.dtype]:
        x, y = x.double(), y.double()
    x, y = x.contiguous(), y.contiguous()
    given = None if values is None else values.detach().to(x.dtype).contiguous()
    log_sum = h.new_empty(len(x))
    mean = None if values is None else x.new_empty(len(x), channels)
    rows, columns = (None, None) if orders is None else orders
    name = TYPES[x.dtype]
    problem = getattr(built, f"otreg_prepare_{name}")(
        pointer(x), pointer(rows), pointer(y), pointer(h), pointer(given), pointer(columns), len(y), x.shape[1],
        channels, eps, highest, margin, pointer(log_sum), pointer(mean),
    )  # fmt: skip
    if not problem:
        raise MemoryError(f"no memory for the sums over {len(y)} points")
    threads = torch.get_num_threads() if len(x) * len(y) >= SMALLEST_TO_DIVIDE else 1
    try:
        for part in blocks.chunks(len(x), len(y), PAIRS_AT_ONCE):
            getattr(built, f"otreg_sum_{name}")(problem, part.start, part.stop, threads)
    finally:
        getattr(built, f"otreg_release_{name}")(problem)
    if x.dtype == torch.float32:
        _sum_again(x, y, h, eps, given, orders, margin, highest, log_sum, mean)
    return log_sum, None if mean is None else mean.to(dtype)


def _sum_again(
    x: Tensor,
    y: Tensor,
    h: Tensor,
    eps: float,
    values: Tensor | None,
    orders: tuple[Tensor, Tensor] | None,
    margin: float,
    highest: float,
    log_sum: Tensor,
    mean: Tensor | None,
) -> None:
    """Rows so far from their partners that float32 was not exact enough, in float64; results in place."""
    far = log_sum < highest - LARGEST_SINGLE
    if not bool(far.any()):
        return
    if orders is not None:
        rows, columns = orders
        places = torch.cumsum(far, dim=0) - 1
        orders = places[rows[far[rows]]], columns
    wide = None if values is None else values.double()
    logs, means = _reduce(x[far].double(), y.double(), h, eps, wide, orders, margin)
    log_sum[far] = logs
    if mean is not None and means is not None:
        mean[far] = means.to(mean.dtype)
