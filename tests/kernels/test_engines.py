"""Kernels on KeOps, and what sums cost in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.cases import CASES, Case


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in ("wendland", "scales")], ids=lambda case: case.name
)
def test_keops(case: Case) -> None:
    """Values and first derivatives as on the blocks, also where points coincide.

    One channel in the plane, and one dtype: four formulas besides the Gaussian's, since each takes many seconds
    to compile the first time.
    """
    pytest.importorskip("pykeops", reason="pykeops is not installed")
    x, y, v = case.clouds(17, 12, channels=1)
    y[:3] = x[:3]
    found = []
    for engine in ("keops", "blocks"):
        inputs = [*(each.clone().requires_grad_() for each in (x, y, v)), *case.tensors()]
        total = case.build(*inputs[3:]).sum(*inputs[:3], engine)
        found.append((total, *torch.autograd.grad(total.square().sum(), inputs)))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


MEASURE = """
import torch
from otreg import kernels
from tests.support import peak_memory
def run(count):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator).requires_grad_()
    y, v = (torch.randn(2000, size, generator=generator).requires_grad_() for size in (3, 1))
    parameters = [torch.tensor(each, requires_grad=True) for each in {parameters}]
    kernel = {kernel}
    kernel(x, y, v).square().sum().backward()
    assert all(bool(each.grad != 0) for each in parameters)
run(20)
before = peak_memory()
run(4_000)
between = peak_memory()
run(16_000)
print(between - before, peak_memory() - before)
"""


@pytest.mark.parametrize(
    ("kernel", "parameters"),
    [
        ("kernels.Gaussian.of_scales(parameters[:2], parameters[2:])", [0.5, 0.2, 1.0, 0.3]),
        ("kernels.InverseMultiquadric(*parameters)", [0.5]),
        ("kernels.Wendland(*parameters)", [0.3]),
        ("kernels.ArcCosine(0, *parameters)", [0.5, 0.5]),
    ],
    ids=["scales", "inverse_multiquadric", "wendland", "arc_cosine"],
)
def test_memory_grows_with_the_points_alone(kernel: str, parameters: list[float]) -> None:
    """With gradients of everything: far below the 128 MB of one float32 array of 16,000 by 2,000 pairs."""
    code = MEASURE.format(kernel=kernel, parameters=parameters)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    small, large = (float(each) for each in done.stdout.split())
    assert large < 60, f"4,000 and 16,000 points took {small:.0f} and {large:.0f} MB"
    assert large - small < 30
