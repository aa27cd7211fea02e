"""Arc-cosine kernels: streamed sums with their derivatives in points, values and variances; single covariances.

For ``u = (√b, √w x)`` and ``v = (√b, √w y)`` at the angle θ, with the bias variance b and the weight variance w,

    k_n(x, y) = |u|ⁿ |v|ⁿ j_n(cos θ),                       j_0 = (π-θ) / π,
    j_1 = (sin θ + (π-θ) cos θ) / π,                        j_2 = (3 sin θ cos θ + (π-θ) (1 + 2 cos² θ)) / π

(Cho & Saul, "Kernel methods for deep learning", NIPS 2009, equations 3 to 6). The norms belong to points, so the
pairs need only j_n, a function of one number c = cos θ, and these are a family: ``j_2' = 4 j_1``, ``j_1' = j_0``,
``j_0' = 1/(π sin θ)``, and so on. Every derivative is a sum of the same form, one order down.

The angle comes from ``|û - v̂|`` and ``|û + v̂|`` (Kahan's formula): the arc cosine of a scalar product loses half
of the digits near 0 and π, where points that are close to each other lie.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from otreg.errors import InputError
from otreg.reductions import blocks, keops

ORDERS = (0, 1, 2)
_LOWEST = -3  # order 0, differentiated three times


def arc_cosine_sum(
    x: Tensor,
    y: Tensor,
    v: Tensor,
    order: int,
    weight_variance: float | Tensor,
    bias_variance: float | Tensor,
    engine: str,
) -> Tensor:
    """``Σ_j k_n(x_i, y_j) v_j``, differentiable in x, y, v and the variances.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
        At least one point each, of one floating dtype.
    v : Tensor, shape (M, V)
    order : {0, 1, 2}
    weight_variance, bias_variance : float or Tensor of shape ()
        w > 0, in 1 / squared length units, and b >= 0.
    engine : {"fused", "keops", "blocks"}
        As :func:`otreg.reductions.engines.choose` names it; there is nothing to fuse, so "fused" is "blocks".

    Returns
    -------
    Tensor, shape (N, V)
        Differentiable three times (order 0) to five times (order 2). Where points coincide or are opposite,
        the infinite terms of derivatives, each the limit of one with vanishing factors, are left out.
    """
    square_x = bias_variance + weight_variance * x.square().sum(dim=1)
    square_y = bias_variance + weight_variance * y.square().sum(dim=1)
    inverse_x, inverse_y = _safe_rsqrt(square_x)[:, None], _safe_rsqrt(square_y)[:, None]
    one_x, one_y = torch.ones_like(x[:, :1]), torch.ones_like(y[:, :1])
    # cos θ = <p, q>, without the roots of the variances, whose slope is infinite at b = 0
    p = torch.cat([one_x, x], dim=1) * inverse_x
    q = torch.cat([bias_variance * one_y, weight_variance * y], dim=1) * inverse_y
    with torch.no_grad():
        roots = [math.sqrt(float(variance)) for variance in (bias_variance, weight_variance)]
        unit_x = torch.cat([roots[0] * one_x, roots[1] * x], dim=1) * inverse_x
        unit_y = torch.cat([roots[0] * one_y, roots[1] * y], dim=1) * inverse_y
    values = v if order == 0 else v * _power(square_y, order)[:, None]
    total = _AngularSum.apply(p, q, unit_x, unit_y, values, order, engine)
    return total if order == 0 else total * _power(square_x, order)[:, None]


def _safe_rsqrt(squares: Tensor) -> Tensor:
    """``1/√s``, and 0 with slope 0 at s = 0: the origin has no direction."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, torch.ones_like(squares)).rsqrt(), 0.0)


def _power(squares: Tensor, order: int) -> Tensor:
    return squares if order == 2 else squares * _safe_rsqrt(squares)


def relu_covariance(covariance: Tensor, variance_x: Tensor, variance_y: Tensor) -> Tensor:
    """``E[relu(a) relu(b)]`` for centred Gaussian a, b: what a layer of ReLUs makes of a covariance.

    ``√(v w) (sin θ + (π - θ) cos θ) / (2π)`` with ``cos θ = c / √(v w)``, half of the arc-cosine kernel of order 1
    (Cho & Saul 2009, equation 6), entry by entry: for the covariances of layers that :class:`ArcCosine`, which
    starts at points, does not know.

    Parameters
    ----------
    covariance : Tensor, any shape, floating
        c, the mean of a b. Where rounding brought it beyond ``√(v w)``, that is taken for it.
    variance_x, variance_y : Tensor, shapes that broadcast with it
        v >= 0 and w >= 0, the means of a² and b².

    Returns
    -------
    Tensor
        Derivatives in c are ``(π - θ)/2π`` and in v ``√(w/v) sin θ / 4π``: finite also for equal and opposite a, b,
        and taken as 0 where a variance is 0. The next ones are infinite at θ = 0; there, as in
        :class:`ArcCosine`, the infinite terms are left out.
    """
    inverse = _safe_rsqrt(variance_x) * _safe_rsqrt(variance_y)
    size = _power(variance_x, 1) * _power(variance_y, 1)
    return size * _Angular.apply(covariance * inverse, 1) * 0.5


class _Angular(Function):
    """j_n of a cosine that is known to rounding only."""

    @staticmethod
    def forward(ctx: Any, cosine: Tensor, order: int) -> Tensor:
        if order < _LOWEST:
            raise InputError("relu_covariance can be differentiated four times only")
        ctx.save_for_backward(cosine)
        ctx.order = order
        bounded = cosine.clamp(-1.0, 1.0).mul_(2.0)
        return _profile(2.0 - bounded, bounded.add_(2.0), order, 64.0 * torch.finfo(cosine.dtype).eps)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        (cosine,) = ctx.saved_tensors
        slope = _Angular.apply(cosine, ctx.order - 1)
        return cotangent * (4.0 * slope if ctx.order == 2 else slope), None


class _AngularSum(Function):
    """``Σ_j j_n(<p_i, q_j>) v_j``, the angle being measured between the unit vectors that stand beside p, q."""

    @staticmethod
    def forward(
        ctx: Any, p: Tensor, q: Tensor, unit_x: Tensor, unit_y: Tensor, v: Tensor, order: int, engine: str
    ) -> Tensor:
        if order < _LOWEST:
            raise InputError("an arc-cosine kernel of order n can be differentiated n + 3 times only")
        ctx.save_for_backward(p, q, unit_x, unit_y, v)
        ctx.settings = (order, engine)
        if engine == "keops":
            return keops.pair_sum(unit_x, unit_y, v, *_formula(order, v.dtype))
        total = v.new_zeros(len(unit_x), v.shape[1])
        opposite = -unit_y
        pairs = blocks.pairs_at_once(unit_x, blocks.PAIRS_OF_PROFILES)
        for part in blocks.chunks(len(unit_x), len(unit_y), pairs):
            near = blocks.squared_distances(unit_x[part], unit_y)
            far = blocks.squared_distances(unit_x[part], opposite)
            total[part] = _profile(near, far, order) @ v
        return total

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        p, q, unit_x, unit_y, v = ctx.saved_tensors
        order, engine = ctx.settings
        grad_p = grad_q = grad_v = None
        if ctx.needs_input_grad[0]:
            grad_p = _slope(p, q, unit_x, unit_y, cotangent, v, order, engine)
        if ctx.needs_input_grad[1]:
            grad_q = _slope(q, p, unit_y, unit_x, v, cotangent, order, engine)
        if ctx.needs_input_grad[4]:
            grad_v = _AngularSum.apply(q, p, unit_y, unit_x, cotangent, order, engine)
        return grad_p, grad_q, None, None, grad_v, None, None


def _slope(
    p: Tensor, q: Tensor, unit_x: Tensor, unit_y: Tensor, own: Tensor, v: Tensor, order: int, engine: str
) -> Tensor:
    """``Σ_j j_n'(<p_i, q_j>) q_j <own_i, v_j>`` for each p_i."""
    channels = (v[:, :, None] * q[:, None, :]).flatten(1)
    sums = _AngularSum.apply(p, q, unit_x, unit_y, channels, order - 1, engine)
    slope = (own[:, :, None] * sums.unflatten(1, (v.shape[1], q.shape[1]))).sum(dim=1)
    return 4.0 * slope if order == 2 else slope


def _profile(near: Tensor, far: Tensor, order: int, coincident: float | None = None) -> Tensor:
    """j_n from ``near = |û - v̂|²`` and ``far = |û + v̂|²``, whose sum is 4, or 2 where one of them is the origin.

    ``coincident`` is the smallest product of the two that is more than rounding.
    """
    numbers = torch.finfo(near.dtype)
    if order == 0:
        return _angle(near, far).div_(math.pi)
    size = (near + far).clamp_min_(numbers.tiny)
    cosine = (far - near).div_(size)
    if order > 0:
        sine = (near * far).sqrt_().div_(size).mul_(2.0)
        angle = _angle(near, far)
        if order == 1:
            return angle.mul_(cosine).add_(sine).div_(math.pi)
        total = sine.mul_(cosine).mul_(3.0).add_(angle)
        return total.add_(angle.mul_(cosine.square_()), alpha=2.0).div_(math.pi)
    product = near * far
    # unit vectors are known to rounding only: closer than that, points coincide
    limit = _coincident(numbers.eps) if coincident is None else coincident
    inverse = (size / (2.0 * product.sqrt())).masked_fill_(product < limit, 0.0)
    if order == -1:
        return inverse.div_(math.pi)
    square = inverse.square()
    if order == -2:
        return inverse.mul_(square).mul_(cosine).div_(math.pi)
    return inverse.mul_(square).mul_(square).mul_(cosine.square_().mul_(2.0).add_(1.0)).div_(math.pi)


def _angle(near: Tensor, far: Tensor) -> Tensor:
    """π - θ. The tiny numbers make it π/2 where both are 0: the origin, at a right angle to everything."""
    tiny = torch.finfo(near.dtype).tiny
    return torch.atan2(far.sqrt().add_(tiny), near.sqrt().add_(tiny)).mul_(2.0)


def _coincident(eps: float) -> float:
    """Of unit vectors, smallest ``near · far`` = 4 sin² θ that is more than rounding."""
    return (8.0 * eps) ** 2


def _formula(order: int, dtype: torch.dtype) -> tuple[str, tuple[float, ...]]:
    """KeOps code of j_n and its constants: one formula for the orders 0 to 2, and one for those below."""
    numbers = torch.finfo(dtype)
    near, far = "SqDist(p,q)", "SqNorm2(p+q)"
    size = f"({near}+{far}+Elem(w,0))"
    cosine = f"(({far}-{near})/{size})"
    if order >= 0:
        # of sin cos, sin, and (π - θ) times 1, cos, cos²
        constants = {0: (0, 0, 1, 0, 0), 1: (0, 1, 0, 1, 0), 2: (3, 0, 1, 0, 2)}[order]
        sine = f"(IntCst(2)*Sqrt({near}*{far})/{size})"
        angle = f"(IntCst(2)*Atan2(Sqrt({far})+Elem(w,0),Sqrt({near})+Elem(w,0)))"
        code = (
            f"{sine}*(Elem(w,1)*{cosine}+Elem(w,2))"
            f"+{angle}*(Elem(w,3)+{cosine}*(Elem(w,4)+{cosine}*Elem(w,5)))"
        )
        return code, (numbers.tiny, *(constant / math.pi for constant in constants))
    # of 1/sin, cos/sin³, 1/sin⁵, cos²/sin⁵
    singular = {-1: (1, 0, 0, 0), -2: (0, 1, 0, 0), -3: (0, 0, 1, 2)}[order]
    product = f"({near}*{far})"
    inverse = f"({size}*IntInv(2)*Rsqrt({product}*Step({product}-Elem(w,5))))"  # KeOps: Rsqrt(0) = 0
    square = f"Square({inverse})"
    code = (
        f"{inverse}*(Elem(w,1)+{square}*(Elem(w,2)*{cosine}+{square}*(Elem(w,3)+Elem(w,4)*Square({cosine}))))"
    )
    limit = _coincident(numbers.eps)
    return code, (numbers.tiny, *(constant / math.pi for constant in singular), limit)
