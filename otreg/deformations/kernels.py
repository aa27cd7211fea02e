"""Sums of radial kernels over control points, streamed: memory grows with the points and the control points
alone.

Every kernel is a profile of ``u = (r / width)²``. Written so, its derivatives with respect to the points need
no division by r, which is zero wherever a point is a control point:

    f(x)      = k(u),                grad f = k'(u) · 2 (x - z) / width²

Gaussian: ``k = exp(-u/2)``, positive everywhere, summed densely in blocks of points. Wendland: ``k = (1-s)⁶₊
(35 s² + 18 s + 3) / 3`` with ``s = √u``, C⁴ and positive definite in 3-D (Wendland 1995, Adv. Comput. Math.
4, function φ₃,₂ scaled to 1 at 0), zero beyond ``width``: summed over the pairs within reach only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from otreg.deformations.cells import CellGrid, Near
from otreg.errors import InputError

KERNELS = ("gaussian", "wendland")

BLOCK = 1 << 16
"""Pairs in one block (half a MB of float64): it stays in a core's cache, and no N×C array is ever made."""

_GRAPH_BLOCK = 1 << 20  # with gradients a block is a node of the graph: fewer, larger ones
_FULL_CELL = 1000  # pairs per cell from which a dense block for each cell is quicker than gathered pairs


class _Wendland(torch.autograd.Function):
    """The Wendland profile or one of its derivatives with respect to ``u = s²``, differentiable again.

    Autograd through the square root would give NaN, or lose the second derivative, at s = 0.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, order: int) -> Tensor:
        ctx.save_for_backward(u)
        ctx.order = order
        s = u.clamp(0.0, 1.0).sqrt_()
        rest = 1.0 - s
        power = rest * rest  # products: powers by torch.pow cost ten times as much
        if order == 0:
            polynomial = (s * 35.0).add_(18.0).mul_(s).add_(3.0).mul_(1.0 / 3.0)
            return polynomial.mul_(power).mul_(power).mul_(power)
        if order == 1:
            return s.mul_(5.0).add_(1.0).mul_(-28.0 / 3.0).mul_(rest).mul_(power).mul_(power)
        if order == 2:
            return power.mul_(power).mul_(140.0)
        # The fourth derivative of the kernel is where its smoothness ends: finite but for s = 0 itself.
        return power.mul_(rest).mul_(-280.0) / s.clamp_min(1e-150)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        return gradients[0] * _Wendland.apply(u, ctx.order + 1), None


def profile(kernel: str, u: Tensor, order: int = 0) -> Tensor:
    """Value (order 0) or derivative (order 1) of a kernel's profile at ``u = (r / width)²``, elementwise."""
    if kernel == "gaussian":
        return torch.exp(-0.5 * u) * (-0.5) ** order
    if kernel == "wendland":
        return _Wendland.apply(u, order)
    raise InputError(f"unknown kernel {kernel!r}: use one of {', '.join(KERNELS)}")


def kernel_sums(
    kernel: str, points: Tensor, centres: Tensor, values: Tensor, width: float, orders: tuple[int, ...] = (0,)
) -> list[Tensor]:
    """Return ``sum_j k⁽ᵒ⁾(|x_i - z_j|² / width²) v_j`` for each order o of derivative.

    Parameters
    ----------
    kernel : {"gaussian", "wendland"}
    points : Tensor, shape (N, 3)
        x. Where not finite, a sum may be NaN or zero.
    centres : Tensor, shape (C, 3)
        z, of the same dtype and device.
    values : Tensor, shape (C, D)
        v.
    width : float
        Sigma of the Gaussian, radius of support of the Wendland kernel.
    orders : tuple of int
        0 for the kernel, 1 for its derivative with respect to u.

    Returns
    -------
    list of Tensor, shape (N, D)
        One per order. Differentiable, also twice; the backward pass computes each block again instead of
        storing it.
    """
    # Near the origin and in widths, u comes from products without losing digits.
    middle = centres.detach().mean(dim=0)
    points, centres = (points - middle) / width, (centres - middle) / width
    if kernel == "gaussian":
        # One sum gives all orders.
        total = _dense(_gaussian_block, points, centres, values)
        return [total * (-0.5) ** order for order in orders]
    near = CellGrid(centres.detach(), 1.0).near(points.detach())
    if near.pair_count > _FULL_CELL * near.cell_count:
        total = _cell_by_cell(near, points, centres, values, orders)
    else:
        total = _pair_by_pair(near, points, centres, values, orders)
    return list(total.split(values.shape[1], dim=1))


def _remembers(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _again(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Call a function that the backward pass calls again, instead of storing what it computes inside."""
    result: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result


def _dense(block: Callable[..., Tensor], points: Tensor, centres: Tensor, values: Tensor) -> Tensor:
    """Sums over all pairs, one block of points after the other."""
    graph = _remembers(points, centres, values)
    rows = max(1, (_GRAPH_BLOCK if graph else BLOCK) // max(1, centres.shape[0]))
    parts = [
        _again(block, part, centres, values) if graph else block(part, centres, values)
        for part in points.split(rows)
    ]
    return torch.cat(parts)


def _apply(weights: Tensor, values: Tensor) -> Tensor:
    """Product (N, C) by (C, D) for small D: this way round it is two to four times quicker."""
    return (values.T @ weights.T).T


def _gaussian_block(x: Tensor, z: Tensor, v: Tensor) -> Tensor:
    half_x, half_z = -0.5 * (x * x).sum(dim=1, keepdim=True), -0.5 * (z * z).sum(dim=1, keepdim=True)
    left = torch.cat([x, half_x, torch.ones_like(half_x)], dim=1)
    right = torch.cat([z, torch.ones_like(half_z), half_z], dim=1)
    return _apply((left @ right.T).exp_(), v)


def _wendland_block(x: Tensor, z: Tensor, v: Tensor, orders: tuple[int, ...]) -> Tensor:
    middle = z.detach().mean(dim=0)  # the block is small: u is exact to the last digits or so
    x, z = x - middle, z - middle
    square_x, square_z = (x * x).sum(dim=1, keepdim=True), (z * z).sum(dim=1, keepdim=True)
    left = torch.cat([x, square_x, torch.ones_like(square_x)], dim=1)
    right = torch.cat([-2.0 * z, torch.ones_like(square_z), square_z], dim=1)
    u = left @ right.T
    return torch.cat([_apply(profile("wendland", u, order), v) for order in orders], dim=1)


def _cell_by_cell(
    near: Near, points: Tensor, centres: Tensor, values: Tensor, orders: tuple[int, ...]
) -> Tensor:
    """Sums over the pairs of each cell as dense blocks: for cells that hold many points or centres."""

    def block(x: Tensor, z: Tensor, v: Tensor) -> Tensor:
        return _wendland_block(x, z, v, orders)

    ordered = points[near.order]
    parts = [points.new_zeros((0, len(orders) * values.shape[1]))]
    for rows, members in near.cells():
        parts.append(_dense(block, ordered[rows], centres[members], values[members]))
    return _restored(near, points, torch.cat(parts))


def _pair_by_pair(
    near: Near, points: Tensor, centres: Tensor, values: Tensor, orders: tuple[int, ...]
) -> Tensor:
    """Sums over gathered pairs: for many cells that hold little each."""
    graph = _remembers(points, centres, values)
    ordered = points[near.order]
    parts = [points.new_zeros((0, len(orders) * values.shape[1]))]
    for rows in near.blocks(_GRAPH_BLOCK // 4 if graph else BLOCK):

        def total(x: Tensor, z: Tensor, v: Tensor, rows: slice = rows) -> Tensor:
            first, second = near.pairs(rows)
            with torch.no_grad():
                kept = torch.nonzero(_squares(x, z, first, second) < 1.0).squeeze(1)
            first, second = first[kept], second[kept]
            u, v = _squares(x, z, first, second), v[second]
            terms = torch.cat([profile("wendland", u, order)[:, None] * v for order in orders], dim=1)
            return terms.new_zeros((x.shape[0], terms.shape[1])).index_add(0, first, terms)

        part = ordered[rows]
        parts.append(_again(total, part, centres, values) if graph else total(part, centres, values))
    return _restored(near, points, torch.cat(parts))


def _squares(x: Tensor, z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Squared distances of pairs, (P,); axis by axis, which is three times quicker than rows of three."""
    (x0, x1, x2), (z0, z1, z2) = x.unbind(dim=1), z.unbind(dim=1)
    first = (x0.take(rows) - z0.take(columns)).square()
    second = (x1.take(rows) - z1.take(columns)).square()
    return first + second + (x2.take(rows) - z2.take(columns)).square()


def _restored(near: Near, points: Tensor, sums: Tensor) -> Tensor:
    """Sums in the order of the points, zero for those without a pair."""
    return points.new_zeros((points.shape[0], sums.shape[1])).index_copy(0, near.order, sums)
