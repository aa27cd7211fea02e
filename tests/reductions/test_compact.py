"""Sums of a compact kernel over near pairs: against all pairs in float64, and the way that products of matrices go."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otreg.reductions import compact, mixed
from otreg.reductions.compact import sums_over_near_pairs
from otreg.reductions.mixed import MixedKernel


def dense(x: torch.Tensor, z: torch.Tensor, v: torch.Tensor, width: float, order: int) -> torch.Tensor:
    """The sum, and its first derivative by u = (r / width)², written out; s = √u."""
    s = (torch.cdist(x.double(), z.double(), compute_mode="donot_use_mm_for_euclid_dist") / width).clamp(
        max=1.0
    )
    profile = (
        (1 - s) ** 6 * (35 * s**2 + 18 * s + 3) / 3 if order == 0 else -28 / 3 * (1 - s) ** 5 * (5 * s + 1)
    )
    return profile @ v.double()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 300),
    columns=st.integers(1, 300),
    width=st.floats(0.05, 3.0),
    seed=st.integers(0, 10),
)
def test_against_all_pairs(dtype: torch.dtype, rows: int, columns: int, width: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, z, v, w = (
        torch.randn(count, size, generator=generator, dtype=torch.float64).to(dtype)
        for count, size in ((rows, 3), (columns, 3), (columns, 2), (columns, 4))
    )
    x[: min(rows, columns) // 2] = z[: min(rows, columns) // 2]  # points on centres
    found = sums_over_near_pairs(x, z, [(0, v), (1, w), (0, w)], width)
    assert found is not None
    exact = 1e-12 if dtype == torch.float64 else 2e-5
    for part, (order, values) in zip(found, [(0, v), (1, w), (0, w)], strict=True):
        assert part.dtype == dtype and part.shape == (rows, values.shape[1])
        wanted = dense(x, z, values, width, order)
        assert float((part.double() - wanted).abs().max() if rows else 0.0) < exact * 30 * math.sqrt(columns)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, z, v = (torch.rand(count, 3, generator=generator, dtype=torch.float64) for count in (3000, 400, 400))
    whole = sums_over_near_pairs(x, z, [(0, v)], 0.2)
    monkeypatch.setattr(compact, "ROWS_AT_ONCE", 700)
    blocks = sums_over_near_pairs(x, z, [(0, v)], 0.2)
    monkeypatch.setattr(compact, "ROWS_AT_ONCE", 2500)
    monkeypatch.setattr(compact, "PAIRS_AT_ONCE", 20_000)
    halves = sums_over_near_pairs(x, z, [(0, v)], 0.2)
    monkeypatch.setattr(compact, "PAIRS_AT_ONCE", 1000)
    assert sums_over_near_pairs(x, z, [(0, v)], 0.2) is None
    assert whole is not None and blocks is not None and halves is not None
    torch.testing.assert_close(blocks[0], whole[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(halves[0], whole[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_kernels_take_this_way_where_no_gradient_is_wanted(
    offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, z, v = (torch.rand(count, 3, generator=generator, dtype=torch.float64) for count in (2000, 300, 300))
    x, z = x + offset, z + offset
    kernel = MixedKernel("wendland", (0.1, 0.25), (2.0, 0.5))
    taken: list[float] = []

    def noted(*given: object) -> list[torch.Tensor] | None:
        taken.append(float(given[3]))  # type: ignore[arg-type]
        return sums_over_near_pairs(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(mixed, "sums_over_near_pairs", noted)
    found = kernel.sums(x, z, (0, v), (1, v))
    assert taken == [0.1, 0.25]
    other = kernel.sums(x, z.clone().requires_grad_(), (0, v), (1, v))
    assert taken == [0.1, 0.25]
    for one, two in zip(found, other, strict=True):
        assert two.requires_grad
        torch.testing.assert_close(
            one, two.detach(), rtol=1e-8 if offset else 1e-11, atol=1e-8 if offset else 1e-11
        )
