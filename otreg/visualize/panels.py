"""The panels that a registration can be shown in, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otreg.deformations import Deformation, split_pose
from otreg.errors import InputError
from otreg.surface import FloatArray, Surface
from otreg.visualize import colours
from otreg.visualize.scene import Layer, Panel
from otreg.visualize.shapes import contour_lines, grid_lines, spread_points
from otreg.visualize.sheet import INK
from otreg.visualize.view import View

GHOST = (0.30, 0.33, 0.38)
_LATTICE = 0.5
"""Cells of a lattice along the longest side, as a share of those of a plane: fewer, to look through."""
_APART = 1.12
"""Distance between two shapes side by side, in sums of their half widths."""


@dataclasses.dataclass(eq=False)
class Subject:
    """A registration to be shown, and how.

    Attributes
    ----------
    moving, fixed, moved : Surface
        ``moved`` has the vertices of ``moving``, or nothing that needs that is shown.
    transform : Deformation, optional
        Needed for grids and motion.
    values : mapping from ``moving``, ``fixed`` and ``moved`` to arrays (N,) or None
    view : View
        The side that the first row looks from.
    arrows, cells, threads, contours : int
        How many.
    arrow_scale : float
        Length of arrows, in displacements.
    times : int
        Positions over time that layers get; 0: none move.
    log_determinant : bool
        Whether grids are coloured by it.
    """

    moving: Surface
    fixed: Surface
    moved: Surface
    transform: Deformation | None
    values: Mapping[str, NDArray[Any] | None]
    view: View
    arrows: int = 200
    cells: int = 16
    threads: int = 80
    contours: int = 16
    arrow_scale: float = 1.0
    times: int = 0
    log_determinant: bool = False

    @cached_property
    def same_vertices(self) -> bool:
        """Whether moved is moving, vertex by vertex."""
        return len(self.moving) == len(self.moved)

    @cached_property
    def parts(self) -> tuple[Deformation | None, Deformation | None]:
        """The pose (affine stages that come first) and the rest of the map."""
        return (None, None) if self.transform is None else split_pose(self.transform)

    @cached_property
    def posed(self) -> Surface:
        """Moving after the pose, or as it is without one."""
        pose, _ = self.parts
        return self.moving if pose is None else self.moving.with_points(pose.map(self.moving.points))

    def motion(self, points: FloatArray, transform: Deformation | None) -> FloatArray | None:
        """Positions (T, N, 3) over time of points, or None where nothing is to move."""
        if self.times < 2 or transform is None:
            return None
        from otreg.deformations import trajectory

        return np.asarray(trajectory(transform, points, np.linspace(0.0, 1.0, self.times)))

    def need_vertices(self, panel: str) -> None:
        """Refuse a panel that needs to know where each vertex went."""
        if not self.same_vertices:
            raise InputError(
                f"panel {panel!r} needs the vertices of moving ({len(self.moving)}) to be those of moved "
                f"({len(self.moved)})"
            )

    def need_map(self, panel: str) -> Deformation:
        """The map, or a refusal of a panel that cannot do without."""
        if self.transform is None:
            raise InputError(f"panel {panel!r} needs the map: transform.h5 of the run, or transform=")
        return self.transform


def shape_layer(
    name: str, shape: Surface, values: NDArray[Any] | None, colour: tuple[float, float, float], **more: Any
) -> Layer:
    """A layer of a surface or a cloud."""
    kind = "surface" if shape.has_triangles else "points"
    return Layer(name, kind, shape.points, shape.triangles, colour=colour, values=values, **more)  # type: ignore[arg-type]


def _moving(subject: Subject, **more: Any) -> Layer:
    return shape_layer("moving", subject.moving, subject.values.get("moving"), colours.SECOND, **more)


def _fixed(subject: Subject, **more: Any) -> Layer:
    return shape_layer("fixed", subject.fixed, subject.values.get("fixed"), colours.NEUTRAL, **more)


def _moved(subject: Subject, **more: Any) -> Layer:
    motion = None
    if subject.same_vertices:
        motion = subject.motion(subject.moving.points, subject.transform)
    values = subject.values.get("moved")
    return shape_layer("moved", subject.moved, values, colours.SECOND, motion=motion, **more)


def _beneath(subject: Subject) -> Layer:
    """The fixed shape where another one lies over it: its outline, or its points among the other's."""
    if subject.fixed.has_triangles:
        return shape_layer("fixed", subject.fixed, None, colours.NEUTRAL, outline=True)
    return shape_layer("fixed", subject.fixed, None, GHOST, ghost=True)


def _of_fixed(subject: Subject) -> str:
    return "over the outline of fixed" if subject.fixed.has_triangles else "among the points of fixed"


def _arrow_layer(subject: Subject, **more: Any) -> Layer:
    chosen = spread_points(subject.posed, subject.arrows)
    tails = subject.posed.points[chosen]
    vectors = subject.arrow_scale * (subject.moved.points[chosen] - tails)
    return Layer("arrows", "arrows", tails, vectors=vectors, colour=INK, **more)


def _grid_layer(subject: Subject, planes: str, **more: Any) -> Layer:
    transform = subject.need_map("grid")
    pose, rest = subject.parts
    shown = subject.posed.points[np.isfinite(subject.posed.points).all(axis=1)]
    cells = max(round(subject.cells * (_LATTICE if planes == "lattice" else 1.0)), 2)
    # A plane faces the viewer; grids in space lie along the coordinates, so that no side sees all planes edge on.
    axes = subject.view.axes if planes == "facing" else np.eye(3)
    points, segments = grid_lines(shown, axes, cells, planes=planes)
    values = None
    if subject.log_determinant:
        start = points if pose is None else pose.inverse.map(points)
        determinant = np.asarray(transform.jacobian_determinant(start))
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(determinant > 0, np.log(determinant), np.nan)
    moved = points if rest is None else rest.map(points)
    motion = subject.motion(points, rest)
    if motion is not None:
        # The grid lies in the space after the pose, so it waits there while the shape is brought to it.
        motion = _after_pose(motion, subject)
    return Layer("grid", "lines", moved, segments, colour=INK, values=values, motion=motion, **more)


def _after_pose(motion: FloatArray, subject: Subject) -> FloatArray:
    """Positions over the time of the whole map of what only the part after the pose moves."""
    from otreg.deformations import legs

    assert subject.transform is not None
    way, deforming = legs(subject.transform), legs(subject.transform, skip_pose=True)
    begin = 1.0 if not deforming else way[-len(deforming)].start
    times = np.linspace(0.0, 1.0, len(motion))
    place = np.clip((times - begin) / max(1.0 - begin, 1e-12), 0.0, 1.0) * (len(motion) - 1)
    before = np.minimum(place.astype(int), len(motion) - 2)
    share = (place - before)[:, None, None]
    return np.asarray((1.0 - share) * motion[before] + share * motion[before + 1])


def _map_words(subject: Subject) -> str:
    return "after the pose" if subject.parts[0] is not None else "by the map"


def _arrows_panel(subject: Subject) -> Panel:
    subject.need_vertices("arrows")
    layers = [_moved(subject, opacity=0.45), _arrow_layer(subject)]
    longer = "" if subject.arrow_scale == 1.0 else f", {subject.arrow_scale:g} times as long"
    return Panel(f"Displacement {_map_words(subject)}{longer}", layers)


def _grid_panel(planes: str) -> Callable[[Subject], Panel]:
    def make(subject: Subject) -> Panel:
        name = {"facing": "Grid", "three": "Three planes", "lattice": "Lattice"}[planes]
        layers = [_moved(subject, ghost=planes == "facing", opacity=0.45), _grid_layer(subject, planes)]
        if planes == "facing":
            layers[0].values, layers[0].colour, layers[0].opacity = None, colours.SECOND, 1.0
        return Panel(f"{name}, deformed {_map_words(subject)}", layers)

    return make


def _threads_panel(subject: Subject) -> Panel:
    subject.need_vertices("threads")
    right = subject.view.right
    spans = [
        np.nanmax(s.points @ right) - np.nanmin(s.points @ right) for s in (subject.posed, subject.moved)
    ]
    offset = -0.5 * _APART * sum(spans) * right
    beside = subject.posed.with_points(subject.posed.points + offset)
    chosen = spread_points(subject.posed, subject.threads)
    points = np.concatenate([beside.points[chosen], subject.moved.points[chosen]])
    segments = np.stack([np.arange(len(chosen)), np.arange(len(chosen)) + len(chosen)], axis=1)
    layers = [
        shape_layer("moving", beside, subject.values.get("moving"), colours.SECOND),
        shape_layer("moved", subject.moved, subject.values.get("moved"), colours.SECOND),
        Layer("threads", "lines", points, segments, colour=INK, opacity=0.55, width=0.8),
    ]
    return Panel("Moving (left) and where its points went", layers)


def _contours_panel(subject: Subject) -> Panel:
    if not subject.fixed.has_triangles:
        raise InputError("panel 'contours' needs a fixed shape with triangles, and it is a cloud of points")
    points, segments = contour_lines(subject.fixed, subject.view, subject.contours)
    contours = Layer("contours of fixed", "lines", points, segments, colour=INK, width=1.2)
    return Panel("Moved, and contours of fixed", [_moved(subject), contours])


def _all_panel(subject: Subject) -> Panel:
    """Everything in one space, for interactive scenes: what is not needed at first is switched off."""
    layers = [_fixed(subject, opacity=0.5), _moved(subject), _moving(subject, visible=False)]
    if subject.same_vertices:
        layers.append(_arrow_layer(subject, visible=False))
    if subject.transform is not None:
        layers.append(_grid_layer(subject, "three", visible=False))
    return Panel("", layers)


PANELS: dict[str, Callable[[Subject], Panel]] = {
    "moving": lambda subject: Panel("Moving", [_moving(subject)]),
    "fixed": lambda subject: Panel("Fixed", [_fixed(subject)]),
    "moved": lambda subject: Panel("Moved", [_moved(subject)]),
    "before": lambda subject: Panel(f"Moving, {_of_fixed(subject)}", [_moving(subject), _beneath(subject)]),
    "overlay": lambda subject: Panel(f"Moved, {_of_fixed(subject)}", [_moved(subject), _beneath(subject)]),
    "arrows": _arrows_panel,
    "grid": _grid_panel("facing"),
    "slices": _grid_panel("three"),
    "lattice": _grid_panel("lattice"),
    "threads": _threads_panel,
    "contours": _contours_panel,
    "all": _all_panel,
}
"""What ``panels`` of :func:`otreg.visualize.scene` may name."""
