"""How numbers on points become colours, and what a legend has to say about them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from otreg.surface import FloatArray
from otreg.visualize import colours


@dataclasses.dataclass(eq=False)
class Colouring:
    """A colour map with its limits, or colours of labels.

    Attributes
    ----------
    title : str
        What the values are, for the legend, without their unit.
    kind : {"sequential", "diverging", "categorical"}
        ``diverging`` has its pale middle at 0; ``categorical`` gives each label a colour of its own.
    limits : (low, high)
        Values that have the two ends of the map; what lies beyond has the end's colour. Unused for labels.
    unit : str
        Of the values; ``""`` for numbers without one.
    codes : int array (L,)
        Labels that have a colour, each with its name and colour below; others are grey.
    names : list of str
    label_colours : array (L, 3), sRGB in 0..1
    """

    title: str
    kind: Literal["sequential", "diverging", "categorical"] = "sequential"
    limits: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    codes: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    names: list[str] = dataclasses.field(default_factory=list)
    label_colours: FloatArray = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))

    def table(self, count: int = 256) -> FloatArray:
        """Colours from the low end to the high one, (count, 3) sRGB in 0..1; not for labels."""
        return colours.diverging(count) if self.kind == "diverging" else colours.sequential(count)

    def colours(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """sRGB bytes (N, 3) of values (N,); values that are not finite, and unknown labels, are grey."""
        if self.kind == "categorical":
            return self._of_labels(values)
        low, high = self.limits
        table = self.table()
        numbers = np.asarray(values, dtype=np.float64)
        known = np.isfinite(numbers)
        position = np.clip((np.where(known, numbers, low) - low) / max(high - low, 1e-300), 0.0, 1.0)
        rgb = table[np.rint(position * (len(table) - 1)).astype(int)]
        rgb[~known] = colours.UNKNOWN
        return np.rint(255 * rgb).astype(np.uint8)

    def _of_labels(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        rgb = np.tile(np.asarray(colours.UNKNOWN, dtype=np.float64), (len(values), 1))
        for code, colour in zip(self.codes, self.label_colours, strict=True):
            rgb[values == code] = colour
        return np.rint(255 * rgb).astype(np.uint8)
