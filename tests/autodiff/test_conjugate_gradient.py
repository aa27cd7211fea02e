"""Conjugate gradients against direct solves."""

from __future__ import annotations

import pytest
import torch

from otreg.autodiff import conjugate_gradient
from otreg.errors import InputError


def matrix(size: int) -> torch.Tensor:
    torch.manual_seed(0)
    root = torch.randn(size, size, dtype=torch.float64)
    return root @ root.T + torch.diag(torch.linspace(1, 100, size, dtype=torch.float64))


def test_direct_solve() -> None:
    a, b = matrix(30), torch.randn(30, dtype=torch.float64)
    found = conjugate_gradient(lambda u: a @ u, b, tol=1e-12)
    assert found.converged and torch.allclose(a @ found.solution, b, atol=1e-9)
    steered = conjugate_gradient(lambda u: a @ u, b, tol=1e-12, preconditioner=lambda r: r / a.diagonal())
    assert steered.converged and torch.allclose(steered.solution, found.solution, atol=1e-8)
    warm = conjugate_gradient(lambda u: a @ u, b, tol=1e-8, start=found.solution)
    assert warm.iterations == 0 and warm.converged


def test_tiny_right_hand_sides_do_not_underflow() -> None:
    a, b = matrix(10).float(), torch.full((10,), 1e-30)
    found = conjugate_gradient(lambda u: a @ u, b, tol=1e-5)
    assert found.converged and bool(found.solution.abs().max() > 0)
    assert torch.allclose(a @ (found.solution * 1e30), b * 1e30, rtol=1e-3)


def test_semi_definite_and_zero() -> None:
    laplacian = 2 * torch.eye(5) - torch.roll(torch.eye(5), 1, 0) - torch.roll(torch.eye(5), -1, 0)
    b = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0])
    found = conjugate_gradient(lambda u: laplacian @ u, b, tol=1e-6)
    assert found.converged and torch.allclose(laplacian @ found.solution, b, atol=1e-5)
    assert not bool(conjugate_gradient(lambda u: u, torch.zeros(3)).solution.any())


def test_an_operator_that_is_not_positive_is_reported() -> None:
    found = conjugate_gradient(lambda u: -u, torch.ones(3))
    assert not found.converged and bool(torch.isfinite(found.solution).all())
    with pytest.raises(InputError, match="tol"):
        conjugate_gradient(lambda u: u, torch.ones(3), tol=0.0)
