"""A window to turn a scene in: layers switched on and off, time scrubbed, points asked for their values.

What the window does is in :class:`Window`, which works off screen too; mouse and keys only call it
(:mod:`otreg.visualize.controls`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from otreg.errors import InputError
from otreg.surface import FloatArray
from otreg.visualize.display import on_screen_window
from otreg.visualize.draw import cameras
from otreg.visualize.props import actor_of
from otreg.visualize.scene import Layer, Scene
from otreg.visualize.screen import Image, add_lights, off_screen_window, png_bytes, quiet
from otreg.visualize.view import View, axes_of

if TYPE_CHECKING:
    from vtkmodules.vtkRenderingCore import vtkActor, vtkRenderer

SIZE = (1280, 860)
_POINT = 1.4
"""Pixels in a point, for the width of lines: about that of a usual screen."""
_PICK_TOLERANCE = 0.006
"""How near a line or a point of a cloud has to be picked, as a share of the window's diagonal."""
_ROOM = 1.2
"""Height of a picture, in heights of what is seen."""
_MARK = 0.012
"""Radius of the mark on a picked point, as a share of the picture's height."""


class Picked(NamedTuple):
    """A vertex that was asked for.

    Attributes
    ----------
    layer : str
    vertex : int
        Its number in the layer, from 0.
    point : array (3,)
        Where it is now, in the unit of the files.
    value : float, str or None
        What it is coloured by; the name of a label; None without values.
    text : str
        All of that in words, a line each.
    """

    layer: str
    vertex: int
    point: FloatArray
    value: float | str | None
    text: str


class _Shown(NamedTuple):
    """A layer in a panel, and what draws it."""

    panel: int
    place: int


class Window:
    """A scene in a window.

    Parameters
    ----------
    scene : Scene
        Panels lie side by side, each around its own middle, and turn together.
    size : (width, height), default (1280, 860)
    off_screen : bool, default False
        Do everything but appear; needs no display.

    Raises
    ------
    InputError
        If the scene has nothing to show.
    OtregError
        If there is no display, or nothing can be drawn on this machine.
    """

    def __init__(self, scene: Scene, *, size: tuple[int, int] = SIZE, off_screen: bool = False) -> None:
        if not any(len(layer.points) for layer in scene.layers):
            raise InputError("there are no points to show")
        self.scene = scene
        self.time = 1.0
        self.picked: Picked | None = None
        self.layers: list[list[Layer]] = [list(panel.layers) for panel in scene.panels]
        self._at_pick: _Shown | None = None
        with quiet():
            self.window: Any = off_screen_window() if off_screen else on_screen_window()
            self.window.SetSize(*size)
            self.window.SetWindowName(scene.title or "otreg")
            self.views = self._first_views(size)
            self.renderers = [self._renderer(number) for number in range(len(scene.panels))]
            self.actors: list[list[vtkActor]] = [[] for _ in scene.panels]
            self.mark = self._new_mark()
            for panel, layers in enumerate(self.layers):
                for layer in layers:
                    self.actors[panel].append(self._add(panel, layer))
            self.look(None)

    # What can be seen and done ------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Names of the layers, each once, in their order; keys 1 to 9 are theirs."""
        return list(dict.fromkeys(layer.name for layer in self.scene.layers))

    @property
    def moves(self) -> bool:
        """Whether there is anything to scrub."""
        return any(layer.motion is not None for layer in self.scene.layers)

    def is_visible(self, name: str) -> bool:
        """Whether a layer is switched on."""
        return any(layer.visible for layers in self.layers for layer in layers if layer.name == name)

    def toggle(self, name: str) -> bool:
        """Switch a layer on or off in all panels; returns whether it is on now.

        Raises
        ------
        InputError
            If there is no layer of that name.
        """
        visible = not self.is_visible(self.scene.layer(name).name)
        for layers, actors in zip(self.layers, self.actors, strict=True):
            for place, layer in enumerate(layers):
                if layer.name == name:
                    layers[place] = dataclasses.replace(layer, visible=visible)
                    actors[place].SetVisibility(visible)
        if self.picked is not None and self.picked.layer == name and not visible:
            self.unpick()
        return visible

    def set_time(self, time: float) -> None:
        """Show a moment of the motion, from 0 (before the map) to 1 (after it); what is beyond is the end."""
        self.time = min(max(float(time), 0.0), 1.0)
        for panel, (layers, actors) in enumerate(zip(self.layers, self.actors, strict=True)):
            for place, layer in enumerate(layers):
                if layer.motion is None:
                    continue
                self.renderers[panel].RemoveViewProp(actors[place])
                actors[place] = self._add(panel, layer)
        if self._at_pick is not None:
            assert self.picked is not None
            self._show_pick(self._at_pick, self.picked.vertex)

    def look(self, side: str | None) -> None:
        """Look from a side by name, such as ``left``; None: as at first.

        Raises
        ------
        InputError
            On a side that is not known.
        """
        view = self.views[0]
        if side is not None:
            right, up, towards = axes_of(side, self.scene.frame)
            view = dataclasses.replace(view, right=right, up=up, towards_viewer=towards)
        camera = self.renderers[0].GetActiveCamera()
        camera.ParallelProjectionOn()
        camera.SetFocalPoint(0.0, 0.0, 0.0)
        camera.SetPosition(*(view.towards_viewer * 4.0 * view.half_height))
        camera.SetViewUp(*view.up)
        camera.SetParallelScale(self._half_height(view))
        for renderer in self.renderers:
            renderer.ResetCameraClippingRange()

    def pick(self, x: int, y: int) -> Picked | None:
        """Ask for the vertex that is seen at a pixel, counted from the lower left corner; None: nothing there."""
        from vtkmodules.vtkRenderingCore import vtkCellPicker

        number = next((n for n, r in enumerate(self.renderers) if r.IsInViewport(x, y)), None)
        if number is None:
            self.unpick()
            return None
        picker = vtkCellPicker()
        picker.SetTolerance(_PICK_TOLERANCE)
        picker.PickFromListOn()
        for layer, actor in zip(self.layers[number], self.actors[number], strict=True):
            # Points of drawn arrows are not points of the layer.
            if layer.visible and layer.kind != "arrows":
                picker.AddPickList(actor)
        hit = picker.Pick(x, y, 0.0, self.renderers[number])
        vertex = picker.GetPointId()
        if not hit or vertex < 0:
            self.unpick()
            return None
        place = next(n for n, actor in enumerate(self.actors[number]) if actor is picker.GetActor())
        return self._show_pick(_Shown(number, place), int(vertex))

    def unpick(self) -> None:
        """Forget the picked point."""
        self.picked, self._at_pick = None, None
        self.mark.VisibilityOff()

    def image(self) -> Image:
        """What the window shows, (height, width, 3) bytes."""
        from vtkmodules.util.numpy_support import vtk_to_numpy
        from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

        with quiet():
            self.window.Render()
            grab = vtkWindowToImageFilter()
            grab.SetInput(self.window)
            grab.ReadFrontBufferOff()
            grab.ShouldRerenderOff()
            grab.Update()
        width, height, _ = grab.GetOutput().GetDimensions()
        pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars())
        return np.ascontiguousarray(pixels.reshape(height, width, -1)[::-1, :, :3])

    def save(self, folder: Path) -> Path:
        """Write what the window shows to the first free of ``otreg-view-001.png``, … in a folder.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        content, number = png_bytes(self.image()), 1
        while True:
            path = folder / f"otreg-view-{number:03d}.png"
            try:
                with path.open("xb") as file:
                    file.write(content)
                return path
            except FileExistsError:
                number += 1

    def close(self) -> None:
        """Free the graphics context."""
        with quiet():
            self.window.Finalize()

    # How ----------------------------------------------------------------------------------------------------

    def _first_views(self, size: tuple[int, int]) -> list[View]:
        shown = [
            dataclasses.replace(
                panel, layers=[layer for layer in panel.layers if layer.visible] or panel.layers
            )
            for panel in self.scene.panels
        ]
        return cameras(self.scene, shown, size[0] / len(shown) / size[1])[0]

    def _half_height(self, view: View) -> float:
        """Of a picture from a side that has room for all that is visible, at any time, and for the slider."""
        width, height = self.window.GetSize()
        aspect = width / len(self.renderers) / max(height, 1)
        largest = 0.0
        for panel, layers in enumerate(self.layers):
            for layer in [layer for layer in layers if layer.visible] or layers:
                points = (layer.points if layer.motion is None else layer.motion).reshape(-1, 3)
                local = (points[np.isfinite(points).all(axis=1)] - self.views[panel].centre) @ view.axes.T
                if len(local):
                    reach = np.abs(local).max(axis=0)
                    largest = max(largest, float(reach[1]), float(reach[0]) / aspect)
        return _ROOM * largest if largest > 0 else view.half_height

    def _renderer(self, number: int) -> vtkRenderer:
        from vtkmodules.vtkRenderingCore import vtkRenderer

        count = len(self.scene.panels)
        renderer = vtkRenderer()
        renderer.SetViewport(number / count, 0.0, (number + 1) / count, 1.0)
        renderer.SetBackground(*self.scene.background)
        renderer.UseDepthPeelingOn()
        renderer.SetMaximumNumberOfPeels(6)
        renderer.SetOcclusionRatio(0.02)
        add_lights(renderer)
        if number:  # all panels turn together
            renderer.SetActiveCamera(self.window.GetRenderers().GetFirstRenderer().GetActiveCamera())
        self.window.AddRenderer(renderer)
        return renderer

    def _add(self, panel: int, layer: Layer) -> vtkActor:
        """An actor of a layer at the present time, in its panel, which has its middle at the origin."""
        view = self.views[panel]
        now = layer.at(self.time)
        if now.outline:  # what pictures draw as an outline shines through here
            now = dataclasses.replace(now, opacity=0.4 * now.opacity)
        pixel = 2.0 * view.half_height / max(self.window.GetSize()[1], 1)
        actor = actor_of(now, self.scene.colouring, view, pixel=pixel, point=_POINT)
        actor.SetPosition(*(-view.centre))
        actor.SetVisibility(layer.visible)
        self.renderers[panel].AddViewProp(actor)
        return actor

    def _new_mark(self) -> vtkActor:
        from vtkmodules.vtkFiltersSources import vtkSphereSource
        from vtkmodules.vtkRenderingCore import vtkActor, vtkPolyDataMapper

        ball = vtkSphereSource()
        ball.SetRadius(_MARK * self.views[0].half_height)
        ball.SetThetaResolution(24)
        ball.SetPhiResolution(24)
        mapper = vtkPolyDataMapper()
        mapper.SetInputConnection(ball.GetOutputPort())
        mark = vtkActor()
        mark.SetMapper(mapper)
        mark.GetProperty().SetColor(0.85, 0.1, 0.45)
        mark.PickableOff()
        mark.VisibilityOff()
        for renderer in self.renderers:
            renderer.AddViewProp(mark)
        return mark

    def _show_pick(self, shown: _Shown, vertex: int) -> Picked:
        layer = self.layers[shown.panel][shown.place].at(self.time)
        point = np.asarray(layer.points[vertex], dtype=np.float64)
        value = _value_of(layer, vertex, self.scene)
        unit = self.scene.unit
        lines = [f"{layer.name}, vertex {vertex}", f"{', '.join(f'{c:.2f}' for c in point)} {unit}".strip()]
        if value is not None:
            colouring = self.scene.colouring
            assert colouring is not None
            words = f"{value:.4g} {colouring.unit}".strip() if isinstance(value, float) else value
            lines.append(f"{colouring.title} {words}")
        for number, renderer in enumerate(self.renderers):
            renderer.RemoveViewProp(self.mark)
            if number == shown.panel:
                renderer.AddViewProp(self.mark)
        self.mark.SetPosition(*(point - self.views[shown.panel].centre))
        self.mark.VisibilityOn()
        self._at_pick = shown
        self.picked = Picked(layer.name, vertex, point, value, "\n".join(lines))
        return self.picked


def _value_of(layer: Layer, vertex: int, scene: Scene) -> float | str | None:
    if layer.values is None or scene.colouring is None:
        return None
    value = layer.values[vertex]
    if scene.colouring.kind != "categorical":
        return float(value)
    named = dict(zip(scene.colouring.codes.tolist(), scene.colouring.names, strict=True))
    return named.get(int(value), f"{int(value)}")


def show(scene: Scene, *, size: tuple[int, int] = SIZE) -> None:
    """Open a window with a scene, and come back when it is closed.

    Parameters
    ----------
    scene : Scene
    size : (width, height), default (1280, 860)

    Raises
    ------
    OtregError
        If there is no display, or nothing can be drawn on it.
    KeyboardInterrupt
        On Ctrl-C in the terminal.
    """
    from otreg.visualize.controls import Controls

    window = Window(scene, size=size)
    try:
        Controls(window).run()
    finally:
        window.close()
