"""Cases in processes of this machine, each process started once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

from otreg import __version__
from otreg.cohort.division import Division
from otreg.cohort.schedule import STOPPED, OnDone, Outcome
from otreg.cohort.worker import Reply, call, initialise, reason_of
from otreg.errors import OtregError

POLL = 0.2
"""Seconds between two looks at whether to stop."""

MOST_TRIES = 2
"""Times that a case is begun whose process is killed: once may be bad luck, such as other programs' memory."""

# read by the numerical libraries while they are loaded
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class _Process:
    """One worker: a pool of one process, so that one that is killed takes nobody with it."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.start()

    def start(self) -> None:
        """Start the process, which loads otreg while others do the same."""
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=initialise)
        with _environment({name: str(self.threads) for name in _THREAD_VARIABLES}):
            self.pid: Future[int] = self.pool.submit(os.getpid)

    def submit(self, function: Callable[[Any], Any], case: Any) -> Future[Reply]:
        return self.pool.submit(call, function, case, self.threads, __version__)

    def end(self, at_once: bool) -> None:
        """End the process: after its case, or at once."""
        if at_once and self.pid.done() and not self.pid.cancelled() and self.pid.exception() is None:
            with contextlib.suppress(OSError):
                os.kill(self.pid.result(), signal.SIGTERM)
        self.pool.shutdown(wait=True, cancel_futures=True)


class LocalScheduler:
    """Processes of this machine; see :func:`otreg.cohort.schedule.open_scheduler`.

    Parameters
    ----------
    division : Division
        How many processes and threads, and the memory that the cases which run at a time may take.
    """

    def __init__(self, division: Division) -> None:
        self.division = division
        self.threads: int | None = division.threads
        self._processes: list[_Process] = []

    def describe(self) -> str:
        workers, threads = self.division.workers, self.division.threads
        each = "1 thread" if threads == 1 else f"{threads} threads"
        return f"{workers} {'process' if workers == 1 else 'processes'} with {each} on this machine"

    def __enter__(self) -> LocalScheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.end(at_once=kind is not None)
        self._processes = []

    def run(
        self,
        function: Callable[[Any], Any],
        cases: Sequence[Any],
        *,
        case_memory: Sequence[float] | None = None,
        on_done: OnDone | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[Outcome]:
        """See :func:`otreg.cohort.schedule.run_cases`."""
        queue = _Queue(len(cases), case_memory, self.division.memory)
        outcomes: list[Outcome] = [STOPPED] * len(cases)

        def settle(index: int, outcome: Outcome) -> None:
            outcomes[index] = outcome
            if on_done is not None:
                on_done(index, outcome)

        for index, reason in queue.too_large():
            settle(index, Outcome("failed", reason=reason))
        # a case that is stopped in a list of fewer than the workers needs no more of them
        while len(self._processes) < min(self.division.workers, len(queue.waiting)):
            self._processes.append(_Process(self.division.threads))
        running: dict[Future[Reply], tuple[int, _Process]] = {}
        idle = list(reversed(self._processes))
        while queue.waiting or running:
            if stop is not None and stop():
                for index in queue.waiting:
                    settle(index, STOPPED)
                queue.waiting.clear()
            while idle and (chosen := queue.next()) is not None:
                process = idle.pop()
                running[process.submit(function, cases[chosen])] = (chosen, process)
            done, _ = wait(running, POLL, FIRST_COMPLETED)
            for future in done:
                index, process = running.pop(future)
                queue.finished(index)
                outcome = self._outcome(future, process, index, queue)
                idle.append(process)
                if outcome is not None:
                    settle(index, outcome)
        return outcomes

    def _outcome(self, future: Future[Reply], process: _Process, index: int, queue: _Queue) -> Outcome | None:
        """What became of a case; None where its process was killed and it is to be run once more."""
        try:
            reply = future.result()
        except BrokenProcessPool:
            if process.pid.exception() is not None:
                raise OtregError(
                    "worker processes could not be started; in a script, call this under "
                    'if __name__ == "__main__": (and not from standard input)'
                ) from None
            process.end(at_once=False)
            process.start()
            if queue.again(index):
                return None
            reason = f"its process was killed, {MOST_TRIES} times: by the system for want of memory, or by somebody"
            return Outcome("failed", reason=reason)
        except Exception as error:
            # not the function's own, which arrive as replies: a case or a result that cannot be sent
            return Outcome("failed", reason=reason_of(error))
        return Outcome.of(reply)


class _Queue:
    """Which case is next: the first that fits into the memory that is left."""

    def __init__(self, count: int, memory: Sequence[float] | None, limit: float | None) -> None:
        self.waiting = list(range(count))
        self.memory = [float(size) for size in memory] if memory is not None else [0.0] * count
        self.limit = float("inf") if limit is None else limit
        self.running: set[int] = set()
        self.tries = [0] * count

    def too_large(self) -> Iterator[tuple[int, str]]:
        """Take out what would not fit even alone, with the reason."""
        for index in [index for index in self.waiting if self.memory[index] > self.limit]:
            self.waiting.remove(index)
            need, limit = self.memory[index] / 1e9, self.limit / 1e9
            yield index, f"needs about {need:.1f} GB of memory, more than the limit of {limit:.1f} GB"

    def next(self) -> int | None:
        taken = sum(self.memory[index] for index in self.running)
        for index in self.waiting:
            # one that lost its process runs alone: it may have been short of memory
            if self.running and (self.tries[index] or taken + self.memory[index] > self.limit):
                continue
            self.waiting.remove(index)
            self.running.add(index)
            self.tries[index] += 1
            return index
        return None

    def finished(self, index: int) -> None:
        self.running.discard(index)

    def again(self, index: int) -> bool:
        """Put a case whose process was killed at the end of the queue, unless it has had its tries."""
        if self.tries[index] >= MOST_TRIES:
            return False
        self.waiting.append(index)
        return True


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables that a process started in the block inherits; those of this one come back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
