"""From where a shape is looked at: a side by name, or along its flattest direction, so that it fills the picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.surface import FloatArray, IntArray, Surface

_MARGIN = 1.08  # white around the shapes
_CLEARLY_BETTER = 1.25  # gain in size for which a shape is turned away from the upright
_NEARLY_ALONG = 0.8  # cosine from which the third axis is too much along the line of sight to be up
_CLOSE_TO_AXIS = 0.78  # cosine, about 39 degrees

VIEWS = ("left", "right", "front", "back", "top", "bottom", "iso")
"""Sides to look from. The front of a body whose frame is known is anterior, the top superior, the left its own left.
Without a frame the front is the side of low y, as in most programs for meshes, left is low x and top is high z."""
ANATOMICAL = {
    "anterior": "front",
    "posterior": "back",
    "superior": "top",
    "inferior": "bottom",
}
"""Names for bodies whose frame is known."""

# Where the side lies, as (right, front, top) of the body; and what points up in the picture.
_SIDES = {
    "left": ((-1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "right": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "front": ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "back": ((0.0, -1.0, 0.0), (0.0, 0.0, 1.0)),
    "top": ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
    "bottom": ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    "iso": ((1.0, 1.0, 0.8), (0.0, 0.0, 1.0)),
}
# Coordinates of the body's right, front and top. Seen from its front, a body's right is on the viewer's left.
_BODY = {
    "RAS": np.diag([1.0, 1.0, 1.0]),
    "tkRAS": np.diag([1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    # Not a body but a thing on a table: its right is what is on the right when it is seen from its front.
    None: np.diag([1.0, -1.0, 1.0]),
}


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A parallel projection.

    Attributes
    ----------
    right, up, towards_viewer : arrays, shape (3,)
        Orthonormal, right-handed.
    centre : array, shape (3,)
        The point in the middle of the picture.
    half_height : float
        Half of the picture's height, in length units.
    """

    right: FloatArray
    up: FloatArray
    towards_viewer: FloatArray
    centre: FloatArray
    half_height: float

    @property
    def axes(self) -> FloatArray:
        """Rows: right, up, towards the viewer."""
        return np.stack([self.right, self.up, self.towards_viewer])


def axes_of(name: str, frame: str | None) -> FloatArray:
    """Right, up and towards the viewer (rows, orthonormal) of a side by name.

    Parameters
    ----------
    name : str
        One of :data:`VIEWS`, or of :data:`ANATOMICAL` where the frame is known.
    frame : {"RAS", "LPS", "tkRAS"} or None

    Raises
    ------
    InputError
        On an unknown name, or an anatomical one without a frame.
    """
    if name in ANATOMICAL and frame is None:
        raise InputError(
            f"view {name!r} needs to know the frame (RAS, LPS) of the surfaces, and their files do not say: "
            f"use {ANATOMICAL[name]!r}"
        )
    side = _SIDES.get(ANATOMICAL.get(name, name))
    if side is None:
        raise InputError(f"unknown view {name!r}: use one of {', '.join((*VIEWS, *ANATOMICAL))}")
    body = _BODY[frame]
    towards, up = np.array(side[0]) @ body, np.array(side[1]) @ body
    if frame is None and side[1][1]:
        up = up * side[0][2] * -1.0  # seen from above, a thing's front is at the bottom of the picture
    towards = towards / np.linalg.norm(towards)
    up = up - (up @ towards) * towards
    up = up / np.linalg.norm(up)
    return np.stack([np.cross(up, towards), up, towards])


def looking(axes: FloatArray) -> View:
    """A view along axes (right, up, towards the viewer), still without centre and size."""
    return View(axes[0], axes[1], axes[2], np.zeros(3), 1.0)


def view_of(shape: Surface, aspect: float) -> View:
    """The view of a shape for a picture ``aspect`` times as wide as high.

    The line of sight is the axis of least extent (principal axes of the surface), turned to the coordinate
    axis that it is close to where the frame is known, because readers know such views. Of its two
    directions the one is taken that faces the outer side of an open surface (a face, not the inside of a
    mask), and for a closed one the side that bulges. Up is the third coordinate, which points to the head
    in medical frames, unless that is nearly the line of sight; the longest axis instead where it makes the
    shape clearly larger.
    """
    points, weights = _mass(shape)
    mean = np.average(points, axis=0, weights=weights)
    offset = points - mean
    axes = np.linalg.eigh((offset * weights[:, None]).T @ offset)[1].T
    sight, middle, longest = axes
    if shape.frame is not None:
        sight = _snap(sight)
    sight = sight * _facing(shape, offset @ sight, weights, sight)
    candidates = [_up(longest, sight), _up(middle, sight)]
    if abs(sight[2]) < _NEARLY_ALONG:
        candidates.insert(0, _up(np.array([0.0, 0.0, 1.0]), sight))
    chosen: View | None = None
    for up in candidates:
        axes = np.stack([np.cross(up, sight), up, sight])
        centre, half = _middle(shown_points(shape), axes)
        height = max(half[1], half[0] / aspect, 1e-12) * _MARGIN
        if chosen is None or height * _CLEARLY_BETTER < chosen.half_height:
            chosen = View(axes[0], axes[1], axes[2], centre, height)
    assert chosen is not None
    return chosen


def _up(direction: FloatArray, sight: FloatArray) -> FloatArray:
    """The direction made orthogonal to the line of sight, pointing to where its largest coordinate grows."""
    up = direction - (direction @ sight) * sight
    up = up / np.linalg.norm(up)
    return up * np.sign(up[np.abs(up).argmax()])


def _snap(direction: FloatArray) -> FloatArray:
    """The coordinate axis that a direction is close to, or the direction itself."""
    largest = np.abs(direction).argmax()
    if abs(direction[largest]) < _CLOSE_TO_AXIS:
        return direction
    axis = np.zeros(3)
    axis[largest] = np.sign(direction[largest])
    return axis


def centred_views(clouds: Sequence[FloatArray], view: View, aspect: float) -> list[View]:
    """Views of points (N, 3) in their own middle, all in one direction and at the one scale that holds them all."""
    middles = [_middle(points, view.axes) for points in clouds]
    height = max(max(half[1], half[0] / aspect) for _, half in middles) * _MARGIN
    height = max(height, 1e-12)
    return [dataclasses.replace(view, centre=centre, half_height=height) for centre, _ in middles]


def merged(shapes: Sequence[Surface]) -> Surface:
    """All shapes as one, without their data."""
    starts = np.cumsum([0, *(len(shape) for shape in shapes[:-1])])
    triangles = [shape.triangles + start for shape, start in zip(shapes, starts, strict=True)]
    frames = {shape.frame for shape in shapes}
    return Surface(
        np.concatenate([shape.points for shape in shapes]),
        np.concatenate(triangles),
        frame=frames.pop() if len(frames) == 1 else None,
    )


def shown_points(shape: Surface) -> FloatArray:
    """The points that are seen, (N, 3): finite, and on triangles where there are any."""
    points = shape.points
    if shape.has_triangles:
        points = points[used_rows(shape.triangles, len(points))]
    return points[np.isfinite(points).all(axis=1)]


def used_rows(cells: IntArray, count: int) -> NDArray[np.bool_]:
    """Which of ``count`` points belong to a cell, (count,)."""
    used = np.zeros(count, bool)
    used[cells] = True
    return used


def _middle(points: FloatArray, axes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centre of the box along the axes, and its half sizes."""
    local = points @ axes.T
    low, high = local.min(axis=0), local.max(axis=0)
    return 0.5 * (low + high) @ axes, 0.5 * (high - low)


def _mass(shape: Surface) -> tuple[FloatArray, FloatArray]:
    points, weights = shape.points, shape.weights
    if shape.has_triangles and shape.triangle_areas.sum() > 0:
        points, weights = shape.triangle_centres, shape.triangle_areas
    known = np.isfinite(points).all(axis=1) & np.isfinite(weights)
    points, weights = points[known], weights[known]
    return points, weights if weights.sum() > 0 else np.ones(len(points))


def _facing(shape: Surface, depth: FloatArray, weights: FloatArray, sight: FloatArray) -> float:
    """1 or -1: the direction along ``sight`` to look from."""
    if shape.has_triangles:
        areas = np.nan_to_num(shape.triangle_cross)
        open_side = float(areas.sum(axis=0) @ sight) / max(float(np.linalg.norm(areas, axis=1).sum()), 1e-300)
        if abs(open_side) > 0.02:  # the vector area of a closed surface is 0
            return 1.0 if open_side > 0 else -1.0
    spread = np.sqrt(np.average(depth**2, weights=weights))
    skew = np.average(depth**3, weights=weights) / max(float(spread) ** 3, 1e-300)
    if abs(skew) > 0.02:
        return 1.0 if skew > 0 else -1.0
    return float(np.sign(sight[np.abs(sight).argmax()]))
