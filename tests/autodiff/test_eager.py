"""eager_penalty against the plain sum: values, gradients, who is counted how often, errors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otreg.autodiff import eager_penalty
from otreg.errors import InputError


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Network(torch.nn.Module):
    """Two layers, with a penalty on what is between them; the penalty has parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.probe = (torch.nn.Linear(4, 4).double() for _ in range(3))
        for index, parameter in enumerate(self.parameters()):
            parameter.data.copy_(numbers(*parameter.shape, seed=index))

    def single(self, h: Tensor) -> Tensor:
        return self.probe(h).square().sum().sqrt()

    def each(self, h: Tensor) -> Tensor:
        return torch.tanh(self.probe(h)).square().sum(dim=1)


def gradients(network: Network, loss: Tensor, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [x, *network.parameters()]))


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


KINDS = ["single", "each"]
FACTORS: dict[str, list[Any]] = {
    "single": [1.0, torch.tensor(0.3, dtype=torch.float64)],
    "each": [2, torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("place", [0, 1])
def test_in_the_loss(kind: str, weight: float, place: int) -> None:
    """Value and gradients of the plain sum, with equal and with unequal factors of the samples."""
    network, x, factor = Network(), numbers(3, 4).requires_grad_(), FACTORS[kind][place]
    penalty = getattr(network, kind)

    h = torch.sin(network.first(x))
    loss = network.second(h).square().sum() + (factor * weight * penalty(h)).sum()
    expected = gradients(network, loss, x)

    h = torch.sin(network.first(x))
    same_h, value = eager_penalty(h, penalty, weight)
    assert same_h is h
    assert torch.equal(value, weight * penalty(h))
    found = gradients(network, network.second(same_h).square().sum() + (factor * value).sum(), x)
    same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("given_as", ["factor", "call", "filled in"])
def test_scaled_from_outside(kind: str, place: int, given_as: str) -> None:
    """The factor alone decides; the value in the loss, with whatever factor, counts nothing twice."""
    network, x, factor = Network(), numbers(3, 4).requires_grad_(), FACTORS[kind][place]
    penalty = getattr(network, kind)

    h = torch.sin(network.first(x))
    plain = network.second(h).square().sum() + (factor * 0.7 * penalty(h)).sum()
    expected = gradients(network, plain, x)

    late = torch.zeros_like(torch.as_tensor(factor, dtype=torch.float64))
    known: dict[str, Any] = {}
    scale = {"factor": factor, "call": lambda: known["factor"], "filled in": late}[given_as]
    given_h = torch.sin(network.first(x))
    h, value = eager_penalty(given_h, penalty, 0.7, scale_gradient=scale)
    assert torch.equal(h, given_h)
    assert not value.requires_grad
    torch.testing.assert_close(value, 0.7 * penalty(h))
    known["factor"] = factor
    late.copy_(torch.as_tensor(factor))
    same(gradients(network, network.second(h).square().sum() + 5.0 * value.sum(), x), expected)


def test_what_is_not_in_the_loss_does_not_count() -> None:
    network, x = Network(), numbers(3, 4).requires_grad_()
    h, value = eager_penalty(network.first(x), network.each)
    (slope,) = torch.autograd.grad(network.second(h).sum(), x)
    (plain,) = torch.autograd.grad(network.second(network.first(x)).sum(), x)
    assert torch.equal(slope, plain)
    assert value.requires_grad


def test_a_second_backward_pass() -> None:
    """Through the value as in plain autograd; with a factor from outside it would count twice, and is refused."""
    network, x = Network(), numbers(3, 4).requires_grad_()
    _, value = eager_penalty(network.first(x), network.single)
    once = torch.autograd.grad(value, x, retain_graph=True)
    assert torch.equal(once[0], torch.autograd.grad(value, x)[0])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, x)

    h, _ = eager_penalty(network.first(x), network.single, scale_gradient=1.0)
    torch.autograd.grad(h.sum(), x, retain_graph=True)
    with pytest.raises(InputError, match="twice"):
        torch.autograd.grad(h.sum(), x)


def test_gradcheck() -> None:
    """Against finite differences: h, a trainable weight, a parameter, a listed tensor; complex h."""
    network = Network()

    def loss(x: Tensor, weight: Tensor, matrix: Tensor, other: Tensor) -> Tensor:
        listed = other.cos()
        h, value = eager_penalty(
            x.sin(), lambda h: (h @ matrix * listed).tanh().square().sum(dim=1), weight, parameters=[listed]
        )
        h, second = eager_penalty(h, network.single, 0.2)
        return value * torch.arange(3.0) + second + listed.sum() + h.square().sum()

    variables = [numbers(3, 4), numbers(3, seed=1), numbers(4, 4, seed=2), numbers(4, seed=3)]
    assert torch.autograd.gradcheck(loss, [variable.requires_grad_() for variable in variables])

    def of_complex(z: Tensor) -> Tensor:
        return eager_penalty(z * z, lambda h: (h.abs().square() + h.real).sum(dim=1))[1] * torch.arange(3.0)

    z = torch.complex(numbers(3, 2), numbers(3, 2, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(of_complex, (z,))


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64]),
    per_sample=st.booleans(),
    outside=st.booleans(),
)
def test_shapes_and_dtypes(shape: list[int], dtype: torch.dtype, per_sample: bool, outside: bool) -> None:
    per_sample = per_sample and bool(shape)

    def penalty(h: Tensor) -> Tensor:
        size = (h.abs() + h.real).square()
        return size.reshape(len(h), size.numel() // max(len(h), 1)).sum(dim=1) if per_sample else size.sum()

    x = numbers(*shape, dtype=dtype).requires_grad_()
    plain = 0.5 * penalty(x)
    h, value = eager_penalty(x, penalty, 0.5, scale_gradient=1.0 if outside else None)
    assert (value.shape, value.dtype) == (plain.shape, plain.dtype)
    assert torch.equal(value, plain)
    (expected,) = torch.autograd.grad(plain.sum(), x)
    (found,) = torch.autograd.grad((h * 0.0).abs().sum() if outside else value.sum(), x)
    torch.testing.assert_close(found, expected)


class TestTensorsInside:
    def test_tensors_that_depend_on_each_other(self) -> None:
        """The direct part of each, and nothing of the way through another, which the outer graph goes by itself."""
        x, w = numbers(3, 4).requires_grad_(), numbers(4, seed=1).requires_grad_()

        def loss(eager: bool) -> Tensor:
            early = (x * w).sin()
            h = early.exp() * w
            penalty = lambda h: (h * w * early).square().sum(dim=1)  # noqa: E731
            value = eager_penalty(h, penalty, parameters=[early, early, w, x])[1] if eager else penalty(h)
            return (value * torch.arange(3.0)).sum() + early.sum()

        same(list(torch.autograd.grad(loss(True), (x, w))), list(torch.autograd.grad(loss(False), (x, w))))

    def test_h_itself_and_a_tensor_returned_as_it_is(self) -> None:
        x = numbers(3).requires_grad_()
        _, value = eager_penalty(x, lambda h: (h * x).sum())
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], 2 * x.detach())
        _, value = eager_penalty(x, lambda h: h)
        assert torch.equal(torch.autograd.grad(value.sum(), x)[0], torch.ones(3).double())
        w = torch.tensor(2.0, requires_grad=True)
        _, value = eager_penalty(x, lambda h: w)
        assert torch.autograd.grad(value, w)[0] == 1.0

    def test_only_the_parameters_need_gradients(self) -> None:
        network, h = Network(), numbers(3, 4)
        for outside in (None, 1.0):
            kept, value = eager_penalty(h, network.each, scale_gradient=outside)
            loss = value.sum() if outside is None else kept.sum()
            found = torch.autograd.grad(loss, list(network.probe.parameters()))
            same(
                list(found),
                list(torch.autograd.grad(network.each(h).sum(), list(network.probe.parameters()))),
            )

    def test_a_history_that_is_not_listed(self) -> None:
        x = numbers(3).requires_grad_()
        other = x.exp()
        with pytest.raises(
            InputError, match=r"penalty uses a tensor with a history.*ExpBackward0.*parameters"
        ):
            eager_penalty(x.sin(), lambda h: (h * other).sum())
        with pytest.raises(InputError, match="history"):
            eager_penalty(x.sin(), lambda h: (h * other).sum(), parameters=[x])
        other.sum().backward()  # its graph was left alone

    def test_a_gradient_inside_the_penalty(self) -> None:
        """A penalty on slopes, which differentiates for itself."""
        network = Network()

        def penalty(h: Tensor) -> Tensor:
            h = h if h.requires_grad else h.detach().requires_grad_()
            (slope,) = torch.autograd.grad(network.single(h), h, create_graph=True)
            return slope.square().sum()

        h = numbers(3, 4).requires_grad_()
        expected = torch.autograd.grad(penalty(h), [h, *network.probe.parameters()], allow_unused=True)
        found = torch.autograd.grad(
            eager_penalty(h, penalty)[1], [h, *network.probe.parameters()], allow_unused=True
        )
        same([g for g in found if g is not None], [g for g in expected if g is not None])

    def test_random_numbers_agree_in_the_second_run(self) -> None:
        network, x = Network(), numbers(3, 4).requires_grad_()

        def penalty(h: Tensor) -> Tensor:
            return torch.nn.functional.dropout(network.each(h)[:, None] * h, 0.4).square().sum(dim=1)

        found = []
        for eager in (False, True):
            torch.manual_seed(3)
            value = eager_penalty(x, penalty)[1] if eager else penalty(x)
            between = torch.rand(1)
            slopes = torch.autograd.grad((value * torch.arange(3.0)).sum(), [x, *network.probe.parameters()])
            found.append([value, between, *slopes, torch.rand(1)])
        same(found[1], found[0])


class TestSurroundings:
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    @pytest.mark.parametrize("outside", [None, 2.0])
    def test_disabled(self, mode: Any, outside: Any) -> None:
        network, x = Network(), numbers(3, 4).requires_grad_()
        with mode():
            h, value = eager_penalty(x, network.each, 0.5, scale_gradient=outside)
        assert h is x and not value.requires_grad
        assert torch.equal(value, 0.5 * network.each(x).detach())

    def test_nothing_needs_a_gradient(self) -> None:
        x = numbers(3, 4)
        h, value = eager_penalty(x, lambda h: h.square().sum(), scale_gradient=1.0)
        assert h is x and value.grad_fn is None
        h, value = eager_penalty(x.requires_grad_(), lambda h: h.detach().square().sum())
        assert h is x and value.grad_fn is None

    def test_torch_func(self) -> None:
        network, x = Network(), numbers(3, 4)

        def eager(x: Tensor) -> Tensor:
            h, value = eager_penalty(x.sin(), network.each, 0.3)
            return h.sum(dim=1) + value

        def plain(x: Tensor) -> Tensor:
            return x.sin().sum(dim=1) + 0.3 * network.each(x.sin())

        for transform in (torch.func.jacrev, torch.func.jacfwd):
            assert torch.allclose(transform(eager)(x), transform(plain)(x), atol=1e-14)
        one = lambda row: eager(row[None])[0]  # noqa: E731
        assert torch.allclose(torch.func.vmap(one)(x), plain(x), atol=1e-14)
        hessian = torch.func.hessian(lambda x: eager(x).sum())(x)
        assert torch.allclose(hessian, torch.func.hessian(lambda x: plain(x).sum())(x), atol=1e-14)
        with pytest.raises(InputError, match="scale_gradient"):
            torch.func.grad(lambda x: eager_penalty(x, network.single, scale_gradient=1.0)[0].sum())(x)

    def test_twice(self) -> None:
        """Refused with its reason; the first derivative may be asked for with a graph."""
        network, x = Network(), numbers(3, 4).requires_grad_()
        for outside in (None, 1.0):
            h, value = eager_penalty(network.first(x), network.each, scale_gradient=outside)
            (slope,) = torch.autograd.grad(h.sum() + value.sum(), x, create_graph=True)
            h = network.first(x)
            (expected,) = torch.autograd.grad(h.sum() + network.each(h).sum(), x)
            torch.testing.assert_close(slope.detach(), expected)
            for asked in (x, network.probe.weight):
                with pytest.raises(InputError, match="cannot be differentiated again"):
                    torch.autograd.grad(slope.square().sum(), asked, retain_graph=True, allow_unused=True)

    def test_autocast(self) -> None:
        """Products in bfloat16 inside the penalty, gradients as of a backward pass outside."""
        network, x = Network().float(), numbers(3, 4, dtype=torch.float32).requires_grad_()
        seen: list[torch.dtype] = []

        def penalty(h: Tensor) -> Tensor:
            y = network.probe(network.first(h))
            seen.append(y.dtype)
            return y.float().square().sum(dim=1)

        found = []
        for eager in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                h = network.first(x).float()
                h, value = eager_penalty(h, penalty) if eager else (h, penalty(h))
                loss = network.probe(h).float().sum() + (value * torch.arange(3.0)).sum()
            found.append([loss, *torch.autograd.grad(loss, [x, *network.parameters()], allow_unused=True)])
        assert set(seen) == {torch.bfloat16} and len(seen) == 3  # plain, eager, and again for its parameters
        for one, other in zip(*found, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                # a weight that is cast once or twice adds its gradients up in float32 or in bfloat16
                torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(one.detach().abs().max()))

    def test_in_place_after_the_penalty(self) -> None:
        """As in a network with in-place activations: the stored gradient does not mind."""
        x = numbers(3, 4).requires_grad_()
        expected = torch.autograd.grad((x * 2.0).relu().sum() + (x * 2.0).square().sum(), x)
        for outside in (None, 1.0):
            h, value = eager_penalty(x * 2.0, lambda h: h.square().sum(), scale_gradient=outside)
            found = torch.autograd.grad(torch.relu_(h).sum() + value, x)
            same(list(found), list(expected))

    def test_checkpointed(self) -> None:
        network, x = Network(), numbers(3, 4).requires_grad_()

        def block(x: Tensor) -> tuple[Tensor, Tensor]:
            h, value = eager_penalty(network.first(x).sin(), network.each, 0.3)
            return network.second(h).sum(dim=1), value

        def loss(pair: tuple[Tensor, Tensor]) -> Tensor:
            return pair[0].sum() + (pair[1] * torch.arange(3.0)).sum()

        found = gradients(network, loss(torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)), x)
        same(found, gradients(network, loss(block(x)), x))

    def test_hooks_around_hold_on_to_nothing_of_the_penalty(self) -> None:
        x, sizes = numbers(3, 4).requires_grad_(), []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.shape)
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            eager_penalty(x, lambda h: (h[:, :, None] * h[:, None]).exp().sum())
        assert sizes == [(3, 4)]


def test_everything_is_freed() -> None:
    """The penalty's graph at once, the stored gradient after the backward pass; no cycles either."""
    inner: list[weakref.ref[Tensor]] = []

    def penalty(h: Tensor) -> Tensor:
        product = h.exp()
        inner.append(weakref.ref(product))
        return product.sum()

    gc.disable()
    try:
        x = numbers(7, 11, 13).requires_grad_()
        for outside in (None, 1.0):
            h, value = eager_penalty(x * 2.0, penalty, scale_gradient=outside)
            assert inner.pop()() is None
            watched = weakref.ref((value if outside is None else h).grad_fn)
            (h.sum() + value).backward(retain_graph=True)
            assert watched() is not None
            del value, h
            assert watched() is None
    finally:
        gc.enable()


BAD: list[tuple[Callable[[Tensor], Any], type[Exception], str]] = [
    (lambda h: 1.0, TypeError, "penalty must return a Tensor, got float"),
    (lambda h: h, InputError, r"penalty must return a Tensor of shape \(\) or \(3,\).*got \(3, 4\)"),
    (lambda h: h.sum(dim=0), InputError, r"got \(4,\)"),
    (lambda h: h.sum(dim=1, keepdim=True), InputError, r"got \(3, 1\)"),
    (lambda h: (h > 0).sum(), InputError, "real floating numbers, got torch.int64"),
    (lambda h: torch.complex(h, h).sum(), InputError, "real floating numbers, got torch.complex128"),
    (lambda h: 1 // 0, ZeroDivisionError, "zero"),
]


class TestErrors:
    @pytest.mark.parametrize("grad", [True, False])
    @pytest.mark.parametrize("penalty, kind, message", BAD)
    def test_penalties(self, penalty: Any, kind: Any, message: str, grad: bool) -> None:
        with torch.set_grad_enabled(grad), pytest.raises(kind, match=message):
            eager_penalty(numbers(3, 4).requires_grad_(), penalty)

    def test_arguments(self) -> None:
        x = numbers(3, 4).requires_grad_()
        with pytest.raises(TypeError, match="h must be a Tensor, got list"):
            eager_penalty([1.0], torch.sum)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"h must be floating or complex.*int64"):
            eager_penalty(torch.arange(3), torch.sum)
        with pytest.raises(InputError, match=r"weight must be one number.*\(\), got \(3,\)"):
            eager_penalty(x, torch.sum, numbers(3))
        with pytest.raises(InputError, match="weight must be a number or a Tensor, got str"):
            eager_penalty(x, torch.sum, "1")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="leave out scale_gradient"):
            eager_penalty(x, torch.sum, numbers(1).requires_grad_(), scale_gradient=1.0)

    @pytest.mark.parametrize("factor, message", [(numbers(4), r"\(3,\), got \(4,\)"), (None, "NoneType")])
    def test_factors_come_late(self, factor: Any, message: str) -> None:
        x = numbers(3, 4).requires_grad_()
        h, _ = eager_penalty(x, lambda h: h.sum(dim=1), scale_gradient=lambda: factor)
        with pytest.raises(InputError, match=rf"scale_gradient must be .*{message}"):
            h.sum().backward()

    def test_in_place_inside(self) -> None:
        def penalty(h: Tensor) -> Tensor:
            y = h.exp()
            y.mul_(2.0)
            return y.sum()

        with pytest.raises(InputError, match="changed a tensor in place"):
            eager_penalty(numbers(3).requires_grad_(), penalty)
        with pytest.raises(RuntimeError, match="in-place"):
            eager_penalty(numbers(3).requires_grad_(), lambda h: h.mul_(2.0).sum())

    def test_a_parameter_changed_before_the_second_run(self) -> None:
        network, x = Network(), numbers(3, 4).requires_grad_()
        _, value = eager_penalty(x, network.each)
        with torch.no_grad():
            network.probe.weight.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            (value * torch.arange(3.0)).sum().backward()
