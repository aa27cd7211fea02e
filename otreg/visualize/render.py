"""Pictures of surfaces and registrations as PNG files, drawn without a display."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otreg import io
from otreg.errors import InputError
from otreg.surface import FloatArray, Surface
from otreg.visualize import colours
from otreg.visualize.props import ghost, solid
from otreg.visualize.run import read_run
from otreg.visualize.screen import off_screen, png_bytes
from otreg.visualize.sheet import Sheet, tick_labels
from otreg.visualize.view import centred_views, together, view_of

_GHOST = (0.30, 0.33, 0.38)
_SMALLEST = (240, 160)
_LARGEST = 8192
_MOST_LABELS = 256


def render(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (1800, 640),
    color_by: str | None = None,
    unit: str = "mm",
    title: str | None = None,
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
    surfaces = [io.read(path) for path in paths]
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
        paint = _paint([source], color_by)
    layout = _Layout.of(size, panels=3, title=title is not None, legend=paint is not None)
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
        panels = [
            screen.draw(
                [solid(moving, colours.SECOND, on_moving, pixel=pixel)], views[0], layout.panel, smooth
            ),
            screen.draw([solid(fixed, colours.NEUTRAL, pixel=pixel)], views[1], layout.panel, smooth),
            screen.draw(
                [
                    solid(moved, colours.SECOND, on_moved, pixel=pixel),
                    ghost(fixed, _GHOST, views[2], pixel=pixel),
                ],
                views[2],
                layout.panel,
                smooth,
            ),
        ]
        sheet = layout.compose(panels, ["Moving", "Fixed", "Moved, over the outline of fixed"], title)
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
        Several plain ones get a colour each. With ``color_by``, those that lack the data are translucent.
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
    paint = None if color_by is None else _paint(surfaces, color_by)
    layout = _Layout.of(size, panels=1, title=title is not None, legend=paint is not None)
    view = together(surfaces, view_of(surfaces[0], layout.aspect), layout.aspect)
    pixel = 2 * view.half_height / (layout.height * layout.smoothing)
    plain = [colours.NEUTRAL, colours.SECOND, *map(tuple, colours.categorical(max(len(surfaces) - 2, 0)))]
    props = []
    for position, shape in enumerate(surfaces):
        painted = None if paint is None else paint.bytes[position]
        if painted is None and paint is not None:
            props.append(ghost(shape, _GHOST, view, pixel=pixel))
        else:
            red, green, blue = plain[position]
            props.append(solid(shape, (red, green, blue), painted, pixel=pixel))
    with off_screen() as screen:
        panel = screen.draw(props, view, layout.panel, layout.smoothing)
        sheet = layout.compose([panel], [], title)
        layout.add_scale(sheet, view.half_height, unit)
        if paint is not None:
            layout.add_legend(sheet, paint, unit)
    return _write(sheet, target)


@dataclasses.dataclass(frozen=True)
class _Paint:
    """Colours of the points of some surfaces, and what a legend must say about them."""

    title: str
    bytes: list[NDArray[np.uint8] | None]
    limits: tuple[float, float] | None
    names: list[str]
    label_colours: FloatArray
    length: bool = False


def _paint(surfaces: Sequence[Surface], name: str) -> _Paint:
    """Colours of all surfaces by one point data, None for those that lack it."""
    found = [shape.point_data.get(name) for shape in surfaces]
    known = [values for values in found if values is not None]
    if not known:
        names = ", ".join(sorted({key for shape in surfaces for key in shape.point_data})) or "none"
        raise InputError(f"there is no point data {name!r} to colour by; there is: {names}")
    if any(values.dtype.kind not in "iubf" for values in known):
        raise InputError(f"point data {name!r} are not numbers, so they cannot be coloured")
    tables = [shape.label_names.get(name, {}) for shape in surfaces]
    flat = [None if values is None else np.squeeze(values) for values in found]
    flat = [
        v if v is None else v.reshape(-1) if v.size == len(s) else v
        for v, s in zip(flat, surfaces, strict=True)
    ]
    if all(v is None or (v.ndim == 1 and v.dtype.kind in "iub") for v in flat):
        present = np.unique(np.concatenate([v.astype(np.int64) for v in flat if v is not None]))
        if any(tables) or len(present) <= 40:
            if len(present) > _MOST_LABELS:
                raise InputError(
                    f"point data {name!r} has {len(present)} labels: more than colours can tell apart"
                )
            return _paint_labels(name, flat, tables, present)
    amounts = [None if v is None else _amount(v) for v in flat]
    vector = any(v is not None and v.ndim > 1 for v in flat)
    everything = np.concatenate([v for v in amounts if v is not None])
    limits = colours.colour_range(everything, from_zero=vector)
    painted = [None if v is None else colours.apply_map(v, limits) for v in amounts]
    return _Paint(name, painted, limits, [], np.zeros((0, 3)), length=name == "displacement")


def _amount(values: NDArray[np.generic]) -> FloatArray:
    numbers = values.astype(np.float64)
    return numbers if numbers.ndim == 1 else np.linalg.norm(numbers.reshape(len(numbers), -1), axis=1)


def _paint_labels(
    name: str,
    flat: Sequence[NDArray[np.generic] | None],
    tables: Sequence[dict[int, str]],
    present: NDArray[np.int64],
) -> _Paint:
    """Labels keep their colour on every surface: by name where they have one, else by value."""
    names = {int(code): next((t[int(code)] for t in tables if int(code) in t), str(code)) for code in present}
    shown = list(dict.fromkeys(names[int(code)] for code in present if code != 0))
    palette = colours.categorical(len(shown))
    painted: list[NDArray[np.uint8] | None] = []
    for values, table in zip(flat, tables, strict=True):
        if values is None:
            painted.append(None)
            continue
        codes, inverse = np.unique(values.astype(np.int64), return_inverse=True)
        rows = np.array(
            [
                colours.UNKNOWN if code == 0 else palette[_row(int(code), table, names, shown)]
                for code in codes
            ]
        )
        painted.append(np.rint(255 * rows[inverse.reshape(-1)]).astype(np.uint8))
    return _Paint(name, painted, None, shown, palette)


def _row(code: int, table: dict[int, str], names: dict[int, str], shown: list[str]) -> int:
    own = table.get(code, names[code])
    return shown.index(own if own in shown else names[code])


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where things go on a sheet, in pixels."""

    width: int
    sheet_height: int
    panels: int
    head: int
    foot: int
    font: int

    @classmethod
    def of(cls, size: tuple[int, int], *, panels: int, title: bool, legend: bool) -> _Layout:
        width, height = size
        font = int(np.clip(round(min(height / 30, width / 62)), 9, 60))
        head = round(font * ((2.2 if panels > 1 else 0.4) + (2.2 if title else 0.0)))
        foot = round(font * (3.4 if legend else 2.6))
        return cls(width, height, panels, head, foot, font)

    @property
    def height(self) -> int:
        """Of a panel."""
        return max(self.sheet_height - self.head - self.foot, 16)

    @property
    def panel(self) -> tuple[int, int]:
        """Width and height of a panel."""
        return self.width // self.panels, self.height

    @property
    def aspect(self) -> float:
        return self.panel[0] / self.panel[1]

    @property
    def smoothing(self) -> int:
        """How many samples a pixel is averaged from, each way."""
        return 3 if self.panel[0] * self.panel[1] <= 1_500_000 else 2

    def compose(
        self, panels: Sequence[NDArray[np.uint8]], captions: Sequence[str], title: str | None
    ) -> Sheet:
        sheet = Sheet(self.width, self.sheet_height)
        for position, panel in enumerate(panels):
            sheet.put(panel, position * self.panel[0], self.head)
        for position, words in enumerate(captions):
            middle = (position + 0.5) * self.panel[0]
            sheet.text(words, middle, self.head - 1.0 * self.font, self.font, anchor="centre")
        if title is not None:
            sheet.text(
                title, self.width / 2, 1.4 * self.font, round(1.25 * self.font), anchor="centre", bold=True
            )
        return sheet

    def add_scale(self, sheet: Sheet, half_height: float, unit: str) -> None:
        per_pixel = 2 * half_height / self.height
        length = colours.round_length(0.3 * self.panel[0] * per_pixel)
        words = f"{tick_labels([length])[0] if length >= 1e-3 else f'{length:g}'} {unit}".strip()
        top = self.sheet_height - self.foot + 1.3 * self.font
        sheet.scale_bar(length / per_pixel, words, round(1.5 * self.font), round(top), self.font)

    def add_legend(self, sheet: Sheet, paint: _Paint, unit: str) -> None:
        top = self.sheet_height - self.foot + 0.9 * self.font
        if paint.limits is None:
            left = round(self.width * (0.36 if self.panels == 1 else 0.3))
            sheet.swatches(
                paint.names,
                paint.label_colours,
                left,
                self.width - self.font,
                round(top + 0.4 * self.font),
                self.font,
            )
            return
        title = f"{paint.title} ({unit})" if paint.length and unit else paint.title
        span = self.width * (0.24 if self.panels > 1 else 0.3)
        right = (
            self.width * (0.5 + 0.5 / self.panels) - 2.0 * self.font
            if self.panels > 1
            else self.width - 3.0 * self.font
        )
        left = round(right - span)
        sheet.colour_bar(paint.limits, title, left, round(top), round(span), self.font)


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
    with io.atomic_path(target) as temporary:
        temporary.write_bytes(png_bytes(sheet.image))
    return target
