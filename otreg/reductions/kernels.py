"""Kernel sums ``Σ_j k(x_i, y_j) v_j``, streamed, and differentiable as often as the kernel is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from otreg.errors import InputError
from otreg.reductions import blocks, keops
from otreg.reductions.checks import as_parameter, as_points, as_values, same_dimension, same_kind
from otreg.reductions.engines import choose, get_engine
from otreg.reductions.gibbs import gibbs_sum


@dataclasses.dataclass(frozen=True)
class RadialKernel:
    """A kernel as a function of the squared distance s, with its derivatives in s.

    ``derivative(order, width)`` gives a function on tensors, which may overwrite its argument. ``formula`` is
    KeOps code in ``{s}`` and in the entries of ``w``; ``constants(order, width)`` are these entries. One
    formula serves every order and width, since each takes many seconds to compile.
    """

    derivative: Callable[[int, float], Callable[[Tensor], Tensor]]
    formula: str
    constants: Callable[[int, float], tuple[float, ...]]
    smoothness: int | None


def _inverse_power(halves: int) -> RadialKernel:
    """``(1 + s/width²)^(-halves/2)``: its derivatives have one power more each."""

    def factor(order: int, width: float) -> float:
        return math.prod(-(0.5 * halves + k) for k in range(order)) / width ** (2 * order)

    def derivative(order: int, width: float) -> Callable[[Tensor], Tensor]:
        def evaluate(s: Tensor) -> Tensor:
            base = s.div_(width**2).add_(1.0)
            inverse = base.reciprocal()
            # products: torch.pow costs many times as much
            power = base.rsqrt_() if halves % 2 else base.fill_(1.0)
            for _ in range(order + halves // 2):
                power.mul_(inverse)
            return power.mul_(factor(order, width))

        return evaluate

    def constants(order: int, width: float) -> tuple[float, ...]:
        return 1.0 / width**2, 0.5 * halves + order, factor(order, width)

    return RadialKernel(
        derivative, "Elem(w,2)*Exp(Minus(Elem(w,1)*Log(IntCst(1)+Elem(w,0)*{s})))", constants, None
    )


def _laplacian(order: int, width: float) -> Callable[[Tensor], Tensor]:
    def evaluate(s: Tensor) -> Tensor:
        r = s.sqrt_()
        value = (r * (-1.0 / width)).exp_()
        if order == 0:
            return value
        # At r = 0 the factor (x - y) of the chain rule is 0, and so is the limit of the product.
        inverse = r.reciprocal().masked_fill_(r == 0, 0.0)
        if order == 1:
            return value.mul_(inverse).mul_(-0.5 / width)
        return value.mul_(inverse).mul_(inverse).mul_(inverse.add_(1.0 / width)).mul_(0.25 / width)

    return evaluate


def _laplacian_constants(order: int, width: float) -> tuple[float, ...]:
    """``1/width``, and the coefficients of ``1, 1/r, 1/r², 1/r³`` before the exponential."""
    coefficients = (
        (1.0, 0.0, 0.0, 0.0),
        (0.0, -0.5 / width, 0.0, 0.0),
        (0.0, 0.0, 0.25 / width**2, 0.25 / width),
    )
    return 1.0 / width, *coefficients[order]


RADIAL_KERNELS = {
    "cauchy": _inverse_power(2),
    "inverse_multiquadric": _inverse_power(1),
    "laplacian": RadialKernel(
        _laplacian,
        # KeOps takes Rsqrt(0) = 0, the limit of the product with (x - y), as above
        "Exp(Minus(Elem(w,0)*Sqrt({s})))*(Elem(w,1)+Rsqrt({s})"
        "*(Elem(w,2)+Rsqrt({s})*(Elem(w,3)+Rsqrt({s})*Elem(w,4))))",
        _laplacian_constants,
        2,
    ),
}
KERNELS = ("gaussian", *RADIAL_KERNELS)


def kernel_sum(
    x: Any, y: Any, v: Any, kernel: str = "gaussian", width: float | Tensor = 1.0, *, engine: str = "auto"
) -> Any:
    """``Σ_j k(x_i, y_j) v_j`` for each x_i, streamed over pairs.

    Parameters
    ----------
    x, y : array or Tensor, shapes (N, D) and (M, D)
        Points, float32 or float64.
    v : array or Tensor, shape (M,) or (M, V)
        Values on y, any number of channels, of the dtype of the points.
    kernel : {"gaussian", "cauchy", "inverse_multiquadric", "laplacian"}
        ``exp(-r²/(2 width²))``, ``1/(1 + r²/width²)``, ``1/√(1 + r²/width²)``, ``exp(-r/width)``, with
        r = \\|x - y\\|.
    width : float or Tensor of shape ()
        In length units. Gradients reach a tensor.
    engine : {"auto", "fused", "keops", "blocks"}
        The fused engine knows Gaussians only; the other kernels go through plain chunks there.

    Returns
    -------
    array or Tensor, shape (N,) or (N, V)
        Of the kind that was given (a tensor where the width is one). Differentiable in x, y, v and width;
        twice for the Laplacian kernel, any number of times for the others.

    Raises
    ------
    InputError
        On shapes that do not match, NaN, a width that is not positive, an unknown kernel or engine.
    """
    if kernel not in KERNELS:
        raise InputError(f"unknown kernel {kernel!r}: use one of {', '.join(KERNELS)}")
    width = as_parameter(width, "width")

    def add_up(x: Tensor, y: Tensor, values: Tensor, engine: str) -> Tensor:
        return radial_sum(x, y, values, kernel, width, engine)

    return over_pairs(x, y, v, add_up, engine, (width,))


def over_pairs(
    x: Any,
    y: Any,
    v: Any,
    add_up: Callable[[Tensor, Tensor, Tensor, str], Tensor],
    engine: str = "auto",
    parameters: Sequence[float | Tensor] = (),
) -> Any:
    """Check what a kernel sum is given, and hand it to ``add_up(x, y, values (M, V), engine) -> (N, V)``.

    Parameters
    ----------
    x, y, v, engine
        As in :func:`kernel_sum`; ``add_up`` gets the name of an engine that can run here, and at least one
        point on either side.
    parameters : sequence of float or Tensor
        What else the sum depends on.

    Returns
    -------
    array or Tensor, shape (N,) or (N, V)
        An array if neither x, y, v nor the parameters hold a tensor. Zeros, with zero gradients, where there
        is nothing to sum.
    """
    tensors = [given for given in (x, y, v, *parameters) if isinstance(given, Tensor)]
    x, y = as_points(x, "x", empty=True), as_points(y, "y", empty=True)
    same_kind(x, y, "x", "y")
    same_dimension(x, y, "x", "y")
    values = as_values(v, y, "v", "y")
    matrix = values if values.ndim == 2 else values[:, None]
    engine = choose(engine, x.device.type)
    if len(x) == 0 or matrix.numel() == 0:
        total = x.new_zeros(len(x), matrix.shape[1])
        for tensor in tensors:
            total = total + (tensor * 0.0).sum()
    else:
        total = add_up(x, y, matrix, engine)
    total = total[:, 0] if values.ndim == 1 else total
    return total if tensors else total.numpy()


def radial_sum(x: Tensor, y: Tensor, v: Tensor, kernel: str, width: float | Tensor, engine: str) -> Tensor:
    """:func:`kernel_sum` of what has been checked already, v having shape (M, V)."""
    if isinstance(width, Tensor):
        # k(x, y; width) = k(x/width, y/width; 1), and scaling is differentiable. Without its centre first,
        # the gradient would be a small difference of large numbers.
        centre = y.detach().mean(dim=0)
        x, y, width = (x - centre) / width, (y - centre) / width, 1.0
    if kernel == "gaussian":
        return gibbs_sum(x, y, None, None, v, width**2, get_engine(engine, x.device.type))
    return _RadialSum.apply(x, y, v, kernel, width, 0, engine)


class _RadialSum(Function):
    """``Σ_j φ⁽ᵒʳᵈᵉʳ⁾(|x_i - y_j|²) v_j``: its derivatives are sums of the same form, one order up."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, v: Tensor, kernel: str, width: float, order: int, engine: str
    ) -> Tensor:
        radial = RADIAL_KERNELS[kernel]
        if radial.smoothness is not None and order > radial.smoothness:
            raise InputError(f"the {kernel} kernel can be differentiated {radial.smoothness} times only")
        ctx.save_for_backward(x, y, v)
        ctx.settings = (kernel, width, order, engine)
        if engine == "keops":
            return keops.radial_sum(x, y, v, radial.formula, radial.constants(order, width))
        return blocks.radial_sum(x, y, v, radial.derivative(order, width))

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        x, y, v = ctx.saved_tensors
        kernel, width, order, engine = ctx.settings
        above = (kernel, width, order + 1, engine)
        grad_x = grad_y = grad_v = None
        if ctx.needs_input_grad[0]:
            grad_x = _radial_gradient(x, y, v, cotangent, above)
        if ctx.needs_input_grad[1]:
            grad_y = _radial_gradient(y, x, cotangent, v, above)
        if ctx.needs_input_grad[2]:
            grad_v = _RadialSum.apply(y, x, cotangent, kernel, width, order, engine)
        return grad_x, grad_y, grad_v, None, None, None, None


def _radial_gradient(x: Tensor, y: Tensor, v: Tensor, cotangent: Tensor, above: tuple[Any, ...]) -> Tensor:
    """``2 Σ_j φ'(|x_i - y_j|²) (x_i - y_j) <G_i, v_j>``."""
    centre = y.detach().mean(dim=0)
    near_x, near_y = x - centre, y - centre
    channels = torch.cat([v, (v[:, :, None] * near_y[:, None, :]).flatten(1)], dim=1)
    sums = _RadialSum.apply(x, y, channels, *above)
    plain, moved = sums[:, : v.shape[1]], sums[:, v.shape[1] :].unflatten(1, (v.shape[1], y.shape[1]))
    pulled = (cotangent[:, :, None] * moved).sum(dim=1)
    return 2.0 * (near_x * (cotangent * plain).sum(dim=1, keepdim=True) - pulled)
