"""How the cores and the memory of this machine are divided among cases."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from otreg.errors import InputError

SHARE_OF_MEMORY = 0.8
"""Share of the machine's memory that cases may take together, where no limit is given: the rest is the system's."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Division(NamedTuple):
    """So many processes, each with so many threads, and how many bytes all of them may take (None: no limit)."""

    workers: int
    threads: int
    memory: float | None


def divide(
    cases: int,
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory: float | None = None,
    case_memory: Sequence[float] | None = None,
    cores: int | None = None,
) -> Division:
    """Divide this machine among cases.

    Parameters
    ----------
    cases : int
        How many there are in all. A study that is resumed counts those that are done too, so that the rest run with
        the threads that the first ones had.
    workers, threads : int, optional
        Processes, and threads of each. Where only one is given, the other takes the cores that this leaves; where
        neither is, there is a worker for each core, or for each case if those are fewer, and fewer still where the
        typical case takes so much memory that not all fit: one thread each uses cores best.
    memory : float, optional
        Most bytes for all cases that run at a time. Default: :data:`SHARE_OF_MEMORY` of the machine's.
    case_memory : sequence of float, optional
        Estimated bytes of each case.
    cores : int, optional
        Default: those that this process may use.

    Returns
    -------
    Division
        ``workers * threads`` is never more than the cores.

    Raises
    ------
    InputError
        For numbers below 1, or more workers and threads than there are cores.
    """
    there = cores or available_cores()
    for name, count in (("workers", workers), ("threads", threads)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise InputError(f"{name} must be a whole number of 1 or more, got {count!r}")
    if memory is not None and not memory > 0:
        raise InputError(f"memory must be a positive number of bytes, got {memory!r}")
    if (workers or 1) * (threads or 1) > there:
        raise InputError(
            f"{workers or 1} workers with {threads or 1} threads each are more than the {there} cores of this machine"
        )
    total = total_memory()
    limit = memory if memory is not None else (None if total is None else SHARE_OF_MEMORY * total)
    if workers is None:
        workers = min(there // (threads or 1), max(cases, 1))
        if limit is not None and case_memory:
            typical = statistics.median(case_memory)
            workers = min(workers, max(int(limit / typical), 1)) if typical > 0 else workers
    if threads is None:
        threads = there // workers
    return Division(workers, threads, limit)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> float | None:
    """Bytes of memory that this machine, or this container, has; None where the system does not say."""
    found: list[float] = []
    try:
        found.append(float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        pass  # Windows has no sysconf
    for name in _CGROUP_LIMITS:
        try:
            found.append(float(Path(name).read_text()))
        except (OSError, ValueError):
            continue  # not Linux, or "max": no limit
    return min(found, default=None)
