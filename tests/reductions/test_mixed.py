"""Kernels of several widths: the definition in one dense array, derivatives of any order, memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otreg import InputError
from otreg.reductions import mixed, mixtures, pair_weights
from otreg.reductions.mixed import MixedKernel
from tests.support import ROOT

seeds = st.integers(0, 2**32 - 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def profile(kernel: str, s: Tensor) -> Tensor:
    """The kernel of width 1 as a function of the squared distance."""
    if kernel == "gaussian":
        return torch.exp(-s / 2)
    r = torch.where(s > 0, s, torch.ones_like(s)).sqrt() * (s > 0)
    return (1 - r).clamp_min(0) ** 6 * (35 * r**2 + 18 * r + 3) / 3


def dense(kernel: MixedKernel, x: Tensor, z: Tensor, order: int) -> Tensor:
    """``K⁽ᵒ⁾(|x - z|²)`` of all pairs, differentiated by torch in the squared distance."""
    s = (x[:, None] - z[None]).square().sum(dim=2).requires_grad_()
    value = sum(
        a * profile(kernel.kernel, s / w**2) for w, a in zip(kernel.widths, kernel.amplitudes, strict=True)
    )
    assert isinstance(value, Tensor)
    for _ in range(order):
        (value,) = torch.autograd.grad(value.sum(), s, create_graph=True)
    return value.detach()


WIDTHS = [
    ("gaussian", (0.7,), None),
    ("gaussian", (1.6, 0.8, 0.4, 0.2), (0.1, 0.2, 0.3, 0.4)),  # squared
    ("gaussian", (0.5, 2.0**0.5, 1.0), (0.5, 1.0, 2.0)),  # squared, in disorder
    ("gaussian", (1.3, 0.9, 0.9, 0.1), (1.0, 2.0, 3.0, 4.0)),  # twice the same, and no squares
    ("wendland", (2.1,), None),
    ("wendland", (3.0, 1.1), (0.6, 0.4)),
]


@pytest.fixture(params=WIDTHS, ids=lambda case: f"{case[0]} {len(case[1])}")
def kernel(request: pytest.FixtureRequest) -> MixedKernel:
    return MixedKernel(*request.param)


@pytest.fixture(params=["dense", "torch", "cells", "pairs"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways of summing a kernel, whatever the sizes would choose; Gaussians also without our library."""
    if request.param == "torch":
        monkeypatch.setattr(mixtures, "takes", lambda *given: False)
    monkeypatch.setattr(mixed, "_FEW", 10**9 if request.param in ("dense", "torch") else 0)
    if request.param not in ("dense", "torch"):
        monkeypatch.setattr(mixed, "_FULL_CELL", 0 if request.param == "cells" else 10**12)
        monkeypatch.setattr(MixedKernel, "_is_dense", lambda self, centres: self.kernel == "gaussian")


@pytest.mark.parametrize("gradients", [False, True])
def test_is_the_definition(
    kernel: MixedKernel, way: None, gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_weights, "PAIRS_PER_THREAD", 77)  # many blocks
    x, z, v = normal(40, 3), normal(30, 3, seed=1), normal(30, 5, seed=2)
    x[3] = z[4]  # where a kernel written with r would give NaN
    with torch.set_grad_enabled(gradients):
        found = kernel.sums(x, z, (0, v[:, :2]), (1, v), (2, v[:, 4:]))
    for order, part, values in zip((0, 1, 2), found, (v[:, :2], v, v[:, 4:]), strict=True):
        weights = dense(kernel, x, z, order)
        if kernel.kernel == "wendland":  # torch cannot differentiate r at 0
            at_zero = (1.0, -28.0 / 3.0, 140.0)[order]
            terms = zip(kernel.widths, kernel.amplitudes, strict=True)
            weights[3, 4] = sum(a * at_zero / w ** (2 * order) for w, a in terms)
        scale = float(weights.abs().max())
        assert float((part - weights @ values).abs().max()) < (1e-6 if order == 2 else 1e-12) * scale * 30


@settings(deadline=None, max_examples=40)
@given(
    seeds,
    st.integers(0, 40),
    st.integers(1, 90),
    st.integers(1, 4),
    st.sampled_from(WIDTHS),
    st.sampled_from([1e-3, 0.1, 1.0, 50.0]),
    st.sampled_from([1, 50, 1 << 20]),
    st.sampled_from([0.0, 1e3]),
)
def test_any_shape_anywhere(
    seed: int, count: int, centres: int, channels: int, case: tuple, scale: float, block: int, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    kernel = MixedKernel(case[0], [scale * width for width in case[1]], case[2])
    x, z, v = (
        torch.from_numpy(rng.normal(size=shape)) for shape in ((count, 3), (centres, 3), (centres, channels))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_weights, "PAIRS_PER_THREAD", block)
        (found,) = kernel.sums(x + offset, z + offset, (0, v))
    expected = dense(kernel, x, z, 0) @ v
    # moving by the offset rounds differences by 1e-13, which the width divides
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-11 + (1e-12 + 1e-13 * offset) / scale)


def test_points_that_are_not_finite_give_zero_and_disturb_nobody(kernel: MixedKernel, way: None) -> None:
    x, z, v = normal(9, 3), normal(7, 3, seed=1), normal(7, 2, seed=2).requires_grad_()
    (clean,) = kernel.sums(x[[0, 1, 2, 3, 6, 7, 8]], z, (0, v))
    (expected,) = torch.autograd.grad(clean.sum(), v)
    x[4, 1], x[5] = torch.nan, torch.inf
    (found,) = kernel.sums(x, z, (0, v))
    assert torch.equal(found[4:6], torch.zeros(2, 2, dtype=torch.float64))
    assert torch.allclose(found[[0, 1, 2, 3, 6, 7, 8]], clean, rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(found.sum(), v)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-13)
    far = torch.tensor([[1e9, 0, 0], [0, -1e200, 5.0]], dtype=torch.float64)
    assert torch.equal(kernel.sums(far, z, (0, v))[0], torch.zeros(2, 2, dtype=torch.float64))


def test_derivatives(kernel: MixedKernel, way: None) -> None:
    """First and second, with respect to points, centres and values, of two orders at once."""
    x, z, v = normal(2, 3), normal(3, 3, seed=1), normal(3, 3, seed=2)
    inputs = [tensor.requires_grad_() for tensor in (x, z, v)]

    def sums(x: Tensor, z: Tensor, v: Tensor) -> Tensor:
        return torch.cat(kernel.sums(x, z, (0, v[:, :1]), (1, v[:, 1:])), dim=1)

    assert torch.autograd.gradcheck(sums, inputs, atol=1e-6)
    assert torch.autograd.gradgradcheck(sums, inputs, atol=1e-4)


def test_of_points_with_themselves(kernel: MixedKernel) -> None:
    """Where r is 0 for every point, as when control points move each other."""
    q, p = normal(3, 3).requires_grad_(), normal(3, 3, seed=1).requires_grad_()

    def energy(q: Tensor, p: Tensor) -> Tensor:
        return (p * kernel.sums(q, q, (0, p))[0]).sum()

    assert torch.autograd.gradcheck(energy, (q, p), atol=1e-6)
    assert torch.autograd.gradgradcheck(energy, (q, p), atol=1e-4)


def test_gradients_do_not_depend_on_blocks_nor_on_the_way(
    kernel: MixedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed, "_FEW", 10**9)
    x, z, v = normal(50, 3), normal(20, 3, seed=1), normal(20, 4, seed=2)
    found = []
    for block in (1, 130, 1 << 20, "cells", "pairs"):
        if isinstance(block, str):
            monkeypatch.setattr(MixedKernel, "_is_dense", lambda self, centres: self.kernel == "gaussian")
            monkeypatch.setattr(mixed, "_FULL_CELL", 0 if block == "cells" else 10**12)
        else:
            monkeypatch.setattr(pair_weights, "PAIRS_PER_THREAD", block)
        leaves = [tensor.clone().requires_grad_() for tensor in (x, z, v)]
        parts = kernel.sums(leaves[0], leaves[1], (0, leaves[2][:, :1]), (1, leaves[2]))
        value = sum((part.square().sum() for part in parts), torch.zeros(()))
        found.append(torch.autograd.grad(value, leaves))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def test_squares_stand_for_exponentials() -> None:
    recipe = MixedKernel("gaussian", (1.0, 0.5, 0.5 / 2**0.5, 0.3, 0.3, 0.01)).recipe()
    assert [part.squarings for part in recipe] == [None, 2, 1, None, 0, None]
    assert MixedKernel("gaussian", (3.0, 1.0, 0.125)).recipe()[2].squarings == 6


MEMORY = """
import sys
import torch
torch.set_num_threads(1)
from otreg.reductions.mixed import MixedKernel
from tests.support import peak_memory
z = torch.rand((1000, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
kernel = MixedKernel(sys.argv[1], (0.4, 0.2, 0.1) if sys.argv[1] == "gaussian" else (0.3, 0.2))
def peak(count):
    x = torch.rand((count, 3), dtype=torch.float64).requires_grad_()
    sum(part.sum() for part in kernel.sums(x, z, (0, z), (1, z))).backward()
    return peak_memory()
start = peak(100)
print(peak(7_000) - start, peak(14_000) - start)
"""


@pytest.mark.parametrize("name", ["gaussian", "wendland"])
def test_memory_grows_with_the_points_alone(name: str) -> None:
    """14,000 × 1,000 pairs are 112 MB of float64."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the limits were set on Linux")
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, name], capture_output=True, text=True, check=True, cwd=ROOT
    )
    half, whole = (float(megabytes) for megabytes in run.stdout.split())
    print(half, whole)
    assert whole < 60, (half, whole)
    assert whole - half < 30, (half, whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cubic", 1.0), "unknown kernel 'cubic'"),
        (("gaussian", 0.0), "width of a kernel must be positive"),
        (("gaussian", ()), "width of a kernel must be positive"),
        (("gaussian", float("nan")), "width of a kernel must be positive"),
        (("gaussian", "wide"), "width of a kernel must be a number"),
        (("gaussian", (1.0, 2.0), (1.0,)), "one amplitude for each of its 2 widths, got 1"),
        (("gaussian", 1.0, (-1.0,)), "amplitude of a kernel must be positive"),
    ],
)
def test_constructor_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MixedKernel(*arguments)
