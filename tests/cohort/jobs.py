"""What the schedulers' tests run: functions that worker processes import by name."""

from __future__ import annotations

import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from otreg.errors import InputError


def square(number: float) -> float:
    return number * number


def environment(_: Any) -> dict[str, Any]:
    """How many threads a worker has, and which process it is."""
    import torch

    return {
        "pid": os.getpid(),
        "torch": torch.get_num_threads(),
        "omp": os.environ.get("OMP_NUM_THREADS"),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    }


def fail(case: str) -> str:
    """Fail in the way that the case names."""
    if case == "input":
        raise InputError("case.ply: holds no points;\nexport it again")
    if case == "zero":
        raise ZeroDivisionError("division by zero")
    if case == "memory":
        raise MemoryError
    if case == "file":
        raise FileNotFoundError(2, "No such file or directory", "gone.ply")
    if case == "unsendable":
        return lambda: case  # type: ignore[return-value]
    return case


def die(case: dict[str, Any]) -> str:
    """Kill the own process as often as the case says, counting in a file; then return."""
    marker = Path(case["marker"])
    times = int(marker.read_text()) if marker.exists() else 0
    if times < case["times"]:
        marker.write_text(str(times + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return str(case["marker"])


def sleep(case: dict[str, Any]) -> int:
    """Say when it begins and ends, in a file each, and who did it."""
    (Path(case["folder"]) / f"{case['name']}.began").write_text(str(os.getpid()))
    time.sleep(case["seconds"])
    (Path(case["folder"]) / f"{case['name']}.ended").write_text(repr(time.time()))
    return os.getpid()


def product(seed: int) -> np.ndarray:
    """Sums whose last bits depend on the order of adding."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(200, 300, generator=generator)
    return np.asarray((matrix @ matrix.T).exp().softmax(0).numpy())


def complain(case: str) -> str:
    warnings.warn_explicit(f"{case} is\nodd", UserWarning, "x.py", 1, module="otreg.io")
    warnings.warn_explicit("of another library", UserWarning, "y.py", 1, module="elsewhere")
    return case
