"""Where panels, captions and legends go on a sheet of a given size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from otreg.surface import FloatArray
from otreg.visualize import colours
from otreg.visualize.paint import Paint
from otreg.visualize.sheet import Sheet, tick_labels


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where things go on a sheet, in pixels."""

    width: int
    sheet_height: int
    panels: int
    head: int
    foot: int
    font: int

    @classmethod
    def of(cls, size: tuple[int, int], *, panels: int, title: bool, legend: bool) -> Layout:
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
    def line(self) -> int:
        """Thickness of an outline."""
        return max(round(0.12 * self.font), 2)

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

    def add_names(self, sheet: Sheet, names: Sequence[str], name_colours: FloatArray) -> None:
        """Names beside their colours, right of the scale bar."""
        left = round(self.width * (0.36 if self.panels == 1 else 0.3))
        top = round(self.sheet_height - self.foot + 1.3 * self.font)
        sheet.swatches(names, name_colours, left, self.width - self.font, top, self.font)

    def add_legend(self, sheet: Sheet, paint: Paint, unit: str) -> None:
        top = self.sheet_height - self.foot + 0.9 * self.font
        if paint.limits is None:
            self.add_names(sheet, paint.names, paint.label_colours)
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
