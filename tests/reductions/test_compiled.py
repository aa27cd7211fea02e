"""The library of sums: against dense sums in float64, for what it leaves out, and where it is missing."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otreg.reductions import blocks, compiled, fused, library, softmin, softmin_pair
from otreg.reductions.compiled import CompiledEngine
from otreg.reductions.for_problem import engine_for_problem
from otreg.reductions.mixed import MixedKernel
from otreg.reductions.truncated import TruncatedEngine
from tests.reductions.contract import EngineContract

pytestmark = pytest.mark.skipif(not compiled.is_available(), reason="built without a C compiler")

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-11}


def points(count: int, dimension: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, dimension, generator=generator, dtype=torch.float64).to(dtype)


def wanted(x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor) -> tuple[Tensor, Tensor]:
    """Dense, in float64."""
    log_sum, mean = blocks.log_sum_exp_mean(x.double(), y.double(), h, eps, values.double())
    assert mean is not None
    return log_sum, mean


@pytest.fixture
def sorts_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "SMALLEST_TO_SORT", 0)


@pytest.mark.usefixtures("sorts_everything")
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 700),
    dimension=st.sampled_from([1, 2, 3, 4, 6, 16]),
    channels=st.sampled_from([1, 3, 65]),
    blur=st.floats(0.003, 3.0),
    steepness=st.floats(0.0, 20.0),
    single=st.booleans(),
    seed=st.integers(0, 10),
)
def test_any_problem_agrees_with_a_dense_sum(
    rows: int,
    columns: int,
    dimension: int,
    channels: int,
    blur: float,
    steepness: float,
    single: bool,
    seed: int,
) -> None:
    """With and without leaving columns out; potentials may be far steeper than the blur."""
    dtype = torch.float32 if single else torch.float64
    x, y = points(rows, dimension, dtype, seed), points(columns, dimension, dtype, seed + 1)
    values = points(columns, channels, dtype, seed + 2)
    eps = blur**2
    h = steepness / blur * y[:, 0].double() + points(columns, 1, torch.float64, seed + 3)[:, 0]
    h[:: max(columns // 7, 2)] = -math.inf
    log_sum, mean = wanted(x, y, h, eps, values)
    for engine in (compiled.log_sum_exp_mean, CompiledEngine(1e-5 if single else 1e-12)):
        found, average = engine(x, y, h, eps, values)
        assert average is not None and average.dtype == dtype and found.dtype == torch.float64
        present = torch.isfinite(log_sum)
        assert torch.equal(present, torch.isfinite(found))
        # far from all columns that count, scores carry the rounding of their size
        size = h[torch.isfinite(h)].abs().max() if bool(present.any()) else 0.0
        scale = 1.0 + 5e-3 * (log_sum[present].abs() + size)
        assert bool(((found - log_sum)[present].abs() <= TOLERANCE[dtype] * scale).all())
        assert torch.allclose(average.double(), mean, atol=5 * TOLERANCE[dtype])


@pytest.mark.usefixtures("sorts_everything")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_far_from_their_partners(dtype: torch.dtype) -> None:
    """A shape and its copy a diameter away: potentials are linear, and a thousand times what decides."""
    x = points(3000, 3, dtype, 1)
    shift = torch.tensor([1.0, -0.4, 0.2], dtype=dtype)
    y, eps = x + shift, 0.02**2
    h = (y.double() @ shift.double()) / eps
    log_sum, mean = wanted(x, y, h, eps, y)
    found, average = CompiledEngine(1e-6)(x, y, h, eps, y)
    assert average is not None
    assert float((found - log_sum).abs().max()) < (2e-3 if dtype == torch.float32 else 1e-6)
    assert float((average - mean).abs().max()) < (1e-4 if dtype == torch.float32 else 1e-6)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_columns_of_no_consequence_are_not_touched(shift: float) -> None:
    """Values that would poison every mean that they enter lie where no row sees them."""
    # a multiple of what is looked at together, so that no tile holds both
    x, near = points(2560, 3, torch.float32, 1), points(2560, 3, torch.float32, 2)
    far = points(2560, 3, torch.float32, 3) + torch.tensor([1.5, 0.0, 0.0])
    y = torch.cat([near, far])
    # the same potentials as if near columns were that far away
    h = torch.zeros(len(y), dtype=torch.float64)
    y, h = y + shift, h + (y.double() @ torch.full((3,), shift, dtype=torch.float64)) / 0.05**2
    values = torch.ones(len(y), 1)
    values[len(near) :] = torch.nan
    assert len(x) * len(y) >= compiled.SMALLEST_TO_SORT
    _, mean = CompiledEngine(1e-5)(x, y, h, 0.05**2, values)
    assert mean is not None and torch.allclose(mean, torch.ones_like(mean), atol=1e-5)
    _, mean = compiled.log_sum_exp_mean(x, y, h, 0.05**2, values)
    assert mean is not None and bool(mean.isnan().all())


def test_a_column_that_outweighs_the_sample() -> None:
    """One log-weight is far above all others, or all others are none: references have to move."""
    x, y = points(100, 3, torch.float32, 1), points(5000, 3, torch.float32, 2)
    for place in (0, 17, 63, 4999):
        for rest in (0.0, -1e5, -math.inf):
            h = torch.full((5000,), rest, dtype=torch.float64)
            h[place] = 2000.0
            log_sum, mean = wanted(x, y, h, 0.01, y)
            found, average = compiled.log_sum_exp_mean(x, y, h, 0.01, y)
            assert torch.allclose(found, log_sum, atol=1e-3), (place, rest)
            assert average is not None and torch.allclose(average.double(), mean, atol=1e-4)


@pytest.mark.parametrize("present", [[7], [7, 4040], list(range(100, 140))])
def test_few_columns_have_a_weight(present: list[int]) -> None:
    """Hardly any that a sample would see."""
    x, y = points(1500, 3, torch.float32, 1), points(6000, 3, torch.float32, 2)
    h = torch.full((6000,), -math.inf, dtype=torch.float64)
    h[present] = 0.3
    for blur in (0.01, 0.2):
        log_sum, mean = wanted(x, y, h, blur**2, y)
        found, average = CompiledEngine(1e-6)(x, y, h, blur**2, y)
        assert torch.allclose(found, log_sum, rtol=1e-6, atol=1e-4)
        assert average is not None and torch.allclose(average.double(), mean, atol=1e-4)


def test_a_constant_in_the_weights_costs_no_digits() -> None:
    x, y = points(200, 3, torch.float32, 1), points(300, 3, torch.float32, 2)
    h = 30.0 * y[:, 0].double()
    plain, _ = compiled.log_sum_exp_mean(x, y, h, 0.01)
    for constant in (1e6, -1e9):
        shifted, _ = compiled.log_sum_exp_mean(x, y, h + constant, 0.01)
        assert torch.allclose(shifted - constant, plain, atol=1e-6 + 1e-15 * abs(constant))


@pytest.mark.parametrize("blur", [0.01, 0.002, 0.0005])
@pytest.mark.parametrize("shift", [0.0, 0.3, 5.0])
def test_single_precision_where_it_is_exact_enough(blur: float, shift: float) -> None:
    """With the potentials that bring each point to its partner, near or hundreds of blurs away."""
    x, y = points(2000, 3, torch.float32, 1), points(2500, 3, torch.float32, 2) + shift
    h = (y.double() @ torch.full((3,), shift, dtype=torch.float64)) / blur**2
    log_sum, mean = wanted(x, y, h, blur**2, y)
    for engine in (compiled.log_sum_exp_mean, CompiledEngine(1e-6)):
        found, average = engine(x, y, h, blur**2, y)
        assert float((found - log_sum).abs().max()) < 1e-3
        assert average is not None and average.dtype == torch.float32
        assert float((average - mean).norm(dim=1).mean()) < 1e-3 * blur + 1e-6


def test_squares_do_not_overflow() -> None:
    far = torch.tensor([[1e30, 0.0, 0.0], [-1e30, 0.0, 0.0]])
    found, _ = compiled.log_sum_exp_mean(far, far, torch.zeros(2, dtype=torch.float64), 1.0)
    assert torch.allclose(found, torch.zeros(2, dtype=torch.float64))


def test_what_is_no_number_gives_none() -> None:
    """Optimisers that have gone astray have to notice."""
    x, y, h = points(50, 3, torch.float32, 1), points(60, 3, torch.float32, 2), torch.zeros(60).double()
    for broken in (x, y, h):
        kept = broken[3].clone()
        broken[3] = torch.nan
        log_sum, mean = CompiledEngine(1e-5)(x, y, h, 0.01, y)
        assert bool(log_sum.isnan().any()) and mean is not None and bool(mean.isnan().any())
        broken[3] = kept
    kernel, weights = MixedKernel("gaussian", (0.3, 0.1)), torch.ones(60, 1)
    y[3] = torch.nan
    assert bool(kernel.sums(x, y, (0, weights))[0].isnan().any())


def test_threads_make_no_difference() -> None:
    x, y = points(3000, 3, torch.float32, 1), points(2000, 3, torch.float32, 2)
    h, before, results = 50.0 * y[:, 1].double(), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                (*compiled.log_sum_exp_mean(x, y, h, 1e-3, y), *CompiledEngine(1e-5)(x, y, h, 1e-3, y))
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one is not None and two is not None and torch.equal(one, two)


def test_strides_and_orders_of_what_is_given() -> None:
    x = points(3, 400, torch.float32, 1).T
    y, h = points(900, 3, torch.float32, 2)[::2], points(900, 1, torch.float64, 3)[::2, 0]
    found, mean = compiled.log_sum_exp_mean(x, y, h, 0.01, y.T.contiguous().T)
    log_sum, expected = wanted(x, y, h, 0.01, y)
    assert torch.allclose(found, log_sum, atol=1e-4)
    assert mean is not None and torch.allclose(mean.double(), expected, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 1500),
    dimension=st.integers(1, 5),
    distinct=st.integers(1, 1500),
    seed=st.integers(0, 5),
)
def test_an_order_is_one_of_all_points_and_keeps_neighbours(
    count: int, dimension: int, distinct: int, seed: int
) -> None:
    """Also of points that repeat."""
    cloud = points(min(distinct, count), dimension, torch.float32, seed)
    cloud = cloud[torch.arange(count) % len(cloud)]
    order = compiled.near_order(cloud)
    assert torch.equal(order.sort().values, torch.arange(count))
    if count >= 1024 and distinct >= count:
        groups = cloud[order[: count // 64 * 64]].reshape(-1, 64, dimension)
        sides = groups.amax(dim=1) - groups.amin(dim=1)
        # a tile of 64 points takes about its share of the volume
        assert float(sides.prod(dim=1).mean()) < 4.0 * 64 / count


def test_what_is_released_is_forgotten() -> None:
    engine, x = CompiledEngine(1e-5), points(3000, 3, torch.float32, 1)
    engine(x, x, torch.zeros(3000, dtype=torch.float64), 1e-3)
    engine.tree(x)
    assert engine._orders and engine._trees
    engine.release(x)
    assert not engine._orders and not engine._trees


def test_one_engine_for_each_problem() -> None:
    assert isinstance(engine_for_problem("fused", "cpu", 1e-5), CompiledEngine)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("plain") / "plain.so"
    flags = ["-O1", "-fno-math-errno", "-pthread", "-shared", "-fPIC", "-DOTREG_PLAIN"]
    source = Path(__file__).parents[2] / "otreg" / "reductions" / "native" / "library.c"
    subprocess.run(["gcc", *flags, str(source), "-o", str(path), "-lm"], check=True)
    built = library.load(str(path))
    assert built is not None
    return built


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
class TestOnAnyProcessor(EngineContract):
    """The version without AVX, which other processors run."""

    engine = "fused"

    @pytest.fixture(autouse=True)
    def runs_it(self, plain: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "find", lambda: plain)
        compiled.is_available.cache_clear()
        assert compiled.is_available()

    @pytest.mark.usefixtures("sorts_everything")
    def test_leaving_out(self) -> None:
        for dtype in (torch.float32, torch.float64):
            x, y = points(500, 3, dtype, 1), points(3000, 3, dtype, 2)
            h = 40.0 * y[:, 0].double()
            log_sum, mean = wanted(x, y, h, 1e-3, y)
            found, average = CompiledEngine(1e-6)(x, y, h, 1e-3, y)
            assert torch.allclose(found, log_sum, atol=1e-4)
            assert average is not None and torch.allclose(average.double(), mean, atol=1e-5)


class TestWithoutTheLibrary:
    """Where it could not be built, torch's attention sums, with the same results."""

    @pytest.fixture(autouse=True)
    def missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiled, "is_available", lambda: False)

    def test_sums_agree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = points(200, 3, torch.float64, 1), points(300, 3, torch.float64, 2)
        called = []
        attends = fused.log_sum_exp_mean
        monkeypatch.setattr(fused, "log_sum_exp_mean", lambda *all_: called.append(1) or attends(*all_))
        without = softmin(x, y, blur=0.1, values=y)
        pair = softmin_pair(x, y, x[:, 0] * 0, y[:, 0] * 0, blur=0.1)
        assert called
        monkeypatch.undo()
        with_it = softmin(x, y, blur=0.1, values=y)
        assert torch.allclose(with_it.value, without.value) and torch.allclose(with_it.mean, without.mean)
        both = softmin_pair(x, y, x[:, 0] * 0, y[:, 0] * 0, blur=0.1)
        assert torch.allclose(both.to_x, pair.to_x) and torch.allclose(both.to_y, pair.to_y)

    def test_problems_are_truncated_all_the_same(self) -> None:
        assert isinstance(engine_for_problem("fused", "cpu", 1e-5), TruncatedEngine)


def test_a_library_that_is_missing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (None, "/nowhere/_library.so"):
        spec = None if broken is None else type("Spec", (), {"origin": broken})
        monkeypatch.setattr(library, "find_spec", lambda name, spec=spec: spec)
        library.find.cache_clear()
        compiled.is_available.cache_clear()
        try:
            assert not compiled.is_available()
        finally:
            monkeypatch.undo()
            library.find.cache_clear()
            compiled.is_available.cache_clear()
    assert compiled.is_available()


def test_a_wrong_library_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = compiled._reduce
    monkeypatch.setattr(compiled, "_reduce", lambda *given: (sums(*given)[0] * 1.01, sums(*given)[1]))
    compiled.is_available.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="gives wrong sums"):
            assert not compiled.is_available()
    finally:
        monkeypatch.undo()
        compiled.is_available.cache_clear()
