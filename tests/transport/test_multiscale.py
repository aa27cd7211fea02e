"""Coarse to fine and truncated: the same answers as all pairs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from otreg.reductions.engines import get_engine
from otreg.transport import front, multiscale, solve
from otreg.transport.result import TransportResult
from tests.transport.support import bent_sphere, uniform


def plain(monkeypatch: pytest.MonkeyPatch, *arguments: object, **settings: object) -> TransportResult:
    """Solve with all pairs at every blur."""
    with monkeypatch.context() as patch:
        patch.setattr(multiscale, "SMALLEST_PROBLEM", 1 << 60)
        patch.setattr(
            front, "engine_for_problem", lambda engine, device, accuracy: get_engine(engine, device)
        )
        return solve(*arguments, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("reach", [None, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_as_all_pairs(monkeypatch: pytest.MonkeyPatch, reach: float | None, dtype: torch.dtype) -> None:
    x, y = bent_sphere(2100, 1, dtype), 1.05 * bent_sphere(2000, 2, dtype)
    a = uniform(2100, 1, 3)[:, 0]
    a[::10] = 0.0
    a = a / a.sum()
    settings = {"blur": 0.03, "reach": reach, "tol": 2e-5 if dtype == torch.float64 else 1e-4, "debias": True}
    found = solve(x, y, a, **settings)
    expected = plain(monkeypatch, x, y, a, **settings)
    assert found.converged and expected.converged
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-3)
    assert torch.allclose(found.barycentric_map(), expected.barycentric_map(), atol=1e-3)
    again = solve(x, y, a, init=found, **settings)
    assert again.iterations == 1


def test_two_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = uniform(2500, 2, 1), uniform(2500, 2, 2)
    found = solve(x, y, blur=0.05, tol=1e-5)
    expected = plain(monkeypatch, x, y, blur=0.05, tol=1e-5)
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-4)


def test_plan_at_a_thousandth_of_the_diameter() -> None:
    """In float32, at blur 0.1% of the diameter, the plan is within 1e-3 of that of float64 potentials."""
    x, y = (
        bent_sphere(2500, 1),
        bent_sphere(2500, 1)
        + 0.0005 * torch.randn(2500, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    )
    found = solve(x.float(), y.float(), blur=0.001, reach=0.01)
    f, g = found.solved.solution.f, found.solved.solution.g
    cost = (x.float().double()[:, None] - y.float().double()[None]).square().sum(dim=2) / 2
    plan = ((f[:, None] + g[None] - cost) / 1e-6).exp() / 2500**2
    rows = found.apply(torch.ones(2500)).double()
    assert float(((rows - plan.sum(dim=1)) / plan.sum(dim=1)).abs().max()) < 1e-3


MEASURE = """
import sys, torch
sys.path.insert(0, {root!r})
from otreg.transport import solve
from tests.support import peak_memory
from tests.transport.support import bent_sphere
solve(bent_sphere(100, 1), bent_sphere(100, 2), blur=0.1, debias=True)
before = peak_memory()
x = bent_sphere({count}, 1, torch.float32).requires_grad_()
found = solve(x, bent_sphere({count}, 2, torch.float32), blur=0.02, reach=0.1, tol=1e-2, debias=True)
found.value.backward()
print(peak_memory() - before)
"""


def test_memory_grows_linearly() -> None:
    """Debiased value and gradient: below 300 MB at 40,000 points, where one dense array takes 6.4 GB."""
    from pathlib import Path

    root = str(Path(__file__).parents[2])
    peaks = []
    for count in (10_000, 40_000):
        code = MEASURE.format(root=root, count=count)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    print(f"10,000 and 40,000 points took {peaks} MB")
    assert peaks[1] < 300, peaks
    assert peaks[1] < 6 * peaks[0] + 60, peaks
