"""Pairs within a radius: against all distances in float64, by the library and by trees."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otreg.reductions import compiled, near
from otreg.reductions.near import near_pairs
from tests.support import ROOT


def compare(x: np.ndarray, y: np.ndarray, radius: float) -> None:
    """Every pair that is clearly within, none that is clearly beyond, each once."""
    found = near_pairs(x, y, radius)
    assert found is not None and found.shape == (len(x), len(y)) and found.data.dtype == np.float32
    rows, columns = np.repeat(np.arange(len(x)), np.diff(found.indptr)), found.indices
    squared = ((x[:, None].astype(np.float64) - y[None]) ** 2).sum(axis=2)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == len(rows)
    stored = np.zeros(squared.shape, bool)
    stored[rows, columns] = True
    # coordinates are single, of the size of the extent
    slack = 1e-5 * radius**2 + 1e-6 * radius * np.abs(np.concatenate([x, y])).max()
    assert stored[squared < radius**2 - slack].all() and not stored[squared > radius**2 + slack].any()
    assert np.abs(found.data - squared[rows, columns]).max(initial=0.0) <= slack


@pytest.mark.usefixtures("way")
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 120),
    columns=st.integers(1, 150),
    dimension=st.integers(1, 6),
    radius=st.floats(1e-3, 5.0),
    flat=st.booleans(),
    seed=st.integers(0, 20),
)
def test_any_two_clouds(
    rows: int, columns: int, dimension: int, radius: float, flat: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(count, dimension)).astype(np.float32) for count in (rows, columns))
    if flat:
        # all columns in one plane, far from the rows' mean
        y[:, 0] = 1.5
    compare(x, y, radius)


@pytest.mark.usefixtures("way")
def test_the_zeros_of_equal_points_are_stored() -> None:
    x = np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    found = near_pairs(x, x, 0.5)
    assert found is not None and found.nnz == 5 and not found.data.any()


@pytest.mark.usefixtures("way")
def test_points_on_the_borders_of_strips_and_at_the_very_radius() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 3), axis=-1).reshape(-1, 3)
    found = near_pairs(grid, grid, 1.0)
    # each point, and twice the edges of the grid
    assert found is not None and found.nnz == 216 + 2 * 3 * 180


@pytest.mark.usefixtures("way")
def test_no_points_and_no_pairs() -> None:
    x = np.zeros((4, 3))
    for first, second in ((x, x[:0]), (x[:0], x)):
        found = near_pairs(first, second, 1.0)
        assert found is not None and found.shape == (len(first), len(second)) and found.nnz == 0
    found = near_pairs(x, x + 7.0, 1.0)
    assert found is not None and found.nnz == 0


@pytest.mark.usefixtures("way")
def test_rows_a_thousand_diameters_away_find_nothing() -> None:
    x = np.random.default_rng(0).random((50, 3))
    found = near_pairs(np.concatenate([x, x + 1e3, x - 1e6]), x, 0.2)
    alone = near_pairs(x, x, 0.2)
    assert found is not None and alone is not None and found.nnz == alone.nnz


@pytest.mark.usefixtures("way")
def test_more_pairs_than_are_wanted_are_not_stored() -> None:
    x = np.random.default_rng(0).random((100, 3))
    assert near_pairs(x, x, 2.0, most=9_999) is None
    found = near_pairs(x, x, 2.0, most=10_000)
    assert found is not None and found.nnz == 10_000


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_coordinates_that_are_not_finite_are_refused(bad: float) -> None:
    x, y = np.zeros((3, 3)), np.zeros((3, 3))
    y[1, 2] = bad
    with pytest.raises(ValueError, match="finite"):
        near_pairs(x, y, 1.0)


@pytest.mark.skipif(not compiled.is_available(), reason="built without a C compiler")
def test_threads_find_the_same_pairs() -> None:
    x = np.random.default_rng(0).random((6000, 3))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            pairs = near_pairs(x, x, 0.05)
            assert pairs is not None
            found.append(pairs)
    finally:
        torch.set_num_threads(before)
    assert all(
        np.array_equal(getattr(found[0], part), getattr(found[1], part))
        for part in ("data", "indices", "indptr")
    )


def test_strips_grow_where_there_would_be_too_many() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 2, 1]])
    strips = near._strips(corners, 1e-4)
    assert strips.total <= near.MOST_STRIPS and strips.width > 1e-4 and strips.along == 1
    compare(np.random.default_rng(0).random((200, 3)), np.random.default_rng(1).random((200, 3)), 1e-3)


@pytest.mark.usefixtures("way")
def test_memory_grows_with_the_pairs_and_not_with_all_of_them(way: str) -> None:
    """40,000 points each: their distances would take 6.4 GB."""
    code = (
        "import numpy as np\n"
        "from otreg.reductions import compiled\n"
        f"compiled.is_available = {'compiled.is_available' if way == 'library' else 'lambda: False'}\n"
        "from otreg.reductions.near import near_pairs\n"
        "from tests.support import peak_memory\n"
        "x = np.random.default_rng(0).random((40_000, 3))\n"
        "near_pairs(x[:100], x, 0.01)\n"
        "before = peak_memory()\n"
        "pairs = near_pairs(x, x, 0.01)\n"
        "print(pairs.nnz, peak_memory() - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    pairs, grown = (float(word) for word in run.stdout.split())
    assert 40_000 < pairs < 80_000 * 2 and grown < 60
