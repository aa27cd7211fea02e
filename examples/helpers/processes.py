"""Pieces of an example run in processes of their own, so that each shows its own peak of memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

CASE = "--case"


def measured(script: str, **case: Any) -> dict[str, Any]:
    """Run ``script`` on one case in a process of its own: what :func:`serve` prints there, as a dict."""
    command = [sys.executable, script, CASE, json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def serve(work: Callable[..., Mapping[str, Any]], small: Mapping[str, Any]) -> bool:
    """Run ``work`` on the case that :func:`measured` asks for, if it does; print results, seconds and megabytes.

    Megabytes are those of the process at its peak, beyond what it held after the same case with ``small`` in it: what
    libraries touch when they are used for the first time is not counted. A case whose ``device`` is "cuda" is given
    the peak of what torch has allocated there.

    Returns
    -------
    bool
        Whether there was a case: then this process has nothing else to do.
    """
    if CASE not in sys.argv:
        return False
    case = json.loads(sys.argv[sys.argv.index(CASE) + 1])
    device = case.get("device", "cpu")
    work(**{**case, **small})
    before, start = peak(device), time.perf_counter()
    found = dict(work(**case))
    print(json.dumps({**found, "seconds": time.perf_counter() - start, "megabytes": peak(device) - before}))
    return True


def peak(device: str = "cpu") -> float:
    """Most memory that this process has held so far, on a GPU or (Linux and macOS) at all, in megabytes."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / (1 << 20)
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
