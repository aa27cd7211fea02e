"""What attachments read off a shape: centres, areas and normals, as differentiable functions of its points."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions.checks import as_points, as_weights
from otreg.surface import Surface

POINTS_LOOKED_AT = 2000
"""Most points of a cloud whose nearest neighbour is searched to tell the spacing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """A mesh or a weighted point cloud, checked.

    Attributes
    ----------
    points : Tensor, shape (N, 3), float32 or float64
        Finite, in the unit of the files, attached to the caller's graph.
    triangles : Tensor of int64, shape (T, 3), or None
        None for a point cloud.
    weights : Tensor, shape (N,), float64, or None
        Masses of the points of a cloud; None for a mesh.
    """

    points: Tensor
    triangles: Tensor | None
    weights: Tensor | None

    def __repr__(self) -> str:
        return f"{len(self)} points" if self.triangles is None else f"{len(self)} triangles"

    def __len__(self) -> int:
        """Number of Diracs: triangles of a mesh, points of a cloud."""
        return len(self.points) if self.triangles is None else len(self.triangles)

    def detached(self) -> Shape:
        """A copy without graph, which stays as it is when the caller changes the arrays in place."""
        return Shape(
            *(
                None if part is None else part.detach().clone()
                for part in (self.points, self.triangles, self.weights)
            )  # type: ignore[arg-type]
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Shape:
        """The same on another device, with points of another dtype."""
        return Shape(
            self.points.to(device, dtype),
            None if self.triangles is None else self.triangles.to(device),
            None if self.weights is None else self.weights.to(device),
        )

    def sites(self) -> Tensor:
        """Where its Diracs sit: centres of triangles (T, 3), or the points themselves (N, 3)."""
        return self.points if self.triangles is None else triangle_centres(self.points, self.triangles)

    def masses(self) -> Tensor:
        """Masses of its Diracs, float64: areas of triangles (T,) in squared length units, or weights (N,)."""
        if self.triangles is None:
            assert self.weights is not None
            return self.weights
        return split_normals(area_normals(self.points, self.triangles))[1].double()

    def diameter(self) -> float:
        """Diagonal of the box around it; points that no triangle uses do not count."""
        points = self.points.detach()
        if self.triangles is not None:
            points = points[self.triangles.flatten()]
        return float((points.amax(dim=0) - points.amin(dim=0)).double().norm())

    def spacing(self) -> float:
        """Typical distance between neighbouring Diracs.

        √(area / triangles) for a mesh; the median distance to the nearest other point for a cloud.
        """
        if self.triangles is not None:
            areas = self.masses().detach()
            return math.sqrt(float(areas.sum()) / max(int((areas > 0).sum()), 1))
        from scipy.spatial import cKDTree

        points = self.points.detach().cpu().double().numpy()
        if len(points) < 2:
            return 0.0
        asked = points[:: -(-len(points) // POINTS_LOOKED_AT)]
        return float(np.median(cKDTree(points).query(asked, k=2)[0][:, 1]))


def as_shape(given: Any, triangles: Any = None, weights: Any = None, *, name: str) -> Shape:
    """Check what a caller gave as a shape.

    Parameters
    ----------
    given : Surface, array or Tensor of shape (N, 3), or a pair of points and triangles
    triangles : array or Tensor of int, shape (T, 3), optional
        None, or no triangle, stands for a point cloud.
    weights : array or Tensor, shape (N,), optional
        Masses of a point cloud, 1/N each by default (those of a Surface: its point data ``weights``).
    name : str
        What a message calls the points.

    Raises
    ------
    InputError
        On no points, wrong shapes, numbers that are not finite, indices out of range, weights for a mesh.
    """
    triangles_name = "triangles" if name == "points" else f"the triangles of {name}"
    weights_name = "weights" if name == "points" else f"the weights of {name}"
    if isinstance(given, Surface | tuple):
        if triangles is not None:
            raise InputError(f"{triangles_name} were given twice: once with {name}, once beside it")
        if isinstance(given, Surface):
            if weights is None and not given.has_triangles and len(given):
                weights = given.weights
            given, triangles = given.points, given.triangles
        elif len(given) == 2:
            given, triangles = given
        else:
            raise InputError(
                f"{name} must be a Surface, points, or (points, triangles), got {len(given)} parts"
            )
    points = as_points(given, name)
    if points.shape[1] != 3:
        raise InputError(f"{name} must have shape (N, 3), got {tuple(points.shape)}")
    corners = None if triangles is None else as_triangles(triangles, points, triangles_name)
    if corners is None:
        return Shape(points, None, as_weights(weights, points, weights_name))
    if weights is not None:
        raise InputError(f"{weights_name} are for point clouds: a mesh weighs its triangles by their areas")
    return Shape(points, corners, None)


def as_triangles(given: Any, points: Tensor, name: str) -> Tensor | None:
    """Return triangles (T, 3) as int64 on the device of the points, or None where there is none."""
    indices = as_indices(given, len(points), name)
    if indices.numel() == 0:
        return None
    if indices.ndim != 2 or indices.shape[1] != 3:
        raise InputError(f"{name} must have shape (T, 3), got {tuple(indices.shape)}")
    return indices.to(points.device)


def as_indices(given: Any, count: int | None, name: str) -> Tensor:
    """Return vertex indices of any shape as int64, all within ``0..count-1``, or none negative if no count."""
    try:
        indices = given if isinstance(given, Tensor) else torch.as_tensor(np.array(given))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} must be an array of integers, got {type(given).__name__}: {error}"
        ) from None
    whole = not (indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex())
    if not whole and indices.numel():
        raise InputError(f"{name} must be integers, got {indices.dtype}")
    indices = indices.long()
    if indices.numel() == 0:
        return indices
    low, high = int(indices.min()), int(indices.max())
    if count is None and low < 0:
        raise InputError(f"{name} must not be negative, got {low}")
    if count is not None and (low < 0 or high >= count):
        raise InputError(f"{name} must name vertices within 0..{count - 1}, got {low if low < 0 else high}")
    return indices


def triangle_centres(points: Tensor, triangles: Tensor) -> Tensor:
    """Mean of the corners of each triangle, (T, 3)."""
    return points[triangles].mean(dim=1)


def area_normals(points: Tensor, triangles: Tensor) -> Tensor:
    """Normal of each triangle times its area, (T, 3): ``(b - a) × (c - a) / 2`` for corners a, b, c."""
    a, b, c = points[triangles].unbind(dim=1)
    return 0.5 * torch.linalg.cross(b - a, c - a)


def split_normals(normals: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals (T, 3) and areas (T,) of area normals (T, 3).

    A triangle without area has a zero normal, and both have a zero gradient there: a length has no derivative
    at 0, and a NaN would spoil all other points.
    """
    square = normals.square().sum(dim=1)
    there = square > torch.finfo(normals.dtype).tiny
    length = torch.where(there, square, torch.ones_like(square)).sqrt()
    unit = torch.where(there[:, None], normals / length[:, None], torch.zeros_like(normals))
    return unit, torch.where(there, length, torch.zeros_like(length))
