"""Truncated sums against dense ones, and the tree they stand on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otreg.reductions import fused, truncated
from otreg.reductions.tree import build_tree, coarsen
from otreg.reductions.truncated import TruncatedEngine


def bent_sphere(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    return 0.29 * x * (1 + 0.2 * torch.sin(5 * x[:, :1])) + 7.0


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 300), dimension=st.integers(1, 4), equal=st.booleans())
def test_every_point_has_a_place(count: int, dimension: int, equal: bool) -> None:
    points = torch.zeros(count, dimension) if equal else torch.rand(count, dimension)
    tree = build_tree(points)
    kept = tree.order[~tree.repeated]
    assert torch.equal(kept.sort().values, torch.arange(count))
    assert len(tree.order) == tree.leaves * tree.leaf_size
    weights = torch.rand(count, dtype=torch.float64)
    centroids, mass, spread = coarsen(points, weights, tree, tree.depth // 2)
    assert float(mass.sum()) == pytest.approx(float(weights.sum()))
    moment = (mass[:, None] * centroids.double()).sum(dim=0)
    assert torch.allclose(moment, (weights[:, None] * points.double()).sum(dim=0), atol=1e-5)
    assert spread >= 0 and (not equal or spread < 1e-6)


@pytest.mark.parametrize(
    ("blur", "dtype"), [(0.01, torch.float32), (0.001, torch.float32), (0.01, torch.float64)]
)
def test_sums_are_those_of_all_pairs(blur: float, dtype: torch.dtype) -> None:
    """At a blur of 0.1% of the diameter in float32, relative errors of the sums stay below 1e-3."""
    x, y = bent_sphere(2500, 1).to(dtype), bent_sphere(2600, 2).to(dtype) + 0.03
    h = torch.randn(2600, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h[::7] = -torch.inf
    engine = TruncatedEngine(fused.log_sum_exp_mean)
    logs, mean = engine(x, y, h, blur**2, y)
    expected, expected_mean = fused.log_sum_exp_mean(x.double(), y.double(), h, blur**2, y.double())
    choice = next(iter(engine._choices.values()))[1]
    assert choice.batches is not None and choice.share < 0.4
    error = float((logs - expected).abs().max())
    assert error < (1e-5 if dtype == torch.float64 else 1e-3 if blur < 0.005 else 1e-4)
    assert mean is not None and torch.allclose(mean.double(), expected_mean, atol=1e-5)


def test_the_choice_is_made_anew_when_log_weights_move() -> None:
    x, y = bent_sphere(2500, 1), bent_sphere(2600, 2)
    engine = TruncatedEngine(fused.log_sum_exp_mean)
    h = torch.zeros(2600, dtype=torch.float64)
    engine(x, y, h, 1e-4)
    first = next(iter(engine._choices.values()))[1]
    engine(x, y, h + 1000.0, 1e-4)
    assert next(iter(engine._choices.values()))[1] is first
    tilted = h + 40.0 * (y[:, 0] - 7.0) / 0.29
    logs, _ = engine(x, y, tilted, 1e-4)
    assert next(iter(engine._choices.values()))[1] is not first
    expected, _ = fused.log_sum_exp_mean(x, y, tilted, 1e-4)
    assert float((logs - expected).abs().max()) < 1e-5


def test_a_wide_blur_or_few_points_use_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = bent_sphere(2200, 1)
    engine = TruncatedEngine(fused.log_sum_exp_mean)
    engine(x, x, torch.zeros(2200, dtype=torch.float64), 1.0)
    assert next(iter(engine._choices.values()))[1].batches is None
    engine = TruncatedEngine(fused.log_sum_exp_mean)
    engine(x[:100], x, torch.zeros(2200, dtype=torch.float64), 1e-4)
    assert not engine._clouds


def test_without_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = bent_sphere(700, 1), bent_sphere(600, 2)
    h = torch.zeros(600, dtype=torch.float64)
    expected, _ = fused.log_sum_exp_mean(x, y, h, 1e-4)
    monkeypatch.setattr(truncated, "SMALLEST_PROBLEM", 0)
    monkeypatch.setattr(fused, "is_available", lambda device_type: False)
    logs, mean = TruncatedEngine(fused.log_sum_exp_mean)(x, y, h, 1e-4, y)
    assert float((logs - expected).abs().max()) < 1e-5
    assert mean is not None and mean.shape == (700, 3)
