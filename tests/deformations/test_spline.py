"""Splines: their kernels, the ways to sum them, and what these cost."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otreg import InputError
from otreg.deformations import Spline, kernels
from otreg.deformations.cells import CellGrid

seeds = st.integers(0, 2**32 - 1)


def dense(points: np.ndarray, spline: Spline) -> np.ndarray:
    """The definition, in one dense array."""
    z, p = spline.control_points.detach().numpy(), spline.coefficients.detach().numpy()
    r = np.linalg.norm(points[:, None] - z[None], axis=2) / spline.width
    if spline.kernel == "gaussian":
        k = np.exp(-0.5 * r**2)
    else:
        k = np.where(r < 1, (1 - np.minimum(r, 1)) ** 6 * (35 * r**2 + 18 * r + 3) / 3, 0.0)
    return points + k @ p


@pytest.fixture(params=["by cells", "by pairs"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of summing a compact kernel, whatever the sizes would choose."""
    monkeypatch.setattr(kernels, "_FULL_CELL", 0 if request.param == "by cells" else 10**12)
    return request.param


@settings(deadline=None)
@given(
    seeds,
    st.integers(1, 60),
    st.integers(1, 40),
    st.sampled_from(kernels.KERNELS),
    st.sampled_from([1e-3, 0.1, 0.5, 2.0, 100.0]),
    st.sampled_from([0, 10**12]),
    st.sampled_from([0.0, 1e3]),
)
def test_map_is_the_definition(
    seed: int, count: int, centres: int, kernel: str, width: float, full_cell: int, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(centres, 3)) + offset
    spline = Spline(z, rng.normal(size=(centres, 3)), width, kernel)
    # Some points on control points, some far outside.
    x = np.concatenate([rng.normal(size=(count, 3)) + offset, z[:5], [[1e9, 0, 0], [0, -1e9, 5]]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_FULL_CELL", full_cell)
        patch.setattr(kernels, "BLOCK", 97)  # many blocks
        moved = spline.map(x)
    assert np.abs(moved[:-2] - dense(x[:-2], spline)).max() < 1e-9
    assert np.array_equal(moved[-2:], x[-2:]) or width == 100.0


def test_wendland_profile_and_its_derivatives() -> None:
    """Smooth at both ends, and each order is the derivative of the one before, also at zero."""
    u = torch.linspace(0.05, 1.2, 25, dtype=torch.float64)
    assert float(kernels.wendland_profile(torch.zeros(1, dtype=torch.float64))[0]) == 1.0
    step = 1e-6
    for order in range(3):
        assert not kernels.wendland_profile(u, order)[u >= 1.0].any()
        ahead = kernels.wendland_profile(u + step, order) - kernels.wendland_profile(u - step, order)
        assert torch.allclose(kernels.wendland_profile(u, order + 1), ahead / (2 * step), atol=1e-3)
    # k = 1 - 28/3 s² + 70 s⁴ + O(s⁵)
    s = torch.tensor([1e-2], dtype=torch.float64)
    assert float(kernels.wendland_profile(s**2)) == pytest.approx(1 - 28 / 3e4 + 70e-8, abs=2e-8)


@pytest.mark.parametrize("kernel", kernels.KERNELS)
def test_second_derivatives(kernel: str, way: str) -> None:
    """A control point is where a radial kernel written with r would give NaN; points lie on some here."""
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(5, 3))).requires_grad_()
    p = torch.from_numpy(rng.normal(size=(5, 3))).requires_grad_()
    free = torch.from_numpy(rng.normal(size=(2, 3))).requires_grad_()

    def map_free(x: torch.Tensor, z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return Spline(z, p, 2.0, kernel).map(x)

    assert torch.autograd.gradcheck(map_free, (free, z, p))
    assert torch.autograd.gradgradcheck(map_free, (free, z, p), atol=1e-4)
    on_control_points = z.detach().clone().requires_grad_()
    spline = Spline(z.detach(), p.detach(), 2.0, kernel)
    assert torch.autograd.gradcheck(spline.map, (on_control_points,), atol=1e-5)
    assert torch.autograd.gradcheck(spline.jacobian, (on_control_points,), atol=1e-4)


def test_gradients_do_not_depend_on_blocks(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(200, 3)))
    for kernel in kernels.KERNELS:
        results = []
        for size in (50, 1 << 20):
            monkeypatch.setattr(kernels, "_GRAPH_BLOCK", size)
            z = torch.from_numpy(np.random.default_rng(2).normal(size=(30, 3))).requires_grad_()
            spline = Spline(z, 0.1 * z.detach() ** 2, 1.0, kernel)
            (gradient,) = torch.autograd.grad((spline.map(x) ** 2).sum(), z)
            results.append(gradient)
        assert torch.allclose(*results, rtol=1e-10, atol=1e-12)


@given(seeds, st.integers(1, 50), st.integers(1, 50), st.floats(0.01, 5.0), st.integers(1, 40))
def test_grid_finds_every_pair(seed: int, count: int, centres: int, reach: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    x, z = torch.from_numpy(rng.normal(size=(count, 3))), torch.from_numpy(rng.normal(size=(centres, 3)))
    near = CellGrid(z, reach).near(x)
    found = torch.zeros((count, centres), dtype=torch.int64)
    done = 0
    for block in near.blocks(size):
        rows, columns = near.pairs(block)
        assert block.start == done and (len(rows) <= size or block.stop == block.start + 1)
        done = block.stop
        found.index_put_((near.order[block][rows], columns), torch.ones_like(rows), accumulate=True)
    assert done == len(near.order) and int(found.sum()) == near.pair_count and int(found.max()) <= 1
    assert bool((found.bool() | (torch.cdist(x, z) >= reach)).all())
    again = torch.zeros_like(found)
    for rows, members in near.cells():
        again[near.order[rows][:, None], members] += 1
    assert torch.equal(found, again)


MEMORY = """
import sys, tracemalloc, resource
import numpy as np, torch
torch.set_num_threads(1)
from otreg.deformations import Spline
kernel, count, gradient = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "gradient"
rng = np.random.default_rng(0)
z = torch.from_numpy(rng.uniform(size=(2000, 3)))
width = 0.1 if kernel == "gaussian" else 0.15
spline = Spline(z, 1e-3 * z, width, kernel)
def run(n):
    x = torch.from_numpy(rng.uniform(size=(n, 3))).requires_grad_(gradient)
    y = spline.map(x)
    if gradient:
        y.sum().backward()
run(100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(count)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kernel", kernels.KERNELS)
@pytest.mark.parametrize("mode", ["plain", "gradient"])
def test_memory_grows_with_the_points_alone(kernel: str, mode: str) -> None:
    """30,000 × 2,000 pairs are 480 MB of float64; a map needs a few blocks and a few numbers per point."""
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is read from the resource module, in kilobytes on Linux")
    peaks = []
    for count in (15_000, 30_000):
        run = subprocess.run(
            [sys.executable, "-c", MEMORY, kernel, str(count), mode],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(run.stdout) / 1024)
    assert peaks[1] < 150, peaks
    assert peaks[1] - peaks[0] < 60, peaks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((0, 3)), np.zeros((0, 3)), 1.0), "control points must have shape"),
        ((np.zeros((2, 2)), np.zeros((2, 3)), 1.0), "control points must have shape"),
        ((np.zeros((2, 3)), np.zeros((3, 3)), 1.0), "coefficients must have shape"),
        ((np.full((2, 3), np.inf), np.zeros((2, 3)), 1.0), "control points must be finite"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), 0.0), "width of a spline must be positive"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), float("nan")), "width of a spline must be positive"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), "wide"), "width of a spline must be a number"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), 1.0, "cubic"), "unknown kernel 'cubic'"),
    ],
)
def test_constructor_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Spline(*arguments)


def test_parameters_are_the_callers_tensors() -> None:
    z = torch.zeros((2, 3), dtype=torch.float64, requires_grad=True)
    p = torch.ones((2, 3), dtype=torch.float32, requires_grad=True)
    spline = Spline(z, p, 1.0)
    assert spline.parameters()["control_points"] is z
    spline.map(torch.ones((1, 3), dtype=torch.float64)).sum().backward()
    assert z.grad is not None and p.grad is not None
