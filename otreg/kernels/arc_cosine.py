"""The kernels of wide neural networks with step, ramp and half-parabola activations."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.kernels.base import Kernel, Parameter
from otreg.reductions.arc_cosine import ORDERS, arc_cosine_sum
from otreg.reductions.checks import as_parameter


@dataclasses.dataclass(frozen=True)
class ArcCosine(Kernel):
    """``k(x, y) = |u|ⁿ |v|ⁿ J_n(θ) / π``, with θ the angle between ``u = (√b, √w x)`` and ``v = (√b, √w y)``.

    ``J_0 = π - θ``, ``J_1 = sin θ + (π - θ) cos θ``, ``J_2 = 3 sin θ cos θ + (π - θ)(1 + 2 cos² θ)`` (Cho & Saul,
    "Kernel methods for deep learning", NIPS 2009). It is twice the mean of ``(ω·u)ⁿ₊ (ω·v)ⁿ₊`` over Gaussian
    ω: the covariance of wide networks of one layer whose units are steps, ramps or half-parabolas.

    Parameters
    ----------
    order : {0, 1, 2}
        n: values that are bounded, or grow linearly or as the square along each ray.
    weight_variance : float or Tensor of shape ()
        w, positive, in 1 / squared length units. Points within ``√(b / w)`` of the origin are told apart best;
        beyond, only their directions count.
    bias_variance : float or Tensor of shape ()
        b, not negative, no unit. With 0 the kernel is homogeneous: no constant, and a kink at the origin, where
        derivatives are taken as 0.

    Raises
    ------
    InputError
        On another order, or variances that are not as above.

    Notes
    -----
    It depends on the origin: centre the points first. Where points coincide (and without a bias, where they are
    opposite) order 0 has a cusp, at which derivatives are taken as 0. Differentiable order + 3 times.
    """

    order: int = 1
    weight_variance: Parameter = 1.0
    bias_variance: Parameter = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in ORDERS:
            raise InputError(f"order must be 0, 1 or 2, got {self.order!r}")
        weight = as_parameter(self.weight_variance, "weight_variance")
        object.__setattr__(self, "weight_variance", weight)
        object.__setattr__(
            self, "bias_variance", as_parameter(self.bias_variance, "bias_variance", zero=True)
        )

    def parameters(self) -> dict[str, Parameter]:
        """Return ``weight_variance`` and ``bias_variance``."""
        return {"weight_variance": self.weight_variance, "bias_variance": self.bias_variance}

    def _sum(self, x: Tensor, y: Tensor, v: Tensor, engine: str) -> Tensor:
        return arc_cosine_sum(x, y, v, self.order, self.weight_variance, self.bias_variance, engine)

    def _matrix(self, x: Tensor, y: Tensor) -> Tensor:
        if len(x) == 0 or len(y) == 0:
            return x.new_zeros(len(x), len(y))
        # the sums of unit vectors: exact derivatives, also where the angle is 0 or π
        return self._sum(x, y, torch.eye(len(y), dtype=y.dtype, device=y.device), "blocks")
