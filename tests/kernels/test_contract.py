"""What every kernel promises, against dense formulas in float64 and finite differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from otreg.errors import InputError
from otreg.kernels import Kernel
from tests.kernels.cases import CASES, Case

pytestmark = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.mark.parametrize("engine", ["auto", "fused", "blocks"])
def test_sums_and_matrices(case: Case, engine: str) -> None:
    x, y, v = case.clouds(23, 31, channels=5)
    expected = case.dense(x, y, *case.tensors()).detach()
    kernel = case.kernel()
    assert torch.allclose(kernel.sum(x, y, v, engine), expected @ v, rtol=1e-11, atol=1e-11)
    assert torch.allclose(kernel(x, y, v[:, 0], engine=engine), expected @ v[:, 0], rtol=1e-11, atol=1e-11)
    assert torch.allclose(kernel.matrix(x, y), expected, rtol=1e-11, atol=1e-11)
    assert torch.allclose(kernel.matrix(y, x), expected.T, rtol=1e-11, atol=1e-11)


def test_single_precision(case: Case) -> None:
    """Far from the origin, too, if the kernel does not care about it; with gradients."""
    points = case.clouds(40, 30)
    shift = 50.0 if case.invariant else 0.0
    double = [(each + shift * (place < 2)).float().double() for place, each in enumerate(points)]
    single = [each.float().requires_grad_() for each in double]
    double = [each.requires_grad_() for each in double]
    kernel = case.kernel()
    found, expected = kernel(*single), kernel(*double)
    assert found.dtype == torch.float32 and kernel.matrix(*single[:2]).dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=2e-4)
    gradients = torch.autograd.grad(found.square().sum(), single)
    exact = torch.autograd.grad(expected.square().sum(), double)
    for one, other in zip(gradients, exact, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).abs().max()) < 2e-4 * float(other.abs().max())


def test_first_and_second_derivatives(case: Case) -> None:
    """In points, values and parameters, by finite differences."""
    inputs = [each.requires_grad_() for each in case.clouds(3, 4)]
    parameters = case.tensors()

    def total(x: Tensor, y: Tensor, v: Tensor, *parameters: Tensor) -> Tensor:
        return case.build(*parameters).sum(x, y, v)

    assert gradcheck(total, (*inputs, *parameters))
    assert gradgradcheck(total, (*inputs, *parameters))
    assert gradcheck(
        lambda x, y, *parameters: case.build(*parameters).matrix(x, y), (*inputs[:2], *parameters)
    )


def test_derivatives_of_many_pairs(case: Case) -> None:
    """Gradient, and gradient of its square, against autograd through the dense formula."""
    inputs = [*(each.requires_grad_() for each in case.clouds(40, 25, seed=3)), *case.tensors()]
    x, y, v, *parameters = inputs
    weights = torch.linspace(-1.0, 2.0, 40, dtype=torch.float64)[:, None]
    pairs = []
    for total in (case.build(*parameters)(x, y, v), case.dense(x, y, *parameters) @ v):
        first = torch.autograd.grad((weights * total).sum(), inputs, create_graph=True)
        pairs.append((*first, *torch.autograd.grad(sum(each.square().sum() for each in first), inputs)))
    for found, expected in zip(*pairs, strict=True):
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


def test_points_on_each_other(case: Case) -> None:
    """Exact values; the gradient is the mean of the slopes on both sides; second derivatives are finite."""
    x = case.clouds(6, 1)[0]
    x = torch.cat([x, x[:3]]).requires_grad_()
    v = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)[:, None]
    kernel = case.kernel()
    there = x.detach().clone()
    (gradient,) = torch.autograd.grad(kernel(x, there, v).sum(), x, create_graph=True)
    step = 1e-6
    for axis in range(case.dimension):
        shift = torch.zeros(case.dimension, dtype=torch.float64)
        shift[axis] = step
        slope = (kernel(there + shift, there, v) - kernel(there - shift, there, v)) / (2 * step)
        assert torch.allclose(gradient[:, axis], slope[:, 0], atol=1e-5)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert bool(torch.isfinite(second).all())
    (both,) = torch.autograd.grad(kernel(x, x, v).sum(), x, create_graph=True)
    assert bool(torch.isfinite(torch.autograd.grad(both.square().sum(), x)[0]).all())
    assert torch.allclose(kernel.matrix(x, x).diagonal()[:3], kernel.matrix(x, x)[:3, 6:].diagonal())


def test_positive_definite(case: Case) -> None:
    x = case.clouds(30, 1, seed=5)[0]
    eigenvalues = torch.linalg.eigvalsh(case.kernel().matrix(x, x))
    assert float(eigenvalues[0]) > -1e-12 * float(eigenvalues[-1])
    assert float(eigenvalues[-1]) > 0


def test_nothing_to_sum(case: Case) -> None:
    x, y, v = (each.requires_grad_() for each in case.clouds(4, 5))
    parameters = case.tensors()
    kernel = case.build(*parameters)
    assert kernel(x[:0], y, v).shape == (0, 2)
    assert kernel.matrix(x, y[:0]).shape == (4, 0) and kernel.matrix(x[:0], y).shape == (0, 5)
    assert kernel(x, y, v[:, :0]).shape == (4, 0)
    total = kernel(x, y[:0], v[:0])
    assert total.shape == (4, 2) and not bool(total.any())
    for gradient in torch.autograd.grad(total.sum(), (x, y, v, *parameters)):
        assert not bool(gradient.any())


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(0, 6),
    other=st.integers(0, 6),
    channels=st.integers(0, 4),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    seed=st.integers(0, 9),
)
def test_sums_are_products_with_the_matrix(
    case: Case, count: int, other: int, channels: int, dtype: torch.dtype, seed: int
) -> None:
    x, y, v = (each.to(dtype) for each in case.clouds(count, other, seed, channels))
    kernel = case.kernel()
    total = kernel(x, y, v)
    assert total.shape == (count, channels) and total.dtype == dtype
    assert torch.allclose(total, kernel.matrix(x, y) @ v, rtol=1e-3, atol=1e-4)


def test_arrays(case: Case) -> None:
    x, y, v = case.clouds(4, 5)
    expected = case.kernel()(x, y, v)
    arrays = [each.numpy() for each in (x, y, v)]
    found = case.kernel()(*arrays)
    assert isinstance(found, np.ndarray) and np.allclose(found, expected)
    assert isinstance(case.kernel().matrix(*arrays[:2]), np.ndarray)
    differentiable = case.build(*case.tensors())
    assert differentiable(*arrays).requires_grad and differentiable.matrix(*arrays[:2]).requires_grad


def test_immutable_and_described(case: Case) -> None:
    kernel = case.kernel()
    field = dataclasses.fields(kernel)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kernel, field, 2.0)
    assert repr(kernel).startswith(type(kernel).__name__ + "(")
    for number in case.parameters:
        assert repr(number) in repr(kernel)
    assert kernel == case.kernel() and hash(kernel) == hash(case.kernel())
    assert sorted(kernel.parameters().values()) == sorted(case.parameters)


def test_bad_input(case: Case) -> None:
    x, y, v = case.clouds(4, 5)
    kernel = case.kernel()

    def refused(message: str, call: Any, *arguments: Any, **named: Any) -> None:
        with pytest.raises(InputError, match=message) as caught:
            call(*arguments, **named)
        assert "\n" not in str(caught.value)

    refused("v must have shape", kernel, x, y, v[:2])
    refused("x and y must have the same dimension", kernel, x[:, :1], y, v)
    refused("convert one of them", kernel, x.float(), y, v)
    refused("x must be finite, but row 0", kernel.matrix, x * torch.nan, y)
    refused("unknown engine 'magic'", kernel, x, y, v, engine="magic")
    assert isinstance(kernel, Kernel)
    for index in range(len(case.parameters)):
        for wrong in (-1.0, float("nan"), "wide", torch.ones(2), torch.tensor(-1.0), torch.tensor(1)):
            parameters: list[Any] = list(case.parameters)
            parameters[index] = wrong
            refused("width|variance|amplitudes", case.build, *parameters)
