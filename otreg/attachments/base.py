"""What every attachment is: built from the fixed shape once, then called on the moving one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from otreg.attachments.diracs import Cells, Diracs, make_cells
from otreg.attachments.geometry import Shape, as_shape
from otreg.errors import InputError
from otreg.reductions.checks import positive


class Attachment(ABC):
    """How far the moving shape is from the fixed one: a number, differentiable in the moving points.

    Values are in squared length units (mm² for medical files) and alike in size: a small displacement of
    length d that the attachment sees costs about d²/2, whatever the attachment and its scale. So the weights
    of :class:`Combined` are plain numbers, and need no change when a scale does.
    """

    @abstractmethod
    def __call__(self, points: Any, triangles: Any = None, weights: Any = None) -> Tensor:
        """Return the value for the moving shape.

        Parameters
        ----------
        points : array or Tensor, shape (N, 3); or a Surface
            Positions of the moving shape, float32 or float64, on any device.
        triangles : array or Tensor of int, shape (T, 3), optional
            None for a point cloud.
        weights : array or Tensor, shape (N,), optional
            Masses of the points of a cloud, 1/N each by default; for attachments that have masses.

        Returns
        -------
        Tensor, shape ()
            In squared length units, of the dtype and device of the points.

        Raises
        ------
        InputError
            On no points, wrong shapes, numbers that are not finite, indices out of range, and on a point cloud
            where normals are needed.
        """

    @property
    @abstractmethod
    def scale(self) -> float:
        """Length, in the unit of the files, below which the attachment sees no detail; 0 if it sees all."""

    def reset(self) -> None:  # noqa: B027 - most attachments have nothing to forget
        """Forget what earlier calls left to start the next one from."""


class ShapeAttachment(Attachment):
    """An attachment to a shape: holds the fixed side, and what was worked out of it, for each kind of tensor.

    Parameters
    ----------
    fixed : Surface, array or Tensor of shape (N, 3), or (points, triangles)
        Copied, and never differentiated.
    weights : array or Tensor, shape (N,), optional
        Masses of the points of a cloud.
    resolution : float, optional
        Side of the cells, in the unit of the files, within which Diracs are merged into one. None keeps all.
        Those of the moving shape are chosen at the first call and travel with it, so that the value stays
        smooth; they are chosen anew when the number of Diracs changes or cells have come apart.
    """

    needs_triangles = False

    def __init__(self, fixed: Any, weights: Any = None, resolution: float | None = None) -> None:
        self._fixed = self._checked(as_shape(fixed, weights=weights, name="fixed").detached(), "fixed")
        if not float(self._fixed.masses().sum()) > 0.0:
            raise InputError("fixed has no area: every triangle is degenerate")
        self.resolution = None if resolution is None else positive(resolution, "resolution")
        self._cells: Cells | None = None
        self._kept: dict[tuple[torch.dtype, torch.device], Any] = {}

    def __call__(self, points: Any, triangles: Any = None, weights: Any = None) -> Tensor:
        """Return the value for the moving shape; see :class:`Attachment`."""
        moving = self._checked(as_shape(points, triangles, weights, name="points"), "points")
        dtype, device = moving.points.dtype, moving.points.device
        kept = self._kept_for(dtype, device)
        diracs = self.diracs(moving, "points")
        if self.resolution is not None:
            if self._cells is None or not self._cells.fit(diracs, self.resolution):
                self._cells = make_cells(diracs, self.resolution, self._corner(diracs))
            diracs = self._cells.merge(diracs)
        return self._value(diracs, kept).to(dtype)

    def reset(self) -> None:
        """Choose cells anew at the next call."""
        self._cells = None

    @abstractmethod
    def diracs(self, shape: Shape, name: str) -> Diracs:
        """The shape as a cloud of Diracs, differentiable in its points; messages call it ``name``."""

    @abstractmethod
    def _prepare(self, diracs: Diracs) -> Any:
        """What calls need of the fixed shape, in the dtype and on the device of the moving one."""

    @abstractmethod
    def _value(self, diracs: Diracs, kept: Any) -> Tensor:
        """The value for the moving shape, given what :meth:`_prepare` returned."""

    def _kept_for(self, dtype: torch.dtype, device: torch.device) -> Any:
        if (dtype, device) not in self._kept:
            with torch.no_grad():
                diracs = self.diracs(self._fixed.to(device, dtype), "fixed")
                if self.resolution is not None:
                    cells = make_cells(diracs, self.resolution, self._corner(diracs))
                    diracs = cells.merge(diracs)
                self._kept[dtype, device] = self._prepare(diracs)
        return self._kept[dtype, device]

    def _corner(self, diracs: Diracs) -> Tensor:
        """A corner of the cells, the same for both shapes so that equal ones are merged alike."""
        corner = torch.zeros_like(diracs.positions[0])
        corner[:3] = self._fixed.sites().amin(dim=0)
        return corner

    def _checked(self, shape: Shape, name: str) -> Shape:
        if self.needs_triangles and shape.triangles is None:
            raise InputError(
                f"{type(self).__name__} needs triangles, but {name} has none ({shape!r}): "
                "use Transport or MMD for point clouds"
            )
        return shape


def default_scale(fixed: Shape, share: float, spacings: float, name: str) -> float:
    """A share of the diameter of the fixed shape, but no less than so many spacings of its Diracs.

    Raises
    ------
    InputError
        When the fixed shape has no extent, so that a scale must be given.
    """
    scale = max(share * fixed.diameter(), spacings * fixed.spacing())
    if not scale > 0.0:
        raise InputError(f"fixed has no extent, so {name} must be given")
    return scale


def unit_mass(shape: Shape, name: str = "points") -> Tensor:
    """Masses of the Diracs of a shape, float64, scaled to a total of 1."""
    masses = shape.masses()
    total = masses.sum()
    if not float(total.detach()) > 0.0:
        raise InputError(f"{name} has no area: every triangle is degenerate")
    return masses / total
