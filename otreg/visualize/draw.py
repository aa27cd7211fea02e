"""A scene drawn into an image: one camera per row, one panel per column, all at one scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.surface import FloatArray, Surface
from otreg.visualize.layout import Layout, sheet_size
from otreg.visualize.outline import draw_over_outline
from otreg.visualize.props import actor_of
from otreg.visualize.scene import Layer, Panel, Scene
from otreg.visualize.screen import Image, Screen, off_screen
from otreg.visualize.sheet import Sheet, ink_on
from otreg.visualize.view import (
    View,
    axes_of,
    centred_views,
    looking,
    merged,
    shown_points,
    used_rows,
    view_of,
)

if TYPE_CHECKING:
    from vtkmodules.vtkRenderingCore import vtkActor

_SMALLEST = (240, 160)
_LARGEST = 8192
_SMALL_FONT = 9
"""Pixels of a letter beside a small picture, to which lines and points are scaled."""
_MISSED = 2.0
"""A panel more than so many times as large as the others' is cut off rather than shrinking all of them to dots."""


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Draw a scene without a display.

    Returns
    -------
    array (height, width, 3) of bytes, or (height, width, 4) where the scene is transparent

    Raises
    ------
    InputError
        On a scene without anything to draw, an unknown view, or a size that is out of bounds.
    OtregError
        If this machine cannot draw, with what to install.
    """
    if not scene.transparent:
        return draw_sheet(scene).image
    # What is seen on black and on white tells exactly how much of the background each pixel lets through.
    ink = ink_on(scene.background)
    black, white = (
        draw_sheet(dataclasses.replace(scene, background=tone), ink).image.astype(np.float64)
        for tone in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    )
    alpha = np.clip(1.0 - (white - black).mean(axis=2, keepdims=True) / 255.0, 0.0, 1.0)
    colour = np.clip(black / np.maximum(alpha, 1e-6), 0.0, 255.0)
    return np.rint(np.concatenate([colour, 255.0 * alpha], axis=2)).astype(np.uint8)


def draw_sheet(scene: Scene, ink: tuple[float, float, float] | None = None) -> Sheet:
    """Draw a scene onto a sheet, which can be written as pixels or with its text as text; see :func:`draw`."""
    panels = [_visible(panel) for panel in scene.panels]
    if not panels or not any(_points(panel.layers).size for panel in panels):
        raise InputError("there are no points to draw")
    rows = len(scene.views) or 1
    size = scene.size or sheet_size(len(panels), rows)
    check_size(size)
    named = scene.colouring is None and len(panels) == 1
    plain = _plain_names(panels[0]) if named else []
    layout = Layout.of(
        size,
        panels=len(panels),
        rows=rows,
        captions=any(panel.caption for panel in panels),
        title=scene.title is not None,
        legend=scene.colouring is not None,
    )
    table = cameras(scene, panels, layout.aspect)
    with off_screen() as screen:
        images = [
            [
                _draw_panel(screen, panel, view, scene, layout)
                for panel, view in zip(panels, views, strict=True)
            ]
            for views in table
        ]
        captions = [panel.caption for panel in panels] if any(panel.caption for panel in panels) else []
        names = scene.views if len(scene.views) > 1 else []
        sheet = layout.compose(images, captions, names, scene.title, scene.background, ink)
        after = layout.add_scale(sheet, table[0][0].half_height, scene.unit)
        if scene.colouring is not None:
            layout.add_legend(sheet, scene.colouring, after)
        elif len(plain) > 1:
            layout.add_names(
                sheet, [layer.name for layer in plain], np.array([layer.colour for layer in plain]), after
            )
    return sheet


def draw_panel(scene: Scene, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the first panel of a scene from its first side, without a word around it: one of many small pictures.

    Parameters
    ----------
    scene : Scene
    size : (width, height)
        In pixels; it may be smaller than that of a sheet.

    Returns
    -------
    array (height, width, 3) of bytes

    Raises
    ------
    InputError
        On a panel without anything to draw, or an unknown view.
    OtregError
        If this machine cannot draw, with what to install.
    """
    panel = _visible(scene.panels[0])
    if not _points(panel.layers).size:
        raise InputError("there are no points to draw")
    layout = Layout(size[0], size[1], panels=1, rows=1, head=0, foot=0, font=_SMALL_FONT)
    with off_screen() as screen:
        return _draw_panel(screen, panel, cameras(scene, [panel], layout.aspect)[0][0], scene, layout)


def check_size(size: tuple[int, int]) -> None:
    """Refuse a size of a picture that is out of bounds."""
    width, height = size
    if width < _SMALLEST[0] or height < _SMALLEST[1] or max(width, height) > _LARGEST:
        raise InputError(
            f"size {width}x{height} is out of bounds: from {_SMALLEST[0]}x{_SMALLEST[1]} to {_LARGEST} pixels"
        )


def cameras(scene: Scene, panels: Sequence[Panel], aspect: float) -> list[list[View]]:
    """Views of all panels (columns) for all rows, at one scale; they hold every time of layers that move.

    ``aspect`` is the width of a panel in heights.
    """
    clouds = [_points(panel.layers) for panel in panels]
    clouds = [points if points.size else np.zeros((1, 3)) for points in clouds]
    rows = [
        centred_views(clouds, first, aspect)
        for first in (
            [looking(axes_of(name, scene.frame)) for name in scene.views]
            if scene.views
            else [view_of(_reference(scene, panels), aspect)]
        )
    ]
    sizes = [[centred_views([points], row[0], aspect)[0].half_height for points in clouds] for row in rows]
    # The scale is that of the largest panel, unless it is large only because two shapes lie far apart.
    half = max(_scale(heights) for heights in sizes)
    anchor = _anchor(panels)
    return [
        [
            dataclasses.replace(
                view,
                half_height=half,
                centre=view.centre
                if height <= half * (1 + 1e-9)
                else _centre_of(panel, anchor, view, aspect),
            )
            for view, height, panel in zip(row, heights, panels, strict=True)
        ]
        for row, heights in zip(rows, sizes, strict=True)
    ]


def _scale(heights: Sequence[float]) -> float:
    if len(heights) < 2:
        return heights[0]
    largest = max(heights)
    others = sorted(heights)[:-1]
    return min(largest, _MISSED * max(others))


def _anchor(panels: Sequence[Panel]) -> str:
    """The layer that stays in the middle of a panel that is cut off."""
    names = {layer.name for panel in panels for layer in panel.layers}
    return "fixed" if "fixed" in names else next(iter(panels[0].layers)).name


def _centre_of(panel: Panel, anchor: str, view: View, aspect: float) -> FloatArray:
    points = _points([layer for layer in panel.layers if layer.name == anchor] or panel.layers)
    return centred_views([points], view, aspect)[0].centre


def _reference(scene: Scene, panels: Sequence[Panel]) -> Surface:
    """The shape whose flattest direction is looked along: the fixed one, or all there are."""
    shapes = [layer for panel in panels for layer in panel.layers if layer.kind in ("surface", "points")]
    chosen = [layer for layer in shapes if layer.name == "fixed"][:1] or shapes
    if not chosen:
        return Surface(_points([layer for panel in panels for layer in panel.layers]), frame=scene.frame)
    return merged([Surface(layer.points, layer.cells, frame=scene.frame) for layer in chosen])


def _visible(panel: Panel) -> Panel:
    return dataclasses.replace(panel, layers=[layer for layer in panel.layers if layer.visible])


def _points(layers: Sequence[Layer]) -> FloatArray:
    """All points that layers have at any time, (N, 3)."""
    found = [np.zeros((0, 3))]
    for layer in layers:
        positions = layer.points[None] if layer.motion is None else layer.motion
        if layer.kind == "surface":
            positions = positions[:, used_rows(layer.cells, positions.shape[1])]
        flat = positions.reshape(-1, 3)
        found.append(flat[np.isfinite(flat).all(axis=1)])
        if layer.vectors is not None:
            found.append(shown_points(Surface(layer.points + layer.vectors)))
    return np.concatenate(found)


def _draw_panel(screen: Screen, panel: Panel, view: View, scene: Scene, layout: Layout) -> Image:
    smooth = layout.smoothing
    pixel = 2 * view.half_height / (layout.height * smooth)
    point = smooth * layout.font / 12.0
    upper: list[vtkActor] = []
    lower: list[vtkActor] = []
    for layer in panel.layers:
        actor = actor_of(layer, scene.colouring, view, pixel=pixel, point=point)
        (lower if layer.outline and layer.kind == "surface" else upper).append(actor)
    if lower:
        return draw_over_outline(
            screen, upper, lower, view, layout.panel, smooth, layout.line, scene.background
        )
    return screen.draw(upper, view, layout.panel, smooth, scene.background)


def _plain_names(panel: Panel) -> list[Layer]:
    """Layers whose names a picture without a legend has to tell apart, each name once."""
    shapes = [layer for layer in panel.layers if layer.kind in ("surface", "points")]
    return list({layer.name: layer for layer in shapes}.values())
