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
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions.radial import KERNELS, kernel_sums, wendland_profile

PAIRS_PER_THREAD = 1 << 15
"""Pairs that one thread has in hand (256 kB of float64 an array): what stays in its second-level cache."""

PAIRS_ELSEWHERE = 1 << 22
"""Pairs at once on devices that are not a CPU."""

_MOST_SQUARINGS = 6  # seven multiplications cost as much as an exponential, and each doubles the rounding

_FEW = 64
"""Centres up to which a search for the near ones is not worth its while."""

Part = tuple[int, Tensor]
"""Order of derivative and values (M, V) of one of several sums over the same pairs."""

Ingredient = tuple[float, float, int | None]
"""Amplitude of one width, the factor c of the squared distance in its profile (``2 ** (c r²)`` for a Gaussian), and
how often to square the Gaussian before to get this one; None where that would not do."""


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
        if self._is_dense(centres):
            middle = centres.detach().mean(dim=0)  # products of coordinates lose digits far from the origin
            orders = tuple(order for order, _ in parts)
            counts = tuple(values.shape[1] for _, values in parts)
            joined = torch.cat([values for _, values in parts], dim=1)
            total = _MixedSum.apply(points - middle, centres - middle, joined, self, orders, counts)
            return list(total.split(counts, dim=1))
        return self._wendland_sums(points, centres, parts)

    def _is_dense(self, centres: Tensor) -> bool:
        """Whether all pairs are summed: most of them matter, or they are so few that a search costs more."""
        if self.kernel == "gaussian" or len(centres) <= _FEW:
            return True
        box = centres.detach()
        extent = float((box.amax(dim=0) - box.amin(dim=0)).max())
        return bool(2.0 * min(self.widths) >= extent)

    def _wendland_sums(self, points: Tensor, centres: Tensor, parts: Sequence[Part]) -> list[Tensor]:
        """The sums over near pairs, width by width."""
        orders = tuple(sorted({order for order, _ in parts}))
        widest = max((values for _, values in parts), key=lambda values: values.shape[1])
        shared = all(_begins_with(widest, values) for _, values in parts)
        totals: list[Tensor] = []
        for width, amplitude in zip(self.widths, self.amplitudes, strict=True):
            factors = [amplitude / width ** (2 * order) for order, _ in parts]
            if shared and not torch.is_grad_enabled():
                found = dict(
                    zip(orders, kernel_sums("wendland", points, centres, widest, width, orders), strict=True)
                )
                sums = [found[order][:, : values.shape[1]] for order, values in parts]
            else:
                sums = [
                    kernel_sums("wendland", points, centres, values, width, (order,))[0]
                    for order, values in parts
                ]
            sums = [factor * part for factor, part in zip(factors, sums, strict=True)]
            totals = sums if not totals else [a + b for a, b in zip(totals, sums, strict=True)]
        return totals

    def _recipe(self) -> list[Ingredient]:
        """The kernels from wide to narrow."""
        recipe: list[Ingredient] = []
        before = 0.0
        for width, amplitude in sorted(zip(self.widths, self.amplitudes, strict=True), reverse=True):
            exponent, squarings = 1.0 / width**2, None
            if self.kernel == "gaussian":
                exponent *= -0.5 / math.log(2.0)
                doublings = 2.0 * math.log2(before / width) if before else math.inf
                if doublings < _MOST_SQUARINGS + 0.5 and abs(doublings - round(doublings)) < 1e-13:
                    squarings = round(doublings)
            recipe.append((amplitude, exponent, squarings))
            before = width
        return recipe


def _begins_with(whole: Tensor, part: Tensor) -> bool:
    """Whether ``part`` is a view of the first columns of ``whole``."""
    return (
        part.data_ptr() == whole.data_ptr()
        and part.stride() == whole.stride()
        and part.shape[0] == whole.shape[0]
    )


class _MixedSum(torch.autograd.Function):
    """Sums over all points y for each x, columns of the values in groups of one order each."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        values: Tensor,
        kernel: MixedKernel,
        orders: tuple[int, ...],
        counts: tuple[int, ...],
    ) -> Tensor:
        ctx.save_for_backward(x, y, values)
        ctx.kernel, ctx.orders, ctx.counts = kernel, orders, counts
        total = x.new_zeros((len(x), values.shape[1]))
        # Few channels times many pairs: this way round the product is two to four times quicker.
        across = [part.T.contiguous() for part in values.split(counts, dim=1)]
        for rows, weights in _blocks(kernel, x, y, orders):
            for column, order, part in zip(_columns(counts), orders, across, strict=True):
                total[rows, column] = (part @ weights[order].T).T
        return total

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, y, values = ctx.saved_tensors
        kernel, orders, counts = ctx.kernel, ctx.orders, ctx.counts
        if not torch.is_grad_enabled():
            gradients = _gradients(kernel, x, y, values, cotangents[0], orders, counts)
            return (*gradients, None, None, None)
        # To be differentiated again: the same gradients as sums of the same form.
        settings = (kernel, orders, counts)
        grad_x = _slope(x, y, cotangents[0], values, *settings) if ctx.needs_input_grad[0] else None
        grad_y = _slope(y, x, values, cotangents[0], *settings) if ctx.needs_input_grad[1] else None
        grad_v = _MixedSum.apply(y, x, cotangents[0], *settings) if ctx.needs_input_grad[2] else None
        return grad_x, grad_y, grad_v, None, None, None


def _slope(
    here: Tensor,
    there: Tensor,
    own: Tensor,
    values: Tensor,
    kernel: MixedKernel,
    orders: tuple[int, ...],
    counts: tuple[int, ...],
) -> Tensor:
    """``2 sum_t K⁽ᵒ⁺¹⁾ (h - t) <own_h, v_t>`` for each h, from the sums of v and of ``v tᵀ``."""
    count = values.shape[1]
    channels: list[Tensor] = []
    for part in values.split(counts, dim=1):
        channels += [part, (part[:, :, None] * there[:, None, :]).flatten(1)]
    above = tuple(order + 1 for order in orders for _ in range(2))
    sizes = tuple(size for number in counts for size in (number, 3 * number))
    sums = _MixedSum.apply(here, there, torch.cat(channels, dim=1), kernel, above, sizes)
    pieces = sums.split(sizes, dim=1)
    plain = torch.cat(pieces[0::2], dim=1)
    moved = torch.cat(pieces[1::2], dim=1).unflatten(1, (count, 3))
    return 2.0 * (here * (own * plain).sum(dim=1, keepdim=True) - (own[:, :, None] * moved).sum(dim=1))


def _gradients(
    kernel: MixedKernel,
    x: Tensor,
    y: Tensor,
    values: Tensor,
    cotangent: Tensor,
    orders: tuple[int, ...],
    counts: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a mixed sum with respect to x, y and the values, in one pass over the pairs."""
    one_x, one_y = torch.cat([x, torch.ones_like(x[:, :1])], 1), torch.cat([y, torch.ones_like(y[:, :1])], 1)
    grad_x, grad_v = torch.empty_like(x), torch.zeros_like(values)
    moments = y.new_zeros((4, len(y)))
    needed = tuple(sorted({*orders, *(order + 1 for order in orders)}))
    across_y = one_y.T.contiguous()
    for rows, weights in _blocks(kernel, x, y, needed):
        slopes: Tensor | None = None
        for column, order in zip(_columns(counts), orders, strict=True):
            pulled = cotangent[rows, column]
            grad_v[:, column] += (pulled.T @ weights[order]).T
            term = (pulled @ values[:, column].T).mul_(weights[order + 1])
            slopes = term if slopes is None else slopes.add_(term)
        assert slopes is not None
        sums = (across_y @ slopes.T).T
        grad_x[rows] = 2.0 * (x[rows] * sums[:, 3:] - sums[:, :3])
        moments += one_x[rows].T @ slopes
    return grad_x, 2.0 * (y * moments[3][:, None] - moments[:3].T), grad_v


def _columns(counts: tuple[int, ...]) -> list[slice]:
    """Where each group of columns lies."""
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _blocks(
    kernel: MixedKernel, x: Tensor, y: Tensor, orders: tuple[int, ...]
) -> Iterator[tuple[slice, dict[int, Tensor]]]:
    """Runs of x with the weights ``K⁽ᵒ⁾(|x_i - y_j|²)`` of each order; the arrays are used again and again."""
    at_once = PAIRS_PER_THREAD * torch.get_num_threads() if x.device.type == "cpu" else PAIRS_ELSEWHERE
    size = max(1, min(at_once // len(y), len(x)))
    squares_x, squares_y = (x * x).sum(dim=1, keepdim=True), (y * y).sum(dim=1, keepdim=True)
    left = torch.cat([x, squares_x, torch.ones_like(squares_x)], dim=1)
    right = torch.cat([-2.0 * y, torch.ones_like(squares_y), squares_y], dim=1).T.contiguous()
    fill = _fill_gaussian if kernel.kernel == "gaussian" else _fill_wendland
    recipe = kernel._recipe()
    right *= recipe[0][1]  # the exponent of the widest kernel
    different = sorted(set(orders))
    arrays = [x.new_empty((size, len(y))) for _ in range(2 + len(different))]
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        scaled, spare, *weights = (array[: rows.stop - start] for array in arrays)
        torch.mm(left[rows], right, out=scaled)
        by_order = dict(zip(different, weights, strict=True))
        fill(recipe, scaled, spare, by_order)
        yield rows, by_order


def _fill_gaussian(
    recipe: list[Ingredient], scaled: Tensor, spare: Tensor, weights: dict[int, Tensor]
) -> None:
    """Weights of Gaussians, ``2 ** (c r²)``, given the squared distances times the first c."""
    for place, (amplitude, exponent, squarings) in enumerate(recipe):
        if place == 0:
            torch.exp2(scaled, out=spare)
        elif squarings is None:
            torch.mul(scaled, exponent / recipe[0][1], out=spare).exp2_()
        for _ in range(squarings or 0):
            spare.mul_(spare)
        for order, target in weights.items():
            factor = amplitude * (exponent * math.log(2.0)) ** order
            if place == 0:
                torch.mul(spare, factor, out=target)
            else:
                target.add_(spare, alpha=factor)


def _fill_wendland(
    recipe: list[Ingredient], scaled: Tensor, spare: Tensor, weights: dict[int, Tensor]
) -> None:
    """Weights of Wendland kernels of ``u = c r²``, given the squared distances times the first c."""
    for place, (amplitude, exponent, _) in enumerate(recipe):
        torch.mul(scaled, exponent / recipe[0][1], out=spare)
        for order, target in weights.items():
            factor = amplitude * exponent**order
            if place == 0:
                torch.mul(wendland_profile(spare, order), factor, out=target)
            else:
                target.add_(wendland_profile(spare, order), alpha=factor)


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
