"""The settings of a registration, their defaults, and what each preset runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from otreg.errors import InputError

PRESETS = ("rigid", "similarity", "affine", "spline", "diffeo")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every number a registration uses. Lengths are shares of FIXED's diameter (its bounding-box diagonal).

    Parameters
    ----------
    points : int
        Points sampled on each shape for the coarse matches; all pairs of them are streamed while blurs are wide.
        Meshes of more than 20 vertices for each of them get more, at most twice as many. The last of these matches have
        twice as many, where the meshes have as many vertices.
    fine_points : int
        Most points on each shape for the fine matches, which look at near pairs only.
    control_points : int
        Control points of the coarse spline; a fine one has at most twelve times as many.
    starts : int
        Orientations tried for the rigid start, besides those of the principal axes.
    normal_weight : float
        Weight of unit normals beside positions in the cost of a match.
    reach_factor : float
        Reach over blur. Small values keep mass from sliding along the surface.
    tangential_weight : float
        Largest weight of a residual along the surface, relative to one across it. A match says little about the
        first: it counts only as far as neighbours agree on it (:mod:`otreg.registration.coherence`).
    strain : float
        Displacement over width that the coarse spline expects at each of its widths before it has seen the data,
        as a standard deviation.
    independent_points : float
        How many independent residuals the samples count as; those of neighbours err together. Fewer make the
        coarse spline stiffer.
    fine_stiffness : float
        Weight of a fine spline's energy, multiplied by the variance of the residual itself. ``diffeo`` also tries a
        third of it, a ninth and a 27th, with 1.6 times the reach and two thirds of the normals' weight, as long as
        surfaces are apart and come clearly closer (docs/decisions/0017), and then a third of the normals' weight.
    landmark_error : float
        Standard deviation of given landmarks, as a share of FIXED's diameter: how closely maps follow them.
    attachment_iterations : int
        Most iterations of L-BFGS on the attachment itself, after the coarse flow of ``diffeo``; 0 leaves the stage
        out. It is kept where held-back points come closer, which they seldom do (docs/decisions/0011).
    """

    points: int = 3000
    fine_points: int = 20000
    control_points: int = 300
    starts: int = 120
    normal_weight: float = 0.15
    reach_factor: float = 2.5
    tangential_weight: float = 0.4
    strain: float = 0.1
    independent_points: float = 1000.0
    fine_stiffness: float = 30.0
    landmark_error: float = 0.005
    attachment_iterations: int = 0

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
            if name == "attachment_iterations":
                if value < 0:
                    raise InputError(f"setting {name} must be 0 or more, got {value!r}")
                values[name] = value
                continue
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
class CoarseLevel:
    """One spline whose kernel is a sum of Gaussians, matched from a wide blur down to ``last_blur``.

    Each width is half or a quarter of the one before: flows sum such kernels twice as fast. From ``late_blur`` on more
    points are matched, which wide blurs would not see.
    """

    widths: tuple[float, ...] = (2.4, 0.6, 0.3, 0.15, 0.075, 0.0375)
    first_blur: float = 0.04
    last_blur: float = 0.005
    late_blur: float = 0.015
    steps: int = 14
    blur_variance: float = 0.015


@dataclasses.dataclass(frozen=True)
class FineLevel:
    """One compact kernel on control points ``spacing`` apart, matched from ``first_blur`` to ``last_blur``."""

    width: float
    spacing: float
    first_blur: float
    last_blur: float
    steps: int = 6
    blur_variance: float = 0.1


# stiff and wide first, soft and fine last: the other order locks wrong matches in
COARSE = CoarseLevel()
FINE = (
    FineLevel(0.12, 0.030, 0.006, 0.004),
    FineLevel(0.06, 0.015, 0.004, 0.0025),
)
