"""One line of progress on stderr, only where a person is looking at it."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

from .errors import CLEAR_LINE, rewrites_lines

if TYPE_CHECKING:
    from otreg.cohort import BatchProgress


class Event(Protocol):
    """What :func:`otreg.registration.register` reports after each step."""

    stage: str
    step: int
    steps: int
    distance: float | None
    elapsed: float
    remaining: float | None


class Line:
    """A line of a terminal that rewrites itself.

    Parameters
    ----------
    stream : text stream, default stderr
        Written to only if it is a terminal.
    quiet : bool
        Write nothing at all.
    interval : float
        Least time between two drawings, in seconds; a slow terminal must not slow the work.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, interval: float = 0.1) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.active = not quiet and rewrites_lines(self.stream)
        self.interval = interval
        self._drawn_at = -float("inf")
        self._stage = ""

    def message(self, text: str) -> None:
        """Show what happens while no step is counted, for instance reading files."""
        if self.active:
            self._write(CLEAR_LINE + text[: self._width() - 1])

    def clear(self) -> None:
        """Remove the line, so that what follows starts on a clean one."""
        if self.active:
            self._write(CLEAR_LINE)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:  # the terminal is gone; the work goes on
            self.active = False

    def _width(self) -> int:
        try:
            # a terminal that does not know its width says 0
            return max(os.get_terminal_size(self.stream.fileno()).columns or 80, 20)
        except (OSError, ValueError):
            return 80


class ProgressLine(Line):
    """Progress of a registration: stage, bar, step, distance and time left; see :class:`Line`."""

    def __call__(self, event: Event) -> None:
        if not self.active:
            return
        now = time.monotonic()
        if event.stage == self._stage and now - self._drawn_at < self.interval:
            return
        self._stage, self._drawn_at = event.stage, now
        self._write(CLEAR_LINE + format_event(event, self._width() - 1))


class BatchLine(Line):
    """Progress of a batch: bar, cases done and failed, time left; see :class:`Line`."""

    def __call__(self, event: BatchProgress) -> None:
        if self.active:
            self._write(CLEAR_LINE + format_batch_event(event, self._width() - 1))


def format_batch_event(event: BatchProgress, width: int = 79) -> str:
    """Write one event of a batch as a line of at most ``width`` characters."""
    ended = event.done + event.failed
    filled = round(20 * ended / event.total) if event.total else 20
    parts = ["[" + "#" * filled + "." * (20 - filled) + "]", f"{ended:,}/{event.total:,} cases"]
    if event.failed:
        parts.append(f"{event.failed:,} failed")
    parts.append(
        f"{format_seconds(event.elapsed)}"
        if event.remaining is None
        else f"{format_seconds(event.remaining)} left"
    )
    parts.append(event.where)
    return "  ".join(parts)[:width]


def format_event(event: Event, width: int = 79) -> str:
    """Write one event as a line of at most ``width`` characters."""
    done = min(max(event.step / event.steps, 0.0), 1.0) if event.steps else 0.0
    bar_width = 20 if width >= 70 else 8
    filled = round(done * bar_width)
    parts = [
        f"{event.stage:<12s}",
        "[" + "#" * filled + "." * (bar_width - filled) + "]",
        f"{event.step}/{event.steps}",
    ]
    if event.distance is not None:
        parts.append(f"distance {event.distance:.4g}")
    if event.remaining is not None:
        parts.append(f"{format_seconds(event.remaining)} left")
    else:
        parts.append(format_seconds(event.elapsed))
    return "  ".join(parts)[:width]


def format_seconds(seconds: float) -> str:
    """Write a duration as ``12 s``, ``3:05 min`` or ``2:40 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 100:
        return f"{minutes // 60}:{minutes % 60:02d} h"
    return f"{minutes}:{rest:02d} min"
