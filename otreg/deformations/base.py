"""The contract that every deformation keeps.

A deformation moves POINTS of MOVING into the space of FIXED: ``phi(x_moving) ≈ y_fixed``. It takes NumPy
arrays and torch tensors and gives back the same kind, dtype and device. Sums are carried out in float64
whatever the dtype of the points, because the parameters are float64 and coordinates of medical files may lie
far from the origin (the one exception are devices without float64, such as Apple's, where float32 is used).

A new kind of deformation implements :meth:`Deformation._map`, :meth:`Deformation._jacobian`,
:attr:`Deformation.inverse` and :meth:`Deformation.parameters` for tensors, and adds a reader and a writer to
:mod:`otreg.deformations.files`.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otreg.deformations.matrices import determinant
from otreg.errors import InputError
from otreg.surface import FRAMES, Landmarks, Surface

PointsT = TypeVar("PointsT", NDArray[Any], Tensor)
"""A NumPy array or a torch tensor: what comes out is of the kind that went in."""

Metadata = dict[str, str | int | float | bool]


class Deformation(abc.ABC):
    """A smooth map of space, from the moving shape's to the fixed shape's.

    Parameters
    ----------
    moving_frame, fixed_frame : {"RAS", "LPS", "tkRAS"}, optional
        Coordinate frames of the points that go in and that come out; ``None`` when not known.
    metadata : mapping of str to str, int, float or bool, optional
        What is worth keeping beside the numbers: file names, diameter, version of otreg. Keys that begin with
        ``moving`` or ``fixed`` change places in the inverse.

    Raises
    ------
    InputError
        On an unknown frame, or metadata that a transform file cannot keep.
    """

    def __init__(
        self,
        *,
        moving_frame: str | None = None,
        fixed_frame: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        for frame in (moving_frame, fixed_frame):
            if frame is not None and frame not in FRAMES:
                raise InputError(f"unknown frame {frame!r}: use one of {', '.join(FRAMES)} or None")
        self.moving_frame = moving_frame
        self.fixed_frame = fixed_frame
        self.metadata: Metadata = checked_metadata(metadata or {})

    # What a kind of deformation implements, for tensors in the working dtype --------------------------------

    @abc.abstractmethod
    def _map(self, points: Tensor) -> Tensor:
        """Images (N, 3) of points (N, 3)."""

    @abc.abstractmethod
    def _jacobian(self, points: Tensor) -> Tensor:
        """Derivatives ``d phi_i / d x_j`` (N, 3, 3) at points (N, 3)."""

    def _map_and_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Both at once, for kinds where that costs less than one after the other."""
        return self._map(points), self._jacobian(points)

    @property
    @abc.abstractmethod
    def inverse(self) -> Deformation:
        """The map from FIXED back to MOVING, a deformation too."""

    @abc.abstractmethod
    def parameters(self) -> dict[str, Tensor]:
        """Return the float64 tensors that define the map, by name; the objects themselves, not copies."""

    # What everybody uses ------------------------------------------------------------------------------------

    def map(self, points: PointsT) -> PointsT:
        """Move points.

        Parameters
        ----------
        points : array or tensor, shape (N, 3)
            Points in the space of the moving shape, in the unit of the files. Integers are taken as float64.
            Points that are not finite stay so. N may be 0.

        Returns
        -------
        array or tensor, shape (N, 3)
            Same kind, dtype and device. A tensor carries gradients with respect to the points and to
            :meth:`parameters`; an array never does.

        Raises
        ------
        InputError
            On another shape or a dtype that is not a real number.
        """
        return self._evaluate(self._map, points)

    def jacobian(self, points: PointsT) -> PointsT:
        """Derivative of the map, ``J[n, i, j] = d phi_i / d x_j`` at point n, exact: (N, 3) -> (N, 3, 3)."""
        return self._evaluate(self._jacobian, points)

    def jacobian_determinant(self, points: PointsT) -> PointsT:
        """Local change of volume, (N, 3) -> (N,): above 1 growth, below 1 shrinkage, at or below 0 a fold."""
        return self._evaluate(lambda tensor: determinant(self._jacobian(tensor)), points)

    def map_with_jacobian(self, points: PointsT) -> tuple[PointsT, PointsT]:
        """Images (N, 3) and Jacobians (N, 3, 3) of points at once, which costs less than one after the other."""
        if isinstance(points, Tensor):
            tensor, dtype = working_tensor(points)
            images, jacobians = self._map_and_jacobian(tensor)
            return images.to(dtype), jacobians.to(dtype)
        with torch.no_grad():
            array, array_dtype = working_array(points)
            images, jacobians = self._map_and_jacobian(array)
            return images.numpy().astype(array_dtype), jacobians.numpy().astype(array_dtype)

    @overload
    def __call__(self, shape: Surface) -> Surface: ...
    @overload
    def __call__(self, shape: Landmarks) -> Landmarks: ...
    @overload
    def __call__(self, shape: NDArray[Any]) -> NDArray[Any]: ...
    @overload
    def __call__(self, shape: Tensor) -> Tensor: ...
    def __call__(self, shape: Any) -> Any:
        """Move a Surface, Landmarks, an array or a tensor; the same kind comes out.

        A surface keeps its triangles, point data and labels, whatever they are; its landmarks move with it,
        and point data called normals are turned with the surface. The result is in :attr:`fixed_frame` if that
        is known.

        Raises
        ------
        InputError
            When the frame of the shape and :attr:`moving_frame` are both known and differ.
        """
        if isinstance(shape, Surface):
            frame = self._frame_after(shape.frame)
            landmarks = None if shape.landmarks is None else self(shape.landmarks)
            moved = shape.with_points(self.map(shape.points), **self._turned_normals(shape))
            return dataclasses.replace(moved, frame=frame, landmarks=landmarks)
        if isinstance(shape, Landmarks):
            frame = self._frame_after(shape.frame)
            return dataclasses.replace(shape.with_points(self.map(shape.points)), frame=frame)
        return self.map(shape)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a transform file (HDF5, see :mod:`otreg.deformations.files`), whole or not at all."""
        from otreg.deformations.files import save_transform

        save_transform(self, path)

    def _evaluate(self, function: Callable[[Tensor], Tensor], points: PointsT) -> PointsT:
        if isinstance(points, Tensor):
            tensor, dtype = working_tensor(points)
            return function(tensor).to(dtype)
        with torch.no_grad():
            array, array_dtype = working_array(points)
            return function(array).numpy().astype(array_dtype, copy=False)

    def _turned_normals(self, shape: Surface) -> dict[str, NDArray[Any]]:
        """Point data that are unit normals, turned by the cofactors of the Jacobian: viewers shade by them."""
        turned: dict[str, NDArray[Any]] = {}
        for name, normals in shape.point_data.items():
            if name.lower() != "normals" or normals.shape != (len(shape), 3) or normals.dtype.kind != "f":
                continue
            jacobian = self.jacobian(shape.points)
            # J⁻ᵀ n but for its length, also where J is singular: columns of cofactors are cross products
            first, second, third = (jacobian[:, :, column] for column in range(3))
            cofactors = np.stack(
                [np.cross(second, third), np.cross(third, first), np.cross(first, second)], axis=2
            )
            images = np.einsum("nij,nj->ni", cofactors, normals.astype(np.float64))
            length = np.linalg.norm(images, axis=1, keepdims=True)
            turned[name] = (images / np.where(length > 0, length, 1.0)).astype(normals.dtype)
        return turned

    def _frame_after(self, frame: str | None) -> str | None:
        """Frame of a shape after the map, given its frame before."""
        if frame is not None and self.moving_frame is not None and frame != self.moving_frame:
            raise InputError(
                f"the transform moves points in {self.moving_frame} coordinates, but the shape is in "
                f"{frame}: convert it (otreg apply --convert-frames, or otreg convert)"
            )
        return self.fixed_frame or frame

    def _swapped(self) -> dict[str, Any]:
        """Keyword arguments (frames, metadata) of the inverse of this map."""
        return {
            "moving_frame": self.fixed_frame,
            "fixed_frame": self.moving_frame,
            "metadata": {_swapped_key(key): value for key, value in self.metadata.items()},
        }


def _swapped_key(key: str) -> str:
    for one, other in (("moving", "fixed"), ("fixed", "moving")):
        if key.startswith(one):
            return other + key.removeprefix(one)
    return key


def checked_metadata(metadata: Mapping[str, Any]) -> Metadata:
    """Return a copy of the metadata in plain Python types, or refuse what a transform file cannot keep."""
    checked: Metadata = {}
    for key, given in metadata.items():
        value = given.item() if isinstance(given, np.generic) else given
        if not isinstance(key, str) or not isinstance(value, str | int | float | bool):
            raise InputError(f"metadata {key!r} must be a string or a number, got {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"metadata {key!r} must be finite, got {value}")
        checked[key] = value
    return checked


def working_dtype(device: torch.device) -> torch.dtype:
    """Float64, except on devices that lack it."""
    return torch.float32 if device.type == "mps" else torch.float64


def working_tensor(points: Tensor) -> tuple[Tensor, torch.dtype]:
    """Points in the working dtype, and the dtype of the result; refuses what are not points."""
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"points must have shape (N, 3), got {tuple(points.shape)}")
    if points.dtype == torch.bool or points.dtype.is_complex:
        raise InputError(f"points must be real numbers, got {points.dtype}")
    working = working_dtype(points.device)
    return points.to(working), points.dtype if points.dtype.is_floating_point else working


def working_array(points: Any) -> tuple[Tensor, np.dtype[Any]]:
    """Points of an array in a float64 tensor, and the dtype of the result; refuses what are not points."""
    array = np.asarray(points)
    if array.dtype.kind not in "iuf":
        raise InputError(f"points must be real numbers, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != 3:
        raise InputError(f"points must have shape (N, 3), got {array.shape}")
    plain = np.ascontiguousarray(array, dtype=np.float64)
    if not plain.flags.writeable:  # torch warns about sharing memory that it must not write
        plain = plain.copy()
    return torch.from_numpy(plain), array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)


def parameter_tensor(values: Any, shape: tuple[int | None, ...], what: str) -> Tensor:
    """Return a parameter as a finite float64 tensor of the given shape (None: any length of at least 1).

    A float64 tensor is kept as it is, so that gradients and optimisers reach it.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(_float_array(values, what))
    if tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise InputError(f"{what} must be real numbers, got {tensor.dtype}")
    tensor = tensor.to(working_dtype(tensor.device))
    names = (
        "("
        + ", ".join("N" if length is None else str(length) for length in shape)
        + ("," * (len(shape) == 1))
        + ")"
    )
    fits = tensor.ndim == len(shape) and all(
        have >= 1 if want is None else have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(f"{what} must have shape {names}, got {tuple(tensor.shape)}")
    if not bool(torch.isfinite(tensor.detach()).all()):
        raise InputError(f"{what} must be finite")
    return tensor


def _float_array(values: Any, what: str) -> NDArray[np.float64]:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be an array of numbers") from error
