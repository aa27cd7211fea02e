"""One shape over another in a picture: the upper one whole, the lower one pale, its outline on top of both."""

from __future__ import annotations

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
"""Share of its own colour that the lower shape keeps; the rest is white."""


def draw_over_outline(
    screen: Screen,
    upper: vtkActor,
    lower: vtkActor,
    view: View,
    size: tuple[int, int],
    smoothing: int,
    line: int,
) -> Image:
    """Draw two shapes so that every disagreement of their outlines is seen, whichever lies in front.

    Parameters
    ----------
    screen : Screen
    upper, lower : vtkActor
        The upper shape hides the lower one, but not the lower one's outline: a dark line with a white rim,
        which stands out from every colour, for colour-blind readers too.
    view, size, smoothing
        As for :meth:`Screen.draw`.
    line : int
        Thickness of the outline in pixels.

    Returns
    -------
    array (height, width, 3) of bytes
    """
    above = screen.draw([upper], view, size, smoothing).astype(np.float64)
    below = screen.draw([lower], view, size, smoothing).astype(np.float64)
    hidden = _cover(screen, upper, view, size, smoothing)
    covered = _cover(screen, lower, view, size, smoothing)
    pale = 255.0 - _PALE * (255.0 - below)
    # Where the upper shape covers a part of a pixel, its picture there is already mixed with white.
    image = above + (1.0 - hidden[..., None]) * (pale - 255.0)
    for width, colour in ((3 * line, (1.0, 1.0, 1.0)), (line, INK)):
        share = _edge(covered, width)[..., None]
        image = image * (1.0 - share) + share * 255.0 * np.asarray(colour)
    result: NDArray[np.uint8] = np.rint(np.clip(image, 0.0, 255.0)).astype(np.uint8)
    return result


def _cover(screen: Screen, actor: vtkActor, view: View, size: tuple[int, int], smoothing: int) -> FloatArray:
    """Share of each pixel that an actor covers, (height, width)."""
    drawn = screen.draw([shadow(actor)], view, size, smoothing)
    return np.asarray(1.0 - drawn[..., 0] / 255.0, dtype=np.float64)


def _edge(covered: FloatArray, width: int) -> FloatArray:
    """Strength, 0 to 1, of a line about ``width`` pixels thick along the edge of what is covered."""
    radius = max(width, 1) / 2
    reach = int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = rows**2 + columns**2 <= (radius + 0.25) ** 2
    spread = maximum_filter(covered, footprint=disc) - minimum_filter(covered, footprint=disc)
    return np.asarray(spread, dtype=np.float64)
