"""Radial kernels that are a sum over several widths, ``K(r) = sum_s a_s k(r / width_s)``, summed in one pass.

Flows evaluate such sums tens of times for each point, always with the same values for all widths. So the widths
are added up pair by pair before anything is multiplied with values: one block of squared distances, one array of
weights per order of derivative, one matrix product. Where a width is the one before divided by √2, 2, 2√2, … its
Gaussian is a power of that one, and squaring costs a tenth of an exponential.

Orders count derivatives with respect to the SQUARED DISTANCE: ``grad_x K(|x - z|) = 2 K⁽¹⁾ (x - z)``. So the
derivatives of a sum are sums of the next order, and everything here can be differentiated again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions import mixtures
from otreg.reductions.cells import CellGrid, Near
from otreg.reductions.compact import MOST_WIDTHS, sums_over_near_pairs
from otreg.reductions.library import TYPES
from otreg.reductions.pair_weights import Ingredient, weight_blocks
from otreg.reductions.radial import KERNELS, kernel_sums

_MOST_SQUARINGS = 6  # seven multiplications cost as much as an exponential, and each doubles the rounding

_FEW = 64
"""Centres up to which a search for the near ones is not worth its while."""

_EXTENT_TO_WIDTH = 100.0
"""Extent of few centres, in widths, up to which sums over all of them keep the digits of squared distances."""

_FULL_CELL = 1000
"""Pairs per cell from which products of matrices, cell by cell, are quicker than pair by pair."""

Part = tuple[int, Tensor]
"""Order of derivative and values (M, V) of one of several sums over the same pairs."""


@dataclasses.dataclass(frozen=True)
class MixedKernel:
    """The kernel ``K(r) = sum_s a_s k(r / width_s)``.

    Parameters
    ----------
    kernel : {"gaussian", "wendland"}
        k; ``exp(-r²/2)``, or the compactly supported one of :mod:`otreg.reductions.radial`.
    widths : float or sequence of float
        Positive, in the unit of the points. Sigmas of the Gaussians, or radii of support.
    amplitudes : sequence of float, optional
        a, positive, one for each width; all one by default.

    Raises
    ------
    InputError
        On an unknown kernel, or a width or an amplitude that is not a positive number, or numbers of them
        that differ.
    """

    kernel: str
    widths: tuple[float, ...]
    amplitudes: tuple[float, ...]

    def __init__(
        self, kernel: str, widths: float | Sequence[float], amplitudes: Sequence[float] | None = None
    ) -> None:
        if kernel not in KERNELS:
            raise InputError(f"unknown kernel {kernel!r}: use one of {', '.join(KERNELS)}")
        checked = _positive_numbers(widths, "width")
        heights = _positive_numbers([1.0] * len(checked) if amplitudes is None else amplitudes, "amplitude")
        if len(heights) != len(checked):
            raise InputError(
                f"a kernel needs one amplitude for each of its {len(checked)} widths, got {len(heights)}"
            )
        for name, value in (("kernel", kernel), ("widths", checked), ("amplitudes", heights)):
            object.__setattr__(self, name, value)

    @property
    def width(self) -> float:
        """The largest width."""
        return max(self.widths)

    def sums(self, points: Tensor, centres: Tensor, *parts: Part) -> list[Tensor]:
        """``sum_j K⁽ᵒ⁾(|x_i - z_j|²) v_j`` for each part (o, v), all in one pass over the pairs.

        Parameters
        ----------
        points : Tensor, shape (N, 3)
            x. The sums are zero where a point is not finite.
        centres : Tensor, shape (M, 3)
            z, at least one, finite, of the same dtype and device.
        *parts : tuple of int and Tensor of shape (M, V)
            Order of derivative with respect to the squared distance, and values.

        Returns
        -------
        list of Tensor, shape (N, V)
            One per part. Differentiable in points, centres and values: Gaussians any number of times, Wendland
            kernels to their third derivative. Nothing of size N×M is stored.
        """
        finite = torch.isfinite(points.detach()).all(dim=1)
        if bool(finite.all()):
            return self._sums(points, centres, parts)
        rows = torch.nonzero(finite).squeeze(1)
        found = self._sums(points[rows], centres, parts)
        return [points.new_zeros((len(points), part.shape[1])).index_copy(0, rows, part) for part in found]

    def _sums(self, points: Tensor, centres: Tensor, parts: Sequence[Part]) -> list[Tensor]:
        orders = tuple(order for order, _ in parts)
        counts = tuple(values.shape[1] for _, values in parts)
        joined = torch.cat([values for _, values in parts], dim=1)
        middle = centres.detach().mean(dim=0)  # products of coordinates lose digits far from the origin
        points, centres = points - middle, centres - middle
        if self._is_dense(centres):
            total = _MixedSum.apply(points, centres, joined, self, orders, counts, None)
            return list(total.split(counts, dim=1))
        totals: list[Tensor] = []
        for width, amplitude in zip(self.widths, self.amplitudes, strict=True):
            one = MixedKernel(self.kernel, width, (amplitude,))
            few = one._sums_without_gradients(points, centres, parts)
            if few is not None:
                totals = few if not totals else [a + b for a, b in zip(totals, few, strict=True)]
                continue
            near = one._near(points, centres)
            if near.pair_count > _FULL_CELL * near.cell_count:
                total = _MixedSum.apply(points, centres, joined, one, orders, counts, near)
                sums = list(total.split(counts, dim=1))
            else:
                sums = one._sums_of_pairs(points, centres, parts)
            totals = sums if not totals else [a + b for a, b in zip(totals, sums, strict=True)]
        return totals

    def _is_dense(self, centres: Tensor) -> bool:
        """Whether all pairs are summed: most of them matter, or they are so few that a search costs more.

        Widths far below the extent are left to the search: what all pairs lose of the squared distance by rounding
        is a share of the extent, which a narrow compact kernel would feel.
        """
        if self.kernel == "gaussian":
            return True
        box = centres.detach()
        extent = float((box.amax(dim=0) - box.amin(dim=0)).max())
        reach = _EXTENT_TO_WIDTH if len(centres) <= _FEW else 2.0
        return bool(reach * min(self.widths) >= extent)

    def _near(self, points: Tensor, centres: Tensor) -> Near:
        """Pairs that may lie within the width of each other."""
        return CellGrid(centres.detach() / self.width, 1.0).near(points.detach() / self.width)

    def _sums_without_gradients(
        self, points: Tensor, centres: Tensor, parts: Sequence[Part]
    ) -> list[Tensor] | None:
        """The sums for one compact kernel over near pairs, found first; None where another way serves better."""
        tensors = (points, centres, *(values for _, values in parts))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return None
        extent = max(
            (float(part.detach().abs().amax()) for part in (points, centres) if len(part)), default=0.0
        )
        if points.device.type != "cpu" or points.dtype not in TYPES or extent > MOST_WIDTHS * self.width:
            return None
        sums = sums_over_near_pairs(points, centres, parts, self.width)
        return None if sums is None else self._scaled(parts, sums)

    def _scaled(self, parts: Sequence[Part], sums: Iterable[Tensor]) -> list[Tensor]:
        """Sums in units of the width, with the amplitude and as derivatives by the squared distance itself."""
        (width,), (amplitude,) = self.widths, self.amplitudes
        return [amplitude / width ** (2 * order) * part for (order, _), part in zip(parts, sums, strict=True)]

    def _sums_of_pairs(self, points: Tensor, centres: Tensor, parts: Sequence[Part]) -> list[Tensor]:
        """The sums for one compact kernel, pair by pair: where cells hold too few for products of matrices."""
        width = self.width
        sums = (
            kernel_sums("wendland", points, centres, values, width, (order,))[0] for order, values in parts
        )
        return self._scaled(parts, sums)

    def recipe(self) -> list[Ingredient]:
        """The kernels from wide to narrow, for :func:`otreg.reductions.pair_weights.weight_blocks`."""
        recipe: list[Ingredient] = []
        before = 0.0
        for width, amplitude in sorted(zip(self.widths, self.amplitudes, strict=True), reverse=True):
            exponent, squarings = 1.0 / width**2, None
            if self.kernel == "gaussian":
                exponent *= -0.5 / math.log(2.0)
                doublings = 2.0 * math.log2(before / width) if before else math.inf
                if doublings < _MOST_SQUARINGS + 0.5 and abs(doublings - round(doublings)) < 1e-13:
                    squarings = round(doublings)
            recipe.append(Ingredient(self.kernel, amplitude, exponent, squarings))
            before = width
        return recipe


class _MixedSum(torch.autograd.Function):
    """Sums over the points y for each x, columns of the values in groups of one order each.

    Over all y, or, given ``near``, over those in the cells around each x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        values: Tensor,
        kernel: MixedKernel,
        orders: tuple[int, ...],
        counts: tuple[int, ...],
        near: Near | None,
    ) -> Tensor:
        ctx.save_for_backward(x, y, values)
        ctx.settings, ctx.dense = (kernel, orders, counts), near is None
        if near is None and kernel.kernel == "gaussian" and mixtures.takes(x, y, orders, values.shape[1]):
            return mixtures.mix(kernel.recipe(), x, y, values, orders, counts)
        # Few channels times many pairs: this way round the product is two to four times quicker.
        across = values.T.contiguous()
        here = x if near is None else x[near.order]
        total = x.new_zeros((len(here), values.shape[1]))
        for rows, columns, weights in weight_blocks(kernel.recipe(), here, y, orders, near):
            some = across if columns is None else values.index_select(0, columns).T
            for channels, order in zip(_columns(counts), orders, strict=True):
                total[rows, channels] = (some[channels] @ weights[order].T).T
        return (
            total if near is None else x.new_zeros((len(x), total.shape[1])).index_copy_(0, near.order, total)
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, y, values = ctx.saved_tensors
        cotangent, (kernel, orders, counts), dense = cotangents[0], ctx.settings, ctx.dense
        if not torch.is_grad_enabled():
            near = None if dense else kernel._near(x, y)
            gradients = _gradients(x, y, values, cotangent, kernel, orders, counts, near)
            return (*gradients, None, None, None, None)
        # To be differentiated again: the same gradients as sums of the same form.
        grad_x = grad_y = grad_v = None
        if ctx.needs_input_grad[0]:
            grad_x = _slope(x, y, cotangent, values, kernel, orders, counts, dense)
        if ctx.needs_input_grad[1]:
            grad_y = _slope(y, x, values, cotangent, kernel, orders, counts, dense)
        if ctx.needs_input_grad[2]:
            near = None if dense else kernel._near(y, x)
            grad_v = _MixedSum.apply(y, x, cotangent, kernel, orders, counts, near)
        return grad_x, grad_y, grad_v, None, None, None, None


def _slope(
    here: Tensor,
    there: Tensor,
    own: Tensor,
    values: Tensor,
    kernel: MixedKernel,
    orders: tuple[int, ...],
    counts: tuple[int, ...],
    dense: bool,
) -> Tensor:
    """``2 sum_t K⁽ᵒ⁺¹⁾ (h - t) <own_h, v_t>`` for each h, from the sums of v and of ``v tᵀ``."""
    count = values.shape[1]
    channels: list[Tensor] = []
    for part in values.split(counts, dim=1):
        channels += [part, (part[:, :, None] * there[:, None, :]).flatten(1)]
    above = tuple(order + 1 for order in orders for _ in range(2))
    sizes = tuple(size for number in counts for size in (number, 3 * number))
    near = None if dense else kernel._near(here, there)
    sums = _MixedSum.apply(here, there, torch.cat(channels, dim=1), kernel, above, sizes, near)
    pieces = sums.split(sizes, dim=1)
    plain = torch.cat(pieces[0::2], dim=1)
    moved = torch.cat(pieces[1::2], dim=1).unflatten(1, (count, 3))
    return 2.0 * (here * (own * plain).sum(dim=1, keepdim=True) - (own[:, :, None] * moved).sum(dim=1))


def _gradients(
    x: Tensor,
    y: Tensor,
    values: Tensor,
    cotangent: Tensor,
    kernel: MixedKernel,
    orders: tuple[int, ...],
    counts: tuple[int, ...],
    near: Near | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a mixed sum with respect to x, y and the values, in one pass over the pairs."""
    here, pull = (x, cotangent) if near is None else (x[near.order], cotangent[near.order])
    one_x, one_y = (torch.cat([tensor, torch.ones_like(tensor[:, :1])], dim=1) for tensor in (here, y))
    grad_here, grad_v, moments = torch.zeros_like(here), torch.zeros_like(values), torch.zeros_like(one_y)
    needed = tuple(sorted({*orders, *(order + 1 for order in orders)}))
    for rows, columns, weights in weight_blocks(kernel.recipe(), here, y, needed, near):
        some_v = values if columns is None else values.index_select(0, columns)
        some_y = one_y if columns is None else one_y.index_select(0, columns)
        slopes: Tensor | None = None
        for channels, order in zip(_columns(counts), orders, strict=True):
            pulled = pull[rows, channels]
            _add_rows(grad_v[:, channels], columns, (pulled.T @ weights[order]).T)
            term = (pulled @ some_v[:, channels].T).mul_(weights[order + 1])
            slopes = term if slopes is None else slopes.add_(term)
        assert slopes is not None
        sums = (some_y.T @ slopes.T).T
        grad_here[rows] = 2.0 * (here[rows] * sums[:, 3:] - sums[:, :3])
        _add_rows(moments, columns, (one_x[rows].T @ slopes).T)
    grad_x = grad_here if near is None else torch.zeros_like(x).index_copy_(0, near.order, grad_here)
    return grad_x, 2.0 * (y * moments[:, 3:] - moments[:, :3]), grad_v


def _add_rows(target: Tensor, rows: Tensor | None, values: Tensor) -> None:
    """Add to some rows, or to all."""
    if rows is None:
        target += values
    else:
        target.index_add_(0, rows, values)


def _columns(counts: tuple[int, ...]) -> list[slice]:
    """Where each group of columns lies."""
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _positive_numbers(given: float | Sequence[float], what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(
            float(number)
            for number in (given if isinstance(given, Sequence) and not isinstance(given, str) else [given])
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"the {what} of a kernel must be a number, got {given!r}") from error
    if not numbers or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise InputError(f"the {what} of a kernel must be positive, got {given}")
    return numbers
