"""What a registration says while it works, and how it is asked to stop."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class ProgressEvent(NamedTuple):
    """State after one step: stage, step of how many, residual in file units, seconds gone and (perhaps) left."""

    stage: str
    step: int
    steps: int
    distance: float | None
    elapsed: float
    remaining: float | None


class Interrupted(Exception):
    """The caller asked to stop; the best map so far is kept."""


class Progress:
    """Counts steps over the whole run, tells the listener, and raises :class:`Interrupted` when asked to stop."""

    def __init__(
        self,
        total: int,
        listener: Callable[[Any], object] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.total, self.listener, self.stop = total, listener, stop
        self.done = 0
        self.stopped = False
        self._lock = threading.Lock()  # stages may run side by side
        self.began = time.monotonic()
        self._distances: dict[int, list[float]] = {}

    def step(self, stage: str, distance: float | None = None) -> None:
        """Report one finished step of ``stage``."""
        with self._lock:
            self.done += 1
            if distance is not None and math.isfinite(distance):
                self._distances.setdefault(threading.get_ident(), []).append(distance)
            elapsed = time.monotonic() - self.began
            if self.listener is not None:
                left = elapsed / self.done * max(self.total - self.done, 0)
                self.listener(
                    ProgressEvent(stage, self.done, max(self.total, self.done), distance, elapsed, left)
                )
            if self.stop is not None and self.stop():
                self.stopped = True
                raise Interrupted

    def distances(self) -> list[float]:
        """Distances that steps in this thread have reported since it last asked, to four digits."""
        with self._lock:
            taken = self._distances.pop(threading.get_ident(), [])
        return [float(f"{distance:.4g}") for distance in taken]

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began
