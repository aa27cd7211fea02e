"""What every engine must do: inherit, set ``engine``, and pass. The reference is dense float64 torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions import kernel_sum, softmin


def cloud(count: int, dimension: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Points of unit spread, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, dimension, generator=generator, dtype=torch.float64) + 3.0).to(dtype)


def dense_softmin(
    x: Tensor, y: Tensor, g: Tensor, b: Tensor, blur: float, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Reference in float64: softmin (N,) and softmax-weighted mean (N, V)."""
    x, y, g, b, v = (tensor.double() for tensor in (x, y, g, b, v))
    scores = b.log() + (g - (x[:, None] - y[None]).square().sum(dim=2) / 2) / blur**2
    return -(blur**2) * scores.logsumexp(dim=1), scores.softmax(dim=1) @ v


class EngineContract:
    """Tests that an engine inherits."""

    engine: str
    device: str = "cpu"
    dimensions: tuple[int, ...] = (1, 2, 3, 5, 8, 16, 20)
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    channels: tuple[int, ...] = (1, 3, 70)
    blurs: tuple[float, ...] = (0.02, 0.3, 50.0)

    def cloud(self, count: int, dimension: int, dtype: torch.dtype, seed: int) -> Tensor:
        """:func:`cloud` on the device of this engine."""
        return cloud(count, dimension, dtype, seed).to(self.device)

    def test_values_match_the_dense_reference(self) -> None:
        for dtype in self.dtypes:
            for dimension in self.dimensions:
                for blur in self.blurs:
                    x, y = self.cloud(37, dimension, dtype, 1), self.cloud(53, dimension, dtype, 2)
                    g = 0.3 * self.cloud(53, 1, torch.float64, 3)[:, 0]
                    b = self.cloud(53, 1, torch.float64, 4)[:, 0].cos() + 1.1
                    v = self.cloud(53, 3, dtype, 5)
                    value, mean = softmin(x, y, g, b, blur=blur, values=v, engine=self.engine)
                    expected, expected_mean = dense_softmin(x, y, g, b, blur, v)
                    assert value.dtype == torch.float64 and mean.dtype == dtype
                    single = dtype == torch.float32
                    # a softmin of size |x|² carries the rounding of its size
                    scale = float(expected.abs().max()) + blur**2
                    assert float((value - expected).abs().max()) < (2e-6 if single else 1e-13) * scale
                    if not (single and blur < 0.1):
                        assert torch.allclose(mean.double(), expected_mean, atol=2e-4 if single else 1e-10)

    def test_channels_and_shapes(self) -> None:
        dtype = self.dtypes[-1]
        x, y = self.cloud(11, 3, dtype, 1), self.cloud(7, 3, dtype, 2)
        weights = torch.exp(-(x[:, None] - y[None]).square().sum(dim=2) / (2 * 0.7**2))
        for channels in self.channels:
            v = self.cloud(7, channels, dtype, 3)
            total = kernel_sum(x, y, v, width=0.7, engine=self.engine)
            assert total.shape == (11, channels) and total.dtype == dtype
            assert torch.allclose(total, weights @ v, rtol=1e-5, atol=1e-5)
        assert torch.allclose(
            kernel_sum(x, y, v[:, 0], width=0.7, engine=self.engine), weights @ v[:, 0], rtol=1e-5
        )

    def test_gradients_match_autograd_of_the_dense_reference(self) -> None:
        dtype = self.dtypes[-1]
        x, y, v = self.cloud(9, 3, dtype, 1), self.cloud(8, 3, dtype, 2), self.cloud(8, 1, dtype, 3)
        g, b = (
            torch.linspace(-0.2, 0.2, 8, dtype=torch.float64, device=self.device),
            torch.linspace(0.5, 1.5, 8, dtype=torch.float64, device=self.device),
        )
        inputs = [tensor.requires_grad_() for tensor in (x, y, g, b, v)]
        ours = softmin(x, y, g, b, blur=0.8, values=v, engine=self.engine)
        theirs = dense_softmin(x, y, g, b, 0.8, v)
        cotangent = torch.linspace(-1, 1, 9, dtype=torch.float64, device=self.device)

        def scalar(pair: tuple[Tensor, Tensor]) -> Tensor:
            return (pair[0] * cotangent).sum() + (pair[1][:, 0].double() * cotangent.cos()).sum()

        first = torch.autograd.grad(scalar(tuple(ours)), inputs, create_graph=True)
        expected = torch.autograd.grad(scalar(theirs), inputs, create_graph=True)
        tolerance = 1e-8 if dtype == torch.float64 else 1e-3
        for one, other in zip(first, expected, strict=True):
            assert torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance)
        second = torch.autograd.grad(sum((grad.double() ** 2).sum() for grad in first), inputs)
        expected = torch.autograd.grad(sum((grad.double() ** 2).sum() for grad in expected), inputs)
        for one, other in zip(second, expected, strict=True):
            assert torch.allclose(one.double(), other.double(), rtol=10 * tolerance, atol=10 * tolerance)

    def test_points_without_weight_are_left_out(self) -> None:
        dtype = self.dtypes[-1]
        x, y = self.cloud(6, 3, dtype, 1), self.cloud(9, 3, dtype, 2)
        b = torch.ones(9, dtype=torch.float64, device=self.device)
        b[::2] = 0.0
        value, mean = softmin(x, y, None, b, blur=0.5, values=y, engine=self.engine)
        kept, kept_mean = softmin(x, y[1::2], blur=0.5, values=y[1::2], engine=self.engine)
        assert torch.allclose(value, kept, rtol=1e-6) and torch.allclose(mean, kept_mean, rtol=1e-5)

    def test_nothing_to_sum(self) -> None:
        dtype = self.dtypes[-1]
        x, y = self.cloud(4, 3, dtype, 1), self.cloud(5, 3, dtype, 2)
        for value, mean in (
            softmin(x, y[:0], blur=0.5, values=y[:0], engine=self.engine),
            softmin(x, y, None, torch.zeros(5, device=self.device), blur=0.5, values=y, engine=self.engine),
        ):
            assert bool(torch.isposinf(value).all()) and not bool(mean.any())
        assert softmin(x[:0], y, blur=0.5, engine=self.engine).value.shape == (0,)
        assert not bool(kernel_sum(x, y[:0], y[:0], engine=self.engine).any())

    def test_one_point(self) -> None:
        dtype = self.dtypes[-1]
        x = torch.zeros(1, 3, dtype=dtype, device=self.device)
        y = x + 1
        value, mean = softmin(x, y, blur=0.01, values=y, engine=self.engine)
        assert float(value) == pytest.approx(1.5, rel=1e-6) and torch.allclose(mean, y)

    def test_the_environment_chooses_the_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from otreg.reductions.engines import choose

        monkeypatch.setenv("OTREG_ENGINE", self.engine)
        assert choose("auto", self.device) == self.engine
        assert choose("blocks", "cpu") == "blocks"
        monkeypatch.setenv("OTREG_ENGINE", "nonsense")
        with pytest.raises(InputError, match="OTREG_ENGINE"):
            choose("auto", "cpu")


class KeopsContract(EngineContract):
    """Kept to the three formulas of one dtype, since each takes many seconds to compile the first time."""

    engine = "keops"
    dimensions = (2, 3)
    dtypes = (torch.float64,)
    channels = (1, 3, 10)
    blurs = (0.02, 50.0)

    @pytest.fixture(autouse=True)
    def _needs_pykeops(self) -> None:
        pytest.importorskip("pykeops", reason="pykeops is not installed")
