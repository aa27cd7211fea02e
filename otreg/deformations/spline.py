"""Splines: displacement fields that are sums of radial kernels at control points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from otreg.deformations.base import Deformation, parameter_tensor
from otreg.deformations.inverse import InverseDeformation
from otreg.deformations.kernels import KERNELS, kernel_sums
from otreg.errors import InputError

_INVERSE_TOLERANCE = 1e-9  # of the extent


class Spline(Deformation):
    """The map ``y = x + sum_j k(|x - z_j|) p_j``.

    Parameters
    ----------
    control_points : array_like or tensor, shape (C, 3)
        z, at least one, in the unit of the files. Float64 tensors are kept as they are, so that gradients
        reach them.
    coefficients : array_like or tensor, shape (C, 3)
        p, in the unit of the files.
    width : float
        Gaussian: sigma in ``exp(-r² / (2 sigma²))``. Wendland: the radius beyond which the kernel is zero; a
        radius of 3.3 sigma looks much like a Gaussian. In the unit of the files.
    kernel : {"gaussian", "wendland"}
        Gaussian sums cost N × C whatever the width. The Wendland kernel (C⁴, Wendland 1995) costs the pairs
        within ``width`` only, so it is the one for many control points of small reach.
    moving_frame, fixed_frame, metadata
        See :class:`~otreg.deformations.base.Deformation`.

    Raises
    ------
    InputError
        On wrong shapes, numbers that are not finite, a width that is not positive, or an unknown kernel.

    Notes
    -----
    Nothing of size N × C is ever stored, with or without gradients. The map is invertible where its Jacobian
    determinant is positive; :attr:`inverse` checks that wherever it is used.
    """

    def __init__(
        self,
        control_points: Any,
        coefficients: Any,
        width: float,
        kernel: str = "gaussian",
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
        try:
            self.width = float(width)
        except (TypeError, ValueError) as error:
            raise InputError(f"the width of a spline must be a number, got {width!r}") from error
        if not (math.isfinite(self.width) and self.width > 0):
            raise InputError(f"the width of a spline must be positive, got {self.width}")

    def __repr__(self) -> str:
        return f"Spline({len(self.control_points)} control points, {self.kernel}, width={self.width:.6g})"

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
        return points + kernel_sums(self.kernel, points, centres, values, self.width)[0]

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
        return kernel_sums(self.kernel, points, centres, channels, self.width, orders)

    def _assembled(self, points: Tensor, slopes: Tensor) -> Tensor:
        """``I + 2/width² sum_j k' p_j (x - z_j)ᵀ`` from the sums of ``k' p`` and ``k' p zᵀ``."""
        outer = slopes[:, :3, None] * (points - self._middle(points))[:, None, :]
        identity = torch.eye(3, dtype=points.dtype, device=points.device)
        return identity + (2.0 / self.width**2) * (outer - slopes[:, 3:].reshape(-1, 3, 3))

    def _middle(self, points: Tensor) -> Tensor:
        """A constant near the control points: products of coordinates lose digits far from the origin."""
        return self.control_points.detach().mean(dim=0).to(points)
