"""Shapes over others in a picture: the upper ones whole, the lower ones pale, their outlines on top of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from otreg.surface import FloatArray
from otreg.visualize.props import shadow
from otreg.visualize.screen import Image, Screen
from otreg.visualize.sheet import INK
from otreg.visualize.view import View

if TYPE_CHECKING:
    from vtkmodules.vtkRenderingCore import vtkActor

_PALE = 0.6
"""Share of its own colour that a lower shape keeps; the rest is background."""


def draw_over_outline(
    screen: Screen,
    upper: Sequence[vtkActor],
    lower: Sequence[vtkActor],
    view: View,
    size: tuple[int, int],
    smoothing: int,
    line: int,
    background: Sequence[float] = (1.0, 1.0, 1.0),
) -> Image:
    """Draw shapes so that every disagreement of their outlines is seen, whichever lies in front.

    Parameters
    ----------
    screen : Screen
    upper, lower : sequences of vtkActor
        The upper shapes hide the lower ones, but not the lower ones' outlines: a dark line with a white rim,
        which stands out from every colour, for colour-blind readers too.
    view, size, smoothing, background
        As for :meth:`Screen.draw`.
    line : int
        Thickness of the outline in pixels.

    Returns
    -------
    array (height, width, 3) of bytes
    """
    behind = 255.0 * np.asarray(background, dtype=np.float64)
    above = screen.draw(upper, view, size, smoothing, background).astype(np.float64)
    below = screen.draw(lower, view, size, smoothing, background).astype(np.float64)
    hidden = _cover(screen, upper, view, size, smoothing)
    pale = behind - _PALE * (behind - below)
    # Where the upper shapes cover a part of a pixel, their picture there is already mixed with the background.
    image = above + (1.0 - hidden[..., None]) * (pale - behind)
    covers = [_cover(screen, [actor], view, size, smoothing) for actor in lower]
    for width, colour in ((3 * line, (1.0, 1.0, 1.0)), (line, INK)):
        for covered in covers:
            share = _edge(covered, width)[..., None]
            image = image * (1.0 - share) + share * 255.0 * np.asarray(colour)
    result: NDArray[np.uint8] = np.rint(np.clip(image, 0.0, 255.0)).astype(np.uint8)
    return result


def _cover(
    screen: Screen, actors: Sequence[vtkActor], view: View, size: tuple[int, int], smoothing: int
) -> FloatArray:
    """Share of each pixel that actors cover, (height, width)."""
    drawn = screen.draw([shadow(actor) for actor in actors], view, size, smoothing)
    return np.asarray(1.0 - drawn[..., 0] / 255.0, dtype=np.float64)


def _edge(covered: FloatArray, width: int) -> FloatArray:
    """Strength, 0 to 1, of a line about ``width`` pixels thick along the edge of what is covered."""
    radius = max(width, 1) / 2
    reach = int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = rows**2 + columns**2 <= (radius + 0.25) ** 2
    spread = maximum_filter(covered, footprint=disc) - minimum_filter(covered, footprint=disc)
    return np.asarray(spread, dtype=np.float64)
