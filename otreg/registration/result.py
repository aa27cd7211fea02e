"""What a registration returns."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from otreg.deformations import Deformation
from otreg.surface import Surface

if TYPE_CHECKING:
    from otreg.visualize import Scene


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
    moving, fixed : Surface
        What was registered, as it was used: in one frame.
    """

    moved: Surface
    transform: Deformation
    report: dict[str, Any]
    moving: Surface
    fixed: Surface

    @property
    def warnings(self) -> list[str]:
        """Everything the user should know, one sentence each."""
        return list(self.report["warnings"])

    @property
    def passed(self) -> bool:
        """Whether the quality gate was passed."""
        return bool(self.report["passed"])

    def plot(self, **options: Any) -> Scene:
        """Make a scene of the registration, which notebooks show inline.

        Parameters
        ----------
        **options
            Those of :func:`otreg.visualize.scene`: ``panels``, ``color_by``, ``views``, ``title``, …

        Returns
        -------
        otreg.visualize.Scene
            Plain data that can be changed; ``.save("picture.png")`` (or svg, pdf, html), ``.show()``.
        """
        # The one step upwards in the plan of the house, taken when it is asked for (docs/decisions/0009).
        from otreg.visualize import scene

        return scene(self, **options)
