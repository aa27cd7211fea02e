"""The engine on a GPU: the contract of the others, small blurs, and tiles left out. Run where torch sees a GPU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from otreg.reductions import blocks, cuda, nvrtc, softmin
from otreg.reductions.engines import choose
from otreg.transport import solve
from tests.reductions.contract import EngineContract, KeopsContract

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@needs_gpu
class TestFusedOnCuda(EngineContract):
    engine = "fused"
    device = "cuda"
    channels = (1, 3, 17, 70)

    def test_it_is_the_kernel_that_answers(self) -> None:
        assert cuda.is_available(0) and choose("auto", "cuda") == "fused"

    def test_the_current_device_and_stream_are_used(self) -> None:
        x, y = self.cloud(500, 3, torch.float32, 1), self.cloud(700, 3, torch.float32, 2)
        expected = softmin(x, y, blur=0.3).value
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = softmin(x, y, blur=0.3).value
        torch.cuda.current_stream().wait_stream(stream)
        assert torch.equal(found, expected)


@needs_gpu
class TestBlocksOnCuda(EngineContract):
    engine = "blocks"
    device = "cuda"


@needs_gpu
class TestKeopsOnCuda(KeopsContract):
    device = "cuda"


def sphere(count: int, seed: int) -> Tensor:
    """Points of a sphere; with an even seed, of an ellipsoid that is moved a little."""
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True)
    return points if seed % 2 else points * torch.tensor([1.1, 1.0, 0.9]) + 0.05


@needs_gpu
def test_a_blur_of_a_thousandth_of_the_diameter_in_float32() -> None:
    """Potentials 1e5 times eps: their whole parts are kept apart from the rest."""
    x, y = sphere(20_000, 1).float().cuda(), sphere(20_000, 2).float().cuda()
    blur = 0.002
    result = solve(x.double(), y.double(), blur=blur, tol=0.1)
    h = result.potentials[1].double() / blur**2 - math.log(len(y))
    assert float(h.max() - h.min()) > 1e4
    expected, mean = blocks.log_sum_exp_mean(x.double(), y.double(), h, blur**2, y.double())
    found, barycentre = cuda.log_sum_exp_mean(x, y, h, blur**2, y)
    assert float((found - expected).abs().max()) < 1e-3
    assert float((barycentre - mean).abs().max()) < 0.01 * blur


@needs_gpu
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("channels", (0, 1, 4, 20))
@pytest.mark.parametrize("smallest", (0, 1 << 40))
def test_order_and_tiles_left_out_do_not_matter(
    dtype: torch.dtype, channels: int, smallest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "SMALLEST_TO_SORT", 0)
    monkeypatch.setattr(cuda, "SMALLEST_TO_SKIP", smallest)
    x, y = sphere(9_001, 1).to(dtype).cuda(), sphere(7_003, 2).to(dtype).cuda()
    values = y.repeat(1, 7)[:, :channels] if channels else None
    engine = cuda.SortedEngine()
    for blur in (0.01, 0.1, 3.0):
        h = solve(x, y, blur=blur, tol=0.1).potentials[1].double() / blur**2 - math.log(len(y))
        h[::11] = -math.inf
        # a constant, however large, costs nothing
        found, mean = engine(x, y, h + 1e6, blur**2, values)
        expected, wanted = blocks.log_sum_exp_mean(
            x.double(), y.double(), h, blur**2, None if values is None else values.double()
        )
        single = dtype == torch.float32
        assert float((found - 1e6 - expected).abs().max()) < (1e-3 if single else 1e-9)
        if mean is not None and wanted is not None:
            assert float((mean.double() - wanted).abs().max()) < (0.01 * blur if single else 1e-9)


@needs_gpu
def test_most_tiles_are_left_out_at_small_blurs() -> None:
    """Seen by the clock: a large problem at a small blur takes a fraction of the time of all pairs."""
    x, y = sphere(200_000, 1).float().cuda(), sphere(200_000, 2).float().cuda()
    engine, blur = cuda.SortedEngine(), 0.01
    h = torch.full((len(y),), -math.log(len(y)), dtype=torch.float64, device="cuda")

    def milliseconds(reduce: object) -> float:
        assert callable(reduce)
        reduce(x, y, h, blur**2, None)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        reduce(x, y, h, blur**2, None)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    assert milliseconds(engine) < 0.5 * milliseconds(cuda.log_sum_exp_mean)


@needs_gpu
def test_memory_grows_with_the_points_and_not_the_pairs() -> None:
    def peak(count: int) -> int:
        x, y = sphere(count, 1).float().cuda(), sphere(count, 2).float().cuda()
        softmin(x, y, blur=0.1, values=y)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        softmin(x, y, blur=0.1, values=y)
        return torch.cuda.max_memory_allocated() - before

    small, large = peak(10_000), peak(40_000)
    assert large < 100 * 2**20 and large < 6 * small


@needs_gpu
def test_the_compiler_s_words_reach_the_reader() -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        nvrtc.compile_kernels("nonsense", ("reduce",), {}, 0)


def test_without_a_compiler_others_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine: what the engine falls back to gives what plain torch gives."""
    x, y, h = sphere(30, 1), sphere(40, 2), torch.linspace(-1, 1, 40, dtype=torch.float64)
    monkeypatch.setattr(cuda, "is_available", lambda device: False)
    for one, other in zip(
        cuda.log_sum_exp_mean(x, y, h, 0.1, y), blocks.log_sum_exp_mean(x, y, h, 0.1, y), strict=True
    ):
        assert one is not None and other is not None and torch.equal(one, other)


def test_where_there_is_no_gpu_the_kernel_is_not_tried() -> None:
    if not torch.cuda.is_available():
        cuda.is_available.cache_clear()
        assert not cuda.is_available(0)
