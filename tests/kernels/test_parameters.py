"""Parameters of kernels: several scales, names, and fitting a width."""

from __future__ import annotations

import pytest
import torch

import otreg
from otreg.errors import InputError
from otreg.kernels import RADIAL, ArcCosine, Cauchy, Gaussian, Laplacian, Sum, Wendland
from otreg.reductions import KERNELS, kernel_sum


def test_the_front_door_has_them() -> None:
    assert otreg.kernels.Gaussian is Gaussian


def test_scales_from_one_tensor() -> None:
    widths = torch.tensor([2.0, 0.5], dtype=torch.float64, requires_grad=True)
    amplitudes = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    x = torch.linspace(0.0, 1.0, 12, dtype=torch.float64).reshape(4, 3)
    kernel = Gaussian.of_scales(widths, amplitudes)
    total = kernel(x, x, x).sum()
    rows, columns = torch.autograd.grad(total, (widths, amplitudes))
    assert rows.shape == (2,) and bool((rows > 0).all())
    parts = torch.stack([kernel_sum(x, x, x, "gaussian", width).sum() for width in (2.0, 0.5)])
    assert torch.allclose(columns, parts) and torch.allclose(total, parts @ amplitudes)
    assert [float(width) for width in kernel.widths] == [2.0, 0.5]


def test_widths() -> None:
    assert Cauchy(3).widths == (3.0,)
    assert Laplacian.of_scales((1, 2)).widths == (1.0, 2.0)
    assert Sum((Gaussian(1.0), Sum((ArcCosine(), Wendland(2.0))))).widths == (1.0, 2.0)
    assert ArcCosine().widths == ()


def test_radial_kernels_go_by_the_names_of_the_sums() -> None:
    assert set(RADIAL) == {*KERNELS, "wendland"}
    x = torch.linspace(0.0, 1.0, 12, dtype=torch.float64).reshape(4, 3)
    for name in KERNELS:
        assert torch.equal(RADIAL[name](0.7)(x, x, x), kernel_sum(x, x, x, name, 0.7))


def test_a_width_can_be_fitted() -> None:
    """Descent on the width alone finds the one that made the sums."""
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(60, size, generator=generator, dtype=torch.float64) for size in (3, 1))
    target = Gaussian(0.8)(x, x, v)
    width = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([width], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        misfit = (Gaussian(width)(x, x, v) - target).square().sum()
        misfit.backward()
        return misfit

    optimiser.step(closure)  # type: ignore[arg-type]
    assert float(width) == pytest.approx(0.8, rel=1e-5)


def test_width_far_from_the_origin_in_single_precision() -> None:
    """The derivative in the width does not suffer from coordinates of hundreds of millimetres."""
    generator = torch.Generator().manual_seed(0)
    x = (300.0 + torch.randn(50, 3, generator=generator)).double()
    found = []
    for dtype in (torch.float32, torch.float64):
        width = torch.tensor(0.5, dtype=dtype, requires_grad=True)
        points = x.to(dtype)
        found.append(float(torch.autograd.grad(Gaussian(width)(points, points, points).sum(), width)[0]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_sums_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="at least one kernel"):
        Sum(())
    with pytest.raises(InputError, match="got float"):
        Sum((Gaussian(1.0), 2.0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one for each of the 2 kernels, got 1"):
        Gaussian.of_scales((1.0, 2.0), (1.0,))
    with pytest.raises(InputError, match=r"points of shape \(N, 3\), got 2 columns"):
        Wendland(1.0)(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 1))
