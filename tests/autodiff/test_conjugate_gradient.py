"""Linear systems in a graph against torch.linalg.solve, finite differences and measured memory."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck

from otreg.autodiff import ConjugateGradient, Stop, conjugate_gradient
from otreg.errors import ConvergenceWarning, InputError
from tests.autodiff.memory import peaks


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def matrix(size: int, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    root = numbers(*batch, size, size, seed=9, dtype=dtype)
    return root @ root.mH + torch.eye(size, dtype=dtype)


class Lazy:
    """What is known of a LazyTensor: it multiplies, and nothing else."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.matrix @ v if v.dim() > 1 else (self.matrix @ v)[:, None]


FORMS: dict[str, Callable[[Tensor], tuple[Any, dict[str, Any]]]] = {
    "function": lambda a: (lambda v: a @ v, {"parameters": (a,), "dims": 0}),
    "tensor": lambda a: (a, {}),
    "lazy": lambda a: (Lazy(a), {"parameters": (a,)}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_equals_a_dense_solve(form: str, dtype: torch.dtype, columns: tuple[int, ...]) -> None:
    """Value, gradient, and gradient of the gradient's square, in b and in A."""
    b, weights = numbers(8, *columns, dtype=dtype).requires_grad_(), numbers(8, *columns, seed=2, dtype=dtype)
    root = numbers(8, 8, seed=9, dtype=dtype).requires_grad_()

    def by_cg(a: Tensor) -> Tensor:
        given_a, named = FORMS[form](a)
        return conjugate_gradient(given_a, b, tol=1e-13, **named)

    found: list[tuple[Tensor, ...]] = []
    for solver in (by_cg, lambda a: torch.linalg.solve(a, b)):
        x = solver(root @ root.mH + torch.eye(8, dtype=dtype))
        first = grad((weights * x).real.sum() + (x * x.conj()).real.sum(), (root, b), create_graph=True)
        found.append((x, *first, *grad(sum((each * each.conj()).real.sum() for each in first), (root, b))))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-8 * float(other.detach().abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_first_and_second_derivatives(dtype: torch.dtype) -> None:
    b, root = numbers(3, 2, dtype=dtype).requires_grad_(), numbers(3, 3, dtype=dtype).requires_grad_()
    shift = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def of_function(b: Tensor, root: Tensor, shift: Tensor) -> Tensor:
        return conjugate_gradient(
            lambda v: root @ (root.mH @ v) + shift.exp() * v, b, None, (root, shift), dims=0, tol=1e-13
        )

    def of_tensor(b: Tensor, root: Tensor) -> Tensor:
        return conjugate_gradient(root @ root.mH + torch.eye(3, dtype=dtype), b, tol=1e-13)

    for function, inputs in ((of_function, (b, root, shift)), (of_tensor, (b, root))):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_keops() -> None:
    """A LazyTensor as it is, with the gradient of the points behind it."""
    keops = pytest.importorskip("pykeops.torch", reason="pykeops is not installed")
    side = torch.arange(4.0).double()
    x, b = torch.cartesian_prod(side, side, side).requires_grad_(), numbers(64, 1).requires_grad_()
    one, other = keops.LazyTensor(x[:, None]), keops.LazyTensor(x[None])
    found = conjugate_gradient((-((one - other) ** 2).sum(-1)).exp(), b, parameters=(x,))
    expected = torch.linalg.solve((-(x[:, None] - x[None]).square().sum(-1)).exp(), b)
    assert torch.allclose(found, expected, rtol=1e-7)
    for ours, dense in zip(
        grad(found.square().sum(), (x, b)), grad(expected.square().sum(), (x, b)), strict=True
    ):
        assert torch.allclose(ours, dense, rtol=1e-6, atol=1e-7)


def test_what_is_listed_may_have_a_history() -> None:
    """And a history that others use, too; each part of the graph is gone through once."""
    raw, b = numbers(6).requires_grad_(), numbers(6, seed=1).requires_grad_()
    diagonal = raw.exp()
    x = conjugate_gradient(lambda v: diagonal * v + v.sum(), b, parameters=(diagonal,), tol=1e-13)
    loss = x.square().sum() + diagonal.sum()
    dense = torch.linalg.solve(torch.diag(raw.exp()) + 1.0, b)
    expected = grad(dense.square().sum() + raw.exp().sum(), (raw, b))
    for one, other in zip(grad(loss, (raw, b)), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-9)


def test_layers_of_solves() -> None:
    """A network of data-consistency steps, as plain autograd through dense solves has it."""
    root, step = numbers(5, 5).requires_grad_(), torch.tensor(0.3).double().requires_grad_()
    start = numbers(3, 5, seed=4)

    def network(solve: Callable[[Tensor], Tensor]) -> Tensor:
        x = start
        for _ in range(4):
            x = solve(torch.tanh(x + step))
        return x.square().sum()

    def normal(v: Tensor) -> Tensor:
        return (v @ root.T) @ root + step * v

    ours = network(lambda b: conjugate_gradient(normal, b, None, (root, step), dims=1, tol=1e-13))
    dense = network(lambda b: torch.linalg.solve(root.T @ root + step * torch.eye(5).double(), b.T).T)
    assert torch.allclose(ours, dense, rtol=1e-10)
    for one, other in zip(grad(ours, (root, step)), grad(dense, (root, step)), strict=True):
        assert torch.allclose(one, other, rtol=1e-8)


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        ((), (3, 5, 2)),
        ((3,), (3, 5)),
        ((3,), (3, 5, 2)),
        ((3,), (5, 2)),
        ((2, 3), (3, 5, 1)),
        ((2, 3), (2, 3, 5)),
    ],
)
def test_batches_of_matrices(batch: tuple[int, ...], shape: tuple[int, ...]) -> None:
    a, b = matrix(5, *batch).requires_grad_(), numbers(*shape).requires_grad_()
    vectors = shape == (*batch, 5)
    expected = torch.linalg.solve(a, b)
    found = conjugate_gradient(a, b, tol=1e-12, return_info=True)
    assert torch.allclose(found.solution, expected, rtol=1e-9, atol=1e-10)
    assert found.residual.shape == (
        expected.shape[:-1] if vectors else (*expected.shape[:-2], expected.shape[-1])
    )
    for one, other in zip(grad(found.solution.sum(), (a, b)), grad(expected.sum(), (a, b)), strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    places=st.sets(st.integers(0, 2), min_size=1),
    dtype=st.sampled_from((torch.float32, torch.complex64, torch.float64, torch.complex128)),
)
def test_any_shape(shape: list[int], places: set[int], dtype: torch.dtype) -> None:
    """``A v = v + c mean(v)`` of each system: its inverse is ``b - c/(1+c) mean(b)``, and b's gradient likewise."""
    axes = tuple({place % len(shape) for place in places})
    b = numbers(*shape, dtype=dtype).requires_grad_()
    factor = torch.tensor(2.0, dtype=b.real.dtype, requires_grad=True)
    x = conjugate_gradient(lambda v: v + factor * v.mean(axes, keepdim=True), b, None, (factor,), dims=axes)
    assert x.dtype == dtype
    assert torch.allclose(x, b - 2 / 3 * b.mean(axes, keepdim=True), atol=1e-4)
    weights = numbers(*shape, seed=5, dtype=dtype)
    found = grad(x, (b, factor), weights)
    assert torch.allclose(found[0], weights - 2 / 3 * weights.mean(axes, keepdim=True), atol=1e-4)
    # d/dc of -c/(1+c) is -1/(1+c)²
    slope = (-1 / 9 * weights.conj() * b.mean(axes, keepdim=True)).real.sum()
    assert torch.allclose(found[1], slope, atol=1e-3)


def test_tiny_cotangents() -> None:
    """Gradients of 1e-30 in single precision, whose squares are 0, are those of 1, scaled."""
    a, b = matrix(6).float().requires_grad_(), numbers(6).float().requires_grad_()
    weights = numbers(6, seed=3).float()
    plain = grad(conjugate_gradient(a, b, tol=1e-6), (a, b), weights)
    tiny = grad(conjugate_gradient(a, b, tol=1e-6), (a, b), weights * 1e-30)
    for one, other in zip(plain, tiny, strict=True):
        assert torch.allclose(one, other * 1e30, rtol=1e-4, atol=1e-6) and bool(one.any())
    nothing = grad(conjugate_gradient(a, b, tol=1e-6), (a, b), weights * 0)
    assert not any(bool(each.any()) for each in nothing)


def test_guesses_and_preconditioners_change_nothing_but_the_count() -> None:
    a = matrix(30) + torch.diag(torch.logspace(0, 4, 30, dtype=torch.float64))
    b = numbers(30, 2).requires_grad_()
    inverse, x0 = torch.diag(1 / a.diagonal()), numbers(30, 2, seed=7).requires_grad_()
    a.requires_grad_()
    plain = conjugate_gradient(a, b, return_info=True)
    expected = grad(plain.solution.sum(), (a, b))
    for preconditioner in (inverse, Lazy(inverse), lambda r: inverse @ r):
        found = conjugate_gradient(a, b, x0, M=preconditioner, return_info=True)
        assert bool((found.iterations < plain.iterations).all())
        *slopes, of_guess = grad(found.solution.sum(), (a, b, x0), allow_unused=True)
        assert of_guess is None
        for one, other in zip((found.solution, *slopes), (plain.solution, *expected), strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)
    again = conjugate_gradient(a, b, plain.solution.detach(), return_info=True)
    assert again.iterations.tolist() == [0, 0]


class TestReports:
    def test_a_solve_that_arrives_is_silent(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = conjugate_gradient(matrix(9), numbers(9, 2), return_info=True)
        assert isinstance(found, ConjugateGradient) and found.converged.tolist() == [True, True]
        assert bool((found.residual <= 1e-10).all()) and found.stopped.tolist() == [Stop.CONVERGED] * 2

    def test_the_cap(self) -> None:
        a, b = matrix(30), numbers(30)
        with pytest.warns(
            ConvergenceWarning, match=r"stopped after 3 iterations .* max_iterations were done"
        ) as caught:
            found = conjugate_gradient(a, b, max_iterations=3, return_info=True)
        assert caught[0].filename == __file__
        true = (b - a @ found.solution).norm() / b.norm()
        assert torch.allclose(found.residual, true) and f"{float(true):.2g}" in str(caught[0].message)
        assert found.iterations == 3 and not found.converged and found.stopped == Stop.ITERATIONS

    def test_matrices_that_are_not_positive(self) -> None:
        a = torch.diag(torch.tensor([2.0, -1.0, 3.0]))
        b = torch.eye(3)
        with pytest.warns(ConvergenceWarning, match=r"in 1 of 3 systems.* A is not positive definite"):
            found = conjugate_gradient(a, b, return_info=True)
        assert found.stopped.tolist() == [Stop.CONVERGED, Stop.INDEFINITE, Stop.CONVERGED]
        assert torch.allclose(found.solution[:, ::2], torch.linalg.solve(a, b)[:, ::2])
        with pytest.warns(ConvergenceWarning, match=r"M is not positive definite"):
            conjugate_gradient(a.abs(), b, M=-torch.eye(3))
        with pytest.warns(ConvergenceWarning, match=r"not finite"):
            conjugate_gradient(lambda v: v / 0, b)

    def test_a_singular_matrix(self) -> None:
        a = torch.ones(4, 4).double()
        with pytest.warns(ConvergenceWarning, match=r"residual of 1\b"):
            conjugate_gradient(a, torch.tensor([1.0, -1.0, 0.0, 0.0]).double())
        assert torch.allclose(conjugate_gradient(a, torch.ones(4).double()), torch.full((4,), 0.25).double())

    def test_rounding_is_told_from_arriving(self) -> None:
        """The recurrence goes on to any tolerance; ``b - A x`` does not."""
        a = torch.diag(torch.logspace(0, 5, 40))
        with pytest.warns(ConvergenceWarning, match="rounding lets it come no further"):
            found = conjugate_gradient(a, torch.ones(40), tol=1e-9, max_iterations=10_000, return_info=True)
        true = (torch.ones(40).double() - a.double() @ found.solution.double()).norm() / 40**0.5
        assert found.stopped == Stop.ROUNDING
        assert 1e-9 < float(found.residual) < 1e-5 and float(true) < 1e-5

    def test_the_backward_pass(self) -> None:
        values = torch.linspace(1, 9, 9).double()
        b = torch.zeros(9).double().index_fill(0, torch.tensor(2), 1.0).requires_grad_()
        x = conjugate_gradient(torch.diag(values), b, max_iterations=2)
        with pytest.warns(
            ConvergenceWarning, match="the backward pass of conjugate_gradient stopped after 2"
        ):
            x.sum().backward()


class TestSurroundings:
    def test_nothing_is_kept_without_gradients(self) -> None:
        a, b = matrix(5), numbers(5)
        assert not conjugate_gradient(a, b).requires_grad
        with torch.no_grad():
            free = conjugate_gradient(lambda v: a @ v, b.requires_grad_(), None, (a.requires_grad_(),))
        assert not free.requires_grad
        assert conjugate_gradient(a, b).requires_grad

    def test_products_are_counted(self) -> None:
        """One more product than iterations, forward and backward; one for the parameters, none if none needs it."""
        a, b, count = matrix(20), numbers(20).requires_grad_(), [0]
        theta = torch.tensor(1.0).double().requires_grad_()

        def product(v: Tensor) -> Tensor:
            count[0] += 1
            return theta * (a @ v)

        found = conjugate_gradient(product, b, None, (theta,), return_info=True)
        assert count[0] == int(found.iterations) + 1
        forward, count[0] = count[0], 0
        found.solution.backward(b.detach())
        assert count[0] == forward + 1
        theta.requires_grad_(False)
        found, count[0] = conjugate_gradient(product, b, None, (theta,), return_info=True), 0
        found.solution.backward(b.detach())
        assert count[0] == forward

    def test_tensors_that_are_not_listed_are_found(self) -> None:
        weight, b = numbers(5).requires_grad_(), numbers(5, seed=1)
        squared = weight.square() + 1
        for product in (lambda v: weight.square() * v + v, lambda v: squared * v):
            with pytest.raises(
                InputError, match=r"A depends on a tensor of shape \(5,\) .* put it into parameters"
            ):
                conjugate_gradient(product, b)
            with torch.no_grad():
                conjugate_gradient(product, b)
        assert conjugate_gradient(lambda v: squared * v, b, None, (squared,)).requires_grad
        module = torch.nn.Linear(5, 5, bias=False).double()
        x = conjugate_gradient(
            lambda v: module(v) @ module.weight + v, b, parameters=tuple(module.parameters())
        )
        x.sum().backward()
        dense = module.weight.detach().T @ module.weight.detach() + torch.eye(5).double()
        u, solution = torch.linalg.solve(dense, torch.stack([torch.ones(5).double(), b], 1)).T
        expected = -module.weight.detach() @ (torch.outer(u, solution) + torch.outer(solution, u))
        assert module.weight.grad is not None and torch.allclose(module.weight.grad, expected, rtol=1e-7)

    def test_autocast_is_kept_out(self) -> None:
        a = matrix(8).float()
        b = numbers(8, 2).float().requires_grad_()
        expected = conjugate_gradient(lambda v: a @ v, b, dims=0)
        (slope,) = grad(expected.sum(), b)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = conjugate_gradient(lambda v: a @ v, b, dims=0)
            (same,) = grad(found.sum(), b)
            assert conjugate_gradient(lambda v: a @ v, b.bfloat16(), dims=0).dtype == torch.float32
            assert torch.is_autocast_enabled("cpu")
        assert torch.equal(found, expected) and torch.equal(same, slope)

    def test_transforms_are_refused(self) -> None:
        a, b = matrix(3), numbers(2, 3)

        def solved(v: Tensor) -> Tensor:
            return conjugate_gradient(lambda u: a @ u, v)

        def forward_mode(v: Tensor) -> Tensor:
            return torch.func.jvp(solved, (v,), (v,))[1]

        for transformed in (torch.func.vmap(solved), torch.func.jacrev(solved), forward_mode):
            with pytest.raises(InputError, match=r"cannot run under torch\.func"):
                transformed(b)

    @pytest.mark.parametrize("when", ["forward", "backward"])
    def test_errors_come_with_their_traceback(self, when: str) -> None:
        a, b, count = matrix(6), numbers(6).requires_grad_(), [0]

        def breaks_down(v: Tensor) -> Tensor:
            count[0] += 1
            if count[0] > (3 if when == "forward" else 9):
                raise KeyError("out of luck")
            return a @ v

        with pytest.raises(KeyError, match="out of luck") as caught:
            conjugate_gradient(breaks_down, b).sum().backward()
        assert any(frame.name == "breaks_down" for frame in traceback.extract_tb(caught.value.__traceback__))

    def test_a_parameter_changed_meanwhile(self) -> None:
        weight = torch.ones(3).requires_grad_()
        x = conjugate_gradient(lambda v: weight * v, torch.ones(3), None, (weight,))
        with torch.no_grad():
            weight.add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            x.sum().backward()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"b": torch.ones(3, dtype=torch.int64)}, "b must be float32, .* got torch.int64"),
            ({"b": torch.tensor([1.0, torch.nan, 0.0])}, "b must be finite"),
            ({"b": [1.0]}, "b must be a Tensor, got list"),
            ({"tol": 0.0}, "tol must be a positive number"),
            ({"max_iterations": -1}, "max_iterations must be a whole number"),
            ({"dims": 1}, r"dims must name dimensions of b, of shape \(3,\), got 1"),
            ({"dims": ()}, "dims must name dimensions"),
            ({"A": 3.0}, "A must be a function, a Tensor or have '@', got float"),
            ({"A": lambda v: v[:2]}, r"A\(v\) must have shape \(3,\), got \(2,\)"),
            ({"A": lambda v: v.double()}, r"A\(v\) must have dtype torch.float32, got torch.float64"),
            ({"A": lambda v: None}, r"A\(v\) must be a Tensor, got NoneType"),
            ({"A": torch.eye(3), "dims": 0}, "dims are for functions"),
            ({"A": Lazy(torch.eye(3)), "dims": 0}, "dims are for functions"),
            ({"A": torch.eye(2)}, r"b must have shape \(2,\) or \(..., 2, k\), got \(3,\)"),
            ({"A": torch.ones(2, 3, 3), "b": torch.ones(3, 3, 1)}, r"b must have shape \(2, 3\) or"),
            ({"A": torch.ones(3)}, r"A must have shape \(n, n\) or"),
            ({"A": torch.eye(3).double()}, "A is torch.float64 .* but b is torch.float32"),
            ({"A": torch.tensor([[1.0, 2], [0, 1]]), "b": torch.ones(2)}, "A must be symmetric"),
            ({"M": 1.0}, "M must be a function"),
            ({"M": lambda v: v[:1]}, r"M\(v\) must have shape"),
            ({"x0": torch.ones(2)}, r"x0 must have shape \(3,\), got \(2,\)"),
            ({"parameters": torch.ones(2)}, "parameters must be a sequence of Tensors"),
            ({"parameters": (1.0,)}, "parameters must be Tensors, got float"),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises((InputError, TypeError), match=message):
            conjugate_gradient(**{"A": lambda v: 2 * v, "b": torch.ones(3), **arguments})


def test_memory_does_not_grow_with_the_iterations() -> None:
    """Value and gradient: the same at 5 and at 40 iterations; eight vectors, and the graph of one product."""
    preparation = """
import warnings
from otreg.autodiff import conjugate_gradient
warnings.simplefilter("ignore")
def measured(size, count, plain=False):
    b = torch.ones(size, requires_grad=True)
    values = torch.linspace(1, 100, size).requires_grad_()
    theta = torch.ones((), requires_grad=True)
    def product(v):
        return values * v * theta + v
    if plain:
        x, r = torch.zeros_like(b), b
        p, rr = r, (r * r).sum()
        for _ in range(count):
            image = product(p)
            step = rr / (p * image).sum()
            x, r = x + step * p, r - step * image
            new = (r * r).sum()
            p, rr = r + new / rr * p, new
    else:
        x = conjugate_gradient(product, b, None, (values, theta), tol=1e-30, max_iterations=count)
    x.sum().backward()
measured(10, 3)
"""
    size, megabytes = 1 << 18, 1.0
    cases = [(size, 5), (size, 40), (4 * size, 5), (4 * size, 40), (size, 40, True)]
    few, many, large, large_many, plain = peaks(preparation, list(cases))
    for found, scale in ((few, 1), (many, 1), (large, 4), (large_many, 4)):
        assert found < 22 * megabytes * scale + 4
    assert abs(many - few) < 3 and abs(large_many - large) < 6
    assert plain > 3 * 40 * megabytes
