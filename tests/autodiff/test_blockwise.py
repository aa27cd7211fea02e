"""Functions of all pairs, tile by tile, against the same functions in one piece."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otreg.autodiff import blockwise
from otreg.errors import InputError, ReplayError

SUMS: list[Any] = [None, "rows", "columns", "all"]


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def gaussian(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return torch.exp(-scale * (x[:, None] - y[None]).square().flatten(2).sum(dim=2))


def trailing(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Two numbers and more for each pair."""
    kernel = gaussian(x, y, scale)
    return torch.stack([kernel, kernel.square() * scale], dim=2)


def summed(array: Tensor, sum_over: str | None) -> Tensor:
    return {
        None: lambda: array,
        "rows": lambda: array.sum(dim=0),
        "columns": lambda: array.sum(dim=1),
        "all": lambda: array.sum(dim=(0, 1)),
    }[sum_over]()


def agree(found: Any, expected: Any, variables: Any, tolerance: float) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance)
    cotangent = torch.cos(torch.arange(expected.numel())).view(expected.shape).to(expected.dtype)
    slopes = torch.autograd.grad(found, variables, cotangent)
    for slope, wanted in zip(slopes, torch.autograd.grad(expected, variables, cotangent), strict=True):
        assert slope.dtype == wanted.dtype
        largest = float(wanted.abs().max()) if wanted.numel() else 0.0
        assert torch.allclose(slope, wanted, rtol=tolerance, atol=tolerance * (1 + largest))


blocks = st.one_of(st.none(), st.integers(1, 9), st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.lists(st.integers(1, 3), max_size=2),
    blocks,
    st.sampled_from(SUMS),
    st.sampled_from([gaussian, trailing]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_equals_plain_autograd(
    rows: int, columns: int, shape: list[int], block: Any, sum_over: Any, fn: Any, dtype: torch.dtype
) -> None:
    x, y = numbers(rows, 1, *shape, dtype=dtype), numbers(columns, 1, *shape, seed=1, dtype=dtype)
    scale = torch.tensor(0.3, dtype=dtype, requires_grad=True)
    tolerance = 100 * torch.finfo(dtype).eps
    found = blockwise(fn, x, y, scale, block=block, sum_over=sum_over)
    agree(found, summed(fn(x, y, scale), sum_over), (x, y, scale), tolerance)
    if isinstance(block, tuple):
        return
    found = blockwise(fn, x, None, scale, block=block, sum_over=sum_over)
    agree(found, summed(fn(x, x, scale), sum_over), (x, scale), tolerance)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sum_over", SUMS)
def test_first_and_second_derivatives(sum_over: Any, symmetric: bool) -> None:
    """Finite differences; the second derivatives are with respect to the cotangent too."""
    x, y, scale = numbers(4, 2), numbers(3, 2, seed=1), torch.tensor(0.4).double().requires_grad_()

    def run(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        other = None if symmetric else y
        return blockwise(trailing, x, other, scale, block=2, sum_over=sum_over) + 0 * y.sum()

    assert torch.autograd.gradcheck(run, (x, y, scale))
    assert torch.autograd.gradgradcheck(run, (x, y, scale))


def test_third_derivatives() -> None:
    x, scale = numbers(5, 2), torch.tensor(0.4).double().requires_grad_()

    def third(value: Tensor) -> tuple[Tensor, ...]:
        for _ in range(2):
            (value,) = torch.autograd.grad(value.sin().sum(), x, create_graph=True)
        return torch.autograd.grad((value * x.detach()).sum(), (x, scale))

    found = third(blockwise(gaussian, x, None, scale, block=2))
    for one, other in zip(found, third(gaussian(x, x, scale)), strict=True):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-11)


def test_complex_numbers() -> None:
    x, y = (
        torch.complex(numbers(4, 2), numbers(4, 2, seed=1)),
        torch.complex(numbers(3, 2), numbers(3, 2, seed=2)),
    )
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, y: blockwise(lambda a, b: a @ b.T.conj(), x, y, block=2), (x, y)
    )
    assert torch.autograd.gradcheck(lambda x: blockwise(lambda a, b: (a @ b.T).sin(), x, block=2), (x,))


def test_tuples_and_dicts() -> None:
    x = (numbers(5, 2), {"weights": numbers(5, seed=1)})
    y = (numbers(4, 2, seed=2), {"weights": numbers(4, seed=3)})
    parameters = {"scale": torch.tensor(0.3).double().requires_grad_()}

    def fn(x: Any, y: Any, parameters: Any) -> Tensor:
        weights = x[1]["weights"][:, None] * y[1]["weights"]
        return weights * gaussian(x[0], y[0], parameters["scale"])

    leaves = (x[0], x[1]["weights"], y[0], y[1]["weights"], parameters["scale"])
    for sum_over in SUMS:
        found = blockwise(fn, x, y, parameters, block=(2, 3), sum_over=sum_over)
        agree(found, summed(fn(x, y, parameters), sum_over), leaves, 1e-14)


class TestSymmetric:
    def test_half_of_the_tiles(self) -> None:
        x, scale, runs = numbers(20, 2), torch.tensor(0.3).double(), []

        def fn(x: Tensor, y: Tensor) -> Tensor:
            runs.append(1)
            return gaussian(x, y, scale)

        whole = blockwise(fn, x, block=4)
        assert len(runs) == 15
        whole.sum().backward()
        assert len(runs) == 30
        assert torch.equal(whole, whole.T)
        runs.clear()
        assert torch.allclose(blockwise(fn, x, x, block=4), whole) and len(runs) == 25
        runs.clear()
        assert torch.equal(blockwise(fn, x, x, block=4, symmetric=True), whole) and len(runs) == 15

    def test_what_is_not_symmetric_is_refused(self) -> None:
        x = numbers(6, 2)
        skew = lambda a, b: a[:, :1] - b[:, 0] + 1.0  # noqa: E731
        with pytest.raises(InputError, match="fn is not symmetric"):
            blockwise(skew, x, block=4)
        assert torch.allclose(blockwise(skew, x, block=4, symmetric=False), skew(x, x))
        with pytest.raises(InputError, match="symmetric=True needs"):
            blockwise(gaussian, x, x.clone(), torch.ones(()), symmetric=True)


class TestWhatTheFunctionClosesOver:
    def test_modules_get_their_gradients(self) -> None:
        net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh()).double()
        fn = lambda a, b: net(a) @ net(b).T  # noqa: E731
        for x in (numbers(6, 2), numbers(6, 2).detach()):
            variables = [*net.parameters(), *([x] if x.requires_grad else [])]
            agree(blockwise(fn, x, block=2), fn(x, x), variables, 1e-13)

    def test_a_tensor_with_a_history_is_refused(self) -> None:
        x, scale = numbers(6, 2), numbers(1)
        positive = scale.exp()
        for fn in (lambda a, b: positive * (a @ b.T), lambda a, b: a @ b.T + positive):
            with pytest.raises(InputError, match="fn closes over a tensor that was computed"):
                blockwise(fn, x, block=2)
        agree(
            blockwise(lambda a, b, p: p * (a @ b.T), x, None, scale.exp(), block=2),
            scale.exp() * (x @ x.T),
            (x, scale),
            1e-13,
        )

    def test_a_parameter_of_some_tiles(self) -> None:
        """Found in a later tile where nothing else requires gradients; otherwise an error, no gradient of zero."""
        weight, x = numbers(1), torch.arange(6.0).double()[:, None]

        def fn(a: Tensor, b: Tensor) -> Tensor:
            near = a @ b.T
            return near * weight if float(a.detach().min()) > 1 else near

        agree(blockwise(fn, x, x, block=2), torch.cat([fn(x[:2], x), fn(x[2:], x)]), (weight,), 1e-14)
        with pytest.raises(ReplayError, match="hand it over as a parameter"):
            blockwise(fn, x.requires_grad_(), x, block=2).sum().backward()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("sum_over", SUMS)
def test_nothing_to_do(shape: tuple[int, int], sum_over: Any) -> None:
    x, y, scale = numbers(shape[0], 2), numbers(shape[1], 2), torch.tensor(0.3).double().requires_grad_()
    found = blockwise(trailing, x, y, scale, block=2, sum_over=sum_over)
    agree(found, summed(trailing(x, y, scale), sum_over), (x, y, scale), 1e-15)
    if shape == (0, 0):
        found = blockwise(trailing, x, None, scale, sum_over=sum_over)
        agree(found, summed(trailing(x, x, scale), sum_over), (x, scale), 1e-15)


def test_errors_come_with_their_own_traceback() -> None:
    calls: list[int] = []

    def my_function(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > limit:
            raise ZeroDivisionError("mine")
        return x @ y.T

    for limit in (0, 2, 9, 11):  # the first tile, another one, and in the backward pass
        calls.clear()
        with pytest.raises(ZeroDivisionError, match="mine") as caught:
            blockwise(my_function, numbers(6, 2), numbers(6, 2), block=2).sum().backward()
        assert "my_function" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert len(calls) == limit + 1


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda a, b: None, "fn must return a Tensor, got NoneType"),
        (lambda a, b: (a @ b.T).sum(dim=1), r"begins with \(2, 2\), got \(2,\)"),
        (
            lambda a, b: (a @ b.T)[..., None].expand(2, 2, int(a.detach()[0, 0]) + 1),
            "the same kind of tensor",
        ),
        (lambda a, b: a.detach().mul_(2) @ b.T, "in place"),
    ],
)
def test_functions_that_do_not_fit(fn: Callable[..., Any], message: str) -> None:
    x = torch.arange(12.0).view(6, 2).requires_grad_()
    with pytest.raises(InputError, match=message):
        blockwise(fn, x, x, block=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 0}, "block must be a positive"),
        ({"block": (2, 3)}, "block must be square"),
        ({"block": True}, "block must be a positive"),
        ({"sum_over": "both"}, "sum_over must be"),
        ({"x": torch.ones(())}, "x must be made of tensors"),
        ({"x": (torch.ones(2), torch.ones(3))}, r"same number of items .* got \[2, 3\]"),
        ({"x": [torch.ones(2)]}, "x must be a Tensor"),
        ({"out": 3}, "out must be None"),
        ({"out": "k.npy", "sum_over": "all"}, "out must be None, 'cpu'"),
    ],
)
def test_arguments_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    x = settings.pop("x", torch.ones(4, 1))
    with pytest.raises(InputError, match=message):
        blockwise(lambda a, b: a @ b.T, x, **settings)


def test_a_parameter_changed_meanwhile_is_noticed() -> None:
    x, scale = numbers(4, 2), torch.tensor(0.3).double().requires_grad_()
    value = blockwise(gaussian, x, None, scale, block=2).sum()
    with torch.no_grad():
        scale.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_the_number_of_runs_and_a_cotangent_that_is_not_stored() -> None:
    """Inputs that require no gradients get none; the cotangent of a sum stays one number."""
    x, y, scale, seen = numbers(6, 2), numbers(4, 2).detach(), torch.tensor(0.3).double(), []
    value = blockwise(gaussian, x, y, scale, block=3)
    value.register_hook(lambda cotangent: seen.append(cotangent.untyped_storage().nbytes()))
    value.sum().backward()
    assert x.grad is not None and y.grad is None and scale.grad is None and seen == [8]
