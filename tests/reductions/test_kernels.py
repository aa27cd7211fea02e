"""Kernel sums: closed forms, and derivatives of any order by finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from otreg.errors import InputError
from otreg.reductions import KERNELS, kernel_sum

FORMULAS = {
    "gaussian": lambda r, w: torch.exp(-(r**2) / (2 * w**2)),
    "cauchy": lambda r, w: 1 / (1 + r**2 / w**2),
    "inverse_multiquadric": lambda r, w: 1 / torch.sqrt(1 + r**2 / w**2),
    "laplacian": lambda r, w: torch.exp(-r / w),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_against_dense(kernel: str) -> None:
    torch.manual_seed(0)
    x, y, v = torch.rand(40, 3).double() + 5, torch.rand(30, 3).double() + 5, torch.randn(30, 6).double()
    expected = FORMULAS[kernel](torch.cdist(x, y), 0.4) @ v
    assert torch.allclose(kernel_sum(x, y, v, kernel, 0.4), expected)
    single = kernel_sum(x.float(), y.float(), v.float(), kernel, 0.4)
    assert single.dtype == torch.float32 and torch.allclose(single.double(), expected, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_first_and_second_derivatives(kernel: str) -> None:
    """With a width that is a float, and with one that is a tensor."""
    torch.manual_seed(1)
    x, y, v = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 2), (5, 2), (5, 2))
    )
    width = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *given: kernel_sum(*given, kernel, 0.9), (x, y, v))
    assert gradgradcheck(lambda *given: kernel_sum(*given, kernel, 0.9), (x, y, v))
    assert gradcheck(lambda x, y, v, w: kernel_sum(x, y, v, kernel, w), (x, y, v, width))
    assert gradgradcheck(lambda x, y, v, w: kernel_sum(x, y, v, kernel, w), (x, y, v, width))


def test_third_derivative_of_a_gaussian() -> None:
    x = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    y, v = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    value = kernel_sum(x, y, v)
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    t = 0.3
    assert float(value.detach()) == pytest.approx(
        (3 * t - t**3) * torch.exp(torch.tensor(-(t**2) / 2)).item()
    )


def test_coinciding_points_have_finite_derivatives() -> None:
    x = torch.ones(3, 3, dtype=torch.float64, requires_grad=True)
    for kernel in KERNELS:
        (grad,) = torch.autograd.grad(kernel_sum(x, x, torch.ones(3, dtype=torch.float64), kernel).sum(), x)
        assert torch.allclose(grad, torch.zeros_like(grad))


def test_bad_input() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(InputError, match="unknown kernel 'sinc'"):
        kernel_sum(x, x, x, "sinc")
    with pytest.raises(InputError, match="width"):
        kernel_sum(x, x, x, width=-1.0)
    with pytest.raises(InputError, match=r"width must be a float or a float tensor of shape \(\)"):
        kernel_sum(x, x, x, width=torch.ones(2))
    with pytest.raises(InputError, match="v must have shape"):
        kernel_sum(x, x, x[:1])
    with pytest.raises(InputError, match="same dimension"):
        kernel_sum(x, x[:, :2], x)
