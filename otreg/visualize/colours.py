"""Colours of pictures: a perceptually even map for quantities, distinct colours for labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otreg.surface import FloatArray

NEUTRAL = (0.86, 0.84, 0.80)
"""Colour of a surface without values, sRGB in 0..1: bone."""
SECOND = (0.58, 0.70, 0.82)
"""Colour that tells a second plain surface from the first."""
UNKNOWN = (0.72, 0.72, 0.72)
"""Colour of the background label and of values that are not finite."""

_D65 = np.array([0.95047, 1.0, 1.08883])
_XYZ_TO_RGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)


def lch_to_rgb(lch: FloatArray) -> FloatArray:
    """CIE LCh(ab), D65, to sRGB in 0..1 (IEC 61966-2-1); shape (..., 3), hue in degrees.

    A colour that sRGB cannot show keeps its lightness and hue and loses chroma until it can.
    """
    lch = np.asarray(lch, dtype=np.float64)
    share = np.ones(lch.shape[:-1])
    low, high = np.zeros_like(share), np.ones_like(share)
    fits = _inside(_linear_rgb(lch))
    for _ in range(20):
        middle = 0.5 * (low + high)
        inside = _inside(_linear_rgb(lch * _chroma_factor(middle)))
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    share = np.where(fits, 1.0, low)
    linear = np.clip(_linear_rgb(lch * _chroma_factor(share)), 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _chroma_factor(share: FloatArray) -> FloatArray:
    return np.stack([np.ones_like(share), share, np.ones_like(share)], axis=-1)


def _linear_rgb(lch: FloatArray) -> FloatArray:
    lightness, chroma, hue = lch[..., 0], lch[..., 1], np.radians(lch[..., 2])
    y = (lightness + 16.0) / 116.0
    f = np.stack([y + chroma * np.cos(hue) / 500.0, y, y - chroma * np.sin(hue) / 200.0], axis=-1)
    xyz = _D65 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return xyz @ _XYZ_TO_RGB.T


def _inside(linear: FloatArray) -> NDArray[np.bool_]:
    return np.all((linear >= -1e-4) & (linear <= 1 + 1e-4), axis=-1)


def sequential(count: int = 256) -> FloatArray:
    """Colours from dark blue over green to light yellow, (count, 3) sRGB in 0..1.

    Lightness rises evenly, so that the order is seen without colours (in grey, or by colour-blind readers),
    and the hue turns from blue to yellow, the axis that the common kinds of colour blindness leave intact.
    """
    position = np.linspace(0.0, 1.0, count)
    lightness = 32.0 + 58.0 * position
    hue = 285.0 - 185.0 * position
    # As vivid as sRGB allows all the way: blue-green limits the middle, and the ends may have more.
    early, late = np.maximum(1.0 - 2.0 * position, 0.0), np.maximum(2.0 * position - 1.0, 0.0)
    chroma = 29.0 + 14.0 * early**4 + 50.0 * late**2
    return lch_to_rgb(np.stack([lightness, chroma, hue], axis=-1))


def diverging(count: int = 256) -> FloatArray:
    """Colours from blue over near white to red-orange, (count, 3) sRGB in 0..1; the middle one stands for 0.

    Lightness falls evenly to both sides, so strength is seen without colours; blue against orange is told
    apart in the common kinds of colour blindness.
    """
    position = np.linspace(-1.0, 1.0, count)
    strength = np.abs(position)
    lightness = 94.0 - 54.0 * strength
    chroma = 58.0 * strength**0.8
    hue = np.where(position < 0, 268.0, 48.0)
    return lch_to_rgb(np.stack([lightness, chroma, hue], axis=-1))


def categorical(count: int) -> FloatArray:
    """Colours for labels, (count, 3) sRGB in 0..1: neighbours in the list differ in hue and in lightness."""
    index = np.arange(count)
    hue = (index * 137.508 + 255.0) % 360.0  # the golden angle never comes back to the same hue
    lightness = np.array([62.0, 78.0, 48.0])[index % 3]
    return lch_to_rgb(np.stack([lightness, np.full(count, 52.0), hue], axis=-1))


def colour_range(values: FloatArray, *, from_zero: bool) -> tuple[float, float]:
    """Range that colours span: all values but 0.5 % at each end; from 0 where that wastes less than half."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, [0.5, 99.5]))
    if from_zero and 0 <= low < 0.5 * high:
        low = 0.0
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        low, high = (0.0, high) if high > 0 else (low, low + 1.0)
    return low, high


def round_length(longest: float) -> float:
    """The largest of 1, 2, 5 × 10^k that is not above ``longest``."""
    power = 10.0 ** np.floor(np.log10(longest))
    return float(max(step * power for step in (1.0, 2.0, 5.0) if step * power <= longest * (1 + 1e-9)))


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from ``low`` to ``high``, at most ``most`` of them."""
    step = round_length(high - low)
    for finer in (step / 2, step / 2.5, step / 5, step / 10):
        finer = round_length(finer * (1 + 1e-9))
        if np.floor(high / finer + 1e-9) - np.ceil(low / finer - 1e-9) + 1 <= most:
            step = min(step, finer)
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]
