"""Cases on a running Dask cluster, as laboratories start it on SLURM, PBS or Kubernetes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from otreg import __version__
from otreg.cohort.schedule import STOPPED, OnDone, Outcome
from otreg.cohort.worker import call, reason_of
from otreg.errors import InputError, OtregError

POLL = 0.2
"""Seconds between two looks at whether to stop."""

CONNECT = 30.0
"""Seconds that a scheduler has to answer."""


class ClusterScheduler:
    """A Dask cluster; see :func:`otreg.cohort.schedule.open_scheduler`.

    Dask runs the cases of a lost worker again elsewhere; after it has lost three on the same case
    (``distributed.scheduler.allowed-failures``) it gives that case up, and so do we.

    Parameters
    ----------
    address : str
        Of the scheduler, or the path of its scheduler file.
    workers, memory
        Refused: they belong to where the workers are started.
    threads : int, optional
        Of torch, for each case. Default: as workers were started.
    """

    def __init__(
        self,
        address: str,
        *,
        workers: int | None = None,
        threads: int | None = None,
        memory: float | None = None,
    ) -> None:
        if workers is not None or memory is not None:
            name = "workers" if workers is not None else "memory"
            raise InputError(
                f"{name} is for the scheduler local; a Dask cluster's workers are as they were started"
            )
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads must be a whole number of 1 or more, got {threads!r}")
        self.address, self.threads = address, threads
        self._client: Any = None

    def __enter__(self) -> ClusterScheduler:
        try:
            from distributed import Client
        except ImportError:
            raise InputError(
                f"scheduler {self.address}: Dask is not installed; pip install 'otreg[cluster]'"
            ) from None
        where = (
            {"scheduler_file": self.address} if self.address.endswith(".json") else {"address": self.address}
        )
        try:
            self._client = Client(**where, timeout=CONNECT, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers at {self.address} ({' '.join(str(error).split())}); start one with "
                "dask scheduler, or use local"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._client = None

    def describe(self) -> str:
        workers = len(self._client.nthreads())
        return f"{workers} {'worker' if workers == 1 else 'workers'} of {self.address}"

    def run(
        self,
        function: Callable[[Any], Any],
        cases: Sequence[Any],
        *,
        case_memory: Sequence[float] | None = None,
        on_done: OnDone | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[Outcome]:
        """See :func:`otreg.cohort.schedule.run_cases`; ``case_memory`` is left to the cluster's own limits."""
        if self._client is None:
            raise OtregError("the scheduler is used in a with block")
        arrived: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        # Dask would take two calls with equal arguments for one
        futures: dict[int, Any] = {
            index: self._client.submit(call, function, case, self.threads, __version__, pure=False)
            for index, case in enumerate(cases)
        }
        for index, future in futures.items():
            future.add_done_callback(lambda done, index=index: arrived.put((index, done)))
        outcomes: list[Outcome] = [STOPPED] * len(cases)
        try:
            while futures:
                if stop is not None and stop():
                    break
                try:
                    index, future = arrived.get(timeout=POLL)
                except queue.Empty:
                    continue
                outcomes[index] = _outcome(future)
                del futures[index]
                future.release()
                if on_done is not None:
                    on_done(index, outcomes[index])
        finally:
            if futures:
                self._client.cancel(list(futures.values()))
        for index in futures:
            if on_done is not None:
                on_done(index, STOPPED)
        return outcomes


def _outcome(future: Any) -> Outcome:
    from distributed import KilledWorker

    try:
        reply = future.result(timeout=CONNECT)
    except KilledWorker as error:
        lost = error.allowed_failures + 1
        return Outcome(
            "failed", reason=f"its worker was lost, {lost} times: for want of memory, or by somebody"
        )
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
        return Outcome("failed", reason="the Dask scheduler was lost, or somebody cancelled the case there")
    except Exception as error:
        return Outcome("failed", reason=reason_of(error))
    return Outcome.of(reply)
