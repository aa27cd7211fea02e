"""Check what the caller gave and bring it to one form."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions.checks import (
    as_points,
    as_tensor,
    as_weights,
    finite,
    positive,
    same_dimension,
    same_kind,
)

MASS_TOLERANCE = 1e-4
"""Relative difference of total masses that is taken for rounding in a balanced problem."""

ROUNDING = 1e-13
"""Relative difference of total masses that changes no answer."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A transport problem, checked.

    ``x`` and ``y`` carry the features, already scaled, as further columns; the first ``dimension`` columns
    are the positions. Weights are float64. ``rho_x`` and ``rho_y`` are infinite where the marginal is
    imposed.
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
    is_self: bool = False

    @property
    def eps(self) -> float:
        """Squared blur."""
        return self.blur**2

    @property
    def balanced(self) -> bool:
        """Whether both marginals are imposed."""
        return math.isinf(self.rho_x) and math.isinf(self.rho_y)

    @property
    def needs_grad(self) -> bool:
        """Whether autograd follows any of the inputs."""
        return torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in (self.x, self.y, self.a, self.b)
        )

    def at_precision(self, dtype: torch.dtype) -> Problem:
        """The same problem with points of another dtype, still attached to its graph."""
        return dataclasses.replace(self, x=self.x.to(dtype), y=self.y.to(dtype))

    def detached(self) -> Problem:
        """A copy without graph, which stays as it is when the caller changes the points in place."""
        x, y, a, b = (tensor.detach().clone() for tensor in (self.x, self.y, self.a, self.b))
        return dataclasses.replace(self, x=x, y=y, a=a, b=b)

    def own(self, side: str) -> Problem:
        """The problem of ``"x"`` or ``"y"`` with itself."""
        if side == "x":
            return dataclasses.replace(self, y=self.x, b=self.a, is_self=True)
        return dataclasses.replace(self, x=self.y, a=self.b, is_self=True)

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
    """Check the arguments of :func:`otreg.transport.solve`; InputError names the bad one."""
    is_numpy = not any(isinstance(given, Tensor) for given in (x, y))
    points_x, points_y = as_points(x, "x"), as_points(y, "y")
    same_kind(points_x, points_y, "x", "y")
    same_dimension(points_x, points_y, "x", "y")
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
                "a and b must have the same total mass in a balanced problem, "
                f"got {mass_a:.6g} and {mass_b:.6g}: normalise them, or give reach"
            )
        # masses that agree but for float64's rounding are left alone: b stays the same from call to call, and
        # with it the self term of y that an earlier result holds
        if abs(mass_a - mass_b) > ROUNDING * max(mass_a, mass_b):
            weights_b = weights_b * (mass_a / mass_b)
    return Problem(points_x, points_y, weights_a, weights_b, dimension, blur, rho_x, rho_y, is_numpy)


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
