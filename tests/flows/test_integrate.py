"""Integrators with fixed steps: closed forms, orders, reversal, and the gradients of plain autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otreg.autodiff import body_evaluations
from otreg.errors import InputError, IntegrationError
from otreg.flows import Snapshots, integrate
from otreg.flows.runge_kutta import DORMAND_PRINCE, METHODS, FlatField, Tableau, advanced, stages_of
from tests.autodiff.memory import peaks

MEMORIES: list[Any] = ["all", "sqrt", 1, 3, Snapshots(1), Snapshots(3)]
TABLEAUS = {**METHODS, "dormand_prince": DORMAND_PRINCE}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decay(time: float, x: Tensor) -> Tensor:
    """x' = -2 t x², so x = 1 / (1 + t²) from 1: not linear, and time matters."""
    return -2 * time * x * x


def run(tableau: Tableau, steps: int) -> float:
    """Error at time 1 of x' = -2 t x²."""
    field, x = FlatField(decay, torch.ones(1).double()), [torch.ones(1).double()]
    for index in range(steps):
        x = advanced(tableau, x, stages_of(tableau, field, index / steps, x, 1 / steps), 1 / steps)
    return abs(float(x[0]) - 0.5)


@pytest.mark.parametrize("name", TABLEAUS)
def test_coefficients(name: str) -> None:
    """Each row sums to its node, and quadrature is exact up to the order (Hairer, Nørsett & Wanner, II.1)."""
    tableau = TABLEAUS[name]
    for node, row in zip(tableau.nodes, tableau.matrix, strict=True):
        assert sum(row) == pytest.approx(node, abs=1e-15)
    for power in range(tableau.order):
        moment = sum(
            weight * node**power for weight, node in zip(tableau.weights, tableau.nodes, strict=True)
        )
        assert moment == pytest.approx(1 / (power + 1), abs=1e-14)
    if tableau.error:
        # the embedded weights b + e are exact up to order 4
        for power in range(4):
            moment = sum(e * node**power for e, node in zip(tableau.error, tableau.nodes, strict=True))
            assert moment == pytest.approx(0, abs=1e-15)
        assert abs(sum(e * node**4 for e, node in zip(tableau.error, tableau.nodes, strict=True))) > 1e-4


@pytest.mark.parametrize("name", TABLEAUS)
def test_order_of_convergence(name: str) -> None:
    tableau = TABLEAUS[name]
    rate = math.log2(run(tableau, 20) / run(tableau, 40))
    assert rate == pytest.approx(tableau.order, abs=0.35)


@pytest.mark.parametrize(("method", "error"), [("euler", 2e-2), ("midpoint", 2e-4), ("rk4", 2e-8)])
def test_rotation_and_exponential(method: str, error: float) -> None:
    """A rotation by one radian and a growth by e, side by side in one nested state."""

    def field(time: float, state: Any) -> Any:
        x, y = state["turning"].unbind(-1)
        return {"growing": (state["growing"][0],), "turning": torch.stack([-y, x], dim=-1)}

    start = {"turning": numbers(5, 2), "growing": (numbers(3),)}
    found = integrate(field, start, steps=100, method=method)
    cos, sin = math.cos(1), math.sin(1)
    turned = start["turning"] @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
    assert torch.allclose(found["turning"], turned, atol=error)
    assert torch.allclose(found["growing"][0], start["growing"][0] * math.e, atol=2 * error)


@pytest.mark.parametrize(("method", "power"), [("euler", 0), ("midpoint", 1), ("rk4", 3)])
def test_powers_of_time_are_integrated_exactly(method: str, power: int) -> None:
    start = torch.zeros(2, dtype=torch.float64)
    found = integrate(
        lambda t, x: torch.full_like(x, t**power), start, start=1, end=3, steps=3, method=method
    )
    assert torch.allclose(found, torch.full_like(found, (3 ** (power + 1) - 1) / (power + 1)), rtol=1e-14)


@pytest.mark.parametrize(
    ("method", "order", "most"), [("euler", 1, 0.1), ("midpoint", 2, 5e-3), ("rk4", 4, 1e-5)]
)
def test_reversal(method: str, order: int, most: float) -> None:
    """There and back again, up to the error of the method; sooner by its order with more steps."""
    start = numbers(4)

    def error(steps: int) -> float:
        forth = integrate(lambda t, x: torch.sin(3 * x + t), start, steps=steps, method=method)
        back = integrate(lambda t, x: torch.sin(3 * x + t), forth, start=1, end=0, steps=steps, method=method)
        return float((back - start).abs().max())

    assert error(40) < most
    assert math.log2(error(40) / error(80)) > order - 0.3


@given(
    steps=st.integers(1, 12),
    method=st.sampled_from(list(METHODS)),
    memory=st.one_of(st.sampled_from(["all", "sqrt"]), st.integers(1, 15), st.integers(1, 6).map(Snapshots)),
    trajectory=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_gradients_of_plain_autograd(steps: int, method: str, memory: Any, trajectory: bool) -> None:
    """Value and gradients as those of a plain loop over the same formulas, and as many calls as announced."""
    mixing, shift, start = numbers(3, 3), numbers(3, seed=1), numbers(2, 3, seed=2)
    calls: list[float] = []
    variables = [tensor.requires_grad_() for tensor in (mixing, shift, start)]

    def field(time: float, x: Tensor) -> Tensor:
        calls.append(time)
        return torch.tanh(x @ mixing + time * shift)

    h = 0.5 / steps
    states = [start]
    for index in range(steps):
        x, t = states[-1], 1 + index * h
        k1 = field(t, x)
        if method == "euler":
            x = x + h * k1
        elif method == "midpoint":
            x = x + h * field(t + h / 2, x + h / 2 * k1)
        else:
            k2 = field(t + h / 2, x + h / 2 * k1)
            k3 = field(t + h / 2, x + h / 2 * k2)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(t + h, x + h * k3))
        states.append(x)
    expected = torch.stack(states) if trajectory else states[-1]
    wanted = torch.autograd.grad(expected.sin().sum(), variables)
    plain, _ = len(calls), calls.clear()
    found = integrate(
        field, start, start=1, end=1.5, steps=steps, method=method, memory=memory, trajectory=trajectory
    )
    slopes = torch.autograd.grad(found.sin().sum(), variables)
    assert torch.allclose(found, expected, rtol=1e-14, atol=1e-14)
    for slope, other in zip(slopes, wanted, strict=True):
        assert torch.allclose(slope, other, rtol=1e-13, atol=1e-13)
    assert len(calls) == plain // steps * body_evaluations(steps, memory)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("method", METHODS)
def test_twice_differentiable(method: str, memory: Any) -> None:
    def flow(rate: Tensor, start: Tensor) -> Tensor:
        return integrate(lambda t, x: torch.sin(rate * x), start, steps=4, method=method, memory=memory)

    arguments = (numbers(2).requires_grad_(), numbers(2, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(flow, arguments)
    assert torch.autograd.gradgradcheck(flow, arguments)


def test_gradient_of_a_closed_form() -> None:
    """x' = k x: dx/dk = x t, dx/dx0 = e^k."""
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    start = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    last = integrate(lambda t, x: rate * x, start, steps=100, memory=Snapshots(4))
    last.backward()
    assert rate.grad is not None and start.grad is not None
    assert float(rate.grad) == pytest.approx(2 * math.exp(0.7), rel=1e-8)
    assert float(start.grad) == pytest.approx(math.exp(0.7), rel=1e-8)


class TestTrajectory:
    def test_all_states_from_first_to_last(self) -> None:
        start = (numbers(2, 3), numbers(4, seed=1))

        def field(time: float, state: Any) -> Any:
            return -state[0], state[1] * time

        path = integrate(field, start, steps=7, trajectory=True)
        last = integrate(field, start, steps=7)
        assert [tuple(part.shape) for part in path] == [(8, 2, 3), (8, 4)]
        for part, first, end in zip(path, start, last, strict=True):
            assert torch.equal(part[0], first) and torch.equal(part[-1], end)
        assert torch.allclose(path[0][3], start[0] * math.exp(-3 / 7), atol=1e-5)

    def test_nothing_kept_gives_no_gradient(self) -> None:
        start = numbers(3).requires_grad_()
        assert not integrate(lambda t, x: x, start, memory="none").requires_grad
        assert not integrate(lambda t, x: x, start, memory="none", trajectory=True).requires_grad


class TestKindsOfStates:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
    def test_dtypes_are_kept(self, dtype: torch.dtype) -> None:
        rate = 1j if dtype.is_complex else 1.0
        last = integrate(lambda t, x: rate * x, torch.ones(3, dtype=dtype), steps=50)
        assert last.dtype == dtype
        expected = torch.full((3,), rate, dtype=dtype).exp()
        assert torch.allclose(last, expected, atol=1e-6)

    def test_a_derivative_of_less_precision(self) -> None:
        last = integrate(lambda t, x: torch.ones(3), torch.zeros(3, dtype=torch.float64))
        assert last.dtype == torch.float64 and torch.allclose(last, torch.ones_like(last))

    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0, 3)])
    def test_single_numbers_and_nothing(self, shape: tuple[int, ...]) -> None:
        start = torch.ones(shape, dtype=torch.float64, requires_grad=True)
        last = integrate(lambda t, x: x, start)
        last.sum().backward()
        assert start.grad is not None and torch.allclose(
            start.grad, torch.full(shape, math.e).double(), atol=1e-5
        )
        assert integrate(lambda t, x: x, start, trajectory=True).shape == (11, *shape)

    def test_no_time_to_go(self) -> None:
        start = numbers(3)
        assert torch.equal(integrate(lambda t, x: x, start, start=2, end=2), start)


def test_under_torch_func() -> None:
    rate, start = numbers(3), numbers(3, seed=1)

    def flow(rate: Tensor, start: Tensor) -> Tensor:
        return integrate(lambda t, x: torch.sin(rate * x), start, steps=5)

    expected = torch.autograd.functional.jacobian(flow, (rate, start))
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        for one, other in zip(transform(flow, argnums=(0, 1))(rate, start), expected, strict=True):
            assert torch.allclose(one, other, atol=1e-14)
    assert torch.allclose(torch.func.vmap(flow)(rate[:, None], start[:, None])[:, 0], flow(rate, start))


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
            ({"steps": -2}, "steps must be a whole number"),
            ({"steps": 2.0}, r"steps must be a whole number of at least 1, got 2\.0"),
            ({"steps": True}, "steps must be a whole number"),
            ({"method": "leapfrog"}, "method must be one of euler, midpoint, rk4, got 'leapfrog'"),
            ({"memory": "some"}, "memory must be 'sqrt', 'all', 'none'"),
            ({"memory": 0}, "memory must be"),
            ({"start": math.nan}, "start must be a finite number, got nan"),
            ({"end": math.inf}, "end must be a finite number, got inf"),
            ({"end": "1"}, "end must be a finite number, got '1'"),
            ({"state": torch.tensor([1.0, math.nan])}, "state must be finite"),
            ({"state": (torch.ones(1), torch.tensor(math.inf))}, "state must be finite"),
            (
                {"state": torch.ones(2, dtype=torch.int64)},
                r"state must be made of floating-point .* torch\.int64",
            ),
            ({"state": [1.0]}, "state must be a Tensor, or a tuple or dict of Tensors, got list"),
            ({"field": lambda t, x: (x, x)}, r"like the state, Tensor, got \(Tensor, Tensor\)"),
            ({"field": lambda t, x: None}, "what field returns must be .* got NoneType"),
            ({"field": lambda t, x: x[:1]}, r"a derivative of shape \(2,\) .* got \(1,\)"),
            ({"field": lambda t, x: x.double()}, r"and torch\.float32 for .* torch\.float64"),
        ],
    )
    def test_named(self, arguments: dict[str, Any], message: str) -> None:
        given: dict[str, Any] = {"field": lambda t, x: x, "state": torch.ones(2), **arguments}
        field: Callable[..., Any] = given.pop("field")
        with pytest.raises(InputError, match=message) as caught:
            integrate(field, given.pop("state"), **given)
        assert "\n" not in str(caught.value)

    def test_a_flow_that_explodes(self) -> None:
        with pytest.raises(
            IntegrationError, match=r"left the finite numbers between times 0 and 5: take more than 20"
        ):
            integrate(lambda t, x: torch.exp(x * x), torch.ones(2), end=5, steps=20)

    def test_unless_it_may(self) -> None:
        start = torch.tensor([1.0, math.nan, 2.0])
        last = integrate(lambda t, x: 0 * x, start, finite=False)
        assert last.isnan().tolist() == [False, True, False]


def test_peak_memory() -> None:
    """Value and gradient of 25 steps of RK4, at two sizes."""
    preparation = """
from otreg.flows import Snapshots, integrate
rate = torch.tensor(0.3, requires_grad=True)
def measured(points, memory):
    memory = Snapshots(4) if memory == "Snapshots(4)" else memory
    integrate(lambda t, x: torch.sin(rate * x), torch.ones(points), steps=25, memory=memory).sum().backward()
"""
    cases = [(size << 16, memory) for size in (1, 3) for memory in ("sqrt", "Snapshots(4)")] + [
        (1 << 16, "all")
    ]
    found = dict(zip(cases, peaks(preparation, list(cases)), strict=True))
    for (points, memory), megabytes in found.items():
        state = points * 4 / 2**20
        saved = 8 * state  # of one step: four states multiplied and four products whose sine is taken
        # gradients, the stages that a step is run again through, and 2 MB of the libraries'
        slack = 12 * state + 2
        if memory == "all":
            assert megabytes > 25 * saved
        elif memory == "sqrt":
            assert megabytes < 5 * (state + saved) + slack
        else:
            assert megabytes < 4 * state + saved + slack
