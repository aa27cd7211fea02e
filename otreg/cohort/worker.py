"""What runs where the cases run: in a process of this machine or in a worker of a cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from otreg import __version__
from otreg.errors import OtregError

# torch's number of threads and Python's warnings belong to the process: cases that share one take turns
_TURN = threading.Lock()


class Reply(NamedTuple):
    """What a worker sends back: a value or a one-line reason, never an exception."""

    value: Any
    reason: str | None
    seconds: float
    warnings: tuple[str, ...]


def call(function: Callable[[Any], Any], case: Any, threads: int | None, version: str) -> Reply:
    """Run one case, with ``threads`` threads of torch, and turn whatever goes wrong into a line.

    Parameters
    ----------
    function : callable
        Takes the case.
    case : object
        Plain data.
    threads : int or None
        Threads of torch while it runs; the number before is restored. None: as the worker was started.
    version : str
        Of otreg where the study is run: another one here would give other results, so it is refused.
    """
    if version != __version__:
        other = f"the worker has otreg {__version__} and the study is run by {version}: install the same one"
        return Reply(None, other, 0.0, ())
    with _TURN:
        began = time.perf_counter()
        value: Any = None
        reason: str | None = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=UserWarning, module=r"otreg(_cli)?(\.|$)")
            try:
                with _torch_threads(threads):
                    value = function(case)
            except Exception as error:
                reason = reason_of(error)
        said = tuple(dict.fromkeys(" ".join(str(one.message).split()) for one in caught))
        return Reply(value, reason, time.perf_counter() - began, said)


def reason_of(error: BaseException) -> str:
    """An error in one line: the message of bad input as it stands, others with their kind."""
    text = " ".join(str(error).split())
    if isinstance(error, OtregError):
        return text
    if isinstance(error, MemoryError):
        return "ran out of memory; give it a worker with more, or use fewer points"
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return f"{where}{error.strerror}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def initialise() -> None:
    """Prepare a process of :mod:`otreg.cohort.local`, once: everything slow to load is loaded here.

    Ctrl-C reaches every process of a terminal; only the one that leads them acts on it. If that one is killed, its
    workers end too, rather than going on with a case that nobody waits for.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import otreg.registration  # noqa: F401


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
