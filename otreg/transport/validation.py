"""Check what the caller gave and bring it to one form: tensors of one dtype on one device, weights in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otreg.errors import InputError

MASS_TOLERANCE = 1e-4
"""Relative difference of total masses that is taken for rounding in a balanced problem."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A transport problem, checked.

    ``x`` and ``y`` carry the features, already scaled, as further columns; the first ``dimension`` columns are the
    positions. Weights are float64. ``rho_x`` and ``rho_y`` are infinite where the marginal is imposed.
    """

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    dimension: int
    blur: float
    rho_x: float
    rho_y: float
    numpy: bool

    @property
    def eps(self) -> float:
        """Squared blur."""
        return self.blur**2

    @property
    def balanced(self) -> bool:
        """Whether both marginals are imposed."""
        return math.isinf(self.rho_x) and math.isinf(self.rho_y)

    @property
    def diameter(self) -> float:
        """Diagonal of the box around both clouds, features included."""
        low = torch.minimum(self.x.amin(dim=0), self.y.amin(dim=0))
        high = torch.maximum(self.x.amax(dim=0), self.y.amax(dim=0))
        return float((high - low).double().norm())


def make_problem(
    x: Any,
    y: Any,
    a: Any = None,
    b: Any = None,
    *,
    blur: float,
    reach: float | None = None,
    reach_x: float | None = None,
    reach_y: float | None = None,
    x_features: Any = None,
    y_features: Any = None,
    feature_weight: Any = 1.0,
) -> Problem:
    """Check the arguments of :func:`otreg.transport.solve`; raise InputError, naming the argument, when they are bad."""
    is_numpy = not any(isinstance(given, Tensor) for given in (x, y))
    points_x, points_y = as_points(x, "x"), as_points(y, "y")
    same_kind(points_x, points_y, "x", "y")
    if points_x.shape[1] != points_y.shape[1]:
        raise InputError(
            f"x and y must have the same dimension, got {points_x.shape[1]} and {points_y.shape[1]} columns"
        )
    dimension = points_x.shape[1]
    if (x_features is None) != (y_features is None):
        missing = "x_features" if x_features is None else "y_features"
        raise InputError(f"{missing} is missing: features must be given for both sides or neither")
    if x_features is not None:
        points_x = _with_features(points_x, x_features, "x_features", feature_weight)
        points_y = _with_features(points_y, y_features, "y_features", feature_weight)
        if points_x.shape[1] != points_y.shape[1]:
            raise InputError(
                "x_features and y_features must have the same number of columns, got "
                f"{points_x.shape[1] - dimension} and {points_y.shape[1] - dimension}"
            )
    blur = positive(blur, "blur")
    if reach is not None:
        for name, other in (("reach_x", reach_x), ("reach_y", reach_y)):
            if other is not None:
                raise InputError(f"give either reach or {name}, not both")
        reach_x = reach_y = positive(reach, "reach")
    rho_x = math.inf if reach_x is None else positive(reach_x, "reach_x") ** 2
    rho_y = math.inf if reach_y is None else positive(reach_y, "reach_y") ** 2
    weights_a, weights_b = as_weights(a, points_x, "a"), as_weights(b, points_y, "b")
    if math.isinf(rho_x) and math.isinf(rho_y):
        mass_a, mass_b = float(weights_a.detach().sum()), float(weights_b.detach().sum())
        if abs(mass_a - mass_b) > MASS_TOLERANCE * max(mass_a, mass_b):
            raise InputError(
                f"a and b must have the same total mass in a balanced problem, got {mass_a:.6g} and {mass_b:.6g}: "
                "normalise them, or give reach"
            )
        weights_b = weights_b * (mass_a / mass_b)
    return Problem(points_x, points_y, weights_a, weights_b, dimension, blur, rho_x, rho_y, is_numpy)


def as_tensor(given: Any, name: str) -> Tensor:
    """Return ``given`` as a tensor of float32 or float64, without copying where possible."""
    if isinstance(given, Tensor):
        tensor = given
    else:
        try:
            array = np.asarray(given)
            tensor = torch.as_tensor(np.ascontiguousarray(array) if array.flags.writeable else array.copy())
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name} must be an array of floats, got {type(given).__name__}: {error}"
            ) from None
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name} must be float32 or float64, got {tensor.dtype}: convert it")
    return tensor


def as_points(given: Any, name: str) -> Tensor:
    """Return points of shape (N, D), finite, at least one."""
    points = as_tensor(given, name)
    if points.ndim != 2 or points.shape[1] == 0:
        raise InputError(f"{name} must have shape (N, D), got {tuple(points.shape)}")
    if len(points) == 0:
        raise InputError(f"{name} has no points")
    finite(points, name)
    return points


def as_weights(given: Any, points: Tensor, name: str) -> Tensor:
    """Return weights of shape (N,) in float64, finite, none negative, not all zero; uniform of mass 1 by default."""
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


def same_kind(first: Tensor, second: Tensor, first_name: str, second_name: str) -> None:
    """Raise InputError unless both tensors have one dtype and one device."""
    if first.device != second.device:
        raise InputError(f"{first_name} is on {first.device} but {second_name} is on {second.device}")
    if first.dtype != second.dtype:
        raise InputError(
            f"{first_name} is {first.dtype} but {second_name} is {second.dtype}: convert one of them"
        )


def _with_features(points: Tensor, given: Any, name: str, weight: Any) -> Tensor:
    features = as_tensor(given, name)
    if features.ndim == 1:
        features = features[:, None]
    if features.ndim != 2 or len(features) != len(points):
        raise InputError(f"{name} must have shape ({len(points)}, F), got {tuple(features.shape)}")
    finite(features, name)
    same_kind(points, features, "the points", name)
    scale = torch.as_tensor(weight, dtype=points.dtype, device=points.device)
    if scale.ndim > 1 or (scale.ndim == 1 and len(scale) != features.shape[1]):
        raise InputError(f"feature_weight must be one number or one for each of {features.shape[1]} features")
    if not bool(torch.isfinite(scale).all()) or bool((scale < 0).any()):
        raise InputError("feature_weight must be finite and not negative")
    return torch.cat([points, features * scale], dim=1)
