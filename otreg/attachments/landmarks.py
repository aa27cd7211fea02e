"""Landmarks as an attachment: points that are known to correspond."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from otreg.attachments.base import Attachment
from otreg.attachments.geometry import as_indices
from otreg.errors import InputError
from otreg.reductions.checks import as_points, as_tensor, as_weights, finite
from otreg.surface import Landmarks, Surface


class LandmarkDistance(Attachment):
    """``½ Σ_l w_l |x_l - y_l|² / Σ_l w_l`` between corresponding points.

    Parameters
    ----------
    fixed : Landmarks, Surface with landmarks, array or Tensor of shape (L, 3)
        y, in the unit of the files. Copied, and never differentiated.
    vertices : array or Tensor of int, shape (L,) or (L, K), optional
        Which of the moving points each landmark is, or lies between. By default the moving points are the
        landmarks themselves. Points that travel with a mesh but belong to no triangle may be named too.
    coordinates : array or Tensor, shape (L, K), optional
        Share of each of the K points, e.g. barycentric coordinates in a triangle (K = 3).
    weights : array or Tensor, shape (L,), optional
        w, not negative, 1 by default: the inverse of the variance of where a landmark was placed, say.

    Raises
    ------
    InputError
        On no landmarks, shapes that do not match, numbers that are not finite, weights that are all zero.
    """

    def __init__(
        self, fixed: Any, vertices: Any = None, *, coordinates: Any = None, weights: Any = None
    ) -> None:
        if isinstance(fixed, Surface):
            if fixed.landmarks is None:
                raise InputError(f"{fixed.called('fixed')} carries no landmarks")
            fixed = fixed.landmarks
        fixed = as_points(fixed.points if isinstance(fixed, Landmarks) else fixed, "fixed")
        if fixed.shape[1] != 3:
            raise InputError(f"fixed must have shape (L, 3), got {tuple(fixed.shape)}")
        self._fixed = fixed.detach().clone()
        self._weights = as_weights(weights, self._fixed, "weights").detach()
        self._weights = self._weights / self._weights.sum()
        self._vertices, self._coordinates = self._where(vertices, coordinates)

    @property
    def scale(self) -> float:
        """0: no detail is too small."""
        return 0.0

    def __repr__(self) -> str:
        return f"LandmarkDistance({len(self._fixed)} landmarks)"

    def __call__(self, points: Any, triangles: Any = None, weights: Any = None) -> Tensor:
        """Return the value, in squared length units; triangles and weights of the moving shape play no part."""
        moving = as_points(points.points if isinstance(points, Surface) else points, "points")
        if moving.shape[1] != 3:
            raise InputError(f"points must have shape (N, 3), got {tuple(moving.shape)}")
        device, dtype = moving.device, moving.dtype
        difference = self._landmarks(moving) - self._fixed.to(device, dtype)
        square = difference.square().sum(dim=1)
        return 0.5 * (self._weights.to(device, dtype) * square).sum()

    def _landmarks(self, points: Tensor) -> Tensor:
        """The moving landmarks, (L, 3)."""
        if self._vertices is None:
            if len(points) != len(self._fixed):
                raise InputError(
                    f"points must be the {len(self._fixed)} landmarks, got {len(points)}: "
                    "say which they are by vertices, when the attachment is made"
                )
            return points
        if int(self._vertices.max()) >= len(points):
            raise InputError(
                f"points must have the vertex {int(self._vertices.max())} that a landmark names, "
                f"got {len(points)} points"
            )
        chosen = points[self._vertices.to(points.device)]
        if self._coordinates is None:
            return chosen
        return (self._coordinates.to(points.device, points.dtype)[:, :, None] * chosen).sum(dim=1)

    def _where(self, vertices: Any, coordinates: Any) -> tuple[Tensor | None, Tensor | None]:
        count = len(self._fixed)
        if vertices is None:
            if coordinates is not None:
                raise InputError("coordinates need vertices, which they are the shares of")
            return None, None
        indices = as_indices(vertices, None, "vertices")
        if coordinates is None:
            if indices.shape != (count,):
                raise InputError(f"vertices must have shape ({count},), got {tuple(indices.shape)}")
            return indices.clone(), None
        shares = as_tensor(coordinates, "coordinates").detach().clone()
        if indices.ndim != 2 or len(indices) != count:
            raise InputError(f"vertices must have shape ({count}, K), got {tuple(indices.shape)}")
        if shares.shape != indices.shape:
            raise InputError(f"coordinates must have shape {tuple(indices.shape)}, got {tuple(shares.shape)}")
        finite(shares, "coordinates")
        return indices.clone(), shares
