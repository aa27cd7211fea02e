"""Small charts as SVG that stands inside a page: histograms and curves, in the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from otreg.surface import FloatArray
from otreg.visualize.colours import ticks

_WIDTH, _HEIGHT = 560.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 16.0, 16.0, 46.0
_DASHES = ("", "7 4", "2 3", "9 3 2 3")
"""Lines differ in their dashes as well as in their colours."""


class Axis(NamedTuple):
    """One axis of a chart: what it shows, from where to where, its ticks with their texts."""

    title: str
    low: float
    high: float
    ticks: list[tuple[float, str]]
    logarithmic: bool = False

    def share(self, values: FloatArray) -> FloatArray:
        """Where values lie between the ends, from 0 to 1."""
        low, high, at = self.low, self.high, np.asarray(values, dtype=np.float64)
        if self.logarithmic:
            low, high, at = np.log(low), np.log(high), np.log(np.maximum(at, 1e-300))
        return np.asarray(np.clip((at - low) / max(high - low, 1e-300), 0.0, 1.0))


def figure(value: float) -> str:
    """A number with four significant digits, without an exponent where it can be read without."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}"
    return f"{value:.2e}"


def linear_axis(title: str, low: float, high: float, most: int = 7) -> Axis:
    """An axis with even ticks at round values."""
    if not high > low:
        high = low + max(abs(low), 1.0) * 1e-6
    return Axis(title, low, high, [(tick, figure(tick)) for tick in ticks(low, high, most)])


def length_axis(title: str, values: FloatArray) -> Axis:
    """An axis for lengths above 0: even where they are alike, else logarithmic with ticks at 1, 2 and 5."""
    low, high = float(values.min()), float(values.max())
    if not low > 0.0 or high < 4.0 * low:
        return linear_axis(title, 0.0, 1.1 * max(high, 1e-300), 6)
    steps = [float(f"{step}e{power}") for power in range(-300, 300) for step in (1, 2, 5)]
    first = max(step for step in steps if step <= low)
    last = min(step for step in steps if step >= high)
    between = [step for step in steps if first <= step <= last]
    if len(between) > 7:
        between = [step for step in between if f"{step:e}".startswith("1.0")]
    return Axis(title, first, last, [(step, f"{step:.4g}") for step in between], logarithmic=True)


def histogram(
    series: Sequence[tuple[str, FloatArray]],
    *,
    title: str,
    limits: tuple[float, float],
    description: str,
    bins: int = 48,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """A histogram of one or more sets of numbers, as outlines over each other.

    Parameters
    ----------
    series : sequence of (name, values (N,))
        Equally large parts of a surface: the height of a bar is the share of it.
    title : str
        Of the values, with their unit.
    limits : (low, high)
        Values beyond count in the outermost bars.
    description : str
        What the chart shows, for those who cannot see it.
    bins : int, default 48
    marks : sequence of (value, text)
        Upright lines.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    low, high = limits
    if not high > low:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, bins + 1)
    shares = [
        100.0 * np.histogram(np.clip(values, low, high), edges)[0] / max(len(values), 1)
        for _, values in series
    ]
    across = linear_axis(title, low, high)
    upwards = linear_axis("% of the surface", 0.0, 1.08 * max(float(max(s.max() for s in shares)), 1e-9), 5)
    body = [_frame(across, upwards)]
    for value, text in marks:
        x = _x(across, np.array([value]))[0]
        body.append(f'<path class="mark" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        side = f'class="note end" x="{x - 4:.1f}"' if x > 0.8 * _WIDTH else f'class="note" x="{x + 4:.1f}"'
        body.append(f'<text {side} y="{_TOP + 10}">{escape(text)}</text>')
    for number, heights in enumerate(shares):
        x, y = _x(across, edges), _y(upwards, heights)
        steps = "".join(f"H{b:.1f}V{t:.1f}" for b, t in zip(x[1:-1], y[1:], strict=True))
        path = f"M{x[0]:.1f} {_HEIGHT - _BOTTOM}V{y[0]:.1f}{steps}H{x[-1]:.1f}V{_HEIGHT - _BOTTOM}"
        body.append(f'<path class="area s{number % 4}" d="{path}Z"/>')
        body.append(_line(path, number))
    if len(series) > 1:
        body.append(_key([name for name, _ in series]))
    return _svg(body, description)


def curves(
    series: Sequence[tuple[str, FloatArray, FloatArray]], *, x: Axis, y: Axis, description: str
) -> str:
    """Lines through points, one for each (name, x (N,), y (N,)), named where they begin."""
    body = [_frame(x, y)]
    for number, (name, at, values) in enumerate(series):
        xs, ys = _x(x, at), _y(y, values)
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(xs, ys, strict=True))
        body.append(_line(path, number))
        body += [
            f'<circle class="dot s{number % 4}" cx="{a:.1f}" cy="{b:.1f}" r="2.4"/>'
            for a, b in zip(xs, ys, strict=True)
        ]
        body.append(_label(name, xs, ys))
    return _svg(body, description)


def _label(name: str, xs: FloatArray, ys: FloatArray) -> str:
    """A name above the first point of a line, kept inside the picture."""
    x = min(float(xs[0]), _WIDTH - _RIGHT - 6.2 * len(name))
    y = max(float(ys[0]) - 8.0, _TOP + 9.0)
    return f'<text class="note" x="{x:.1f}" y="{y:.1f}">{escape(name)}</text>'


def _x(axis: Axis, values: FloatArray) -> FloatArray:
    return np.asarray(_LEFT + (_WIDTH - _LEFT - _RIGHT) * axis.share(values))


def _y(axis: Axis, values: FloatArray) -> FloatArray:
    return np.asarray(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * axis.share(values))


def _line(path: str, number: int) -> str:
    dash = _DASHES[number % 4]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="line s{number % 4}"{dashed} d="{path}"/>'


def _frame(across: Axis, upwards: Axis) -> str:
    """Both axes with their ticks, titles and thin lines behind everything."""
    bottom, parts = _HEIGHT - _BOTTOM, []
    for value, text in upwards.ticks:
        y = _y(upwards, np.array([value]))[0]
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 7}" y="{y + 4:.1f}">{escape(text)}</text>')
    for value, text in across.ticks:
        x = _x(across, np.array([value]))[0]
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v5"/>')
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{bottom + 18}">{escape(text)}</text>')
    middle = 0.5 * (_LEFT + _WIDTH - _RIGHT)
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>')
    parts.append(
        f'<text class="title middle" x="{middle}" y="{_HEIGHT - 8}">{escape(across.title)}</text>'
        f'<text class="title middle" transform="translate(13 {0.5 * (_TOP + bottom)}) rotate(-90)">'
        f"{escape(upwards.title)}</text>"
    )
    return "".join(parts)


def _key(names: Sequence[str]) -> str:
    """Names of lines with a piece of each, at the right."""
    widest = max(len(name) for name in names)
    left = _WIDTH - _RIGHT - 34 - 6.4 * widest
    parts = []
    for number, name in enumerate(names):
        y = _TOP + 8 + 17 * number
        parts.append(_line(f"M{left:.1f} {y}h24", number))
        parts.append(f'<text class="note" x="{left + 30:.1f}" y="{y + 4}">{escape(name)}</text>')
    return "".join(parts)


def _svg(body: Sequence[str], description: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'aria-label="{escape(description, quote=True)}">{"".join(body)}</svg>'
    )


def runs(lengths: Sequence[int]) -> list[FloatArray]:
    """Step numbers of consecutive stages: 1 to the first length, and so on."""
    ends = np.cumsum([0, *lengths])
    return [np.arange(first + 1, last + 1, dtype=np.float64) for first, last in pairwise(ends)]
