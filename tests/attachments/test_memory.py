"""Memory of value and gradient, at two sizes, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MEASURE = """
import json, sys, torch
sys.path.insert(0, {root!r})
from otreg.attachments import Transport, Varifold
from tests.attachments.cases import plate
from tests.support import peak_memory
from tests.support import peak_memory
builds = {{
    "merged varifold": lambda fixed: Varifold(fixed, 1.5, resolution=0.5),
    "varifold": lambda fixed: Varifold(fixed, 0.2),
    "oriented varifold": lambda fixed: Varifold(fixed, 0.2, oriented=True),
    "transport": lambda fixed: Transport(fixed, 0.2, 0.4, tol=0.5),
}}
def run(build, mesh):
    points, triangles = mesh[0].float(), mesh[1]
    x = (points + 0.2 * torch.sin(points.flip(1))).requires_grad_()
    build((points, triangles))(x, triangles).backward()
    assert bool(torch.isfinite(x.grad).all())
for build in builds.values():
    run(build, plate(8))
before, found, mesh = peak_memory(), {{}}, plate({rounds})
for name, build in builds.items():
    # transport takes longest
    run(build, plate({rounds} // 2) if name == "transport" else mesh)
    found[name] = peak_memory() - before
print(json.dumps(found))
"""


def test_memory_grows_linearly() -> None:
    """Below 150 MB at 20,000 triangles (transport: 5,000), where one dense array of float32 takes 1.6 GB.

    In MB, the peak of all so far; at 5,000 triangles (transport: 1,250) at least a sixth of it.
    """
    root = str(Path(__file__).parents[2])
    peaks = []
    for rounds in (50, 100):
        code = MEASURE.format(root=root, rounds=rounds)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(json.loads(done.stdout))
    few, many = peaks
    print(peaks)
    assert max(many.values()) < 150, peaks
    assert all(many[name] < 6 * few[name] + 60 for name in many), peaks
