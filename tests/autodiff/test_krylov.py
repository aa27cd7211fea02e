"""The core of conjugate gradients against direct solves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otreg.autodiff import Stop
from otreg.autodiff.krylov import solve
from otreg.errors import InputError


def matrix(size: int) -> torch.Tensor:
    torch.manual_seed(0)
    root = torch.randn(size, size, dtype=torch.float64)
    return root @ root.T + torch.diag(torch.linspace(1, 100, size, dtype=torch.float64))


def test_direct_solve() -> None:
    a, b = matrix(30), torch.randn(30, dtype=torch.float64)
    found = solve(lambda u: a @ u, b, tol=1e-12)
    assert found.converged and torch.allclose(a @ found.solution, b, atol=1e-9)
    steered = solve(lambda u: a @ u, b, tol=1e-12, preconditioner=lambda r: r / a.diagonal())
    assert steered.converged and torch.allclose(steered.solution, found.solution, atol=1e-8)
    warm = solve(lambda u: a @ u, b, tol=1e-8, start=found.solution)
    assert warm.iterations == 0 and warm.converged


def test_tiny_right_hand_sides_do_not_underflow() -> None:
    a, b = matrix(10).float(), torch.full((10,), 1e-30)
    found = solve(lambda u: a @ u, b, tol=1e-5)
    assert found.converged and bool(found.solution.abs().max() > 0)
    assert torch.allclose(a @ (found.solution * 1e30), b * 1e30, rtol=1e-3)


def test_semi_definite_and_zero() -> None:
    laplacian = 2 * torch.eye(5) - torch.roll(torch.eye(5), 1, 0) - torch.roll(torch.eye(5), -1, 0)
    b = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0])
    found = solve(lambda u: laplacian @ u, b, tol=1e-6)
    assert found.converged and torch.allclose(laplacian @ found.solution, b, atol=1e-5)
    assert not bool(solve(lambda u: u, torch.zeros(3), start=torch.ones(3)).solution.any())


def test_an_operator_that_is_not_positive_is_reported() -> None:
    found = solve(lambda u: -u, torch.ones(3))
    assert not found.converged and bool(torch.isfinite(found.solution).all())
    assert found.stopped == Stop.INDEFINITE
    assert solve(lambda u: u, torch.ones(3), preconditioner=lambda r: -r).stopped == Stop.PRECONDITIONER
    assert solve(lambda u: u * torch.nan, torch.ones(3)).stopped == Stop.NOT_FINITE
    with pytest.raises(InputError, match="tol"):
        solve(lambda u: u, torch.ones(3), tol=0.0)


def test_solved_systems_stay_as_they_are() -> None:
    """Each column goes through exactly what it goes through alone, and then stands still."""
    a = matrix(40)
    vectors = torch.linalg.eigh(a)[1]
    b = torch.stack([vectors[:, 3], vectors[:, :4].sum(1), torch.randn(40).double(), torch.zeros(40)], 1)
    seen: list[torch.Tensor] = []

    def product(u: torch.Tensor) -> torch.Tensor:
        seen.append(u)
        return a @ u

    found = solve(product, b, dims=0, tol=1e-10)
    assert found.converged.tolist() == [True] * 4
    counts = found.iterations.tolist()
    assert counts[0] == 1 and 4 <= counts[1] <= 6 and counts[2] > 20 and counts[3] == 0
    for k, count in enumerate(counts):
        assert all(bool(u[:, k].any()) == (turn < count) for turn, u in enumerate(seen))
        alone = solve(lambda u: a @ u, b[:, k : k + 1], dims=0, tol=1e-10)
        assert torch.allclose(found.solution[:, k], alone.solution[:, 0], rtol=1e-9, atol=1e-13)
        capped = solve(lambda u: a @ u, b, dims=0, tol=1e-10, max_iterations=max(count, 1))
        assert torch.equal(capped.solution[:, k], found.solution[:, k])


def test_one_bad_system_does_not_spoil_the_others() -> None:
    factors = torch.tensor([1.0, -1.0, float("nan"), 2.0])
    b = torch.ones(3, 4)
    found = solve(lambda u: u * factors, b, dims=(0,), tol=1e-6)
    reasons = [Stop.CONVERGED, Stop.INDEFINITE, Stop.NOT_FINITE, Stop.CONVERGED]
    assert found.stopped.tolist() == reasons and found.converged.tolist() == [True, False, False, True]
    assert bool(torch.isfinite(found.solution).all()) and torch.allclose(found.solution[:, 3], b[:, 3] / 2)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=4),
    dims=st.one_of(st.none(), st.lists(st.integers(-4, 3), min_size=1, max_size=4).map(tuple)),
    dtype=st.sampled_from((torch.float32, torch.float64, torch.complex64, torch.complex128)),
)
def test_any_shape(shape: list[int], dims: tuple[int, ...] | None, dtype: torch.dtype) -> None:
    """A diagonal of at most three values: three steps, along any dimensions."""
    count = len(shape)
    right = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    diagonal = (
        torch.arange(max(right.numel(), 1)).remainder(3).add(1.0).to(dtype)[: right.numel()].view(shape)
    )
    if dims is not None and any(not -count <= axis < count for axis in dims):
        with pytest.raises(InputError, match="dims must name dimensions of b"):
            solve(lambda u: diagonal * u, right, dims=dims)
        return
    tol = 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-12
    found = solve(lambda u: diagonal * u, right, dims=dims, tol=tol)
    axes = set(range(count)) if dims is None else {axis % count for axis in dims}
    assert found.residual.shape == torch.Size(n for axis, n in enumerate(shape) if axis not in axes)
    assert found.residual.dtype == right.abs().dtype and found.iterations.dtype == torch.int64
    assert bool(found.converged.all()) and bool((found.iterations <= 4).all())
    assert torch.allclose(found.solution, right / diagonal, rtol=1e-4, atol=1e-5)
