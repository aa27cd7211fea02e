"""Kernel sums ``Σ_j k(x_i, y_j) v_j``, streamed, and differentiable as often as the kernel is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from otreg.errors import InputError
from otreg.reductions import blocks, keops
from otreg.reductions.checks import as_points, as_values, positive, same_dimension, same_kind
from otreg.reductions.engines import choose, get_engine
from otreg.reductions.gibbs import gibbs_sum


@dataclasses.dataclass(frozen=True)
class RadialKernel:
    """A kernel as a function of the squared distance s, with its derivatives in s.

    ``derivative(order, width)`` gives a function on tensors; ``formula(order, width)`` the same as KeOps
    code in ``{s}`` and ``w`` (the scale given beside it).
    """

    derivative: Callable[[int, float], Callable[[Tensor], Tensor]]
    formula: Callable[[int, float], tuple[str, float]]
    smoothness: int | None


def _cauchy(order: int, width: float) -> Callable[[Tensor], Tensor]:
    factor = (-1.0) ** order * math.factorial(order) / width ** (2 * order)
    return lambda s: factor * (1.0 + s / width**2).pow(-(order + 1))


def _cauchy_formula(order: int, width: float) -> tuple[str, float]:
    factor = "*".join([f"IntCst({(-1) ** order * math.factorial(order)})", *["w"] * order])
    return f"{factor}*Pow(IntCst(1)+w*{{s}},{-(order + 1)})", 1.0 / width**2


def _laplacian(order: int, width: float) -> Callable[[Tensor], Tensor]:
    def evaluate(s: Tensor) -> Tensor:
        r = s.sqrt()
        value = torch.exp(-r / width)
        if order == 0:
            return value
        # At r = 0 the factor (x - y) of the chain rule is 0, and so is the limit of the product.
        inverse = torch.where(r > 0, 1.0 / r.clamp_min(torch.finfo(r.dtype).tiny), torch.zeros_like(r))
        if order == 1:
            return -0.5 / width * value * inverse
        return 0.25 / width * value * (inverse.square() / width + inverse.pow(3))

    return evaluate


def _laplacian_formula(order: int, width: float) -> tuple[str, float]:
    value = "Exp(Minus(w*Sqrt({s})))"
    if order == 0:
        return value, 1.0 / width
    if order == 1:
        return f"IntCst(-1)*IntInv(2)*w*{value}*Rsqrt({{s}})", 1.0 / width
    return f"IntInv(4)*w*{value}*(w*Square(Rsqrt({{s}}))+Rsqrt({{s}})*Square(Rsqrt({{s}})))", 1.0 / width


RADIAL_KERNELS = {
    "cauchy": RadialKernel(_cauchy, _cauchy_formula, None),
    "laplacian": RadialKernel(_laplacian, _laplacian_formula, 2),
}
KERNELS = ("gaussian", *RADIAL_KERNELS)


def kernel_sum(
    x: Any, y: Any, v: Any, kernel: str = "gaussian", width: float = 1.0, *, engine: str = "auto"
) -> Any:
    """``Σ_j k(x_i, y_j) v_j`` for each x_i, streamed over pairs.

    Parameters
    ----------
    x, y : array or Tensor, shapes (N, D) and (M, D)
        Points, float32 or float64.
    v : array or Tensor, shape (M,) or (M, V)
        Values on y, any number of channels, of the dtype of the points.
    kernel : {"gaussian", "cauchy", "laplacian"}
        ``exp(-r²/(2 width²))``, ``1/(1 + r²/width²)``, ``exp(-r/width)``, with r = \\|x - y\\|.
    width : float
        In length units.
    engine : {"auto", "fused", "keops", "blocks"}
        The fused engine knows Gaussians only; the other kernels go through plain chunks there.

    Returns
    -------
    array or Tensor, shape (N,) or (N, V)
        Of the kind that was given. Differentiable in x, y and v; any number of times for the Gaussian and
        Cauchy kernels, twice for the Laplacian one.

    Raises
    ------
    InputError
        On shapes that do not match, NaN, a width that is not positive, an unknown kernel or engine.
    """
    is_numpy = not any(isinstance(given, Tensor) for given in (x, y, v))
    x, y = as_points(x, "x", empty=True), as_points(y, "y", empty=True)
    same_kind(x, y, "x", "y")
    same_dimension(x, y, "x", "y")
    values = as_values(v, y, "v", "y")
    width = positive(width, "width")
    matrix = values if values.ndim == 2 else values[:, None]
    if kernel == "gaussian":
        total = gibbs_sum(x, y, None, None, matrix, width**2, get_engine(engine, x.device.type))
    elif kernel in RADIAL_KERNELS:
        total = _RadialSum.apply(x, y, matrix, kernel, width, 0, choose(engine, x.device.type))
    else:
        raise InputError(f"unknown kernel {kernel!r}: use one of {', '.join(KERNELS)}")
    total = total[:, 0] if values.ndim == 1 else total
    return total.numpy() if is_numpy else total


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
            return keops.radial_sum(x, y, v, *radial.formula(order, width))
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
