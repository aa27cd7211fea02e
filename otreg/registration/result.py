"""What a registration returns."""

from __future__ import annotations

import dataclasses
from typing import Any

from otreg.deformations import Deformation
from otreg.surface import Surface


@dataclasses.dataclass(frozen=True)
class Registration:
    """A finished registration.

    Attributes
    ----------
    moved : Surface
        MOVING in FIXED's space: the same points and data, plus the point vectors ``displacement``.
    transform : Deformation
        The map; it moves points of MOVING into FIXED's space.
    report : dict
        Settings, versions, stages with times, quality before and after, warnings; ready for JSON.
    """

    moved: Surface
    transform: Deformation
    report: dict[str, Any]

    @property
    def warnings(self) -> list[str]:
        """Everything the user should know, one sentence each."""
        return list(self.report["warnings"])

    @property
    def passed(self) -> bool:
        """Whether the quality gate was passed."""
        return bool(self.report["passed"])
