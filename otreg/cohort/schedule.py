"""The one way in which many cases are run: in processes of this machine, or by a Dask cluster.

No engine of our own: ``concurrent.futures`` runs processes, ``dask.distributed`` runs clusters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from otreg.cohort.division import divide
from otreg.cohort.worker import Reply

LOCAL = "local"

Status = Literal["done", "failed", "stopped"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes
    ----------
    status : {"done", "failed", "stopped"}
        ``stopped``: it was not begun, or not heard of any more, because the caller asked to stop.
    value : object
        What the function returned, plain data; None unless done.
    reason : str or None
        Why not, in one line; None where done.
    seconds : float
        That the case itself took, without waiting.
    warnings : tuple of str
        Of otreg, while it ran.
    """

    status: Status
    value: Any = None
    reason: str | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, reply: Reply) -> Outcome:
        """What a worker's reply says."""
        status: Status = "done" if reply.reason is None else "failed"
        return cls(status, reply.value, reply.reason, reply.seconds, reply.warnings)


STOPPED = Outcome("stopped", reason="stopped before it was begun")

OnDone = Callable[[int, Outcome], object]


class Scheduler(Protocol):
    """Something that runs cases; made by :func:`open_scheduler`, and used again for as many lists as one likes."""

    threads: int | None
    """Of each case; None: as the cluster's workers were started."""

    def run(
        self,
        function: Callable[[Any], Any],
        cases: Sequence[Any],
        *,
        case_memory: Sequence[float] | None = None,
        on_done: OnDone | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[Outcome]:
        """Run ``function(case)`` for each case; outcomes in the order of the cases. See :func:`run_cases`."""

    def describe(self) -> str:
        """Where cases run, in a few words."""


def open_scheduler(
    scheduler: str = LOCAL,
    *,
    cases: int,
    workers: int | None = None,
    threads: int | None = None,
    memory: float | None = None,
    case_memory: Sequence[float] | None = None,
) -> AbstractContextManager[Scheduler]:
    """Start workers, or connect to a cluster, for the length of a ``with`` block.

    Workers stay for the whole block, so that what they load at the start is loaded once, however many lists of
    cases they are given.

    Parameters
    ----------
    scheduler : str, default "local"
        ``local``: processes of this machine. Otherwise the address of a running Dask scheduler, such as
        ``tcp://node7:8786``, or the path of its scheduler file (``….json``).
    cases : int
        How many there are in all; see :func:`otreg.cohort.division.divide`.
    workers, threads, memory, case_memory
        See :func:`otreg.cohort.division.divide`. On a cluster ``threads`` alone counts: how many workers there are
        and how much memory they have is said where they are started.

    Raises
    ------
    InputError
        For bad numbers, a cluster that does not answer, or ``dask.distributed`` not being installed.
    """
    if scheduler == LOCAL:
        from otreg.cohort.local import LocalScheduler

        return LocalScheduler(
            divide(cases, workers=workers, threads=threads, memory=memory, case_memory=case_memory)
        )
    from otreg.cohort.cluster import ClusterScheduler

    return ClusterScheduler(scheduler, workers=workers, threads=threads, memory=memory)


def run_cases(
    function: Callable[[Any], Any],
    cases: Sequence[Any],
    *,
    scheduler: str = LOCAL,
    workers: int | None = None,
    threads: int | None = None,
    memory: float | None = None,
    case_memory: Sequence[float] | None = None,
    on_done: OnDone | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[Outcome]:
    """Run a function on many cases, each on its own.

    Parameters
    ----------
    function : callable
        Takes a case and returns a result. It must be importable by name from a module, since it is called in other
        processes; with ``local`` a script that calls this must do so under ``if __name__ == "__main__":``.
    cases : sequence
        Plain data each: numbers, text, paths, arrays, lists and dictionaries of them. So are the results.
    scheduler, workers, threads, memory, case_memory
        See :func:`open_scheduler`.
    on_done : callable, optional
        Called with the index of a case and its :class:`Outcome` as soon as it is known, in the caller's thread.
    stop : callable, optional
        Asked several times a second: once it says True no further case is begun, and those in progress are finished
        (on a cluster: let go).

    Returns
    -------
    list of Outcome
        In the order of the cases. An exception of the function is an outcome with its reason, and stops no other.
        A process that is killed takes down only its own case, which is run once more at the end.

    Raises
    ------
    InputError
        See :func:`open_scheduler`.
    OtregError
        If worker processes cannot be started at all.
    KeyboardInterrupt
        On Ctrl-C, where the caller does not catch it: workers are ended first.
    """
    with open_scheduler(
        scheduler,
        cases=len(cases),
        workers=workers,
        threads=threads,
        memory=memory,
        case_memory=case_memory,
    ) as opened:
        return opened.run(function, cases, case_memory=case_memory, on_done=on_done, stop=stop)
