"""Scenes of registrations and of surfaces, made from what a user has at hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io import read
from otreg.registration import Registration
from otreg.surface import FloatArray, Surface
from otreg.visualize import colours
from otreg.visualize.colouring import Colouring
from otreg.visualize.draw import check_size
from otreg.visualize.fields import colour_values, compute, values_of
from otreg.visualize.layout import Layout, sheet_size
from otreg.visualize.panels import GHOST, PANELS, Subject, shape_layer
from otreg.visualize.run import Run, read_run
from otreg.visualize.scene import Colour, Layer, Panel, Scene
from otreg.visualize.view import View, axes_of, looking, view_of

What = Registration | Run | Surface | str | os.PathLike[str]


class Options(NamedTuple):
    """What is the same for scenes of runs and of surfaces; see :func:`scene`."""

    color_by: str | None
    limits: tuple[float, float] | None
    views: list[str]
    unit: str
    title: str | None
    size: tuple[int, int] | None
    background: Colour
    transparent: bool


def scene(
    *what: What,
    panels: Sequence[str] | None = None,
    color_by: str | None = None,
    limits: tuple[float, float] | None = None,
    views: Sequence[str] = (),
    arrows: int = 200,
    cells: int = 16,
    threads: int = 80,
    contours: int = 16,
    arrow_scale: float = 1.0,
    times: int = 0,
    side_by_side: bool = False,
    unit: str = "mm",
    title: str | None = None,
    size: tuple[int, int] | None = None,
    background: Colour = (1.0, 1.0, 1.0),
    transparent: bool = False,
    repair: bool = False,
) -> Scene:
    """Make a scene of a registration, or of one or more surfaces, to be drawn, animated, turned or saved.

    Parameters
    ----------
    *what : Registration, path of a run's folder, Surfaces or paths of surface files
        One registration or run, or any number of surfaces.
    panels : sequence of str, optional
        What is shown of a registration, side by side; default ``("moving", "fixed", "overlay")``.
        ``moving``, ``fixed``, ``moved``: one shape each; ``before``, ``overlay``: moving, or moved, over the
        outline of fixed; ``arrows``: displacement after the pose (the affine stages that come first), thinned;
        ``grid``, ``slices``, ``lattice``: a grid around the shape, deformed by the map after the pose, in one
        plane that faces the viewer, in three planes, in space; ``threads``: moving beside moved,
        corresponding points joined; ``contours``: cuts of fixed drawn on moved; ``all``: everything in one
        space, for interactive scenes.
    color_by : str, optional
        Point data, or one of ``displacement``, ``deformation`` (displacement without the best rigid motion),
        ``distance`` (to the other surface), ``log_det`` (local change of volume), ``curvature``. Default: for
        a registration ``displacement``, for surfaces none.
    limits : (low, high), optional
        Values at the ends of the colours. Default: nearly all values; symmetric around 0 where there is a sign.
    views : sequence of str, optional
        Sides to look from, one row each: ``left``, ``right``, ``front``, ``back``, ``top``, ``bottom``, ``iso``,
        and ``anterior``, … where the frame is known. Default: the side that shows most.
    arrows, cells, threads, contours : int
        How many; ``cells`` along the longest side of a grid.
    arrow_scale : float, default 1
        Length of arrows in displacements; the caption says so where it is not 1.
    times : int, default 0
        Positions over time that moved and grid get, for animations and scrubbing; 0: they stand still.
    side_by_side : bool, default False
        Several surfaces get a panel each, instead of lying in one as they lie in space.
    unit : str, default "mm"
        Of lengths; files do not say. ``""`` writes none.
    title, size, background, transparent
        See :class:`Scene`.
    repair : bool, default False
        Leave out points of surface files that are not finite, instead of refusing the file.

    Returns
    -------
    Scene

    Raises
    ------
    InputError
        On nothing to show, a mixture of runs and surfaces, an unknown panel, view or name of point data, or a
        panel that needs what is not there.
    """
    if not what:
        raise InputError("nothing to draw: name a run folder or one or more surface files")
    if size is not None:
        check_size(size)
    options = Options(color_by, limits, list(views), unit, title, size, background, transparent)
    folders = [item for item in what if isinstance(item, str | os.PathLike) and Path(item).is_dir()]
    whole = [item for item in what if isinstance(item, Registration | Run)]
    if (folders or whole) and len(what) > 1:
        name = folders[0] if folders else "a registration"
        raise InputError(f"{name}: is a folder; draw one run folder alone, or surface files")
    if folders or whole:
        if side_by_side:
            raise InputError("side by side is for surfaces; a run has panels")
        run = read_run(Path(folders[0])) if folders else _run_of(whole[0])
        counts: dict[str, Any] = {"arrows": arrows, "cells": cells, "threads": threads, "contours": contours}
        for key, count in counts.items():
            if count < 1:
                raise InputError(f"{key} must be 1 or more, got {count}")
        if not (np.isfinite(arrow_scale) and arrow_scale > 0):
            raise InputError(f"arrow_scale must be a positive number, got {arrow_scale}")
        wanted = tuple(panels) if panels is not None else ("moving", "fixed", "overlay")
        return _of_run(run, wanted, {**counts, "arrow_scale": arrow_scale, "times": times}, options)
    if panels is not None:
        raise InputError("panels are those of a run; surfaces can be drawn side by side")
    shapes = [item if isinstance(item, Surface) else read(Path(_path(item)), repair=repair) for item in what]
    return _of_surfaces(shapes, side_by_side, options)


def _path(item: Any) -> str | os.PathLike[str]:
    if isinstance(item, str | os.PathLike):
        return item
    raise TypeError(f"a scene is made of registrations, surfaces or paths, got {type(item).__name__}")


def _run_of(item: Any) -> Run:
    if isinstance(item, Run):
        return item
    return Run(item.moving, item.fixed, item.moved, item.transform)


def _check_drawable(shape: Surface) -> None:
    if not np.isfinite(shape.points).all(axis=1).any():
        raise InputError(f"{shape.metadata.get('path', 'a surface')} has no points to draw")


def _of_run(run: Run, panels: tuple[str, ...], details: dict[str, Any], options: Options) -> Scene:
    unknown = [name for name in panels if name not in PANELS]
    if unknown or not panels:
        named = f"unknown panel {unknown[0]!r}" if unknown else "no panel is named"
        raise InputError(f"{named}: use {', '.join(PANELS)}")
    for shape in (run.moving, run.fixed, run.moved):
        _check_drawable(shape)
    colouring, values = _run_colours(run, panels, options)
    frame = run.fixed.frame
    subject = Subject(
        run.moving,
        run.fixed,
        run.moved,
        run.transform,
        values,
        _first_view(run.fixed, frame, options, len(panels), colouring is not None),
        log_determinant=options.color_by == "log_det",
        **details,
    )
    made = [PANELS[name](subject) for name in panels]
    return _scene(made, colouring, frame, options)


def _run_colours(
    run: Run, panels: tuple[str, ...], options: Options
) -> tuple[Colouring | None, dict[str, NDArray[Any] | None]]:
    """Values of moving, fixed and moved; moving is coloured by what its vertices have in moved."""
    same = len(run.moving) == len(run.moved)
    name = options.color_by
    if name is None:
        if not same or not set(panels) - {"fixed", "grid"}:
            return None, {}
        name = "displacement"
    shapes = [run.moved, run.fixed]
    if name not in run.moved.point_data and name in run.moving.point_data and same:
        shapes[0] = run.moved.with_data({name: run.moving.point_data[name]})

    def computed(place: int) -> FloatArray | None:
        if place == 0:
            origin = run.moving if same else None
            return compute(name, run.moved, origin=origin, other=run.fixed, transform=run.transform)
        return compute(name, run.fixed, other=run.moved)

    found, made = values_of(name, shapes, computed)
    colouring, (of_moved, of_fixed) = colour_values(
        name, shapes, found, computed=made, unit=options.unit, limits=options.limits
    )
    of_moving = of_moved if same else None
    if made and name == "curvature":
        of_moving = compute(name, run.moving)
    return colouring, {"moving": of_moving, "moved": of_moved, "fixed": of_fixed}


def _of_surfaces(shapes: Sequence[Surface], side_by_side: bool, options: Options) -> Scene:
    for shape in shapes:
        _check_drawable(shape)
    colouring: Colouring | None = None
    values: list[NDArray[Any] | None] = [None] * len(shapes)
    if options.color_by is not None:
        name = options.color_by

        def computed(place: int) -> FloatArray | None:
            others = [shape for number, shape in enumerate(shapes) if number != place]
            return compute(name, shapes[place], other=others[0] if others else None)

        found, made = values_of(name, shapes, computed)
        colouring, values = colour_values(
            name, shapes, found, computed=made, unit=options.unit, limits=options.limits
        )
    names = names_of(shapes)
    plain = [colours.NEUTRAL, colours.SECOND, *map(tuple, colours.categorical(len(shapes))[1:])]
    layers: list[Layer] = []
    for place, (shape, painted, label) in enumerate(zip(shapes, values, names, strict=True)):
        red, green, blue = plain[place]
        colour = (float(red), float(green), float(blue))
        if side_by_side:
            layers.append(shape_layer(label, shape, painted, colour))
        elif painted is None and colouring is not None:
            layers.append(shape_layer(label, shape, None, GHOST, ghost=True))
        else:
            # Plain surfaces after the first let those that they hide shine through.
            opacity = 0.45 if painted is None and place > 0 else 1.0
            layers.append(shape_layer(label, shape, painted, colour, opacity=opacity))
    frames = {shape.frame for shape in shapes}
    frame = frames.pop() if len(frames) == 1 else None
    panels = [Panel(layer.name, [layer]) for layer in layers] if side_by_side else [Panel("", layers)]
    return _scene(panels, colouring, frame, options)


def names_of(surfaces: Sequence[Surface]) -> list[str]:
    """What the reader calls the surfaces: by their files, with the folder where files are called alike."""
    paths = [Path(str(shape.metadata.get("path", f"surface {k + 1}"))) for k, shape in enumerate(surfaces)]
    alike = len({path.name for path in paths}) < len(paths)
    return [f"{path.parent.name}/{path.name}" if alike else path.name for path in paths]


def _first_view(shape: Surface, frame: str | None, options: Options, panels: int, legend: bool) -> View:
    """The side that the first row looks from, as it will be drawn."""
    if options.views:
        return looking(axes_of(options.views[0], frame))
    size = options.size or sheet_size(panels, 1)
    layout = Layout.of(size, panels=panels, captions=True, title=options.title is not None, legend=legend)
    return view_of(shape, layout.aspect)


def _scene(panels: list[Panel], colouring: Colouring | None, frame: str | None, options: Options) -> Scene:
    for name in options.views:
        axes_of(name, frame)  # refused here rather than when it is drawn
    return Scene(
        panels,
        colouring,
        options.views,
        options.unit,
        options.title,
        options.size,
        options.background,
        options.transparent,
        frame,
    )
