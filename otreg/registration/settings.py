"""The settings of a registration, their defaults, and what each preset runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from otreg.errors import InputError

PRESETS = ("rigid", "similarity", "affine", "spline")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every number a registration uses. Lengths are shares of FIXED's diameter (its bounding-box diagonal).

    Parameters
    ----------
    points : int
        Points sampled on each shape for the coarse matches; all pairs of them are streamed.
    fine_points : int
        Most points on each shape for the fine matches, which look at near pairs only.
    control_points : int
        Most control points of a spline level.
    starts : int
        Orientations tried for the rigid start, besides those of the principal axes.
    normal_weight : float
        Weight of unit normals beside positions in the cost of a match.
    reach_factor : float
        Reach over blur. Small values keep mass from sliding along the surface.
    stiffness : float
        Weight of a spline's energy, multiplied by the variance of the residual itself.
    """

    points: int = 2500
    fine_points: int = 20000
    control_points: int = 1000
    starts: int = 120
    normal_weight: float = 0.15
    reach_factor: float = 2.5
    stiffness: float = 30.0

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any] | None) -> Settings:
        """Build settings from a mapping of names to numbers; unknown names and bad values are refused."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for name, value in dict(given or {}).items():
            if name not in known:
                raise InputError(f"unknown setting {name!r}: use one of {', '.join(known)}")
            default = known[name].default
            whole = isinstance(default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise InputError(f"setting {name} must be a {'whole ' if whole else ''}number, got {value!r}")
            if not 0 < value < float("inf"):
                raise InputError(f"setting {name} must be positive and finite, got {value!r}")
            if whole and value < 10:
                raise InputError(f"setting {name} must be at least 10, got {value!r}")
            values[name] = value
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as a plain dictionary, in the order of their definition."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Level:
    """One kernel width of the spline, matched from ``first_blur`` down to ``last_blur``."""

    width: float
    first_blur: float
    last_blur: float
    steps: int
    kernel: str = "gaussian"
    spacing: float = 0.0


# stiff and wide first, soft and fine last: the other order locks wrong matches in
LEVELS = (
    Level(0.30, 0.06, 0.03, 6),
    Level(0.12, 0.03, 0.015, 6),
    Level(0.05, 0.015, 0.007, 6),
    Level(0.12, 0.007, 0.004, 6, "wendland", 0.030),
    Level(0.06, 0.004, 0.0025, 6, "wendland", 0.015),
)
