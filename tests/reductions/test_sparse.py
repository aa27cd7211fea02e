"""Sparse products against dense ones, for any shape and either precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from otreg.reductions.sparse import SparseMatrix


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    width=st.integers(0, 4),
    density=st.floats(0.0, 1.0),
    single=st.booleans(),
)
def test_products_are_the_dense_ones(
    rows: int, columns: int, width: int, density: float, single: bool
) -> None:
    dtype = np.float32 if single else np.float64
    matrix = sparse.random(rows, columns, density, random_state=0).astype(dtype)
    right = np.random.default_rng(1).normal(size=(columns, width) if width else columns)
    exact = matrix.toarray().astype(float) @ right
    found = SparseMatrix(matrix) @ right
    assert found.shape == exact.shape and found.dtype == dtype
    assert found == pytest.approx(exact, abs=1e-5 if single else 1e-12)
