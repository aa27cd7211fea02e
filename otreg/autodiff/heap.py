"""Memory that has been freed, handed back to the system.

The nodes of a graph are small and stay; the tensors of the steps between them are large and go. glibc cannot
put the next tensor where one of the same size was freed between two nodes (an aligned block needs some bytes of
slack), so a loop whose tensors are all freed still grows as if they were kept: 64 steps that each free 12
tensors of 4 MB hold 3 GB. ``malloc_trim`` gives the pages of such holes back. It changes no setting, and costs
what the system takes to map pages anew. Blocks of 32 MB and more are mapped one by one and leave no holes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

LARGEST_IN_HEAP = 32 << 20
WORTH_TRIMMING = 32 << 20


def heap_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor that leave a hole in the heap when it is freed."""
    size = tensor.numel() * tensor.element_size()
    return size if tensor.device.type == "cpu" and size < LARGEST_IN_HEAP else 0


class Holes:
    """Counts what has been freed between things that stay, and gives it back when it is worth the call."""

    def __init__(self) -> None:
        self._bytes = 0

    def about_to_free(self, size: int) -> None:
        """Tell of so many bytes that are freed next; those told of before are free by now."""
        if self._bytes >= WORTH_TRIMMING:
            self._bytes = 0
            _trim()(0)
        self._bytes += size


@cache
def _trim() -> Callable[[int], Any]:
    """``malloc_trim`` where the C library is glibc, nothing elsewhere."""
    if sys.platform == "linux":
        found = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if found is not None:
            return found
    return lambda padding: 0
