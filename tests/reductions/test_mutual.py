"""Both softmins at once against one after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from otreg.errors import InputError
from otreg.reductions import compiled, mutual, softmin, softmin_pair


@pytest.fixture(autouse=True)
def without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, two sums are quicker than both at once."""
    monkeypatch.setattr(compiled, "is_available", lambda: False)


def potentials(count: int, seed: int, size: float) -> torch.Tensor:
    return size * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("engine", ["fused", "blocks"])
@pytest.mark.parametrize("blur", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("size", [1e-5, 30.0])
def test_both_directions(engine: str, blur: float, size: float) -> None:
    """Whatever the potentials: those that overflow or underflow are summed the safe way."""
    x = torch.rand(700, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 5
    y = torch.rand(900, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 5
    f, g = potentials(700, 3, size), potentials(900, 4, size)
    a, b = torch.rand(700, dtype=torch.float64), torch.rand(900, dtype=torch.float64)
    a[::5] = 0.0
    to_x, to_y = softmin_pair(x, y, f, g, a, b, blur=blur, engine=engine)
    assert torch.allclose(to_x, softmin(x, y, g, b, blur=blur).value, rtol=1e-10, atol=1e-10)
    assert torch.allclose(to_y, softmin(y, x, f, a, blur=blur).value, rtol=1e-10, atol=1e-10)
    own = softmin_pair(x, x, f, f, a, a, blur=blur, engine=engine)
    expected = softmin(x, x, f, a, blur=blur).value
    assert torch.allclose(own.to_x, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(own.to_x, own.to_y)


def test_float32_is_exact_where_the_blur_is_small() -> None:
    x, y = (torch.rand(3000, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    weights, zero = torch.full((3000,), 1 / 3000), torch.zeros(3000)
    g = softmin(y.double(), x.double(), None, weights, blur=0.02).value
    to_x, _ = softmin_pair(x, y, zero, g, weights, weights, blur=0.02)
    error = (to_x - softmin(x.double(), y.double(), g, weights, blur=0.02).value) / 0.02**2
    assert float(error.abs().max()) < 1e-4 and abs(float(error.mean())) < 1e-6


def test_unsafe_rows_are_few_near_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(300, 3, generator=torch.Generator().manual_seed(1))
    f = softmin(x, x, weights=torch.full((300,), 1 / 300), blur=0.2).value
    again: list[int] = []
    safe = mutual._again
    monkeypatch.setattr(
        mutual, "_again", lambda logs, *rest: again.append(int(logs.isnan().sum())) or safe(logs, *rest)
    )
    softmin_pair(x, x, f, f, blur=0.2)
    assert again == [0, 0]


def test_numpy_and_bad_input() -> None:
    x, f = np.zeros((3, 2)), np.zeros(3)
    assert softmin_pair(x, x, f, f, blur=1.0).to_x == pytest.approx(-math.log(3))
    with pytest.raises(InputError, match="g must have shape"):
        softmin_pair(x, x, f, f[:2], blur=1.0)
    with pytest.raises(InputError, match="b must not be negative"):
        softmin_pair(x, x, f, f, f, f - 1, blur=1.0)
