"""Loops run by scan against the same loops in plain autograd."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otreg.autodiff import Snapshots, body_evaluations, scan
from otreg.errors import InputError, ReplayError

CHECKPOINTS = ["sqrt", "all", 1, 3, 100, Snapshots(1), Snapshots(2), Snapshots(4), Snapshots(100)]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def recurrent(weights: Tensor) -> Callable[[Any, Any], Any]:
    """A step with a nested state, nested inputs and an output; its closure has a history and a leaf."""
    mixing = torch.tanh(weights)

    def step(state: Any, entry: Any) -> Any:
        hidden = torch.tanh(state["hidden"] @ mixing + entry[0] * weights[0])
        memory = state["memory"][0] * hidden.exp() / 2 + entry[1].sum()
        return {"memory": (memory,), "hidden": hidden}, (hidden.square().sum(dim=0), memory)

    return step


def leaves(length: int) -> tuple[Tensor, ...]:
    return (
        numbers(3, 3, seed=1),
        numbers(length, 4, 3, seed=2),
        numbers(length, 2, seed=3),
        numbers(4, 3, seed=4),
    )


def value(last: Any, outputs: Any) -> Tensor:
    along = torch.arange(1, len(outputs[1]) + 1, dtype=torch.float64)
    return (
        last["memory"][0].sin().sum() + (outputs[0].sum(dim=1) * along).sum() + outputs[1][0].square().sum()
    )


def by_scan(length: int, checkpoints: Any, runs: list[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    weights, first, second, hidden = variables = leaves(length)
    step = recurrent(weights)

    def counted(state: Any, entry: Any) -> Any:
        runs.append(1)
        return step(state, entry)

    state = {"hidden": hidden, "memory": (torch.ones_like(hidden),)}
    return value(*scan(counted, state, (first, second), checkpoints=checkpoints)), variables


def by_loop(length: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    weights, first, second, hidden = variables = leaves(length)
    step = recurrent(weights)
    state: Any = {"hidden": hidden, "memory": (torch.ones_like(hidden),)}
    columns: list[list[Tensor]] = [[], []]
    for entry in zip(first, second, strict=True):
        state, output = step(state, entry)
        for column, part in zip(columns, output, strict=True):
            column.append(part)
    return value(state, [torch.stack(column) for column in columns]), variables


def test_nests_are_given_back() -> None:
    class Pair(NamedTuple):
        left: Tensor
        right: dict[str, tuple[Tensor]]

    start = Pair(torch.zeros(2), {"b": (torch.ones(3),)})
    found = scan(lambda pair: Pair(pair.left + 1, {"b": (pair.right["b"][0] * 2,)}), start, length=3)
    assert type(found) is Pair
    assert found.left.tolist() == [3, 3] and found.right["b"][0].tolist() == [8, 8, 8]


@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
@pytest.mark.parametrize("length", [1, 2, 9, 17])
def test_equals_plain_autograd_and_runs_as_announced(length: int, checkpoints: Any) -> None:
    runs: list[int] = []
    expected, variables = by_loop(length)
    slopes = torch.autograd.grad(expected, variables)
    found, variables = by_scan(length, checkpoints, runs)
    assert len(runs) == length
    assert torch.equal(found, expected)
    for slope, wanted in zip(torch.autograd.grad(found, variables), slopes, strict=True):
        assert torch.allclose(slope, wanted, rtol=1e-14, atol=1e-14)
    assert len(runs) == body_evaluations(length, checkpoints)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.one_of(st.integers(1, 70), st.integers(1, 12).map(Snapshots), st.just("sqrt")))
def test_any_length_and_budget(length: int, checkpoints: Any) -> None:
    """x ← w x: the derivative of wᵀ x is T wᵀ⁻¹ x, and the body runs as often as announced."""
    weight = torch.tensor(1.01, dtype=torch.float64, requires_grad=True)
    runs: list[int] = []

    def step(x: Tensor) -> Tensor:
        runs.append(1)
        return weight * x

    scan(step, torch.tensor(2.0, dtype=torch.float64), length=length, checkpoints=checkpoints).backward()
    assert weight.grad is not None
    assert float(weight.grad) == pytest.approx(2 * length * 1.01 ** (length - 1), rel=1e-12)
    assert len(runs) == body_evaluations(length, checkpoints)


@pytest.mark.parametrize("checkpoints", ["sqrt", 2, Snapshots(2)])
def test_twice_differentiable(checkpoints: Any) -> None:
    weights, entries = numbers(2, 2, seed=5), numbers(5, 2, seed=6)

    def loop(weights: Tensor, entries: Tensor, state: Tensor) -> Tensor:
        mixing = weights.sin()
        return scan(
            lambda x, u: torch.tanh(mixing @ x + u * weights[0]), state, entries, checkpoints=checkpoints
        )

    arguments = (weights, entries, numbers(2, seed=7))
    assert torch.autograd.gradcheck(loop, arguments)
    assert torch.autograd.gradgradcheck(loop, arguments)


@pytest.mark.parametrize("checkpoints", ["sqrt", Snapshots(3)])
def test_the_graph_may_be_used_again(checkpoints: Any) -> None:
    weight, runs = numbers(3), []

    def step(x: Tensor) -> Tensor:
        runs.append(1)
        return torch.sin(weight * x)

    found = scan(step, torch.ones(3, dtype=torch.float64), length=20, checkpoints=checkpoints).sum()
    once = torch.autograd.grad(found, weight, retain_graph=True)[0]
    count = len(runs)
    assert torch.equal(torch.autograd.grad(found, weight)[0], once)
    # what the forward pass had taped must be run again too
    assert len(runs) - count <= body_evaluations(20, checkpoints)


def test_gradient_of_an_early_output_runs_only_what_leads_there() -> None:
    weight, runs = numbers(3), []

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        runs.append(1)
        x = torch.sin(weight * x)
        return x, x.sum()

    # each output is asked for by itself: stacked, all of them would get (zero) gradients
    outputs: list[Tensor] = []

    def collecting(x: Tensor) -> Tensor:
        x, output = step(x)
        outputs.append(output)
        return x

    scan(collecting, torch.ones(3, dtype=torch.float64), length=100, checkpoints=10)
    runs.clear()
    outputs[24].backward()
    assert len(runs) == 25


def test_steps_that_differentiate() -> None:
    """Gradient descent inside the loop, with the derivative of where it ends, as plain autograd has it."""
    rate, target = numbers(()), numbers(4, seed=1)

    def step(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            energy = ((x - target) ** 4).sum() + (x * target).cos().sum()
            (slope,) = torch.autograd.grad(energy, x, create_graph=True)
        return x - 0.01 * rate.sigmoid() * slope

    def descend(checkpoints: Any) -> list[Tensor]:
        last = scan(step, torch.zeros(4, dtype=torch.float64), length=10, checkpoints=checkpoints)
        return [last, *torch.autograd.grad(last.sum(), (rate, target))]

    for checkpoints in ("sqrt", 2, Snapshots(2)):
        for found, expected in zip(descend(checkpoints), descend("all"), strict=True):
            assert torch.equal(found, expected)


def test_a_loop_inside_a_loop() -> None:
    weight = numbers(3)

    def run(outer: Any, inner: Any) -> list[Tensor]:
        def once(x: Tensor, u: Tensor) -> Tensor:
            factor = torch.cos(u * weight)
            return scan(
                lambda y, v: torch.sin(factor * y + v), x, x[:2, None].expand(2, 3) * u, checkpoints=inner
            )

        entries = numbers(6, 3, seed=3)
        last = scan(once, torch.ones(3, dtype=torch.float64), entries, checkpoints=outer)
        slopes = torch.autograd.grad(last.sum(), (weight, entries), create_graph=True)
        return [last, *slopes, *torch.autograd.grad(slopes[0].square().sum(), (weight, entries))]

    expected = run("all", "all")
    for outer, inner in (("sqrt", "sqrt"), (Snapshots(2), 1), (3, Snapshots(1)), ("all", 1)):
        for found, wanted in zip(run(outer, inner), expected, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-13, atol=1e-13)


def test_parameters_of_each_step_and_of_modules() -> None:
    layers = torch.nn.ModuleList(torch.nn.Linear(3, 3).double() for _ in range(6))
    start = numbers(2, 3)
    scan(lambda x, layer: torch.tanh(layer(x)), start, list(layers), checkpoints=2).sum().backward()
    found = [parameter.grad for parameter in layers.parameters()]
    layers.zero_grad()
    x = start
    for layer in layers:
        x = torch.tanh(layer(x))
    x.sum().backward()
    for slope, parameter in zip(found, layers.parameters(), strict=True):
        assert slope is not None and parameter.grad is not None and torch.equal(slope, parameter.grad)


def test_complex_numbers_and_states_that_change_shape() -> None:
    phase = numbers(())

    def step(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z, grown = state
        return z * torch.polar(torch.ones_like(phase), phase), torch.cat([grown, z.real[None]])

    start = (torch.tensor(1.0 + 0j, dtype=torch.complex128), torch.zeros(0, dtype=torch.float64))
    last, grown = scan(step, start, length=9, checkpoints=Snapshots(2))
    expected = torch.cos(phase.detach() * torch.arange(9))
    assert torch.allclose(grown, expected, atol=1e-14)
    (slope,) = torch.autograd.grad(last.real, phase)
    assert float(slope) == pytest.approx(float(-9 * torch.sin(9 * phase.detach())), abs=1e-12)


def test_no_steps_and_items_of_any_kind() -> None:
    state = numbers(3)
    assert scan(lambda x: x + 1, state, length=0) is state
    assert scan(lambda x, k: x + k, torch.tensor(0), range(5)).item() == 10
    assert scan(lambda x, word: x + len(word), torch.tensor(0), ["a", "bcd"]).item() == 4


def test_everything_is_freed_with_the_result() -> None:
    """No cycle keeps states and tapes until the garbage collector comes."""
    gc.collect()
    gc.disable()
    try:
        weight = numbers(3)

        def step(x: Tensor) -> Tensor:
            return torch.sin(weight * x)

        alive = weakref.ref(step)
        last = scan(step, torch.ones(3, dtype=torch.float64), length=20, checkpoints=Snapshots(3))
        last.sum().backward()
        del step, last
        assert alive() is None
    finally:
        gc.enable()


class TestWhatCannotBeRunAgain:
    def test_a_step_that_does_something_else(self) -> None:
        weight, calls = numbers(3), []

        def step(x: Tensor) -> Tensor:
            calls.append(1)
            x = torch.sin(weight * x)
            return x.exp() if len(calls) > 9 else x

        last = scan(step, torch.ones(3, dtype=torch.float64), length=9, checkpoints=3)
        with pytest.raises(ReplayError, match=r"step 3 saved .* it must do the same each time"):
            last.sum().backward()

    def test_a_step_whose_tensors_change_shape(self) -> None:
        weight, calls = numbers(3), []

        def step(x: Tensor) -> Tensor:
            calls.append(1)
            return torch.sin(weight * (x if len(calls) <= 9 else x[:2].sum())).sum() + x

        last = scan(step, torch.ones(3, dtype=torch.float64), length=9, checkpoints=3)
        with pytest.raises(ReplayError, match=r"of shape \(3,\) .* and of \(\)"):
            last.sum().backward()

    @pytest.mark.parametrize("checkpoints", [3, Snapshots(2)])
    def test_a_parameter_changed_meanwhile(self, checkpoints: Any) -> None:
        weight = numbers(3)
        last = scan(
            lambda x: torch.sin(weight * x), torch.ones(3).double(), length=9, checkpoints=checkpoints
        )
        with torch.no_grad():
            weight.add_(1.0)
        # what the forward pass taped is guarded by autograd itself
        with pytest.raises(RuntimeError, match=r"changed in place|modified by an inplace operation"):
            last.sum().backward()

    def test_a_parameter_changed_that_only_replayed_steps_use(self) -> None:
        weight = numbers(3)
        last = scan(
            lambda x, k: torch.sin(weight * x) if k < 3 else x.sin(),
            torch.ones(3).double(),
            range(9),
            checkpoints=3,
        )
        with torch.no_grad():
            weight.add_(1.0)
        with pytest.raises(ReplayError, match=r"a parameter .* was changed in place"):
            last.sum().backward()

    @pytest.mark.parametrize("length", [1, 9])
    def test_a_tensor_overwritten_by_the_step(self, length: int) -> None:
        weight = numbers(3)

        def step(x: Tensor) -> Tensor:
            y = torch.exp(weight * x)
            z = y * 2  # exp saves its result, which the next line overwrites
            y.zero_()
            return z

        last = scan(step, torch.ones(3).double(), length=length, checkpoints=3)
        with pytest.raises(ReplayError, match="was changed in place after the step had used it"):
            last.sum().backward()

    def test_a_state_overwritten_by_the_step(self) -> None:
        weight = numbers(3)
        with pytest.raises(InputError, match="step changed its state in place at step 1"):
            scan(lambda x, k: x.mul_(2) if k else weight * x, torch.ones(3).double(), range(4))


class TestErrors:
    @pytest.mark.parametrize("when", ["forward", "backward"])
    def test_errors_of_the_step_come_with_their_traceback(self, when: str) -> None:
        weight, calls = numbers(3), []

        def breaks_down(x: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) > (5 if when == "forward" else 9):
                raise KeyError("out of luck")
            return torch.sin(weight * x)

        with pytest.raises(KeyError, match="out of luck") as caught:
            scan(breaks_down, torch.ones(3).double(), length=9, checkpoints=3).sum().backward()
        assert any(entry.name == "breaks_down" for entry in caught.traceback)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"state": [torch.ones(2)]}, "state must be a Tensor, or a tuple or dict of Tensors, got list"),
            ({"state": {"a": 1.0}}, "state must be .* got float"),
            ({"length": None}, "scan needs inputs or a length"),
            ({"length": -1}, "length must be a whole number"),
            ({"length": 2.0}, "length must be a whole number"),
            ({"inputs": torch.tensor(1.0), "length": None}, "one slice for each step"),
            ({"inputs": torch.ones(3), "length": 4}, r"got lengths \[3\]; length is 4"),
            ({"inputs": (torch.ones(3), torch.ones(2)), "length": None}, r"got lengths \[2, 3\]"),
            ({"inputs": range(3), "length": 4}, r"got lengths \[3\]; length is 4"),
            ({"inputs": 5, "length": None}, "inputs must be .* got int"),
            ({"offload": "disk"}, "offload must be 'cpu' or None, got 'disk'"),
            ({"checkpoints": "few"}, "checkpoints must be"),
            ({"step": lambda x, *u: (x, x, x)}, r"step must return the state, Tensor, or a pair"),
            ({"step": lambda x, *u: None}, "what step returns must be .* got NoneType"),
            ({"step": lambda x, *u: (x, 1.0)}, "what step returns must be .* got float"),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, Any], message: str) -> None:
        given = {"step": lambda x, *u: x, "state": torch.ones(2), "length": 4, **arguments}
        with pytest.raises(InputError, match=message):
            scan(given.pop("step"), given.pop("state"), **given)
