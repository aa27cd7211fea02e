"""What several test files share."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def shared_data(name: str = "") -> Path:
    """Path of a file or folder of the real test data, skipping the test where it is absent."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"the shared test data has no {name or 'folder'} here")
    return path


def peak_memory() -> float:
    """Most memory that this process has held since it began, in MB.

    On Linux ``ru_maxrss`` would not do: a new process starts at the memory of the one that started it, so that a
    child of a large test run measures nothing.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 1024 / (1024 if sys.platform == "darwin" else 1)
