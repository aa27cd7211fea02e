"""Proximal least squares against dense solves, finite differences and measured memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck

from otreg.autodiff import Stop, proximal_least_squares
from otreg.errors import ConvergenceWarning, InputError
from tests.autodiff.memory import peaks


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def ours(matrix: Tensor, y: Tensor, z: Tensor, gamma: Tensor, **named: Any) -> Tensor:
    """Rows of z are systems of their own."""

    def adjoint(r: Tensor) -> Tensor:
        found = r @ matrix.conj()
        return found if z.is_complex() else found.real

    def product(x: Tensor) -> Tensor:
        return x.to(matrix.dtype) @ matrix.mT

    named = {"tol": 1e-13, "dims": 1, **named}
    return proximal_least_squares(product, adjoint, y, z, gamma, (matrix,), **named)


def dense(matrix: Tensor, y: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
    """From the normal equations, each system by itself."""
    square, pulled = matrix.mH @ matrix, y @ matrix.conj()
    if not z.is_complex():
        square, pulled = square.real, pulled.real
    identity = torch.eye(z.shape[1], dtype=z.dtype)
    rows = [
        torch.linalg.solve(square + identity / step, right + near / step)
        for step, right, near in zip(gamma.expand(len(z)), pulled, z, strict=True)
    ]
    return torch.stack(rows)


KINDS = {
    "real": (torch.float64, torch.float64),
    "complex": (torch.complex128, torch.complex128),
    "complex data": (torch.complex128, torch.float64),
}


def case(kind: str, rows: int, columns: int, batch: int, per_system: bool) -> tuple[Tensor, ...]:
    of_data, of_z = KINDS[kind]
    gamma = numbers(batch).detach().exp() if per_system else torch.tensor(0.7).double()
    return (
        numbers(rows, columns, seed=1, dtype=of_data),
        numbers(batch, rows, seed=2, dtype=of_data),
        numbers(batch, columns, seed=3, dtype=of_z),
        gamma.requires_grad_(),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(7, 4), (3, 6)])
@pytest.mark.parametrize("per_system", [False, True])
def test_equals_the_normal_equations(kind: str, rows: int, columns: int, per_system: bool) -> None:
    """Value, gradient, and gradient of the gradient's square, in everything, from more or less data than unknowns."""
    inputs = case(kind, rows, columns, 3, per_system)
    weights = numbers(3, columns, seed=5, dtype=inputs[2].dtype).detach()
    found: list[tuple[Tensor, ...]] = []
    for solver in (ours, dense):
        h = solver(*inputs)
        first = grad((weights * h).real.sum() + (h * h.conj()).real.sum(), inputs, create_graph=True)
        found.append((h, *first, *grad(sum((each * each.conj()).real.sum() for each in first), inputs)))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-8 * float(other.detach().abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_derivatives(kind: str) -> None:
    inputs = case(kind, 4, 3, 2, True)
    assert gradcheck(ours, inputs)
    assert gradgradcheck(ours, inputs)


def test_each_gradient_by_itself() -> None:
    """What is not asked for is left out, and the rest is the same."""
    inputs = case("real", 5, 4, 2, False)
    expected = grad(dense(*inputs).sum(), inputs)
    for wanted in range(4):
        alone = [each.detach().requires_grad_(k == wanted) for k, each in enumerate(inputs)]
        (found,) = grad(ours(*alone).sum(), alone[wanted])
        assert torch.allclose(found, expected[wanted], rtol=1e-9, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    batch=st.integers(0, 3),
    kind=st.sampled_from(sorted(KINDS)),
    per_system=st.booleans(),
)
def test_any_shape_in_single_precision(
    rows: int, columns: int, batch: int, kind: str, per_system: bool
) -> None:
    inputs = case(kind, rows, columns, batch, per_system)
    single = [each.detach().to(torch.complex64 if each.is_complex() else torch.float32) for each in inputs]
    found = ours(*single, tol=1e-5)
    assert found.dtype == single[2].dtype and found.shape == (batch, columns)
    if batch:
        assert torch.allclose(found.to(inputs[2].dtype), dense(*inputs), rtol=1e-3, atol=1e-3)


def test_limits_of_gamma() -> None:
    """Little of it leaves z as it is; much of it gives least squares near z; the gradient follows."""
    matrix, y, z, _ = (each.detach() for each in case("real", 3, 6, 2, False))
    small = ours(matrix, y, z, torch.tensor(1e-12).double())
    assert torch.allclose(small, z, atol=1e-10)
    z.requires_grad_()
    large = ours(matrix, y, z, torch.tensor(1e8).double())
    inverse = torch.linalg.pinv(matrix)
    assert torch.allclose(large, z + (y - z @ matrix.T) @ inverse.T, atol=1e-5)
    (slope,) = grad(large.sum(), z)
    projection = torch.eye(6).double() - inverse @ matrix
    assert torch.allclose(slope, torch.ones(2, 6).double() @ projection, atol=1e-5)


def test_solved_systems_stay_as_they_are() -> None:
    matrix, y, z, _ = (each.detach() for each in case("real", 20, 20, 3, False))
    gamma = torch.tensor([1e-3, 1.0, 1e3]).double()
    info = ours(matrix, y, z, gamma, tol=1e-8, return_info=True)
    assert info.residual.shape == (3,) and bool(info.converged.all())  # type: ignore[attr-defined]
    counts = info.iterations.tolist()  # type: ignore[attr-defined]
    assert counts[0] < counts[1] < counts[2]
    for k in range(3):
        alone = ours(matrix, y[k : k + 1], z[k : k + 1], gamma[k], tol=1e-8)
        assert torch.allclose(info.solution[k], alone[0], rtol=1e-6, atol=1e-8)  # type: ignore[attr-defined]


def test_tiny_cotangents() -> None:
    inputs = [each.detach().float().requires_grad_() for each in case("real", 5, 4, 2, True)]
    weights = torch.ones(2, 4)
    plain = grad(ours(*inputs, tol=1e-6), inputs, weights)
    for one, other in zip(plain, grad(ours(*inputs, tol=1e-6), inputs, 1e-30 * weights), strict=True):
        assert torch.allclose(one, 1e30 * other, rtol=1e-3, atol=1e-5) and bool(one.any())


def test_products_are_counted() -> None:
    """Forward: one more than iterations, and one for the residual; backward: the same, and two for the parameters."""
    matrix, y, z, gamma = case("real", 12, 8, 1, False)
    counts = [0, 0]

    def product(x: Tensor) -> Tensor:
        counts[0] += 1
        return x @ matrix.T

    def adjoint(r: Tensor) -> Tensor:
        counts[1] += 1
        return r @ matrix

    found = proximal_least_squares(
        product, adjoint, y, z, gamma, (matrix,), check_adjoint=False, return_info=True
    )
    most = int(found.iterations)
    assert counts == [most + 2, most + 2]
    found.solution.sum().backward()
    assert counts[0] <= 2 * (most + 2) + 3 and counts[1] <= 2 * (most + 2) + 2


class TestChecks:
    def test_adjoints_that_are_not(self) -> None:
        matrix, y, z, gamma = case("complex", 6, 5, 2, False)

        def product(x: Tensor) -> Tensor:
            return x @ matrix.mT

        masked = torch.ones(5).double()
        masked[-1] = 0
        state = torch.get_rng_state()
        wrong = (
            lambda r: r @ matrix,
            lambda r: 1.001 * (r @ matrix.conj()),
            lambda r: masked * (r @ matrix.conj()),
            lambda r: (r @ matrix.conj()).real.to(z.dtype),
        )
        for adjoint in wrong:
            with pytest.raises(InputError, match="A_adjoint is not the adjoint of A: <A v, w> is"):
                proximal_least_squares(product, adjoint, y, z, gamma, (matrix,))
        proximal_least_squares(product, lambda r: r @ matrix.conj(), y, z, gamma, (matrix,))
        assert torch.equal(torch.get_rng_state(), state)

    def test_tensors_that_are_not_listed_are_found(self) -> None:
        matrix, y, z, gamma = case("real", 4, 3, 2, False)
        with pytest.raises(InputError, match=r"A depends on a tensor of shape \(4, 3\)"):
            proximal_least_squares(lambda x: x @ matrix.T, lambda r: r @ matrix, y, z, gamma)
        with torch.no_grad():
            free = proximal_least_squares(lambda x: x @ matrix.T, lambda r: r @ matrix, y, z, gamma)
        assert not free.requires_grad

    def test_a_cap_that_is_met(self) -> None:
        inputs = case("real", 20, 20, 2, False)
        with pytest.warns(
            ConvergenceWarning, match=r"proximal_least_squares stopped after 2 .* in 2 of 2"
        ) as caught:
            found = ours(*inputs, max_iterations=2, return_info=True)
        assert len(caught) == 1 and found.stopped.tolist() == [Stop.ITERATIONS] * 2  # type: ignore[attr-defined]
        with pytest.warns(ConvergenceWarning, match="the backward pass of proximal_least_squares stopped"):
            found.solution.sum().backward()  # type: ignore[attr-defined]

    def test_autocast_is_kept_out(self) -> None:
        inputs = [each.detach().float().requires_grad_() for each in case("real", 5, 4, 2, False)]
        expected = ours(*inputs, tol=1e-5)
        slopes = grad(expected.sum(), inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = ours(*inputs, tol=1e-5)
            again = grad(found.sum(), inputs)
        for one, other in zip((found, *again), (expected, *slopes), strict=True):
            assert torch.equal(one, other)

    def test_transforms_are_refused(self) -> None:
        matrix, y, z, gamma = (each.detach() for each in case("real", 4, 3, 2, False))
        with pytest.raises(InputError, match=r"cannot run under torch\.func"):
            torch.func.vmap(lambda a, b: ours(matrix, a[None], b[None], gamma))(y, z)

    def test_errors_come_with_their_traceback(self) -> None:
        matrix, y, z, gamma = case("real", 4, 3, 2, False)

        def breaks_down(r: Tensor) -> Tensor:
            raise KeyError("out of luck")

        with pytest.raises(KeyError, match="out of luck") as caught:
            proximal_least_squares(lambda x: x @ matrix.T, breaks_down, y, z, gamma, (matrix,))
        assert any(entry.name == "breaks_down" for entry in caught.traceback)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"y": torch.ones(4, dtype=torch.int64)}, "y must be float32, .* got torch.int64"),
            ({"z": torch.full((3,), torch.inf)}, "z must be finite"),
            ({"z": 1.0}, "z must be a Tensor, got float"),
            ({"A": torch.ones(4, 3)}, "A must be a function, got Tensor"),
            ({"A": lambda x: x}, r"A\(x\) must have shape \(4,\), got \(3,\)"),
            ({"A_adjoint": lambda r: r}, r"A_adjoint\(y\) must have shape \(3,\), got \(4,\)"),
            ({"A_adjoint": lambda r: r[:3] + 0j}, r"A_adjoint\(y\) must have dtype torch.float32"),
            ({"gamma": 0.0}, "gamma must be positive and finite"),
            ({"gamma": torch.ones(2)}, r"gamma must have shape \(\) or \(\), got \(2,\)"),
            ({"gamma": torch.tensor(1j)}, "gamma must be real"),
            ({"tol": -1.0}, "tol must be a positive number"),
            ({"dims": 3}, "dims must name dimensions"),
            ({"parameters": torch.ones(1)}, "parameters must be a sequence"),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, Any], message: str) -> None:
        matrix = numbers(4, 3).detach().float()
        fine = {"A": lambda x: matrix @ x, "A_adjoint": lambda r: matrix.T @ r}
        fine |= {"y": torch.ones(4), "z": torch.ones(3), "gamma": 1.0}
        with pytest.raises((InputError, TypeError), match=message):
            proximal_least_squares(**{**fine, **arguments})


def test_memory_does_not_grow_with_the_iterations() -> None:
    """Value and gradient, at two sizes and two counts."""
    preparation = """
import warnings
from otreg.autodiff import proximal_least_squares
warnings.simplefilter("ignore")
def measured(size, count):
    z = torch.ones(size, requires_grad=True)
    values = torch.linspace(1, 10, size).requires_grad_()
    gamma = torch.ones((), requires_grad=True)
    y = torch.zeros(size)
    h = proximal_least_squares(lambda x: values * x, lambda r: values.detach() * r, y, z, gamma, (values,),
                               tol=1e-30, max_iterations=count)
    h.sum().backward()
measured(10, 3)
"""
    size, megabytes = 1 << 18, 1.0
    few, many, large, large_many = peaks(preparation, [(size, 4), (size, 40), (4 * size, 4), (4 * size, 40)])
    for found, scale in ((few, 1), (many, 1), (large, 4), (large_many, 4)):
        assert found < 26 * megabytes * scale + 4
    assert abs(many - few) < 3 and abs(large_many - large) < 6
