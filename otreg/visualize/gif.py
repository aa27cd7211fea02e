"""Animated GIF: one palette for all frames, so that nothing that stands still flickers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from otreg.visualize.screen import Image

if TYPE_CHECKING:
    from PIL import Image as Pillow

_SAMPLES = 5
"""Frames that the palette is made of."""
_SAMPLE_PIXELS = 400_000
"""Pixels that each of them gives at most: more do not change 256 colours."""
_SHORTEST = 2
"""Hundredths of a second; browsers show shorter frames for ten."""


def write_gif(
    path: Path,
    draw: Callable[[int], Image],
    count: int,
    shown: Sequence[int],
    seconds: Sequence[float],
) -> None:
    """Write an endless loop.

    Parameters
    ----------
    path : Path
    draw : callable
        Number of a frame -> (height, width, 3) bytes. Called once for each frame, but twice for the five that the
        palette comes from.
    count : int
        Frames that can be drawn.
    shown : sequence of int
        Numbers of the frames in the order in which they are shown.
    seconds : sequence of float
        How long each of these stays. GIF counts hundredths, so the ends of frames are rounded, not their lengths:
        no error adds up.
    """
    palette = _palette([draw(number) for number in _spread(count, _SAMPLES)])
    indexed: dict[int, Pillow.Image] = {}  # 1 byte a pixel: a way back does not draw again

    def frame(number: int) -> Pillow.Image:
        if number not in indexed:
            indexed[number] = _indexed(draw(number), palette)
        return indexed[number]

    def following() -> Iterator[Pillow.Image]:
        last_use = {number: place for place, number in enumerate(shown)}
        for place, number in enumerate(shown):
            if place:
                yield frame(number)
            if last_use[number] == place and place:
                indexed.pop(number, None)

    frame(shown[0]).save(
        path,
        format="GIF",
        save_all=True,
        append_images=following(),
        duration=[10 * hundredths for hundredths in whole_hundredths(seconds)],
        loop=0,
        optimize=False,
        disposal=1,
    )


def whole_hundredths(seconds: Sequence[float]) -> list[int]:
    """Lengths in hundredths of a second, at least 2, whose sums stay within half of one of the true ones."""
    ends = np.rint(100.0 * np.cumsum(np.asarray(seconds, dtype=np.float64))).astype(int)
    return [max(int(length), _SHORTEST) for length in np.diff(ends, prepend=0)]


def _spread(count: int, most: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def _palette(images: Sequence[Image]) -> Pillow.Image:
    """The 256 colours that serve all these images."""
    from PIL import Image as Pillow

    flat = []
    for image in images:
        step = max(int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / _SAMPLE_PIXELS))), 1)
        flat.append(np.ascontiguousarray(image[::step, ::step, :3]).reshape(-1, 3))
    pixels = np.concatenate(flat)
    # Plain background is most of the picture and would take no more colours for that, but costs time.
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    montage = np.repeat(values, np.minimum(counts, 64), axis=0)
    found = Pillow.fromarray(montage[None]).quantize(256, method=Pillow.Quantize.MEDIANCUT, kmeans=3)
    # The background is exact: white that is nearly white shows as a box on a white page.
    entries = np.array(found.getpalette("RGB"), dtype=np.int64).reshape(-1, 3)
    background = values[counts.argmax()].astype(np.int64)
    entries[np.abs(entries - background).sum(axis=1).argmin()] = background
    found.putpalette([int(entry) for entry in entries.ravel()], "RGB")
    return found


def _indexed(image: Image, palette: Pillow.Image) -> Pillow.Image:
    """The image in the palette's colours. No dithering: its grain would crawl from frame to frame."""
    from PIL import Image as Pillow

    rgb = Pillow.fromarray(np.ascontiguousarray(image[..., :3]))
    return rgb.quantize(palette=palette, dither=Pillow.Dither.NONE)
