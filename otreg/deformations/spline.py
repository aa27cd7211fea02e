"""Splines: displacement fields that are sums of radial kernels at control points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from otreg.deformations.base import parameter_tensor
from otreg.deformations.control_points import ControlPointDeformation
from otreg.deformations.inverse import InverseDeformation

_INVERSE_TOLERANCE = 1e-9  # of the extent


class Spline(ControlPointDeformation):
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
        super().__init__(
            control_points,
            width,
            kernel,
            amplitudes,
            moving_frame=moving_frame,
            fixed_frame=fixed_frame,
            metadata=metadata,
        )
        self.coefficients = parameter_tensor(coefficients, (len(self.control_points), 3), "coefficients")

    def __repr__(self) -> str:
        return f"Spline({self._about()})"

    @property
    def inverse(self) -> InverseDeformation:
        """The inverse, solved for at every point by Newton's method to 1e-9 of :attr:`extent`."""
        return InverseDeformation(self, tolerance=_INVERSE_TOLERANCE * self.extent)

    def parameters(self) -> dict[str, Tensor]:
        """Return ``control_points`` (C, 3) and ``coefficients`` (C, 3)."""
        return {"control_points": self.control_points, "coefficients": self.coefficients}

    def _map(self, points: Tensor) -> Tensor:
        centres, values = self.control_points.to(points), self.coefficients.to(points)
        return points + self.mixed_kernel.sums(points, centres, (0, values))[0]

    def _jacobian(self, points: Tensor) -> Tensor:
        centres, channels = self._channels(points)
        (slopes,) = self.mixed_kernel.sums(points, centres, (1, channels))
        return self._assembled(points, slopes)

    def _map_and_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        centres, channels = self._channels(points)
        sums, slopes = self.mixed_kernel.sums(points, centres, (0, channels[:, :3]), (1, channels))
        return points + sums, self._assembled(points, slopes)

    def _channels(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Control points, and p and ``p zᵀ`` side by side, (C, 12), with z from the middle of the control points."""
        centres, values = self.control_points.to(points), self.coefficients.to(points)
        products = values[:, :, None] * (centres - self._middle(points))[:, None, :]
        return centres, torch.cat([values, products.flatten(1)], dim=1)

    def _assembled(self, points: Tensor, slopes: Tensor) -> Tensor:
        """``I + 2 sum_j k' p_j (x - z_j)ᵀ``, k' the derivative in r², from the sums with p and with ``p zᵀ``."""
        outer = slopes[:, :3, None] * (points - self._middle(points))[:, None, :]
        identity = torch.eye(3, dtype=points.dtype, device=points.device)
        return identity + 2.0 * (outer - slopes[:, 3:].unflatten(1, (3, 3)))

    def _middle(self, points: Tensor) -> Tensor:
        """A constant near the control points: products of coordinates lose digits far from the origin."""
        return self.control_points.detach().mean(dim=0).to(points)
