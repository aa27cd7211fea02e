"""Kernels of the distance alone: ``k(x, y) = φ(|x - y| / width)``, with φ(0) = 1."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.kernels.base import Kernel, Parameter, root
from otreg.reductions.blocks import squared_distances
from otreg.reductions.checks import as_parameter
from otreg.reductions.kernels import radial_sum
from otreg.reductions.radial import kernel_sums

if TYPE_CHECKING:
    from otreg.kernels.sums import Sum


@dataclasses.dataclass(frozen=True)
class Radial(Kernel):
    """A kernel of the distance in units of one width.

    Parameters
    ----------
    width : float or Tensor of shape ()
        In the unit of the points: millimetres for medical files. Gradients reach a tensor.

    Raises
    ------
    InputError
        When the width is not a positive, finite number.
    """

    width: Parameter

    name: ClassVar[str]
    """What files and :func:`otreg.reductions.kernel_sum` call it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", as_parameter(self.width, "width"))

    @classmethod
    def of_scales(
        cls, widths: Iterable[Parameter] | Tensor, amplitudes: Iterable[Parameter] | Tensor | None = None
    ) -> Sum:
        """Sum of kernels of this kind, one for each width: wide and narrow motion in one kernel.

        Parameters
        ----------
        widths : sequence of float, or Tensor of shape (S,)
        amplitudes : sequence of float, or Tensor of shape (S,), optional
            Factors; 1 each by default.
        """
        from otreg.kernels.sums import Sum

        return Sum(tuple(cls(width) for width in widths), amplitudes)

    @property
    def widths(self) -> tuple[Parameter, ...]:
        """The width, as a tuple."""
        return (self.width,)

    def parameters(self) -> dict[str, Parameter]:
        """Return ``width``."""
        return {"width": self.width}

    def _sum(self, x: Tensor, y: Tensor, v: Tensor, engine: str) -> Tensor:
        return radial_sum(x, y, v, self.name, self.width, engine)

    def _matrix(self, x: Tensor, y: Tensor) -> Tensor:
        if torch.is_grad_enabled() and any(
            isinstance(each, Tensor) and each.requires_grad for each in (x, y, self.width)
        ):
            squares = (x[:, None] - y[None]).square().sum(dim=2)
        else:
            squares = squared_distances(x, y)  # the same, without the N×M×D array
        return self._profile(squares / self.width**2)

    @staticmethod
    @abstractmethod
    def _profile(u: Tensor) -> Tensor:
        """φ at ``u = (|x - y| / width)²``, elementwise and differentiable."""


class Gaussian(Radial):
    """``exp(-r² / (2 width²))``. On a CPU its sums run through fused attention, many times faster than others."""

    name = "gaussian"

    @staticmethod
    def _profile(u: Tensor) -> Tensor:
        return torch.exp(-0.5 * u)


class Laplacian(Radial):
    """``exp(-r / width)``. A cusp at r = 0, where derivatives are taken as 0; differentiable twice."""

    name = "laplacian"

    @staticmethod
    def _profile(u: Tensor) -> Tensor:
        return torch.exp(-root(u))


class Cauchy(Radial):
    """``1 / (1 + r² / width²)``: its long tail, 1% at ten widths, ties far points together."""

    name = "cauchy"

    @staticmethod
    def _profile(u: Tensor) -> Tensor:
        return 1.0 / (1.0 + u)


class InverseMultiquadric(Radial):
    """``1 / √(1 + r² / width²)``: the longest tail, 10% at ten widths (Micchelli 1986)."""

    name = "inverse_multiquadric"

    @staticmethod
    def _profile(u: Tensor) -> Tensor:
        return torch.rsqrt(1.0 + u)


class Wendland(Radial):
    """``(1-s)⁶₊ (35 s² + 18 s + 3) / 3`` with ``s = r / width``: zero beyond the width; in three dimensions.

    C⁴ (Wendland 1995); a width of 3.3 sigma looks much like a Gaussian. On every engine its sums run over the
    pairs within reach alone, so that many control points with small widths are cheap. Differentiable three
    times.
    """

    name = "wendland"

    def _sum(self, x: Tensor, y: Tensor, v: Tensor, engine: str) -> Tensor:
        _three_dimensional(x)
        return kernel_sums("wendland", x, y, v, self.width, (0,))[0]

    def _matrix(self, x: Tensor, y: Tensor) -> Tensor:
        _three_dimensional(x)
        return super()._matrix(x, y)

    @staticmethod
    def _profile(u: Tensor) -> Tensor:
        s = root(u)
        return (1.0 - s).clamp_min(0.0).pow(6) * (35.0 * u + 18.0 * s + 3.0) / 3.0


def _three_dimensional(x: Tensor) -> None:
    if x.shape[1] != 3:
        raise InputError(f"a Wendland kernel needs points of shape (N, 3), got {x.shape[1]} columns")


RADIAL: dict[str, type[Radial]] = {
    kind.name: kind for kind in (Gaussian, Laplacian, Cauchy, InverseMultiquadric, Wendland)
}
"""Radial kernels by the name that files and settings use."""
