"""Check what a caller gave and turn it into tensors of one kind; the messages name the argument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otreg.errors import InputError


def as_tensor(given: Any, name: str) -> Tensor:
    """Return ``given`` as a tensor of float32 or float64, without copying where possible."""
    if isinstance(given, Tensor):
        tensor = given
    else:
        try:
            array = np.asarray(given)
            whole = np.ascontiguousarray(array) if array.flags.writeable else array.copy()
            # arrays live on the CPU, whatever the user's default device
            tensor = torch.as_tensor(whole, device="cpu")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name} must be an array of floats, got {type(given).__name__}: {error}"
            ) from None
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name} must be float32 or float64, got {tensor.dtype}: convert it")
    return tensor


def as_points(given: Any, name: str, *, empty: bool = False) -> Tensor:
    """Return points of shape (N, D), finite; at least one unless ``empty``."""
    points = as_tensor(given, name)
    if points.ndim != 2 or points.shape[1] == 0:
        raise InputError(f"{name} must have shape (N, D), got {tuple(points.shape)}")
    if len(points) == 0 and not empty:
        raise InputError(f"{name} has no points")
    finite(points, name)
    return points


def as_weights(given: Any, points: Tensor, name: str) -> Tensor:
    """Return weights of shape (N,), float64, finite, none negative, not all zero; by default 1/N each."""
    if given is None:
        return torch.full((len(points),), 1.0 / len(points), dtype=torch.float64, device=points.device)
    weights = as_tensor(given, name)
    if weights.device != points.device:
        raise InputError(f"{name} is on {weights.device} but its points are on {points.device}")
    if weights.shape != (len(points),):
        raise InputError(f"{name} must have shape ({len(points)},), got {tuple(weights.shape)}")
    finite(weights, name)
    if bool((weights.detach() < 0).any()):
        raise InputError(f"{name} must not be negative, got {float(weights.detach().min()):.6g}")
    if float(weights.detach().sum()) <= 0.0:
        raise InputError(f"{name} has no mass: every weight is 0")
    return weights.double()


def as_values(given: Any, points: Tensor, name: str, points_name: str) -> Tensor:
    """Return values on points, shape (N,) or (N, V), of the kind of the points."""
    values = as_tensor(given, name)
    if values.ndim not in (1, 2) or len(values) != len(points):
        count = len(points)
        raise InputError(f"{name} must have shape ({count},) or ({count}, V), got {tuple(values.shape)}")
    same_kind(points, values, points_name, name)
    return values


def finite(tensor: Tensor, name: str) -> None:
    """Raise InputError if any entry is NaN or infinite, saying which row is the first."""
    good = torch.isfinite(tensor.detach())
    if not bool(good.all()):
        row = int((~good).reshape(len(tensor), -1).any(dim=1).nonzero()[0])
        raise InputError(f"{name} must be finite, but row {row} is not")


def positive(given: Any, name: str) -> float:
    """Return a positive, finite number."""
    try:
        number = float(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} must be a positive number, got {given!r}") from None
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{name} must be a positive number, got {number}")
    return number


def as_parameter(given: Any, name: str, *, zero: bool = False) -> float | Tensor:
    """Return a parameter of a kernel: a float, or a tensor of shape () as it came, so that gradients reach it.

    It must be finite and positive; with ``zero``, it may be 0 too.
    """
    if isinstance(given, Tensor) and (given.ndim or not given.is_floating_point()):
        shape = tuple(given.shape)
        raise InputError(f"{name} must be a float or a float tensor of shape (), got {given.dtype} {shape}")
    number = given.detach() if isinstance(given, Tensor) else given
    if not (zero and isinstance(number, Tensor | float | int) and float(number) == 0.0):
        positive(number, name)
    return given if isinstance(given, Tensor) else float(given)


def same_kind(first: Tensor, second: Tensor, first_name: str, second_name: str) -> None:
    """Raise InputError unless both tensors have one dtype and one device."""
    if first.device != second.device:
        raise InputError(f"{first_name} is on {first.device} but {second_name} is on {second.device}")
    if first.dtype != second.dtype:
        raise InputError(
            f"{first_name} is {first.dtype} but {second_name} is {second.dtype}: convert one of them"
        )


def same_dimension(x: Tensor, y: Tensor, x_name: str, y_name: str) -> None:
    """Raise InputError unless both clouds have the same number of columns."""
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"{x_name} and {y_name} must have the same dimension, got {x.shape[1]} and {y.shape[1]} columns"
        )
