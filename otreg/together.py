"""Independent pieces of work at the same time, the threads of torch divided among them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def together(*tasks: Callable[[], Any]) -> list[Any]:
    """Run tasks at once and wait for all of them.

    Most work of a registration is many small sums, which gain little from a second thread each; two pieces of it side
    by side gain nearly all. With one thread of torch (``torch.get_num_threads()``) the tasks run one after
    the other, and give the same results.

    Parameters
    ----------
    *tasks : callables without arguments
        They share nothing that one of them changes.

    Returns
    -------
    list
        What they return, in their order.

    Raises
    ------
    Whatever the first task in their order raised, once all have ended.
    """
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    # CUDA that is not in use yet is on its first device, and would be started by the question
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    if threads < 2 or len(tasks) < 2:
        return [task() for task in tasks]

    def run(task: Callable[[], Any]) -> Any:
        # All three are settings of a thread, which a new one does not inherit.
        torch.set_num_threads(max(threads // len(tasks), 1))
        where = nullcontext() if device is None else torch.cuda.device(device)
        with torch.set_grad_enabled(grad), where:
            return task()

    try:
        with ThreadPoolExecutor(len(tasks) - 1) as pool:
            others = [pool.submit(run, task) for task in tasks[1:]]
            # The caller's thread works too, so that no more of them want a core than there are.
            first: Future[Any] = Future()
            try:
                first.set_result(run(tasks[0]))
            except BaseException as error:
                first.set_exception(error)
        return [future.result() for future in (first, *others)]
    finally:
        torch.set_num_threads(threads)  # the linear algebra's is one for all threads


def shared(work: Callable[[list[Item]], Result], items: list[Item], device: torch.device) -> list[Result]:
    """Divide a list among the threads of torch: one call for each, side by side.

    Parameters
    ----------
    work : callable
        Takes some of the items, in their order; calls share nothing that one of them changes.
    items : list
        Dealt out in turn, so that costs that grow or fall along the list are divided evenly.
    device : torch.device
        Of the work. Anything but a CPU does its own division: one call.

    Returns
    -------
    list
        What the calls return, one where there is one thread. Which thread takes what follows from the number of
        threads alone, so that sums in floating point come out the same every time.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    count = max(min(threads, len(items)), 1)
    return together(*(partial(work, items[first::count]) for first in range(count)))
