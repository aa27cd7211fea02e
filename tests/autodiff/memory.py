"""Peak memory of pieces of code, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])

# Each case runs in a child that begins with the memory of its parent: its peak beyond that is its own.
RUNNER = """
import os, resource, sys, torch
sys.path.insert(0, {root!r})
{preparation}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for case in {cases!r}:
    sys.stdout.flush()
    if os.fork() == 0:
        measured(4, *case[1:])  # what the libraries themselves touch
        before = peak()
        measured(*case)
        print(peak() - before, flush=True)
        os._exit(0)
    os.wait()
"""


def peaks(preparation: str, cases: list[tuple[object, ...]], *, exact: bool = True) -> list[float]:
    """Megabytes that ``measured(size, ...)`` takes at its peak; ``preparation`` defines it.

    ``exact``: freed tensors go back to the system at once (glibc maps each of them), so that what is measured is
    what is held. Otherwise as users have it.
    """
    code = RUNNER.format(root=ROOT, preparation=preparation, cases=cases)
    # where autograd sees a GPU it starts threads, which a fork does not survive
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    if exact:
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = [float(line) for line in done.stdout.split()]
    assert len(found) == len(cases), done.stderr
    for case, megabytes in zip(cases, found, strict=True):
        print(*case, f"{megabytes:.0f} MB")
    return found
