"""Pictures of surfaces and registrations as PNG files, drawn without a display."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from otreg.errors import InputError
from otreg.io import atomic_path, read
from otreg.surface import Surface
from otreg.visualize import colours
from otreg.visualize.layout import Layout
from otreg.visualize.outline import draw_over_outline
from otreg.visualize.paint import paint_points
from otreg.visualize.props import ghost, solid
from otreg.visualize.run import read_run
from otreg.visualize.screen import off_screen, png_bytes
from otreg.visualize.sheet import Sheet
from otreg.visualize.view import centred_views, merged, together, view_of

_GHOST = (0.30, 0.33, 0.38)
_SMALLEST = (240, 160)
_LARGEST = 8192


def render(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (1800, 640),
    color_by: str | None = None,
    unit: str = "mm",
    title: str | None = None,
    repair: bool = False,
) -> Path:
    """Draw a run of ``otreg register``, or surface files, into a PNG file.

    Parameters
    ----------
    inputs : sequence of paths
        Either one run folder, drawn by :func:`render_registration`, or one or more surface files, drawn in
        one picture by :func:`render_surfaces`.
    output : path
        A ``.png`` file; written as a whole or not at all.
    size : (width, height), default (1800, 640)
        Of the picture, in pixels.
    color_by : str, optional
        Point data to colour by. Default: ``displacement`` for a run, plain colours for surfaces.
    unit : str, default "mm"
        Unit of length to write beside numbers; files do not say. ``""`` writes none.
    title : str, optional
    repair : bool, default False
        Leave out points of surface files that are not finite, instead of refusing the file. (A run was
        refused or repaired when it was made.)

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    InputError
        No input, a folder that is not a run, several folders, an unreadable file, an unknown ``color_by``, a
        name that does not end in .png, or a size that is out of bounds.
    """
    paths = [Path(item) for item in inputs]
    if not paths:
        raise InputError("nothing to draw: name a run folder or one or more surface files")
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise InputError(f"{folders[0]}: is a folder; draw one run folder alone, or surface files")
    _check_target(output, size)
    if folders:
        run = read_run(folders[0])
        return render_registration(
            run.moving,
            run.fixed,
            run.moved,
            output,
            size=size,
            color_by="displacement" if color_by is None else color_by,
            unit=unit,
            title=title,
        )
    surfaces = [read(path, repair=repair) for path in paths]
    return render_surfaces(surfaces, output, size=size, color_by=color_by, unit=unit, title=title)


def render_registration(
    moving: Surface,
    fixed: Surface,
    moved: Surface,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (1800, 640),
    color_by: str = "displacement",
    unit: str = "mm",
    title: str | None = None,
) -> Path:
    """Draw moving, fixed, and moved over fixed, side by side, into a PNG file.

    All panels look in one direction, along the fixed shape's flattest axis, and have one scale. Moving and
    moved are coloured by ``color_by`` (vectors by their length) where moved has such data, with a colour
    bar.

    Parameters
    ----------
    moving, fixed, moved : Surface
        ``moved`` has the vertices of ``moving``; otherwise moving is drawn plain.
    path, size, unit, title
        See :func:`render`.
    color_by : str, default "displacement"
        Point data of ``moved``. Without ``displacement`` both are drawn plain; other missing names raise.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        See :func:`render`.
    """
    target = _check_target(path, size)
    shapes = [moving, fixed, moved]
    for shape in shapes:
        _check_drawable(shape)
    if color_by == "displacement" and color_by not in moved.point_data:
        paint = None
    else:
        source = moved if color_by in moved.point_data or color_by not in moving.point_data else moving
        paint = paint_points([source], color_by)
    layout = Layout.of(size, panels=3, title=title is not None, legend=paint is not None)
    first = view_of(fixed, layout.aspect)
    overlay = together([fixed, moved], first, layout.aspect)
    views = centred_views([moving, fixed], first, layout.aspect)
    # A shape that missed the fixed one by far is cut off rather than shrinking all three panels to dots.
    half = min(max(overlay.half_height, views[1].half_height), 2.0 * max(v.half_height for v in views))
    half = max(half, *(v.half_height for v in views))
    centre = overlay.centre if overlay.half_height <= half else views[1].centre
    views = [dataclasses.replace(view, half_height=half) for view in [*views, views[1]]]
    views[2] = dataclasses.replace(views[2], centre=centre)

    smooth = layout.smoothing
    pixel = 2 * half / (layout.height * smooth)
    on_moved = None if paint is None else paint.bytes[0]
    on_moving = on_moved if len(moving) == len(moved) else None
    with off_screen() as screen:
        of_fixed = solid(fixed, colours.NEUTRAL, pixel=pixel)
        of_moved = solid(moved, colours.SECOND, on_moved, pixel=pixel)
        of_moving = solid(moving, colours.SECOND, on_moving, pixel=pixel)
        panels = [
            screen.draw([of_moving], views[0], layout.panel, smooth),
            screen.draw([of_fixed], views[1], layout.panel, smooth),
            draw_over_outline(screen, of_moved, of_fixed, views[2], layout.panel, smooth, layout.line)
            if fixed.has_triangles
            else screen.draw(
                [of_moved, ghost(fixed, _GHOST, views[2], pixel=pixel)], views[2], layout.panel, smooth
            ),
        ]
        last = (
            "Moved, over the outline of fixed" if fixed.has_triangles else "Moved, among the points of fixed"
        )
        sheet = layout.compose(panels, ["Moving", "Fixed", last], title)
        layout.add_scale(sheet, half, unit)
        if paint is not None:
            layout.add_legend(sheet, paint, unit)
    return _write(sheet, target)


def render_surfaces(
    surfaces: Sequence[Surface],
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (1200, 900),
    color_by: str | None = None,
    unit: str = "mm",
    title: str | None = None,
) -> Path:
    """Draw one surface, or several where they are in space, into a PNG file.

    Parameters
    ----------
    surfaces : sequence of Surface
        Several plain ones get a colour each, named below, all but the first translucent. With ``color_by``, those that
        lack the data are translucent.
    path, size, unit, title
        See :func:`render`.
    color_by : str, optional
        Point data: numbers are drawn on an even scale, vectors by their length, whole numbers with few values
        or with names as labels.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        See :func:`render`; ``color_by`` must be on one of the surfaces at least.
    """
    target = _check_target(path, size)
    if not surfaces:
        raise InputError("nothing to draw: no surface given")
    for shape in surfaces:
        _check_drawable(shape)
    paint = None if color_by is None else paint_points(surfaces, color_by)
    layout = Layout.of(size, panels=1, title=title is not None, legend=paint is not None)
    view = together(surfaces, view_of(merged(surfaces), layout.aspect), layout.aspect)
    pixel = 2 * view.half_height / (layout.height * layout.smoothing)
    plain = [colours.NEUTRAL, colours.SECOND, *map(tuple, colours.categorical(len(surfaces))[1:])]
    props = []
    for position, shape in enumerate(surfaces):
        painted = None if paint is None else paint.bytes[position]
        if painted is None and paint is not None:
            props.append(ghost(shape, _GHOST, view, pixel=pixel))
        else:
            red, green, blue = plain[position]
            # Plain surfaces after the first let those that they hide shine through.
            opacity = 0.45 if painted is None and position > 0 else 1.0
            props.append(solid(shape, (red, green, blue), painted, pixel=pixel, opacity=opacity))
    with off_screen() as screen:
        panel = screen.draw(props, view, layout.panel, layout.smoothing)
        sheet = layout.compose([panel], [], title)
        layout.add_scale(sheet, view.half_height, unit)
        if paint is not None:
            layout.add_legend(sheet, paint, unit)
        elif len(surfaces) > 1:
            layout.add_names(sheet, _names(surfaces), np.array(plain[: len(surfaces)]))
    return _write(sheet, target)


def _names(surfaces: Sequence[Surface]) -> list[str]:
    """What the reader calls the surfaces: by their files, with the folder where files are called alike."""
    paths = [Path(str(shape.metadata.get("path", f"surface {k + 1}"))) for k, shape in enumerate(surfaces)]
    alike = len({path.name for path in paths}) < len(paths)
    return [f"{path.parent.name}/{path.name}" if alike else path.name for path in paths]


def _check_target(path: str | os.PathLike[str], size: tuple[int, int]) -> Path:
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise InputError(f"{target}: pictures are written as PNG; give a name that ends in .png")
    width, height = size
    if width < _SMALLEST[0] or height < _SMALLEST[1] or max(width, height) > _LARGEST:
        raise InputError(
            f"size {width}x{height} is out of bounds: from {_SMALLEST[0]}x{_SMALLEST[1]} to {_LARGEST} pixels"
        )
    return target


def _check_drawable(shape: Surface) -> None:
    if not np.isfinite(shape.points).all(axis=1).any():
        raise InputError(f"{shape.metadata.get('path', 'a surface')} has no points to draw")


def _write(sheet: Sheet, target: Path) -> Path:
    with atomic_path(target) as temporary:
        temporary.write_bytes(png_bytes(sheet.image))
    return target
