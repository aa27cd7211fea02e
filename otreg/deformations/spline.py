"""Splines: displacement fields that are sums of radial kernels at control points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from otreg.deformations.base import Deformation, parameter_tensor
from otreg.deformations.inverse import InverseDeformation
from otreg.errors import InputError
from otreg.reductions.radial import KERNELS, kernel_sums

_INVERSE_TOLERANCE = 1e-9  # of the extent


class Spline(Deformation):
    """The map ``y = x + sum_j k(|x - z_j|) p_j``, with ``k = sum_s a_s k_s`` over one or several widths.

    Parameters
    ----------
    control_points : array_like or tensor, shape (C, 3)
        z, at least one, in the unit of the files. Float64 tensors are kept as they are, so that gradients
        reach them.
    coefficients : array_like or tensor, shape (C, 3)
        p, in the unit of the files.
    width : float or sequence of float
        Several widths share the coefficients: a kernel with a wide and a narrow part. Gaussian: sigma in
        ``exp(-r² / (2 sigma²))``. Wendland: the radius beyond which the kernel is zero; a radius of 3.3 sigma
        looks much like a Gaussian. In the unit of the files.
    kernel : {"gaussian", "wendland"}
        Gaussian sums cost N × C whatever the width. The Wendland kernel (C⁴, Wendland 1995) costs the pairs
        within ``width`` only, so it is the one for many control points of small reach.
    amplitudes : sequence of float, optional
        a, one positive number for each width; all one by default.
    moving_frame, fixed_frame, metadata
        See :class:`~otreg.deformations.base.Deformation`.

    Raises
    ------
    InputError
        On wrong shapes, numbers that are not finite, a width or an amplitude that is not positive, or an
        unknown kernel.

    Notes
    -----
    Nothing of size N × C is ever stored, with or without gradients. The map is invertible where its Jacobian
    determinant is positive; :attr:`inverse` checks that wherever it is used.
    """

    def __init__(
        self,
        control_points: Any,
        coefficients: Any,
        width: float | Sequence[float],
        kernel: str = "gaussian",
        amplitudes: Sequence[float] | None = None,
        *,
        moving_frame: str | None = None,
        fixed_frame: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(moving_frame=moving_frame, fixed_frame=fixed_frame, metadata=metadata)
        self.control_points = parameter_tensor(control_points, (None, 3), "control points")
        self.coefficients = parameter_tensor(coefficients, (len(self.control_points), 3), "coefficients")
        if kernel not in KERNELS:
            raise InputError(f"unknown kernel {kernel!r}: use one of {', '.join(KERNELS)}")
        self.kernel = kernel
        self.widths = _positive_numbers(width, "width")
        self.amplitudes = _positive_numbers(
            [1.0] * len(self.widths) if amplitudes is None else amplitudes, "amplitude"
        )
        if len(self.amplitudes) != len(self.widths):
            raise InputError(
                f"a spline needs one amplitude for each of its {len(self.widths)} widths, got {len(self.amplitudes)}"
            )

    def __repr__(self) -> str:
        widths = ", ".join(f"{width:.6g}" for width in self.widths)
        return f"Spline({len(self.control_points)} control points, {self.kernel}, width={widths})"

    @property
    def width(self) -> float:
        """The largest of :attr:`widths`."""
        return max(self.widths)

    @property
    def extent(self) -> float:
        """Diagonal of the box around the control points, at least ``width``: what tolerances refer to."""
        points = self.control_points.detach()
        return max(float((points.amax(dim=0) - points.amin(dim=0)).norm()), self.width)

    @property
    def inverse(self) -> InverseDeformation:
        """The inverse, solved for at every point by Newton's method to 1e-9 of :attr:`extent`."""
        return InverseDeformation(self, tolerance=_INVERSE_TOLERANCE * self.extent)

    def parameters(self) -> dict[str, Tensor]:
        """Return ``control_points`` (C, 3) and ``coefficients`` (C, 3)."""
        return {"control_points": self.control_points, "coefficients": self.coefficients}

    def _map(self, points: Tensor) -> Tensor:
        centres, values = self.control_points.to(points), self.coefficients.to(points)
        return points + self._kernel_sums(points, centres, values, (0,))[0]

    def _jacobian(self, points: Tensor) -> Tensor:
        (slopes,) = self._sums(points, (1,))
        return self._assembled(points, slopes)

    def _map_and_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        sums, slopes = self._sums(points, (0, 1))
        return points + sums[:, :3], self._assembled(points, slopes)

    def _sums(self, points: Tensor, orders: tuple[int, ...]) -> list[Tensor]:
        """Kernel sums of p and of ``p zᵀ``, (N, 12), with z from the middle of the control points."""
        centres, values = self.control_points.to(points), self.coefficients.to(points)
        products = values[:, :, None] * (centres - self._middle(points))[:, None, :]
        channels = torch.cat([values, products.flatten(1)], dim=1)
        return self._kernel_sums(points, centres, channels, orders)

    def _kernel_sums(
        self, points: Tensor, centres: Tensor, values: Tensor, orders: tuple[int, ...]
    ) -> list[Tensor]:
        """Sums with k, and with ``2 k' / width²``, whose product with ``x - z`` is the gradient of k."""
        totals: list[Tensor] = []
        for width, amplitude in zip(self.widths, self.amplitudes, strict=True):
            parts = kernel_sums(self.kernel, points, centres, values, width, orders)
            factors = [amplitude * (2.0 / width**2) ** order for order in orders]
            parts = [factor * part for factor, part in zip(factors, parts, strict=True)]
            totals = parts if not totals else [a + b for a, b in zip(totals, parts, strict=True)]
        return totals

    def _assembled(self, points: Tensor, slopes: Tensor) -> Tensor:
        """``I + sum_j 2 k'/width² p_j (x - z_j)ᵀ`` from the sums with p and with ``p zᵀ``."""
        outer = slopes[:, :3, None] * (points - self._middle(points))[:, None, :]
        identity = torch.eye(3, dtype=points.dtype, device=points.device)
        return identity + outer - slopes[:, 3:].reshape(-1, 3, 3)

    def _middle(self, points: Tensor) -> Tensor:
        """A constant near the control points: products of coordinates lose digits far from the origin."""
        return self.control_points.detach().mean(dim=0).to(points)


def _positive_numbers(given: float | Sequence[float], what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(
            float(number)
            for number in (given if isinstance(given, Sequence) and not isinstance(given, str) else [given])
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"the {what} of a spline must be a number, got {given!r}") from error
    if not numbers or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise InputError(f"the {what} of a spline must be positive, got {given}")
    return numbers
