"""scan where gradients are off, under torch.func, autocast and dropout, and where nothing needs a gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from otreg.autodiff import Snapshots, scan

CHECKPOINTS: list[Any] = ["sqrt", 2, Snapshots(2)]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
class TestRandomNumbers:
    def test_dropout_agrees_and_the_global_state_is_as_after_a_plain_loop(self, checkpoints: Any) -> None:
        weight = numbers(8).requires_grad_()

        def run(checkpoints: Any) -> list[Tensor]:
            torch.manual_seed(3)
            x = scan(
                lambda x: torch.nn.functional.dropout(torch.sin(weight * x), 0.4) + torch.randn(8).double(),
                torch.ones(8, dtype=torch.float64),
                length=11,
                checkpoints=checkpoints,
            )
            between = torch.rand(2)
            (slope,) = torch.autograd.grad(x.sum(), weight)
            return [x, between, slope, torch.rand(2), torch.get_rng_state()]

        for found, expected in zip(run(checkpoints), run("all"), strict=True):
            assert torch.equal(found, expected)

    def test_generators_of_the_users_own(self, checkpoints: Any) -> None:
        weight = numbers(8).requires_grad_()

        def run(checkpoints: Any) -> list[Tensor]:
            own = torch.Generator().manual_seed(4)
            x = scan(
                lambda x: torch.sin(weight * x) * torch.rand(8, generator=own),
                torch.ones(8, dtype=torch.float64),
                length=11,
                checkpoints=checkpoints,
                generators=[own],
            )
            (slope,) = torch.autograd.grad(x.sum(), weight)
            return [slope, own.get_state()]

        for found, expected in zip(run(checkpoints), run("all"), strict=True):
            assert torch.equal(found, expected)

    def test_an_error_in_the_backward_pass_leaves_the_global_state(self, checkpoints: Any) -> None:
        weight, calls = numbers(3).requires_grad_(), []

        def step(x: Tensor) -> Tensor:
            calls.append(torch.rand(1))
            if len(calls) > 9:
                raise ValueError("enough")
            return torch.sin(weight * x)

        last = scan(step, torch.ones(3).double(), length=9, checkpoints=checkpoints)
        state = torch.get_rng_state()
        with pytest.raises(ValueError, match="enough"):
            last.sum().backward()
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
class TestTransforms:
    def test_derivatives_of_torch_func(self, checkpoints: Any) -> None:
        weight, start = numbers(3), numbers(3, seed=1)

        def loop(weight: Tensor, start: Tensor) -> Tensor:
            return scan(lambda x: torch.sin(weight * x), start, length=7, checkpoints=checkpoints)

        def plain(weight: Tensor, start: Tensor) -> Tensor:
            for _ in range(7):
                start = torch.sin(weight * start)
            return start

        expected = torch.autograd.functional.jacobian(plain, (weight, start))
        for transform in (torch.func.jacrev, torch.func.jacfwd):
            found = transform(loop, argnums=(0, 1))(weight, start)
            for one, other in zip(found, expected, strict=True):
                assert torch.allclose(one, other, atol=1e-14)
        hessian = torch.func.hessian(lambda w: loop(w, start).sum())(weight)
        assert torch.allclose(
            hessian, torch.autograd.functional.hessian(lambda w: plain(w, start).sum(), weight), atol=1e-14
        )
        mapped = torch.func.vmap(loop)(weight[:, None], start[:, None])[:, 0]
        assert torch.allclose(mapped, plain(weight, start), atol=1e-14)

    def test_forward_mode(self, checkpoints: Any) -> None:
        weight, start, along = numbers(3), numbers(3, seed=1), numbers(3, seed=2)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(weight.requires_grad_(), along)
            last = scan(lambda x: torch.sin(dual * x), start, length=7, checkpoints=checkpoints)
            tangent = torch.autograd.forward_ad.unpack_dual(last).tangent
            # the derivative of a forward derivative, which the loop has to store for itself
            (mixed,) = torch.autograd.grad(tangent.sum(), weight)
        loop = lambda w: scan(lambda x: torch.sin(w * x), start, length=7, checkpoints="all").sum()  # noqa: E731
        hessian = torch.autograd.functional.hessian(loop, weight.detach())
        assert torch.allclose(mixed, hessian @ along, atol=1e-13)

    def test_functional_call(self, checkpoints: Any) -> None:
        module = torch.nn.Linear(3, 3).double()
        parameters = {name: numbers(*p.shape).requires_grad_() for name, p in module.named_parameters()}

        def step(x: Tensor) -> Tensor:
            return torch.tanh(torch.func.functional_call(module, parameters, (x,)))

        last = scan(step, torch.ones(3).double(), length=7, checkpoints=checkpoints)
        stored = scan(step, torch.ones(3).double(), length=7, checkpoints="all")
        found = torch.autograd.grad(last.sum(), list(parameters.values()))
        for one, other in zip(
            found, torch.autograd.grad(stored.sum(), list(parameters.values())), strict=True
        ):
            assert torch.equal(one, other)
        assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
def test_autocast_is_entered_again(checkpoints: Any) -> None:
    linear = torch.nn.Linear(8, 8)
    torch.nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(1))
    seen: list[torch.dtype] = []

    def step(x: Tensor) -> Tensor:
        y = linear(x)
        seen.append(y.dtype)
        return torch.tanh(y.float())

    def run(checkpoints: Any) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            last = scan(step, torch.ones(2, 8), length=7, checkpoints=checkpoints)
        return [last, *torch.autograd.grad(last.sum(), list(linear.parameters()))]

    for found, expected in zip(run(checkpoints), run("all"), strict=True):
        assert torch.equal(found, expected)
    assert set(seen) == {torch.bfloat16}
    # and the other way round: autocast around the backward pass alone does not reach the steps
    last = scan(step, torch.ones(2, 8), length=7, checkpoints=checkpoints)
    stored = scan(step, torch.ones(2, 8), length=7, checkpoints="all")
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        slopes = torch.autograd.grad(last.sum(), list(linear.parameters()))
        wanted = torch.autograd.grad(stored.sum(), list(linear.parameters()))
    assert set(seen) == {torch.float32}
    for slope, other in zip(slopes, wanted, strict=True):
        assert torch.equal(slope, other)


class TestWithoutGradients:
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_disabled(self, mode: Any) -> None:
        weight = numbers(3).requires_grad_()
        with mode():
            last, outputs = scan(lambda x: (weight * x, x), torch.ones(3).double(), length=5)
        assert not last.requires_grad and not outputs.requires_grad
        assert torch.allclose(last, weight.detach() ** 5)

    def test_none_gives_a_detached_result(self) -> None:
        weight = numbers(3).requires_grad_()
        modes: list[bool] = []

        def step(x: Tensor) -> Tensor:
            modes.append(torch.is_grad_enabled())
            return weight * x

        last = scan(step, torch.ones(3).double(), length=5, checkpoints="none")
        assert not last.requires_grad
        assert modes == [False] * 5
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize("checkpoints", CHECKPOINTS)
    def test_nothing_requires_any(self, checkpoints: Any) -> None:
        runs: list[int] = []

        def step(x: Tensor) -> Tensor:
            runs.append(1)
            return x.sin()

        last = scan(step, torch.ones(3).double(), length=20, checkpoints=checkpoints)
        assert not last.requires_grad and last.grad_fn is None
        assert len(runs) == 20

    def test_tensors_of_inference_mode(self) -> None:
        with torch.inference_mode():
            start = torch.ones(3).double()
        assert scan(lambda x: x + 1, start, length=3).tolist() == [4.0] * 3

    @pytest.mark.parametrize("checkpoints", CHECKPOINTS)
    def test_gradients_that_begin_in_the_middle(self, checkpoints: Any) -> None:
        """Steps before the first that needs a gradient are not run again from the start of the loop."""
        weight, runs = numbers(3).requires_grad_(), []

        def step(x: Tensor, index: int) -> Tensor:
            runs.append(index)
            return torch.sin(weight * x) if index >= 12 else x.sin()

        last = scan(step, torch.ones(3).double(), range(16), checkpoints=checkpoints)
        runs.clear()
        (slope,) = torch.autograd.grad(last.sum(), weight)
        # √16 = 4 and 2 divide 12; the binomial schedule of two snapshots begins at its second, step 10
        assert min(runs, default=12) == (10 if isinstance(checkpoints, Snapshots) else 12)
        stored = scan(step, torch.ones(3).double(), range(16), checkpoints="all")
        assert torch.equal(slope, torch.autograd.grad(stored.sum(), weight)[0])


def test_states_offloaded() -> None:
    """On the CPU nothing changes; the gradient is the same."""
    weight = numbers(3).requires_grad_()

    def run(**settings: Any) -> Tensor:
        last = scan(lambda x: torch.sin(weight * x), torch.ones(3).double(), length=12, **settings)
        return torch.autograd.grad(last.sum(), weight)[0]

    assert torch.equal(run(offload="cpu"), run(checkpoints="all"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
def test_on_a_gpu(checkpoints: Any) -> None:
    """Gradients, dropout and offloaded states on CUDA, and the memory that is saved."""
    weight = numbers(1_000_000).float().cuda().requires_grad_()

    def run(checkpoints: Any) -> tuple[list[Tensor], int]:
        torch.manual_seed(1)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        last = scan(
            lambda x: torch.nn.functional.dropout(torch.sin(weight * x), 0.3),
            torch.ones_like(weight),
            length=64,
            checkpoints=checkpoints,
            offload="cpu",
        )
        slope = torch.autograd.grad(last.sum(), weight)[0]
        return [last.detach(), slope], torch.cuda.max_memory_allocated() - before

    (found, small), (expected, large) = run(checkpoints), run("all")
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert small < large / 2
