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
from otreg.deformations import Spline
from otreg.reductions import mixed, pair_weights, radial
from otreg.reductions.cells import CellGrid
from otreg.reductions.mixed import MixedKernel
from tests.support import ROOT

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
    """Both ways of summing a compact kernel over near pairs, whatever the sizes would choose."""
    monkeypatch.setattr(MixedKernel, "_is_dense", lambda self, centres: self.kernel == "gaussian")
    monkeypatch.setattr(mixed, "_FULL_CELL", 0 if request.param == "by cells" else 10**12)
    return request.param


@settings(deadline=None)
@given(
    seeds,
    st.integers(1, 60),
    st.integers(1, 40),
    st.sampled_from(radial.KERNELS),
    st.sampled_from([1e-3, 0.1, 0.5, 2.0, 100.0]),
    st.sampled_from([-1, 0, 10**12]),
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
        if full_cell >= 0:
            patch.setattr(MixedKernel, "_is_dense", lambda self, centres: self.kernel == "gaussian")
        patch.setattr(mixed, "_FULL_CELL", full_cell)
        patch.setattr(radial, "BLOCK", 97)  # many blocks
        patch.setattr(pair_weights, "PAIRS_PER_THREAD", 97)
        moved = spline.map(x)
    # |x|² + |z|² - 2xz rounds by some eps |x|², which the width divides
    assert np.abs(moved[:-2] - dense(x[:-2], spline)).max() < 1e-9 + 1e-14 / width**2
    assert np.array_equal(moved[-2:], x[-2:]) or width == 100.0


def test_wendland_profile_and_its_derivatives() -> None:
    """Each order is the derivative of the one before, and the kernel ends smoothly."""
    u = torch.linspace(0.01, 1.2, 25, dtype=torch.float64)
    step = 1e-6
    for order in range(3):
        value = radial.wendland_profile(u, order)
        assert not value[u >= 1.0].any()
        change = radial.wendland_profile(u + step, order) - radial.wendland_profile(u - step, order)
        slope = radial.wendland_profile(u, order + 1)
        assert torch.allclose(slope, change / (2 * step), rtol=1e-6, atol=1e-6)
    # k = 1 - 28/3 s² + 70 s⁴ + O(s⁵)
    s = torch.tensor([0.0, 1e-2], dtype=torch.float64)
    assert radial.wendland_profile(s**2).tolist() == pytest.approx([1.0, 1 - 28 / 3e4 + 70e-8], abs=2e-8)
    with pytest.raises(InputError, match="three times"):
        radial.wendland_profile(s, 4)


@pytest.mark.parametrize("kernel", radial.KERNELS)
def test_second_derivatives(kernel: str, way: str) -> None:
    """A control point is where a radial kernel written with r would give NaN; points lie on some here."""
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(5, 3))).requires_grad_()
    p = torch.from_numpy(rng.normal(size=(5, 3))).requires_grad_()
    free = torch.from_numpy(rng.normal(size=(2, 3))).requires_grad_()

    def map_free(x: torch.Tensor, z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return Spline(z, p, 2.0, kernel).map(x)

    assert torch.autograd.gradcheck(map_free, (free, z, p))
    assert torch.autograd.gradgradcheck(map_free, (free[:1], z, p), atol=1e-4)
    on_control_points = z.detach().clone().requires_grad_()
    spline = Spline(z.detach(), p.detach(), 2.0, kernel)
    assert torch.autograd.gradcheck(spline.map, (on_control_points,), atol=1e-5)
    assert torch.autograd.gradcheck(spline.jacobian, (on_control_points,), atol=1e-4)


def test_gradients_do_not_depend_on_blocks(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, z = torch.from_numpy(rng.normal(size=(200, 3))), torch.from_numpy(rng.normal(size=(30, 3)))
    r = torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist")
    k = (1 - r).clamp_min(0) ** 6 * (35 * r**2 + 18 * r + 3) / 3
    for size in (50, 1 << 20):
        monkeypatch.setattr(radial, "BLOCK", size)
        monkeypatch.setattr(pair_weights, "PAIRS_PER_THREAD", size)
        p = torch.full((30, 3), 0.1, dtype=torch.float64).requires_grad_()
        (gradient,) = torch.autograd.grad((Spline(z, p, 1.0, "wendland").map(x) ** 2).sum(), p)
        assert torch.allclose(gradient, 2 * k.T @ (x + k @ p.detach()), rtol=1e-10, atol=1e-12)


@settings(deadline=None)
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
import sys
import torch
torch.set_num_threads(1)
from otreg.deformations import Spline
from tests.support import peak_memory
z = torch.rand((1500, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
spline = Spline(z, 1e-3 * z, 0.1 if sys.argv[1] == "gaussian" else 0.3, sys.argv[1])
def peak(count):
    for gradient in (False, True):
        x = torch.rand((count, 3), dtype=torch.float64).requires_grad_(gradient)
        y = spline.map(x)
        if gradient:
            y.sum().backward()
    spline.jacobian(x.detach())
    return peak_memory()
start = peak(100)
print(peak(15_000) - start, peak(30_000) - start)
"""


@pytest.mark.parametrize("kernel", radial.KERNELS)
def test_memory_grows_with_the_points_alone(kernel: str) -> None:
    """30,000 × 1,500 pairs are 360 MB of float64; all that a point needs is less than 1 kB."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the limits were set on Linux")
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, kernel], capture_output=True, text=True, check=True, cwd=ROOT
    )
    half, whole = (float(megabytes) for megabytes in run.stdout.split())
    print(half, whole)
    assert whole < 60, (half, whole)
    assert whole - half < 30, (half, whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((0, 3)), np.zeros((0, 3)), 1.0), "control points must have shape"),
        ((np.zeros((2, 2)), np.zeros((2, 3)), 1.0), "control points must have shape"),
        ((np.zeros((2, 3)), np.zeros((3, 3)), 1.0), "coefficients must have shape"),
        ((np.full((2, 3), np.inf), np.zeros((2, 3)), 1.0), "control points must be finite"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), 0.0), "width of a kernel must be positive"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), float("nan")), "width of a kernel must be positive"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), "wide"), "width of a kernel must be a number"),
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
