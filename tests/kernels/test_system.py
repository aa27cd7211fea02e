"""Kernel systems against dense solves, finite differences and measured memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck

from otreg.errors import InputError
from otreg.kernels import Gaussian, KernelSystem, Laplacian
from otreg.kernels.system import pivoted_cholesky
from tests.autodiff.memory import peaks
from tests.kernels.cases import CASES, Case
from tests.support import ROOT

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
@pytest.mark.parametrize("per_point", [False, True])
def test_equals_a_dense_solve(case: Case, per_point: bool) -> None:
    """Value and gradient in values, points, λ and parameters; the gradient's own where the kernel has it."""
    x, _, v = (each.requires_grad_() for each in case.clouds(25, 25))
    noise = torch.linspace(0.3, 0.9, 25).double() if per_point else torch.tensor(0.5).double()
    inputs = (v, x, noise.requires_grad_(), *case.tensors())
    weights = case.clouds(25, 25, seed=4)[2]

    def by_pairs(v: Tensor, x: Tensor, noise: Tensor, *parameters: Tensor) -> Tensor:
        matrix = case.build(*parameters).matrix(x, x)
        return torch.linalg.solve(matrix + torch.diag(noise.expand(25)), v)

    def ours(v: Tensor, x: Tensor, noise: Tensor, *parameters: Tensor) -> Tensor:
        return KernelSystem(case.build(*parameters), x, noise, tol=1e-13, rank=5).solve(v)

    found = []
    for solve in (ours, by_pairs):
        alpha = solve(*inputs)
        found.append((alpha, *grad((weights * alpha).sum() + alpha.square().sum(), inputs)))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-8 * float(other.detach().abs().max()))


@pytest.mark.parametrize("case", [case for case in CASES if case.name in ("gaussian", "scales", "arc_cosine_1")],
                         ids=lambda case: case.name)  # fmt: skip
def test_first_and_second_derivatives(case: Case) -> None:
    x, _, v = (each.requires_grad_() for each in case.clouds(4, 4))
    noise = torch.tensor(0.5).double().requires_grad_()

    def solved(v: Tensor, x: Tensor, noise: Tensor, *parameters: Tensor) -> Tensor:
        return KernelSystem(case.build(*parameters), x, noise, tol=1e-13, rank=2).solve(v)

    assert gradcheck(solved, (v, x, noise, *case.tensors()))
    assert gradgradcheck(solved, (v, x, noise, *case.tensors()))


@every_case
def test_pivoted_cholesky(case: Case) -> None:
    """What it leaves is positive semi-definite, as small as announced, and 0 where it took its columns."""
    x = case.clouds(40, 1)[0]
    kernel, noise = case.kernel(), torch.full((1, 1), 1e-3).double()
    matrix = kernel.matrix(x, x)
    factor = pivoted_cholesky(kernel, x, noise, 12)
    left = matrix - factor @ factor.T
    assert factor.shape == (40, 12) and torch.linalg.eigvalsh(left)[0] > -1e-10 * matrix.diagonal().max()
    assert int((left.abs().amax(dim=1) < 1e-10 * matrix.abs().max()).sum()) >= 12
    full = pivoted_cholesky(kernel, x, noise, 100)
    assert full.shape[1] <= 40 and float((matrix - full @ full.T).trace()) <= 1e-3


def test_the_preconditioner_saves_iterations_and_changes_nothing() -> None:
    case = CASES[0]
    x, _, v = case.clouds(600, 600)
    steered, plain = (KernelSystem(Gaussian(0.8), x, 1e-3, rank=rank) for rank in (300, 0))
    assert 0 < steered.rank < 300 and plain.rank == 0
    found, expected = steered.solve_with_info(v), plain.solve_with_info(v)
    assert bool((20 * found.iterations < expected.iterations).all())
    assert torch.allclose(found.solution, expected.solution, atol=1e-5 * float(found.solution.abs().max()))
    assert torch.allclose(steered.product(found.solution), v, atol=1e-8)
    # nothing can be explained by a few columns
    assert KernelSystem(Laplacian(1e-3), x, 0.1).rank == 0


def test_single_precision() -> None:
    x, _, v = CASES[0].clouds(300, 300)
    parameters = [torch.tensor(each, requires_grad=True) for each in (0.8, 0.1)]
    double = [each.detach().double().requires_grad_() for each in parameters]
    found = []
    for (width, noise), points, values in (
        (parameters, x.float(), v.float()),
        (double, x.float().double(), v),
    ):
        points = points.clone().requires_grad_()
        alpha = KernelSystem(Gaussian(width), points, noise).solve(values)
        assert alpha.dtype == points.dtype
        found.append((alpha, *grad((alpha * values).sum(), (points, width, noise))))
    for one, other in zip(*found, strict=True):
        assert float((one - other).abs().max()) < 5e-3 * float(other.abs().max())


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 8), channels=st.one_of(st.none(), st.integers(0, 3)), rank=st.integers(0, 9))
def test_any_shape(count: int, channels: int | None, rank: int) -> None:
    x, _, v = CASES[0].clouds(count, count, channels=channels or 0)
    v = torch.ones(count).double() if channels is None else v
    system = KernelSystem(Gaussian(0.7), x, 0.2, rank=rank)
    info = system.solve_with_info(v)
    assert info.solution.shape == v.shape and info.residual.shape == (() if channels is None else (channels,))
    dense = torch.linalg.solve(Gaussian(0.7).matrix(x, x) + 0.2 * torch.eye(count).double(), v)
    assert torch.allclose(info.solution, dense, atol=1e-8) and torch.equal(system.solve(v), info.solution)
    again = system.solve_with_info(v, info.solution)
    assert int(again.iterations.sum()) == 0


def test_arrays() -> None:
    x, _, v = CASES[0].clouds(6, 6)
    system = KernelSystem(Gaussian(0.7), x.numpy(), 0.2)
    found = system.solve(v.numpy())
    assert isinstance(found, np.ndarray) and np.allclose(system.product(found), v.numpy())
    assert isinstance(system.solve(v), Tensor)
    assert isinstance(KernelSystem(Gaussian(0.7), x.numpy(), torch.tensor(0.2)).solve(v.numpy()), Tensor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "gaussian"}, "kernel must be a kernel"),
        ({"points": torch.ones(3)}, r"points must have shape \(N, D\)"),
        ({"points": torch.ones(0, 3)}, "points has no points"),
        ({"regularisation": 0.0}, "regularisation must be positive, got 0"),
        ({"regularisation": torch.nan}, "regularisation must be finite"),
        ({"regularisation": torch.ones(2)}, r"regularisation must have shape \(\) or \(3,\), got \(2,\)"),
        ({"regularisation": torch.tensor(1)}, "regularisation must be a float"),
        ({"rank": -1}, "rank must be a whole number"),
        ({"values": torch.ones(2)}, r"values must have shape \(3,\) or \(3, V\)"),
        ({"values": torch.ones(3).double()}, "convert one of them"),
        ({"x0": torch.ones(3, 1)}, r"x0 must have shape \(3,\), got \(3, 1\)"),
        ({"tol": 0.0}, "tol must be a positive number"),
        ({"engine": "magic"}, "unknown engine"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    fine: dict[str, Any] = {"kernel": Gaussian(1.0), "points": torch.eye(3), "regularisation": 1.0}
    values, x0 = arguments.pop("values", torch.ones(3)), arguments.pop("x0", None)
    with pytest.raises(InputError, match=message):
        KernelSystem(**{**fine, **arguments}).solve(values, x0)


def test_memory_grows_with_the_points_alone() -> None:
    """Value and gradient at two sizes, the larger of which has 72 MB in one N×N array, and 32 columns of 24 kB."""
    preparation = """
from otreg.kernels import Gaussian, KernelSystem
def measured(count):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, generator=generator, dtype=torch.float64).requires_grad_()
    noise, width = (torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (0.5, 0.3))
    KernelSystem(Gaussian(width), x, noise, tol=1e-6, rank=32).solve(x.detach()).square().sum().backward()
measured(64)
"""
    small, large = peaks(preparation, [(1500,), (3000,)])
    columns = 32 * 3000 * 8 / 1e6
    assert large < 8 * columns + 10 < 0.5 * 3000**2 * 8 / 1e6
    assert small < 4 * columns + 10


def test_benchmark(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "kernel_system.py"
    if not script.exists():
        pytest.skip("the benchmarks do not come with the installed package")
    command = [sys.executable, str(script), "--points", "200", "--regularisation", "0.1,0.01"]
    subprocess.run(
        [*command, "--json", str(tmp_path / "out.json")], check=True, capture_output=True, cwd=ROOT
    )
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["regularisation"] for row in rows] == [0.1, 0.1, 0.01, 0.01]
    for steered, plain in zip(rows[::2], rows[1::2], strict=True):
        assert steered["rank"] > 0 == plain["rank"] and steered["converged"] and steered["gradient"] > 0
        assert steered["iterations"] < plain["iterations"] / 5
