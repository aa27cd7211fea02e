"""The sheet that panels, captions, scale bar and colour bar are laid out on: pixels, no graphics context.

A sheet also keeps what was put on it, in order, so that it can be written as a vector drawing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from otreg.surface import FloatArray
from otreg.visualize.colours import ticks

INK = (0.13, 0.14, 0.16)
"""Colour of text and lines on a light background."""
CHALK = (0.93, 0.93, 0.94)
"""Colour of text and lines on a dark background."""
WHITE = (1.0, 1.0, 1.0)


def ink_on(background: Sequence[float]) -> tuple[float, float, float]:
    """The colour of text that stands out from a background (relative luminance, WCAG 2.2)."""
    red, green, blue = (((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in background)
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else CHALK


@dataclasses.dataclass(frozen=True, eq=False)
class PlacedImage:
    """An image (height, width, 3) whose top left corner lies at (left, top)."""

    left: int
    top: int
    image: NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class PlacedRectangle:
    """A filled rectangle."""

    left: float
    top: float
    width: float
    height: float
    colour: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class PlacedText:
    """A line of text, vertically centred on y."""

    words: str
    x: float
    y: float
    size: int
    anchor: str
    bold: bool
    colour: tuple[float, float, float]


Placed = PlacedImage | PlacedRectangle | PlacedText


class Sheet:
    """An image to put things on; coordinates are pixels from the top left corner.

    Parameters
    ----------
    width, height : int
        Size in pixels.
    background : (red, green, blue), sRGB in 0..1, default white
    ink : (red, green, blue), optional
        Colour of text and lines. Default: what stands out from the background.
    """

    def __init__(
        self,
        width: int,
        height: int,
        background: Sequence[float] = WHITE,
        ink: tuple[float, float, float] | None = None,
    ) -> None:
        self.background = (float(background[0]), float(background[1]), float(background[2]))
        self.ink = ink_on(background) if ink is None else ink
        self.placed: list[Placed] = []
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._pixels[...] = np.rint(255 * np.asarray(background))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._pixels.shape[1], self._pixels.shape[0]

    @property
    def image(self) -> NDArray[np.uint8]:
        """The pixels, (height, width, 3)."""
        return self._pixels

    def put(self, image: NDArray[np.uint8], left: int, top: int) -> None:
        """Lay an image (h, w, 3) down, cut off at the border."""
        self.placed.append(PlacedImage(left, top, image))
        height, width = self._pixels.shape[:2]
        bottom, right = min(top + image.shape[0], height), min(left + image.shape[1], width)
        if bottom > max(top, 0) and right > max(left, 0):
            part = image[max(-top, 0) : bottom - top, max(-left, 0) : right - left]
            self._pixels[max(top, 0) : bottom, max(left, 0) : right] = part

    def fill(
        self, left: float, top: float, width: float, height: float, colour: Sequence[float] | None = None
    ) -> None:
        """Fill a rectangle, with ink unless a colour is given."""
        colour = self.ink if colour is None else (float(colour[0]), float(colour[1]), float(colour[2]))
        self.placed.append(PlacedRectangle(left, top, width, height, colour))
        rows = slice(round(top), max(round(top + height), round(top) + 1))
        columns = slice(round(left), max(round(left + width), round(left) + 1))
        self._pixels[rows, columns] = np.rint(255 * np.asarray(colour)).astype(np.uint8)

    def text(
        self, words: str, x: float, y: float, size: int, *, anchor: str = "left", bold: bool = False
    ) -> None:
        """Write one line, vertically centred on ``y``; ``x`` is its left end, centre or right end."""
        self.placed.append(PlacedText(words, x, y, size, anchor, bold, self.ink))
        mask = text_mask(words, size, bold)
        height, width = mask.shape
        left = round(x - {"left": 0.0, "centre": 0.5, "right": 1.0}[anchor] * width)
        top = round(y - 0.5 * height)
        rows, columns = self._pixels.shape[:2]
        cut = mask[max(-top, 0) : max(rows - top, 0), max(-left, 0) : max(columns - left, 0)]
        top, left = max(top, 0), max(left, 0)
        region = self._pixels[top : top + cut.shape[0], left : left + cut.shape[1]]
        share = cut[..., None]
        region[...] = np.rint(region * (1 - share) + 255 * np.asarray(self.ink) * share).astype(np.uint8)

    def colour_bar(
        self,
        limits: tuple[float, float],
        table: FloatArray,
        title: str,
        left: int,
        top: int,
        width: int,
        size: int,
    ) -> None:
        """A horizontal colour bar with its title on the left end of ``left`` and round values below.

        ``table`` holds the colours from the low end to the high one, (K, 3) sRGB in 0..1.
        """
        low, high = limits
        thick = max(round(0.75 * size), 6)
        columns = np.rint(np.linspace(0, len(table) - 1, max(width, 2))).astype(int)
        colours = np.rint(255 * table[columns]).astype(np.uint8)
        self.text(title, left - 0.8 * size, top + 0.5 * thick, size, anchor="right")
        self.put(np.broadcast_to(colours, (thick, len(colours), 3)), left, top)
        marks = ticks(low, high)
        for value, words in zip(marks, tick_labels(marks), strict=True):
            x = left + (value - low) / (high - low) * (width - 1)
            self.fill(x - 0.5, top + thick, 1, 0.3 * size)
            self.text(words, x, top + thick + 0.95 * size, size, anchor="centre")

    def scale_bar(self, length: float, words: str, left: int, top: int, size: int) -> float:
        """A bar ``length`` pixels long with its label on its right; returns where that ends."""
        thick = max(round(0.22 * size), 2)
        self.fill(left, top - 0.5 * thick, length, thick)
        for end in (left, left + length):
            self.fill(end - 0.5 * thick, top - 0.35 * size, thick, 0.7 * size)
        begins = left + length + 0.6 * size
        self.text(words, begins, top, size)
        return begins + text_mask(words, size).shape[1]

    def swatches(
        self, names: Sequence[str], colours: FloatArray, left: int, right: int, top: int, size: int
    ) -> None:
        """Names of labels beside their colours, in as many as fit on one line, the rest counted."""
        x = float(left)
        for position, (name, colour) in enumerate(zip(names, colours, strict=True)):
            need = 1.2 * size + text_mask(name, size).shape[1] + 1.2 * size
            if x + need > right - (0 if position == len(names) - 1 else 5 * size):
                self.text(f"and {len(names) - position} more", x, top, size)
                return
            self.fill(x, top - 0.4 * size, 0.8 * size, 0.8 * size, colour)
            self.text(name, x + 1.2 * size, top, size)
            x += need


def text_mask(words: str, size: int, bold: bool = False) -> FloatArray:
    """Coverage (h, w) in 0..1 of a line of text ``size`` pixels high; lines of a size are equally high."""
    import vtkmodules.vtkRenderingFreeType  # noqa: F401  (registers the renderer of text)
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkRenderingCore import vtkTextProperty, vtkTextRenderer

    if not words.strip():
        return np.zeros((1, 0))
    look = vtkTextProperty()
    look.SetFontFamilyToArial()
    look.SetFontSize(size)
    look.SetBold(bold)
    look.SetColor(1.0, 1.0, 1.0)
    image, extent = vtkImageData(), [0, 0]
    # Never matplotlib's mathematics, which VTK would choose for "|" and "$" where it is installed.
    plain = vtkTextRenderer.FreeType
    vtkTextRenderer.GetInstance().RenderString(look, words, image, extent, 72, plain)
    columns, rows, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[..., -1]
    # The text lies in the lower left corner of an image of the next powers of two, rows from the bottom.
    mask: FloatArray = pixels[: extent[1] + 1, : extent[0] + 1][::-1] / 255.0
    return mask


def tick_labels(values: Sequence[float]) -> list[str]:
    """The values written with the same, smallest sufficient number of decimals."""
    gaps = [abs(second - first) for first, second in pairwise(values)]
    tolerance = 1e-3 * min(gaps, default=max((abs(value) for value in values), default=0.0))
    for digits in range(10):
        words = [f"{value:.{digits}f}" for value in values]
        if all(abs(float(word) - value) <= tolerance for word, value in zip(words, values, strict=True)):
            return words
    return [f"{value:g}" for value in values]
