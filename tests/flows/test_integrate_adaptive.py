"""The adaptive integrator: closed forms, SciPy, tolerances, gradients and the ways it gives up."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from otreg.errors import InputError, IntegrationError
from otreg.flows import Snapshots, adaptive_times, integrate_adaptive

MEMORIES: list[Any] = ["all", "sqrt", 2, Snapshots(2)]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oscillator(time: float, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Van der Pol's, with µ = 5: slow stretches and fast ones."""
    x, v = state
    return v, 5 * (1 - x * x) * v - x


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_error_follows_the_tolerance(tolerance: float) -> None:
    start = numbers(3)
    turned = integrate_adaptive(
        lambda t, s: (-s[1], s[0]), (start, torch.zeros_like(start)), end=3.0, rtol=tolerance, atol=tolerance
    )
    for found, expected in zip(turned, (math.cos(3) * start, math.sin(3) * start), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=30 * tolerance)


def test_against_scipy() -> None:
    """Van der Pol's oscillator against an eighth-order method, and against the same pair's number of steps."""
    start = (torch.tensor(2.0).double(), torch.tensor(0.0).double())
    found = integrate_adaptive(oscillator, start, end=12.0, rtol=1e-8, atol=1e-10)

    def field(t: float, y: numpy.ndarray) -> list[float]:
        return [y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]]

    expected = solve_ivp(field, (0, 12), [2.0, 0.0], method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    assert [float(part) for part in found] == pytest.approx(expected.tolist(), rel=2e-6)
    times = adaptive_times(oscillator, start, end=12.0, rtol=1e-8, atol=1e-10)
    theirs = solve_ivp(field, (0, 12), [2.0, 0.0], method="RK45", rtol=1e-8, atol=1e-10).t
    assert 0.7 < len(times) / len(theirs) < 1.3
    sizes = [b - a for a, b in pairwise(times)]
    assert times[0] == 0 and times[-1] == 12 and min(sizes) > 0
    assert max(sizes) > 20 * min(sizes)


def test_backwards_in_time() -> None:
    start = numbers(4)
    forth = integrate_adaptive(lambda t, x: torch.sin(3 * x + t), start, rtol=1e-9)
    back = integrate_adaptive(lambda t, x: torch.sin(3 * x + t), forth, start=1, end=0, rtol=1e-9)
    assert torch.allclose(back, start, atol=1e-7)
    times = adaptive_times(lambda t, x: torch.sin(3 * x + t), forth, start=1, end=0)
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("memory", MEMORIES)
class TestGradients:
    def test_closed_form(self, memory: Any) -> None:
        """x' = k x: dx/dk = t x, dx/dx0 = e^{kt}."""
        rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        start = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        last = integrate_adaptive(lambda t, x: rate * x, start, end=2.0, rtol=1e-10, memory=memory)
        slopes = torch.autograd.grad(last, (rate, start))
        assert [float(slope) for slope in slopes] == pytest.approx(
            [4 * math.exp(1.4), math.exp(1.4)], rel=1e-8
        )

    def test_finite_differences(self, memory: Any) -> None:
        """First and second derivatives; what the steps' sizes add to finite differences is below the tolerance."""

        def flow(rate: Tensor, start: Tensor) -> Tensor:
            return integrate_adaptive(
                lambda t, x: torch.sin(rate * x + t), start, rtol=1e-8, atol=1e-10, memory=memory
            )

        arguments = (numbers(1).requires_grad_(), numbers(1, seed=1).requires_grad_())
        assert torch.autograd.gradcheck(flow, arguments, eps=1e-4, atol=1e-5)
        assert torch.autograd.gradgradcheck(flow, arguments, eps=1e-4, atol=1e-5)

    def test_the_value_does_not_depend_on_the_gradient(self, memory: Any) -> None:
        rate, start = numbers(3).requires_grad_(), numbers(3, seed=1)

        def flow(memory: Any) -> Tensor:
            return integrate_adaptive(lambda t, x: torch.sin(rate * x + t), start, end=3, memory=memory)

        with torch.no_grad():
            plain = flow(memory)
        assert torch.equal(flow(memory), plain)
        assert torch.equal(flow("none"), plain) and not flow("none").requires_grad


def test_no_gradient_costs_only_the_search() -> None:
    calls: list[float] = []

    def field(time: float, x: Tensor) -> Tensor:
        calls.append(time)
        return torch.sin(x + time)

    start = numbers(3)
    steps = len(adaptive_times(field, start, end=5)) - 1
    search = len(calls)
    calls.clear()
    integrate_adaptive(field, start, end=5)
    assert len(calls) == search
    calls.clear()
    integrate_adaptive(field, start.requires_grad_(), end=5, memory="all")
    assert len(calls) == search + 6 * steps


def test_under_torch_func() -> None:
    start = torch.full((2,), 0.1, dtype=torch.float64)

    def flow(x: Tensor) -> Tensor:
        return integrate_adaptive(lambda t, s: s * s, x)

    # x' = x²: x(1) = x/(1-x), derivative 1/(1-x)²
    expected = torch.eye(2, dtype=torch.float64) / 0.81
    assert torch.allclose(torch.func.jacrev(flow)(start), expected, atol=1e-6)
    assert torch.allclose(torch.func.jacfwd(flow)(start), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_single_numbers_nothing_and_rest(shape: tuple[int, ...]) -> None:
    start = torch.ones(shape, requires_grad=True)
    last = integrate_adaptive(lambda t, x: x, start)
    assert last.shape == shape and last.dtype == torch.float32
    last.sum().backward()
    assert start.grad is not None and torch.allclose(start.grad, torch.full(shape, math.e), rtol=1e-4)
    resting = integrate_adaptive(lambda t, x: 0 * x, torch.zeros(shape))
    assert torch.equal(resting, torch.zeros(shape))
    assert adaptive_times(lambda t, x: x, start, start=1, end=1) == [1]
    assert torch.equal(integrate_adaptive(lambda t, x: x, start, start=1, end=1), start)


class TestGivingUp:
    def test_too_many_steps(self) -> None:
        with pytest.raises(
            IntegrationError, match=r"more than max_steps = 50 steps .*: reached time 0\.\d+ of 1"
        ):
            integrate_adaptive(lambda t, x: -1e4 * (x - math.cos(t)), torch.ones(2).double(), max_steps=50)

    def test_an_explosion(self) -> None:
        """x' = x² from 1 is 1/(1-t)."""
        with pytest.raises(IntegrationError, match="steps became too short at time 1"):
            integrate_adaptive(lambda t, x: x * x, torch.ones(1).double(), end=2, max_steps=10_000)

    def test_a_field_that_is_nowhere_finite(self) -> None:
        with pytest.raises(IntegrationError, match="steps became too short at time 0"):
            integrate_adaptive(lambda t, x: x * math.nan, torch.ones(1).double())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"max_steps": 0}, "max_steps must be a whole number of at least 1"),
            ({"max_steps": 1.5}, "max_steps must be a whole number of at least 1"),
            ({"rtol": -1e-3}, "rtol and atol must not be negative"),
            ({"rtol": 0, "atol": 0}, "nor both zero"),
            ({"rtol": math.nan}, "rtol and atol must not be negative"),
            ({"memory": "few"}, "memory must be"),
            ({"end": math.nan}, "end must be a finite number"),
            ({"state": torch.tensor([math.nan])}, "state must be finite"),
            ({"state": torch.ones(2, dtype=torch.int32)}, "state must be made of floating-point"),
            ({"field": lambda t, x: x[:1]}, "field must return a derivative of shape"),
        ],
    )
    def test_bad_input(self, arguments: dict[str, Any], message: str) -> None:
        given: dict[str, Any] = {"field": lambda t, x: x, "state": torch.ones(2), **arguments}
        field = given.pop("field")
        with pytest.raises(InputError, match=message):
            integrate_adaptive(field, given.pop("state"), **given)
