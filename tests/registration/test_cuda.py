"""Whole registrations on a CUDA GPU: as on a CPU, and what they find is at home on any machine.

No test needs vtk, so that this file runs where only torch, NumPy, SciPy and h5py are.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import otreg
from otreg.surface import Surface
from tests.support import ROOT

DEVICE = "cuda"
QUICK = {"points": 1000, "fine_points": 4000, "control_points": 120, "starts": 40}
FEW = {"points": 400, "fine_points": 800, "control_points": 60, "starts": 30}
FEWEST = {"points": 200, "fine_points": 400, "control_points": 30, "starts": 20}

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.usefixtures("settings_of_the_caller_stay"),
]


@pytest.fixture(scope="module")
def bones() -> tuple[Surface, Surface]:
    return otreg.read(ROOT / "data" / "metacarpal_1.vtk"), otreg.read(ROOT / "data" / "metacarpal_2.stl")


CHOICES: dict[str, dict[str, Any]] = {
    "rigid": {"preset": "rigid", "settings": QUICK},
    "similarity": {"preset": "similarity", "settings": QUICK},
    "affine": {"preset": "affine", "settings": QUICK},
    "affine, partial": {"preset": "affine", "settings": FEW, "partial": True},
    "spline": {"preset": "spline", "settings": QUICK},
    "diffeo": {"preset": "diffeo"},
    "diffeo, symmetric": {"preset": "diffeo", "settings": FEWEST, "symmetric": True},
}


@pytest.mark.parametrize("name", CHOICES)
def test_registrations(name: str, bones: tuple[Surface, Surface], tmp_path: Path) -> None:
    """As on the CPU, to a small share of the diameter; what comes back is at home on any machine."""
    here = otreg.register(*bones, device="cpu", **CHOICES[name])
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    found = otreg.register(*bones, device=DEVICE, **CHOICES[name])
    if name not in ("rigid", "similarity", "affine, partial"):  # these match nothing
        assert torch.cuda.memory_stats()["allocation.all.allocated"] > before
    apart = np.linalg.norm(found.moved.points - here.moved.points, axis=1).mean() / bones[1].diameter
    assert apart < (0.02 if CHOICES[name].get("settings") in (FEW, FEWEST) else 0.01)
    assert found.report["device"] == DEVICE and here.report["device"] == "cpu"
    assert found.passed and here.passed
    quality = [each.report["quality"]["after"]["assd"] for each in (found, here)]
    assert quality[0] < 1.2 * quality[1] + 1e-3 * bones[1].diameter
    assert isinstance(found.moved.points, np.ndarray)
    assert isinstance(found.moved.point_data["displacement"], np.ndarray)
    assert all(tensor.device.type == "cpu" for tensor in found.transform.parameters().values())
    found.transform.save(tmp_path / "transform.h5")
    again = otreg.load_transform(tmp_path / "transform.h5")
    assert np.allclose(again.map(bones[0].points), found.moved.points, atol=1e-6)
    if name == "diffeo":
        code = f"""
import otreg, torch
moving = otreg.read("data/metacarpal_1.vtk")
moved = otreg.load_transform({str(tmp_path / "transform.h5")!r})(moving)
print((torch.cuda.is_available(), moved.points[::500].tolist()))
"""
        gpu, moved = eval_in_a_process(code, CUDA_VISIBLE_DEVICES="")
        assert not gpu
        assert np.allclose(moved, found.moved.points[::500], atol=1e-6)


def test_a_gpu_as_the_default_device_changes_nothing(bones: tuple[Surface, Surface]) -> None:
    expected = otreg.register(*bones, "spline", settings=FEWEST, device="cpu")
    torch.set_default_device(DEVICE)
    try:
        found = otreg.register(*bones, "spline", settings=FEWEST, device="cpu")
    finally:
        torch.set_default_device(None)
    assert np.allclose(found.moved.points, expected.moved.points, atol=1e-6)


def test_threads_solve_at_once_in_a_process_that_has_not_used_the_gpu() -> None:
    """Libraries are loaded, and kernels compiled, at the first use: by several threads at a time."""
    code = f"""
import torch
from functools import partial
from otreg import transport
from otreg.together import together
torch.set_num_threads(4)
x, y = (torch.rand(600, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
def run(settings):
    found = transport.solve(x.to("{DEVICE}"), y.to("{DEVICE}"), blur=0.05, **settings)
    return float(found.value), found.iterations, str(found.value.device)
print(together(*(partial(run, settings) for settings in ({{}}, {{"reach": 0.3}}, {{}}, {{"reach": 0.3}}))))
"""
    found = eval_in_a_process(code)
    for one, other in ((found[0], found[2]), (found[1], found[3])):
        assert one[0] == pytest.approx(other[0], rel=1e-4)
        assert one[1] > 2 and one[2].startswith(DEVICE)


def eval_in_a_process(code: str, **environment: str) -> Any:
    """What a program without vtk prints, as a literal."""
    shim = "import sys\nsys.modules['vtk'] = sys.modules['vtkmodules'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", shim + code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)
