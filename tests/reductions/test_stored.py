"""Stored shares: sums asked for again are those of all pairs, however the log-weights move meanwhile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from otreg.reductions import fused, truncated
from otreg.reductions.truncated import Choice, TruncatedEngine


def surface(count: int, seed: int) -> Tensor:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    return 0.29 * x * (1 + 0.2 * torch.sin(5 * x[:, :1])) + 7.0


def choices(engine: TruncatedEngine) -> list[Choice]:
    return [choice for _, choice in engine._choices.values()]


@pytest.mark.parametrize("memory", [truncated.MEMORY, 0], ids=["stored", "streamed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("blur", [0.02, 0.003])
def test_log_weights_may_move_in_any_way(dtype: torch.dtype, memory: int, blur: float) -> None:
    """Smooth tilts, rough noise, single points that gain or lose all, and constants."""
    x, y = surface(2400, 1).to(dtype), surface(2200, 2).to(dtype)
    generator = torch.Generator().manual_seed(3)
    h = torch.randn(2200, generator=generator, dtype=torch.float64)
    h[::9] = -torch.inf
    engine = TruncatedEngine(fused.log_sum_exp_mean, memory=memory)
    tilt = (y.double()[:, 0] - 7.0) / 0.29
    single = torch.zeros_like(h)
    single[5] = 1.0
    moves = [0 * tilt, 5 * tilt, 30 * tilt, -60 * tilt, 1e4 + 0 * tilt, 45 * single, -200 * single]
    moves += [size * torch.randn(2200, generator=generator, dtype=torch.float64) for size in (1, 10, 40)]
    for move in moves:
        logs, mean = engine(x, y, h + move, blur**2, y)
        expected, expected_mean = fused.log_sum_exp_mean(
            x.double(), y.double(), h + move, blur**2, y.double()
        )
        assert float((logs - expected).abs().max()) < (2e-5 if dtype == torch.float64 else 2e-4)
        assert mean is not None and torch.allclose(mean.double(), expected_mean, atol=2e-5)
        assert all((choice.stored is not None) == (memory > 0) for choice in choices(engine))


def test_a_smooth_change_is_no_reason_to_choose_anew() -> None:
    x, y = surface(2500, 1), surface(2600, 2)
    engine = TruncatedEngine(fused.log_sum_exp_mean)
    h = torch.zeros(2600, dtype=torch.float64)
    engine(x, y, h, 1e-4)
    (first,) = choices(engine)
    for slope in (10.0, 20.0, 30.0):
        engine(x, y, h + slope * (y[:, 0] - 7.0) / 0.58, 1e-4)
    assert choices(engine)[0] is first


def test_points_that_gain_weight_are_seen() -> None:
    x, y = surface(2500, 1), surface(2600, 2)
    engine = TruncatedEngine(fused.log_sum_exp_mean)
    h = torch.zeros(2600, dtype=torch.float64)
    h[7] = -torch.inf
    engine(x, y, h, 1e-4)
    h = torch.zeros(2600, dtype=torch.float64)
    expected, _ = fused.log_sum_exp_mean(x, y, h, 1e-4)
    assert torch.allclose(engine(x, y, h, 1e-4)[0], expected, atol=1e-5)


def test_few_points_are_stored_whole() -> None:
    x, y = surface(300, 1).float(), surface(200, 2).float()
    engine = TruncatedEngine(fused.log_sum_exp_mean)
    h = torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h[3] = -torch.inf
    for scale in (1.0, 2.0, 30.0, 500.0):
        logs, mean = engine(x, y, scale * h, 0.01, y)
        expected, expected_mean = fused.log_sum_exp_mean(x.double(), y.double(), scale * h, 0.01, y.double())
        assert torch.allclose(logs, expected, atol=1e-4)
        assert mean is not None and torch.allclose(mean.double(), expected_mean, atol=1e-4)
        if scale == 2.0:
            assert choices(engine)[0].stored is not None


def test_memory_is_bounded_and_given_back() -> None:
    clouds = [surface(2100, seed).float() for seed in range(4)]
    h = torch.zeros(2100, dtype=torch.float64)
    engine = TruncatedEngine(fused.log_sum_exp_mean)
    engine(clouds[1], clouds[0], h, 1e-4)
    (alone,) = choices(engine)
    assert alone.stored is not None
    room = int(2.5 * alone.stored.size)
    engine = TruncatedEngine(fused.log_sum_exp_mean, memory=room)
    for x in clouds[1:]:
        engine(x, clouds[0], h, 1e-4)
    sizes = [choice.stored.size for choice in choices(engine) if choice.stored is not None]
    assert sum(sizes) <= room and len(sizes) == 2
    engine.forget()
    before, _ = engine(clouds[3], clouds[0], h, 1e-4)
    assert not any(choice.stored for choice in choices(engine))
    expected, _ = fused.log_sum_exp_mean(clouds[3].double(), clouds[0].double(), h, 1e-4)
    assert torch.allclose(before, expected, atol=1e-4)


def test_old_shares_go_before_new_ones_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old and new shares together stay within the limit at every moment, for blocks and for whole matrices."""
    held: list[int] = []
    make_room = TruncatedEngine._make_room

    def watched(engine: TruncatedEngine, wanted: int) -> bool:
        granted = make_room(engine, wanted)
        if granted:
            held.append(wanted + sum(each.stored.size for each in choices(engine) if each.stored is not None))
        return granted

    monkeypatch.setattr(TruncatedEngine, "_make_room", watched)
    clouds = [surface(2100, seed).float() for seed in range(3)]
    small = [surface(300, seed).float() for seed in range(2)]
    engine = TruncatedEngine(fused.log_sum_exp_mean, memory=6_000_000)
    for x in (*clouds, *small, *small):
        engine(x, clouds[0], torch.zeros(2100, dtype=torch.float64), 1e-4)
    stored = [each.stored.size for each in choices(engine) if each.stored is not None]
    assert 300 * 2100 * 4 in stored and len(stored) > 1 and len(stored) < len(choices(engine))
    assert sum(stored) <= max(held) <= 6_000_000


def test_released_points_are_forgotten() -> None:
    x, y, z = (surface(2100, seed) for seed in range(3))
    h = torch.zeros(2100, dtype=torch.float64)
    engine = TruncatedEngine(fused.log_sum_exp_mean)
    first, _ = engine(x, y, h, 1e-4)
    engine(y, x, h, 1e-4)
    engine(y, z, h, 1e-4)
    assert len(choices(engine)) == 3 and len(engine._clouds) == 3
    engine.release(x, x)
    assert len(choices(engine)) == 1 and len(engine._clouds) == 2 and len(engine._points) == 2
    assert torch.equal(engine(x, y, h, 1e-4)[0], first)
