"""Where a deformation is to be sampled: its direction, its frame, the box it was made for, a grid over it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from otreg.deformations.affine import Affine
from otreg.deformations.base import Deformation
from otreg.deformations.composite import Composite
from otreg.deformations.control_points import ControlPointDeformation
from otreg.deformations.inverse import InverseDeformation
from otreg.errors import InputError
from otreg.io.grids import HALF_TURN, Grid

DIRECTIONS = ("points", "images")
"""What a sampled map is for: it moves points, or it is looked up by whoever resamples an image."""

_DEFAULT_POINTS = 64
"""Spacings that the default grid has on the diagonal of the box it covers."""
_DEFAULT_MARGIN = 0.1
"""Share of that diagonal that is added on each side."""


class Oriented(NamedTuple):
    """A map in the direction that is to be written.

    Attributes
    ----------
    mapping : Deformation
        From points in ``frame`` to points in ``frame``.
    frame : {"RAS", "LPS", "tkRAS"} or None
        ``None`` where nobody said.
    direction : {"points", "images"}
    maps : str
        The same in words.
    """

    mapping: Deformation
    frame: str | None
    direction: str
    maps: str


def oriented(transform: Deformation, direction: str, inverse: bool, frame: str | None) -> Oriented:
    """Return the map that is to be sampled; see :func:`otreg.deformations.sample_field` for the arguments."""
    if direction not in DIRECTIONS:
        raise InputError(f"unknown direction {direction!r}: use points or images")
    source, target = ("FIXED", "MOVING") if inverse else ("MOVING", "FIXED")
    if direction == "points":
        maps = f"points of {source} to {target}"
    else:
        maps = f"points of {target} to {source} (resamples {source} onto {target})"
    mapping = transform.inverse if inverse != (direction == "images") else transform
    begin = mapping.moving_frame or mapping.fixed_frame
    end = mapping.fixed_frame or begin
    if frame is not None:
        if frame not in ("RAS", "LPS"):
            raise InputError(f"unknown frame {frame!r}: use RAS or LPS")
        if begin is not None and (begin, end) != (frame, frame):
            raise InputError(
                f"the transform says that it is in {begin}, not {frame}: a frame is stated only for one that "
                "does not say"
            )
        begin = end = frame
    if begin != end:
        if "tkRAS" in (begin, end):
            raise InputError(
                f"the map goes from {begin} to {end}, which differ by an offset that it does not know: register "
                "surfaces in one frame"
            )
        back = Affine(np.diag(HALF_TURN), np.zeros(3), "rigid", moving_frame=end, fixed_frame=begin)
        mapping = Composite([mapping, back], metadata=mapping.metadata)
    return Oriented(mapping, begin, direction, maps)


def known_bounds(mapping: Deformation) -> NDArray[np.float64] | None:
    """Return the box around the shape that a map was made for, (2, 3), or ``None`` where it does not know.

    A registration notes it in ``metadata["moving_bounds"]`` (six numbers: smallest and largest x, y, z). Other
    maps have it from their first control points, which lie on or about the shape.
    """
    noted = str(mapping.metadata.get("moving_bounds", "")).split()
    if len(noted) == 6:
        try:
            bounds = np.array([float(text) for text in noted]).reshape(3, 2).T
        except ValueError:
            bounds = np.full((2, 3), np.nan)
        if np.isfinite(bounds).all() and (bounds[0] <= bounds[1]).all():
            return bounds
    stages = mapping.stages if isinstance(mapping, Composite) else (mapping,)
    before: list[Deformation] = []
    with torch.no_grad():
        for stage in stages:
            original = stage.original if isinstance(stage, InverseDeformation) else stage
            if isinstance(original, ControlPointDeformation):
                points = original.control_points.detach()
                points = original.map(points) if isinstance(stage, InverseDeformation) else points
                for earlier in reversed(before):
                    points = earlier.inverse.map(points)
                return torch.stack([points.amin(dim=0), points.amax(dim=0)]).cpu().numpy()
            before.append(stage)
    return None


def noted_bounds(bounds: ArrayLike) -> str:
    """Write a box (2, 3) as :func:`known_bounds` reads it."""
    return " ".join(repr(float(value)) for value in np.asarray(bounds, dtype=np.float64).T.ravel())


def choose_grid(
    found: Oriented,
    grid: Grid | None,
    bounds: ArrayLike | None,
    spacing: float | None,
    margin: float | None,
    grid_frame: str | None,
) -> Grid:
    """Return the grid to sample on; see :func:`otreg.deformations.sample_field` for the arguments."""
    for name, value in (("spacing", spacing), ("margin", margin)):
        if value is not None and not (
            np.isfinite(value) and (value > 0 or (value == 0 and name == "margin"))
        ):
            raise InputError(f"the {name} must be a positive number, got {value:g}")
    if grid is not None:
        if bounds is not None:
            raise InputError("give a grid or bounds, not both")
        # A map that does not know its frame is taken for LPS wherever the other side is known.
        if _turns(grid_frame, found.frame or ("LPS" if grid_frame else None)):
            grid = grid.turned()
        return grid if spacing is None and not margin else grid.adapted(spacing, margin or 0.0)
    if bounds is not None:
        box = np.array(bounds, dtype=np.float64)
        if box.shape != (2, 3) or not np.isfinite(box).all() or not (box[0] <= box[1]).all():
            raise InputError("bounds must be the smallest and the largest x, y, z, finite and in that order")
        if found.frame is not None and _turns(grid_frame, found.frame):
            box = np.sort(box * HALF_TURN, axis=0)
    else:
        known = known_bounds(found.mapping)
        if known is None:
            raise InputError(
                "the transform does not know which shape it was made for: say where to sample it "
                "(like a surface or an image, or bounds)"
            )
        box = known
    diameter = float(np.linalg.norm(box[1] - box[0]))
    if not diameter > 0 and (spacing is None or margin is None):
        raise InputError("the box to sample is a single point: give a spacing and a margin")
    width = _DEFAULT_MARGIN * diameter if margin is None else margin
    return Grid.around(
        np.stack([box[0] - width, box[1] + width]), diameter / _DEFAULT_POINTS if spacing is None else spacing
    )


def _turns(one: str | None, other: str | None) -> bool:
    """Whether the half turn leads from one frame to the other; refuses what it cannot convert."""
    if one is None or other is None or one == other:
        return False
    if "tkRAS" in (one, other):
        raise InputError(f"the place to sample is in {one} and the map in {other}: convert it first")
    return True
