"""Sums of radial kernels over control points, streamed: memory grows with the points and the control points alone.

Every kernel is a profile of ``u = (r / width)²``. Written so, its derivatives with respect to the points need
no division by r, which is zero wherever a point is a control point:

    f(x) = k(u),                grad f = k'(u) · 2 (x - z) / width²

Gaussian: ``k = exp(-u/2)``, positive everywhere: dense sums of :mod:`otreg.reductions`.
Wendland: ``k = (1-s)⁶₊ (35 s² + 18 s + 3) / 3`` with ``s = √u``, C⁴ and positive definite in 3-D (Wendland 1995,
Adv. Comput. Math. 4, function φ₃,₂ scaled to 1 at 0), zero beyond ``width``: sums over the pairs within reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions.cells import CellGrid, Near
from otreg.reductions.kernels import kernel_sum

KERNELS = ("gaussian", "wendland")

BLOCK = 1 << 18
"""Most pairs in one block (2 MB of float64): it stays in a core's cache, and no N×C array is ever made."""

_FULL_CELL = 1000  # pairs per cell from which a dense block for each cell is quicker than gathered pairs

_REACH = {"gaussian": 39.0, "wendland": 1.0}  # widths beyond which a kernel is zero in float64


def wendland_profile(u: Tensor, order: int = 0) -> Tensor:
    """Wendland profile (order 0) or one of its first three derivatives at ``u = (r / width)²``, elementwise."""
    s = u.clamp(0.0, 1.0).sqrt_()
    rest = 1.0 - s
    power = rest * rest  # products: torch.pow costs ten times as much
    if order == 0:
        polynomial = (s * 35.0).add_(18.0).mul_(s).add_(3.0).mul_(1.0 / 3.0)
        return polynomial.mul_(power).mul_(power).mul_(power)
    if order == 1:
        return s.mul_(5.0).add_(1.0).mul_(-28.0 / 3.0).mul_(rest).mul_(power).mul_(power)
    if order == 2:
        return power.mul_(power).mul_(140.0)
    if order == 3:
        # Unbounded at 0, but it only ever meets products of x - z, with which it vanishes there.
        return power.mul_(rest).mul_(-280.0).div_(s).masked_fill_(s == 0.0, 0.0)
    raise InputError("a Wendland kernel can be differentiated three times only")


def kernel_sums(
    kernel: str,
    points: Tensor,
    centres: Tensor,
    values: Tensor,
    width: float | Tensor,
    orders: tuple[int, ...] = (0,),
) -> list[Tensor]:
    """Return ``sum_j k⁽ᵒ⁾(|x_i - z_j|² / width²) v_j`` for each order o of derivative.

    Parameters
    ----------
    kernel : {"gaussian", "wendland"}
    points : Tensor, shape (N, 3)
        x. The sum is zero where a point is not finite.
    centres : Tensor, shape (C, 3)
        z, at least one, finite, of the same dtype and device.
    values : Tensor, shape (C, D)
        v.
    width : float or Tensor of shape ()
        Sigma of the Gaussian, radius of support of the Wendland kernel. Gradients reach a tensor.
    orders : tuple of int
        0 for the kernel, 1 for its derivative with respect to u.

    Returns
    -------
    list of Tensor, shape (N, D)
        One per order. Differentiable in points, centres and values, the Gaussian any number of times, the
        Wendland kernel to its third derivative; the derivatives are streamed sums too, and nothing is stored.
    """
    # Near the origin and in widths, u comes from products without losing digits.
    middle = centres.detach().mean(dim=0)
    points, centres = (points - middle) / width, (centres - middle) / width
    corner = centres.detach().abs().amax(dim=0) + _REACH[kernel]
    reached = (points.detach().abs() <= corner).all(
        dim=1
    )  # neither NaN nor so far out that it would cost digits
    if bool(reached.all()):
        return _sums(kernel, points, centres, values, orders)
    rows = torch.nonzero(reached).squeeze(1)
    empty = points.new_zeros((points.shape[0], values.shape[1]))
    return [empty.index_copy(0, rows, part) for part in _sums(kernel, points[rows], centres, values, orders)]


def _sums(
    kernel: str, points: Tensor, centres: Tensor, values: Tensor, orders: tuple[int, ...]
) -> list[Tensor]:
    if kernel == "gaussian":
        total = kernel_sum(points, centres, values, "gaussian", 1.0)
        return [total * (-0.5) ** order for order in orders]  # every derivative is the kernel again
    if torch.is_grad_enabled() and any(part.requires_grad for part in (points, centres, values)):
        return [_WendlandSum.apply(points, centres, values, order, False) for order in orders]
    return list(_streamed(points, centres, values, orders, False).split(values.shape[1], dim=1))


class _WendlandSum(torch.autograd.Function):
    """``sum_t k⁽ᵒ⁾(|h - t|²) v_t`` for each point h here, over the points t there.

    Its derivatives are sums of the same form, one order up. ``flipped`` says that the control points are here and
    the points there, as in the derivative with respect to the values.
    """

    @staticmethod
    def forward(ctx: Any, here: Tensor, there: Tensor, values: Tensor, order: int, flipped: bool) -> Tensor:
        ctx.save_for_backward(here, there, values)
        ctx.order, ctx.flipped = order, flipped
        points, centres = (there, here) if flipped else (here, there)
        return _streamed(points, centres, values, (order,), flipped)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        here, there, values = ctx.saved_tensors
        order, flipped, cotangent = ctx.order, ctx.flipped, cotangents[0]
        gradients: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            gradients[0] = _slope(here, there, cotangent, values, order + 1, flipped)
        if ctx.needs_input_grad[1]:
            gradients[1] = _slope(there, here, values, cotangent, order + 1, not flipped)
        if ctx.needs_input_grad[2]:
            gradients[2] = _WendlandSum.apply(there, here, cotangent, order, not flipped)
        return (*gradients, None, None)


def _slope(here: Tensor, there: Tensor, own: Tensor, values: Tensor, order: int, flipped: bool) -> Tensor:
    """``2 sum_t k⁽ᵒ⁾ (h - t) <own_h, v_t>`` for each h, from the sums of v and of ``v tᵀ``."""
    count = values.shape[1]
    channels = torch.cat([values, (values[:, :, None] * there[:, None, :]).flatten(1)], dim=1)
    sums = _WendlandSum.apply(here, there, channels, order, flipped)
    plain, moved = sums[:, :count], sums[:, count:].unflatten(1, (count, 3))
    return 2.0 * (here * (own * plain).sum(dim=1, keepdim=True) - (own[:, :, None] * moved).sum(dim=1))


def _streamed(
    points: Tensor, centres: Tensor, values: Tensor, orders: tuple[int, ...], flipped: bool
) -> Tensor:
    """Wendland sums of all orders side by side, in units of the width: on points, or on centres if ``flipped``."""
    near = CellGrid(centres, 1.0).near(points)
    width = len(orders) * values.shape[1]
    total = points.new_zeros((centres.shape[0] if flipped else points.shape[0], width))
    if near.pair_count > _FULL_CELL * near.cell_count:
        for rows, columns in _cells(near):
            _add_block(total, points, centres, values, rows, columns, orders, flipped)
    else:
        for block in near.blocks(BLOCK):
            rows, columns = near.pairs(block)
            _add_pairs(total, points, centres, values, near.order[block][rows], columns, orders, flipped)
    return total


def _cells(near: Near) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks (points, centres) of all cells, none of more than BLOCK pairs unless a single row has more."""
    for run, members in near.cells():
        for rows in near.order[run].split(max(1, BLOCK // len(members))):
            yield rows, members


def _add_block(
    total: Tensor,
    points: Tensor,
    centres: Tensor,
    values: Tensor,
    rows: Tensor,
    columns: Tensor,
    orders: tuple[int, ...],
    flipped: bool,
) -> None:
    """Add the sums over all pairs of some points and some centres."""
    x, z = points[rows], centres[columns]
    middle = z.mean(dim=0)  # a cell is small: seen from its middle, u is exact to the last digits
    x, z = x - middle, z - middle
    square_x, square_z = (x * x).sum(dim=1, keepdim=True), (z * z).sum(dim=1, keepdim=True)
    left = torch.cat([x, square_x, torch.ones_like(square_x)], dim=1)
    right = torch.cat([-2.0 * z, torch.ones_like(square_z), square_z], dim=1)
    u = left @ right.T
    # Few channels times many pairs: this way round the product is two to four times quicker.
    across = values[rows if flipped else columns].T
    for place, order in enumerate(orders):
        weights = wendland_profile(u, order)
        part = (across @ (weights if flipped else weights.T)).T
        target = total[:, place * values.shape[1] : (place + 1) * values.shape[1]]
        target.index_add_(0, columns if flipped else rows, part)


def _add_pairs(
    total: Tensor,
    points: Tensor,
    centres: Tensor,
    values: Tensor,
    rows: Tensor,
    columns: Tensor,
    orders: tuple[int, ...],
    flipped: bool,
) -> None:
    """Add the sums over some pairs."""
    u = torch.zeros(len(rows), dtype=points.dtype, device=points.device)
    for x, z in zip(points.unbind(dim=1), centres.unbind(dim=1), strict=True):
        u += (x.take(rows) - z.take(columns)).square_()  # three times quicker than gathering rows of three
    kept = torch.nonzero(u < 1.0).squeeze(1)
    rows, columns, u = rows[kept], columns[kept], u[kept]
    ends, starts = (columns, rows) if flipped else (rows, columns)
    given = values[starts]
    terms = torch.cat([wendland_profile(u, order)[:, None] * given for order in orders], dim=1)
    total.index_add_(0, ends, terms)
