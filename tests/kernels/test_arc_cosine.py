"""Arc-cosine kernels: the integral they stand for, and angles near 0 and π."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from otreg.errors import InputError
from otreg.kernels import ArcCosine, relu_covariance
from tests.kernels.cases import arc_cosine

ORDERS = pytest.mark.parametrize("order", [0, 1, 2])


def direction(angle: float) -> Tensor:
    return torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)


def unbiased(order: int) -> ArcCosine:
    return ArcCosine(order, 1.0, 0.0)


@ORDERS
@pytest.mark.parametrize("angle", [0.0, 0.3, 1.5, 2.8, math.pi])
def test_against_numerical_integration(order: int, angle: float) -> None:
    """``2 E[(ω·u)ⁿ₊ (ω·v)ⁿ₊]`` over Gaussian ω, in polar coordinates, where the radius integrates to 2ⁿ n!."""

    def integrand(alpha: float) -> float:
        return (math.cos(alpha) * math.cos(alpha - angle)) ** order

    half_circle = quad(integrand, angle - math.pi / 2, math.pi / 2)[0]
    expected = 2**order * math.factorial(order) / math.pi * half_circle * (2.0 * 3.0) ** order
    found = float(unbiased(order).matrix(2.0 * direction(0.0), 3.0 * direction(angle)))
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-7 if angle == math.pi else 1e-12)


@ORDERS
def test_against_a_wide_network(order: int) -> None:
    """Random units with weights and biases of the given variances; the mean of a million is within a percent."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    weights = math.sqrt(0.6) * torch.randn(3, 1_000_000, generator=generator, dtype=torch.float64)
    bias = math.sqrt(0.4) * torch.randn(1_000_000, generator=generator, dtype=torch.float64)
    before = x @ weights + bias
    units = (before > 0).double() if order == 0 else before.clamp_min(0.0) ** order
    expected = 2.0 * units @ units.T / units.shape[1]
    found = ArcCosine(order, 0.6, 0.4).matrix(x, x)
    assert float((found - expected).abs().max()) < 0.01 * float(expected.max())


@pytest.mark.parametrize("base", [0.0, math.pi])
@pytest.mark.parametrize("small", [1e-3, 1e-6, 1e-9, 1e-12])
def test_nearly_parallel_and_nearly_opposite(small: float, base: float) -> None:
    """The angle keeps its digits, where an arc cosine gives 0 below 1e-8; so does the slope, 1/π."""
    x, sign = direction(0.0), (1.0 if base == 0.0 else -1.0)
    y = (sign * direction(small)).requires_grad_()
    total = unbiased(0)(x, y, torch.ones(1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(total.sum(), y)
    value = float(total.detach())
    if base == 0.0:
        assert 1.0 - value == pytest.approx(small / math.pi, rel=1e-3, abs=2e-16)
    else:
        assert value == pytest.approx(small / math.pi, rel=1e-12)
    along = float(gradient[0, 1] * math.cos(small) - gradient[0, 0] * math.sin(small))
    # the coordinates themselves are known to 1e-16, which is 1e-4 of the smallest angle
    assert along == pytest.approx(-1.0 / math.pi, rel=1e-3)
    assert abs(float(gradient @ y.detach().T)) < 1e-3  # and nothing across


@ORDERS
def test_exactly_opposite(order: int) -> None:
    """Value 0, no slope for order 1 and 2, the mean of both slopes (0) for order 0; second derivatives finite."""
    x = torch.tensor([[0.3, -1.2, 0.7]], dtype=torch.float64, requires_grad=True)
    total = unbiased(order)(x, -x.detach(), torch.ones(1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(total.sum(), x, create_graph=True)
    assert float(total.detach()) == pytest.approx(0.0, abs=1e-15)
    assert float(gradient.detach().abs().max()) < 1e-15
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert bool(torch.isfinite(second).all())


@ORDERS
def test_at_the_origin_without_bias(order: int) -> None:
    """A step is ½ at 0 on average; ramps and half-parabolas are 0 there. Gradients are finite."""
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    y = torch.cat([direction(0.4), torch.zeros(1, 2, dtype=torch.float64)])
    matrix = unbiased(order).matrix(x, y)
    assert torch.allclose(matrix, torch.full((1, 2), 0.5 if order == 0 else 0.0, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(matrix.sum(), x, create_graph=True)
    assert not bool(gradient.any())
    assert bool(torch.isfinite(torch.autograd.grad(gradient.sum(), x, allow_unused=True)[0]).all())


@ORDERS
def test_slope_in_a_bias_of_zero(order: int) -> None:
    """Finite, though the bias enters by its root: the one-sided difference."""
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.ones(4, dtype=torch.float64)
    bias = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ArcCosine(order, 1.0, bias)(x, y, v).sum(), bias)
    step = 1e-5
    values = [float(ArcCosine(order, 1.0, k * step)(x, y, v).sum()) for k in range(3)]
    assert float(gradient) == pytest.approx(
        (4 * values[1] - 3 * values[0] - values[2]) / (2 * step), rel=1e-4
    )


@ORDERS
def test_third_derivative(order: int) -> None:
    x = torch.tensor([[0.3, 0.2]], dtype=torch.float64, requires_grad=True)
    y, v = direction(2.0), torch.ones(1, dtype=torch.float64)
    numbers = (torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    found, expected = ArcCosine(order, *numbers)(x, y, v).sum(), arc_cosine(order)(x, y, *numbers).sum()
    for _ in range(3):
        (found,) = torch.autograd.grad(found.sum(), x, create_graph=True)
        (expected,) = torch.autograd.grad(expected.sum(), x, create_graph=True)
    assert torch.allclose(found, expected, rtol=1e-9)
    if order == 0:
        with pytest.raises(InputError, match="n \\+ 3 times only"):
            torch.autograd.grad(found.sum(), x)


def test_millimetres_in_single_precision() -> None:
    """A surface of 100 mm, points a fraction of a millimetre apart: angles are small, and still exact."""
    generator = torch.Generator().manual_seed(3)
    x = 100.0 * torch.nn.functional.normalize(torch.randn(300, 3, generator=generator, dtype=torch.float64))
    x = (
        torch.cat([x, x + 0.1 * torch.randn(300, 3, generator=generator, dtype=torch.float64)])
        .float()
        .double()
    )
    v = torch.randn(600, 2, generator=generator, dtype=torch.float64).float().double()
    for order in (0, 1, 2):
        kernel = ArcCosine(order, 1e-4, 1.0)
        pairs = []
        for dtype in (torch.float32, torch.float64):
            points = x.to(dtype).requires_grad_()
            total = kernel(points, points, v.to(dtype))
            pairs.append((total.detach(), *torch.autograd.grad(total.sum(), points)))
        for found, expected in zip(*pairs, strict=True):
            assert float((found - expected).abs().max()) < 1e-3 * float(expected.abs().max())


def test_blocks_of_rows() -> None:
    """More pairs than one block holds; the gradient in the weight variance too."""
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.randn(count, 2, generator=generator, dtype=torch.float64) for count in (700, 900))
    v = torch.randn(900, 1, generator=generator, dtype=torch.float64)
    weight, bias = (torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (0.7, 0.5))
    found = ArcCosine(1, weight, bias)(x, y, v)
    expected = arc_cosine(1)(x, y, weight, bias) @ v
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), (weight, bias)),
        torch.autograd.grad(expected.square().sum(), (weight, bias)),
        strict=True,
    ):
        assert float(one) == pytest.approx(float(other), rel=1e-9)


def test_without_bias_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(5)
    x, y, v = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 2), (4, 2), (4, 1))
    )
    for order in (0, 1, 2):
        assert gradcheck(unbiased(order), (x, y, v))


@pytest.mark.parametrize("order", [3, -1, 0.5, True, "one"])
def test_other_orders(order: object) -> None:
    with pytest.raises(InputError, match="order must be 0, 1 or 2"):
        ArcCosine(order)  # type: ignore[arg-type]


class TestReluCovariance:
    def test_against_a_kernel_of_points(self) -> None:
        """Half of the kernel of order 1; its derivatives by finite differences."""
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        products = x @ x.T
        found = relu_covariance(products, products.diagonal()[:, None], products.diagonal())
        assert torch.allclose(found, 0.5 * unbiased(1).matrix(x, x), rtol=1e-12, atol=1e-7)
        above = torch.triu_indices(6, 6, 1)
        pairs = products[above[0], above[1]], products.diagonal()[above[0]], products.diagonal()[above[1]]
        pairs = tuple(part.clone().requires_grad_() for part in pairs)
        assert gradcheck(relu_covariance, pairs)
        assert gradgradcheck(relu_covariance, pairs)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_equal_and_opposite(self, dtype: torch.dtype) -> None:
        """v/2 with the slopes 1/2 in c and 0 in v, and 0 with no slope; rounding may lead past the ends."""
        variance = torch.logspace(-6, 6, 25, dtype=dtype)
        rounding = 1.0 + torch.finfo(dtype).eps * torch.tensor([[-2.0], [0.0], [2.0]], dtype=dtype)
        for sign, value in ((1.0, 0.5), (-1.0, 0.0)):
            leaves = [
                part.clone().requires_grad_() for part in (sign * variance * rounding, variance, variance)
            ]
            found = relu_covariance(*leaves)
            loose = 4.0 * torch.finfo(dtype).eps ** 0.5
            assert torch.allclose(found / variance, torch.full_like(found, value), atol=loose)
            slopes = torch.autograd.grad(found.sum(), leaves, create_graph=True)
            for slope, wanted in zip(slopes, (value, 0.0, 0.0), strict=True):
                assert torch.allclose(slope, torch.full_like(slope, wanted), atol=loose)
            for second in torch.autograd.grad(sum(slope.sum() for slope in slopes), leaves):
                assert bool(torch.isfinite(second).all())

    def test_no_variance(self) -> None:
        zero = torch.zeros(3, requires_grad=True)
        found = relu_covariance(zero, zero, zero)
        assert found.tolist() == [0.0] * 3
        assert torch.autograd.grad(found.sum(), zero)[0].tolist() == [0.0] * 3
