"""Settings of a template, their defaults and why, and its levels from coarse to fine."""

from __future__ import annotations

import dataclasses
from typing import Any

from otreg.cohort.geodesic import STIFFNESS
from otreg.errors import InputError
from otreg.registration.settings import PRESETS, Settings


@dataclasses.dataclass(frozen=True)
class TemplateSettings:
    """Every choice that a template follows from, beside its subjects.

    Parameters
    ----------
    iterations : int, default 4
        Most times that all subjects are registered to the template. It ends earlier once it has converged.
    tolerance : float, default 0.05
        It has where the template is to move, right after a registration at the finest level, by less than this
        share of the mean distance to a subject; both are root-mean-squares of the part across the surface, since
        vertices that slide along it change no shape.
    similarity : bool, default False
        Take size out of the differences, with the pose. The template then has the geometric mean of the sizes.
    widths : tuple of float, default (0.3, 0.15, 0.075)
        Of the Gaussians that momenta act with at the finest level, as shares of the template's diameter, each half
        of the one before: from a third of the shape down to twice the distance between control points.
    control_points : int, default 300
        At the finest level: beyond that the fit gets slower faster than it gets closer.
    fit_points : int, default 1500
        Vertices of the template whose targets are fitted.
    stiffness : float, default 1e-4
        See :func:`otreg.cohort.geodesic.fit_geodesic`.
    preset : str, default "spline"
        Of the registrations that give the targets. Splines take two thirds of the time of flows; what enters the
        template is a flow in any case, the one that the momenta start.
    settings : dict
        Overrides of :class:`otreg.registration.Settings`.
    labels : str, optional
        Point data of all subjects that are labels: the template gets those that most of them have, and their
        overlap is reported.
    seed : int, default 0
    repair : bool, default False
        Drop points of files that are not finite.
    device : {"auto", "cpu", "cuda"}
    """

    iterations: int = 4
    tolerance: float = 0.05
    similarity: bool = False
    widths: tuple[float, ...] = (0.3, 0.15, 0.075)
    control_points: int = 300
    fit_points: int = 1500
    stiffness: float = STIFFNESS
    preset: str = "spline"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    labels: str | None = None
    seed: int = 0
    repair: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("iterations", "control_points", "fit_points"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number of 1 or more, got {value!r}")
        for name in ("tolerance", "stiffness"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise InputError(f"{name} must be a positive number, got {value!r}")
        widths = tuple(float(width) for width in self.widths)
        if not widths or not all(0 < width < 10 for width in widths) or sorted(widths)[::-1] != list(widths):
            raise InputError(f"widths must be shares of the diameter, widest first, got {self.widths!r}")
        object.__setattr__(self, "widths", widths)
        if self.preset not in PRESETS:
            raise InputError(f"unknown preset {self.preset!r}: use one of {', '.join(PRESETS)}")
        Settings.from_mapping(self.settings)  # refuses what it does not know

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**dataclasses.asdict(self), "widths": list(self.widths)}

    def level(self, iteration: int) -> Level:
        """What one iteration, counted from 0, works with; the finest level from the last width on.

        Iteration k has the first k + 1 widths. Each width that is added doubles the resolution, and wants about
        twice the control points on curved surfaces. Registrations before the finest level look at fewer points:
        the template that they go to is still to change.
        """
        count = min(iteration + 1, len(self.widths))
        missing = len(self.widths) - count
        given = Settings.from_mapping(self.settings)
        settings = dict(self.settings)
        if missing:
            settings["points"] = max(given.points // 3, 10)
            settings["fine_points"] = max(given.fine_points // 4, 10)
        return Level(self.widths[:count], max(self.control_points // 2**missing, 10), settings, not missing)


@dataclasses.dataclass(frozen=True)
class Level:
    """Widths (shares of the diameter), number of control points, settings of the registrations; the finest?"""

    widths: tuple[float, ...]
    control_points: int
    settings: dict[str, Any]
    finest: bool
