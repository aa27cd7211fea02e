"""Independent pieces of work at the same time, the threads of torch divided among them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


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
    if threads < 2 or len(tasks) < 2:
        return [task() for task in tasks]

    def run(task: Callable[[], Any]) -> Any:
        # Both are settings of a thread, which a new one does not inherit.
        torch.set_num_threads(max(threads // len(tasks), 1))
        with torch.set_grad_enabled(grad):
            return task()

    try:
        with ThreadPoolExecutor(len(tasks)) as pool:
            futures = [pool.submit(run, task) for task in tasks]
        return [future.result() for future in futures]
    finally:
        torch.set_num_threads(threads)  # the linear algebra's is one for all threads
