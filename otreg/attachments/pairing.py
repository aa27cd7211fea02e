"""Inner products of clouds of vectors in a kernel space, ``Σ_ij k(x_i, y_j) <v_i, w_j>``, streamed over pairs.

Currents, varifolds and kernel mean discrepancies are all of this form; only the vectors differ. The value and
its first derivatives come from one pass over the pairs: with a Gaussian,

    ∂/∂v_i = S_i := Σ_j k_ij w_j,        ∂/∂x_i = (Σ_j k_ij <v_i, w_j> (y_j - x_i)) / width²

and both are Gaussian sums, of w and of w yᵀ, so that their channels share the exponentials.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from otreg.errors import InputError
from otreg.reductions import KERNELS, kernel_sum
from otreg.reductions.checks import positive
from otreg.reductions.engines import Engine, choose
from otreg.reductions.for_problem import engine_for_problem
from otreg.reductions.gibbs import gibbs_sum

ACCURACY = {torch.float32: 1e-7, torch.float64: 1e-13}
"""Share of a row's sum that far pairs may hold and be left out: what the dtype would lose anyway."""


@dataclasses.dataclass(frozen=True)
class Pairing:
    """The inner product of a radial kernel.

    Parameters
    ----------
    kernel : {"gaussian", "cauchy", "inverse_multiquadric", "laplacian"}
        See :func:`otreg.reductions.kernel_sum`. The Gaussian one is the fastest.
    width : float
        In length units.
    engine : {"auto", "fused", "keops", "blocks"}
    """

    kernel: str
    width: float
    engine: str = "auto"

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise InputError(f"unknown kernel {self.kernel!r}: use one of {', '.join(KERNELS)}")
        positive(self.width, "width")
        choose(self.engine, "cpu")

    def product(self, x: Tensor, v: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """``Σ_ij k(x_i, y_j) <v_i, w_j>``, float64, shape (); y and w are constants.

        Parameters
        ----------
        x, v : Tensor, shapes (N, D) and (N, V)
        y, w : Tensor, shapes (M, D) and (M, V)
        """
        if self.kernel != "gaussian":
            return _dot(v, kernel_sum(x, y, w, self.kernel, self.width, engine=self.engine))
        return _GaussianProduct.apply(x, v, y, w, self, _wants_grad(x, v))

    def energy(self, x: Tensor, v: Tensor) -> Tensor:
        """``Σ_ij k(x_i, x_j) <v_i, v_j>``, float64, shape ()."""
        if self.kernel != "gaussian":
            return _dot(v, kernel_sum(x, x, v, self.kernel, self.width, engine=self.engine))
        return _GaussianProduct.apply(x, v, None, None, self, _wants_grad(x, v))

    def energies(self, x: Tensor, several: list[Tensor]) -> list[Tensor]:
        """:meth:`energy` of several clouds of vectors (N, V) at the same positions, by one pass over the pairs."""
        together = torch.cat(several, dim=1)
        if self.kernel == "gaussian":
            sums = gibbs_sum(x, x, None, None, together, self.width**2, self.reduction(x))
        else:
            sums = kernel_sum(x, x, together, self.kernel, self.width, engine=self.engine)
        parts = sums.split([vectors.shape[1] for vectors in several], dim=1)
        return [_dot(vectors, part) for vectors, part in zip(several, parts, strict=True)]

    def reduction(self, points: Tensor) -> Engine:
        """The engine for points of this kind: a new one each time, since it remembers the points it saw."""
        return engine_for_problem(self.engine, points.device.type, ACCURACY[points.dtype], memory=0)


class _GaussianProduct(Function):
    """One side moves; y and w are constants, or None when they are x and v themselves."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, y: Tensor | None, w: Tensor | None, form: Pairing, slopes: bool
    ) -> Tensor:
        ctx.form = form
        there, given = (x, v) if y is None or w is None else (y, w)
        if slopes:
            sums, slope = _sums_and_slope(x, v, there, given, form)
            ctx.save_for_backward(x, v, y, w, sums, slope)
        else:
            sums = gibbs_sum(x, there, None, None, given, form.width**2, form.reduction(x))
        return _dot(v, sums)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        x, v, y, w, sums, slope = ctx.saved_tensors
        own = y is None
        if torch.is_grad_enabled():
            sums, slope = _sums_and_slope(x, v, x if own else y, v if own else w, ctx.form)
        # both sides of an energy move
        factor = 2.0 * cotangent if own else cotangent
        grad_x, grad_v = ((factor * part.double()).to(part.dtype) for part in (slope, sums))
        return grad_x, grad_v, None, None, None, None


def _sums_and_slope(x: Tensor, v: Tensor, y: Tensor, w: Tensor, form: Pairing) -> tuple[Tensor, Tensor]:
    """``S_i`` (N, V) and the derivative in x_i (N, D), both differentiable any number of times."""
    eps, count = form.width**2, w.shape[1]
    # near its middle, y times a sum costs no digits
    centre = y.detach().mean(dim=0)
    near_x, near_y = x - centre, y - centre
    channels = torch.cat([w, (w[:, :, None] * near_y[:, None, :]).flatten(1)], dim=1)
    sums = gibbs_sum(x, y, None, None, channels, eps, form.reduction(x))
    plain, moved = sums[:, :count], sums[:, count:].unflatten(1, (count, y.shape[1]))
    pulled = (v[:, :, None] * moved).sum(dim=1) - near_x * (v * plain).sum(dim=1, keepdim=True)
    return plain, pulled / eps


def _wants_grad(x: Tensor, v: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or v.requires_grad)


def _dot(v: Tensor, sums: Tensor) -> Tensor:
    """Sum of products in float64: values are differences of such sums."""
    return (v.double() * sums.double()).sum()
