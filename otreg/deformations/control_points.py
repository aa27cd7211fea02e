"""What splines and diffeomorphisms have in common: control points, and a kernel of one or several widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otreg.deformations.base import Deformation, parameter_tensor
from otreg.reductions.mixed import MixedKernel


class ControlPointDeformation(Deformation):
    """A deformation that sums ``K(|x - z_j|)``, with ``K = sum_s a_s k(r / width_s)``, over control points z.

    Parameters
    ----------
    control_points : array_like or tensor, shape (C, 3)
        z, at least one, in the unit of the files. Float64 tensors are kept as they are, so that gradients
        reach them.
    width, kernel, amplitudes
        See :class:`~otreg.reductions.mixed.MixedKernel`.
    moving_frame, fixed_frame, metadata
        See :class:`~otreg.deformations.base.Deformation`.

    Raises
    ------
    InputError
        On wrong shapes, numbers that are not finite, a width or an amplitude that is not positive, or an
        unknown kernel.
    """

    def __init__(
        self,
        control_points: Any,
        width: float | Sequence[float],
        kernel: str,
        amplitudes: Sequence[float] | None,
        *,
        moving_frame: str | None,
        fixed_frame: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(moving_frame=moving_frame, fixed_frame=fixed_frame, metadata=metadata)
        self.control_points = parameter_tensor(control_points, (None, 3), "control points")
        self.mixed_kernel = MixedKernel(kernel, width, amplitudes)

    @property
    def kernel(self) -> str:
        """Name of the kernel, ``"gaussian"`` or ``"wendland"``."""
        return self.mixed_kernel.kernel

    @property
    def widths(self) -> tuple[float, ...]:
        """All widths, in the order given."""
        return self.mixed_kernel.widths

    @property
    def amplitudes(self) -> tuple[float, ...]:
        """One amplitude for each width."""
        return self.mixed_kernel.amplitudes

    @property
    def width(self) -> float:
        """The largest of :attr:`widths`."""
        return self.mixed_kernel.width

    @property
    def extent(self) -> float:
        """Diagonal of the box around the control points, at least ``width``: what tolerances refer to."""
        points = self.control_points.detach()
        return max(float((points.amax(dim=0) - points.amin(dim=0)).norm()), self.width)

    def _about(self) -> str:
        """Control points, kernel and widths, for ``repr``."""
        widths = ", ".join(f"{width:.6g}" for width in self.widths)
        return f"{len(self.control_points)} control points, {self.kernel}, width={widths}"
