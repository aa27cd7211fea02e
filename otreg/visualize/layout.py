"""Where panels, captions and legends go on a sheet of a given size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from otreg.surface import FloatArray
from otreg.visualize import colours
from otreg.visualize.colouring import Colouring
from otreg.visualize.sheet import WHITE, Sheet, text_mask, tick_labels

PANEL = (600, 540)
"""Width and height of a panel in a picture whose size is not given; a single panel gets twice the width."""


def sheet_size(panels: int, rows: int) -> tuple[int, int]:
    """Size in pixels of a picture of so many panels and rows, where none is asked for."""
    return (1200, 900) if panels == rows == 1 else (max(panels, 2) * PANEL[0], rows * PANEL[1] + 100)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where things go on a sheet, in pixels: panels in columns, views in rows."""

    width: int
    sheet_height: int
    panels: int
    rows: int
    head: int
    foot: int
    font: int

    @classmethod
    def of(
        cls, size: tuple[int, int], *, panels: int, rows: int = 1, captions: bool, title: bool, legend: bool
    ) -> Layout:
        """A layout of ``rows`` rows of ``panels`` panels, with room for what is to be written around them."""
        width, height = size
        font = int(np.clip(round(min(height / (30 + 12 * (rows - 1)), width / 62)), 9, 60))
        head = round(font * ((2.2 if captions else 0.4) + (2.2 if title else 0.0)))
        foot = round(font * (3.4 if legend else 2.6))
        return cls(width, height, panels, rows, head, foot, font)

    @property
    def height(self) -> int:
        """Of a panel."""
        return max((self.sheet_height - self.head - self.foot) // self.rows, 16)

    @property
    def panel(self) -> tuple[int, int]:
        """Width and height of a panel."""
        return self.width // self.panels, self.height

    @property
    def aspect(self) -> float:
        """Width of a panel, in heights."""
        return self.panel[0] / self.panel[1]

    @property
    def line(self) -> int:
        """Thickness of an outline."""
        return max(round(0.12 * self.font), 2)

    @property
    def smoothing(self) -> int:
        """How many samples a pixel is averaged from, each way."""
        return 3 if self.panel[0] * self.panel[1] <= 1_500_000 else 2

    def compose(
        self,
        images: Sequence[Sequence[NDArray[np.uint8]]],
        captions: Sequence[str],
        rows: Sequence[str],
        title: str | None,
        background: Sequence[float] = WHITE,
        ink: tuple[float, float, float] | None = None,
    ) -> Sheet:
        """Put panels (rows of columns) on a sheet, with captions above columns, names in rows, and a title."""
        sheet = Sheet(self.width, self.sheet_height, background, ink)
        width, height = self.panel
        for row, line in enumerate(images):
            for column, panel in enumerate(line):
                sheet.put(panel, column * width, self.head + row * height)
        for column, words in enumerate(captions):
            sheet.text(
                self._fitted(words),
                (column + 0.5) * width,
                self.head - 1.0 * self.font,
                self.font,
                anchor="centre",
            )
        for row, words in enumerate(rows):
            sheet.text(words, 0.8 * self.font, self.head + row * height + 0.8 * self.font, self.font)
        if title is not None:
            sheet.text(
                title, self.width / 2, 1.4 * self.font, round(1.25 * self.font), anchor="centre", bold=True
            )
        return sheet

    def _fitted(self, words: str) -> str:
        """A caption no wider than its panel."""
        room = self.panel[0] - self.font
        while len(words) > 4 and text_mask(words, self.font).shape[1] > room:
            words = words[:-2].rstrip(" .,…") + "…"
        return words

    def add_scale(self, sheet: Sheet, half_height: float, unit: str) -> float:
        """Add a bar of a round length in the lower left corner; returns where its label ends."""
        per_pixel = 2 * half_height / self.height
        length = colours.round_length(0.3 * self.panel[0] * per_pixel)
        words = f"{tick_labels([length])[0] if length >= 1e-3 else f'{length:g}'} {unit}".strip()
        top = self.sheet_height - self.foot + 1.3 * self.font
        return sheet.scale_bar(length / per_pixel, words, round(1.5 * self.font), round(top), self.font)

    def add_names(
        self, sheet: Sheet, names: Sequence[str], name_colours: FloatArray, after: float = 0.0
    ) -> None:
        """Names beside their colours, right of ``after``, where the label of the scale bar ends."""
        left = round(max(self.width * (0.36 if self.panels == 1 else 0.3), after + 1.5 * self.font))
        top = round(self.sheet_height - self.foot + 1.3 * self.font)
        sheet.swatches(names, name_colours, left, self.width - self.font, top, self.font)

    def add_legend(self, sheet: Sheet, colouring: Colouring, after: float = 0.0) -> None:
        """What colours mean: a colour bar, or the names of labels, right of ``after``."""
        top = self.sheet_height - self.foot + 0.9 * self.font
        if colouring.kind == "categorical":
            self.add_names(sheet, colouring.names, colouring.label_colours, after)
            return
        title = f"{colouring.title} ({colouring.unit})" if colouring.unit else colouring.title
        span = self.width * (0.24 if self.panels > 1 else 0.3)
        right = (
            self.width * (0.5 + 0.5 / self.panels) - 2.0 * self.font
            if self.panels > 1
            else self.width - 3.0 * self.font
        )
        left = round(right - span)
        sheet.colour_bar(colouring.limits, colouring.table(), title, left, round(top), round(span), self.font)
