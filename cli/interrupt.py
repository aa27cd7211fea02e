"""Ctrl-C during long work: the first asks it to finish its step, the second ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from .errors import say


class Caught:
    """SIGINT while a ``with`` block runs: ``asked`` is True once the user has pressed Ctrl-C."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt


class Interruption(Caught):
    """Ctrl-C that is waited for.

    An instance is the ``stop`` callable that :func:`otreg.registration.register` polls: it returns True once
    the user has pressed Ctrl-C. A second Ctrl-C raises KeyboardInterrupt wherever the program is.

    Parameters
    ----------
    words : str
        What the user is told at the first one.
    """

    def __init__(
        self,
        words: str = "stopping after this step, keeping the best so far (Ctrl-C again: stop now, write nothing)",
    ) -> None:
        super().__init__()
        self.words = words

    def __call__(self) -> bool:
        return self.asked

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        say(self.words)


class Remembered(Caught):
    """A Ctrl-C that cannot get lost, for work that leaves nothing behind when it is stopped.

    KeyboardInterrupt is raised at once, wherever the program is. Where that is inside a call from C (VTK's observers,
    a finaliser), Python can only drop it: :meth:`check`, called at every step, raises it again.
    """

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a Ctrl-C."""
        if self.asked:
            raise KeyboardInterrupt
