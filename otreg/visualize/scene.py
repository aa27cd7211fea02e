"""What is to be seen, apart from how: layers, their colours and motion, panels and views.

One scene is drawn as a picture (:mod:`otreg.visualize.draw`), animated, shown in a window or written as a web
page. All of it is plain data that can be changed before it is saved.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.surface import FloatArray, IntArray
from otreg.visualize import colours
from otreg.visualize.colouring import Colouring

Colour = tuple[float, float, float]
Kind = Literal["surface", "points", "lines", "arrows"]

NO_CELLS: IntArray = np.zeros((0, 3), np.int64)


@dataclasses.dataclass(eq=False, repr=False)
class Layer:
    """One thing in a scene.

    Attributes
    ----------
    name : str
        What legends and switches call it: ``moving``, ``fixed``, ``moved``, ``arrows``, ``grid``, …
    kind : {"surface", "points", "lines", "arrows"}
    points : array (N, 3)
        Positions, in the unit of the files; of arrows, their tails.
    cells : int array
        ``surface``: triangles (T, 3); ``lines``: segments (S, 2); otherwise empty.
    vectors : array (N, 3), optional
        Of arrows: from the tail to the head.
    colour : (red, green, blue), sRGB in 0..1
        Where there are no values.
    values : array (N,), optional
        Numbers or label codes that the scene's :class:`Colouring` turns into colours. NaN is grey.
    opacity : float, default 1
    ghost : bool, default False
        Clear where it faces the viewer, seen by its outline alone; what lies behind shows through.
    outline : bool, default False
        Of a surface: a dark line around it is drawn on top of everything, whatever lies in front of it.
    visible : bool, default True
        Pictures leave invisible layers out; interactive scenes start with them switched off.
    motion : array (T, N, 3), optional
        Positions at T times spread evenly from 0 (before the map) to 1 (after it). Without it a layer stands
        still.
    width : float, default 1.5
        Of lines, in points (1/72 inch at 100 dots per inch); pictures scale it with their size.
    """

    name: str
    kind: Kind
    points: FloatArray
    cells: IntArray = dataclasses.field(default_factory=lambda: NO_CELLS)
    vectors: FloatArray | None = None
    colour: Colour = colours.NEUTRAL
    values: NDArray[Any] | None = None
    opacity: float = 1.0
    ghost: bool = False
    outline: bool = False
    visible: bool = True
    motion: FloatArray | None = None
    width: float = 1.5

    def __repr__(self) -> str:
        parts = [f"{len(self.points)} points"]
        if len(self.cells):
            parts.append(f"{len(self.cells)} {'triangles' if self.kind == 'surface' else 'segments'}")
        if self.motion is not None:
            parts.append(f"{len(self.motion)} times")
        return f"Layer({self.name!r}, {self.kind}, {', '.join(parts)})"

    def at(self, time: float) -> Layer:
        """The layer at a time from 0 to 1, straight between the two nearest of its stored positions."""
        if self.motion is None:
            return self
        place = min(max(time, 0.0), 1.0) * (len(self.motion) - 1)
        before = min(int(place), len(self.motion) - 1)
        after, share = min(before + 1, len(self.motion) - 1), place - before
        points = (1.0 - share) * self.motion[before] + share * self.motion[after]
        return dataclasses.replace(self, points=points)


@dataclasses.dataclass(eq=False)
class Panel:
    """What is seen together: a column of the sheet, with its caption above it."""

    caption: str
    layers: list[Layer]


@dataclasses.dataclass(eq=False, repr=False)
class Scene:
    """Panels side by side, seen from one or more sides, one row of the sheet each.

    Made by :func:`otreg.visualize.scene`; everything may be changed before it is saved.

    Attributes
    ----------
    panels : list of Panel
        All are drawn at one scale, each around its own middle.
    colouring : Colouring, optional
        How values become colours, and what the legend says of them.
    views : list of str
        Names of :data:`otreg.visualize.view.VIEWS`, one row each; empty: one row, from the side that shows most.
    unit : str, default "mm"
        Unit of length, written beside numbers; ``""`` writes none.
    title : str, optional
    size : (width, height), optional
        Of the whole sheet in pixels. Default: from the number of panels and views.
    background : (red, green, blue), default white
    transparent : bool, default False
        The background is left out of PNG files.
    frame : {"RAS", "LPS", "tkRAS"}, optional
        Of all points; names of anatomical views need it.
    notes : list of str
        What a viewer should know of it, such as a decimated mesh; written below web pages, not into pictures.
    """

    panels: list[Panel]
    colouring: Colouring | None = None
    views: list[str] = dataclasses.field(default_factory=list)
    unit: str = "mm"
    title: str | None = None
    size: tuple[int, int] | None = None
    background: Colour = (1.0, 1.0, 1.0)
    transparent: bool = False
    frame: str | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        panels = "; ".join(", ".join(layer.name for layer in panel.layers) for panel in self.panels)
        coloured = f", coloured by {self.colouring.title}" if self.colouring is not None else ""
        return f"Scene({panels}{coloured})"

    @property
    def layers(self) -> Iterator[Layer]:
        """All layers of all panels, in order; one that is in several panels comes several times."""
        for panel in self.panels:
            yield from panel.layers

    def layer(self, name: str) -> Layer:
        """The first layer of that name.

        Raises
        ------
        InputError
            If there is none, with the names there are.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        there = ", ".join(dict.fromkeys(layer.name for layer in self.layers))
        raise InputError(f"the scene has no layer {name!r}; it has: {there}")

    def at(self, time: float) -> Scene:
        """The scene at a time from 0 (before the map) to 1 (after it)."""
        panels = [
            dataclasses.replace(panel, layers=[layer.at(time) for layer in panel.layers])
            for panel in self.panels
        ]
        return dataclasses.replace(self, panels=panels)

    def image(self) -> NDArray[np.uint8]:
        """Draw it: (height, width, 3) bytes, or (height, width, 4) where it is transparent."""
        from otreg.visualize.draw import draw

        return draw(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a ``.png``, ``.svg``, ``.pdf`` or ``.html`` file, whole or not at all.

        Raises
        ------
        InputError
            On another suffix.
        """
        from otreg.visualize.files import save

        return save(self, path)

    def show(self) -> None:
        """Open a window to turn it in; needs a display.

        Raises
        ------
        OtregError
            If there is no display.
        """
        from otreg.visualize.window import show

        show(self)

    def _repr_png_(self) -> bytes:
        from otreg.visualize.screen import png_bytes

        return png_bytes(self.image())

    def _repr_html_(self) -> str:
        from otreg.visualize.web import inline_html

        return inline_html(self)
