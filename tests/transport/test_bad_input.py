"""Every bad argument is named, with what came and what is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from otreg.errors import InputError
from otreg.transport import solve

X, Y = torch.rand(4, 3), torch.rand(5, 3)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("x must have shape", {"x": X[0]}),
        ("x has no points", {"x": X[:0]}),
        ("y must be finite, but row 2", {"y": torch.where(torch.arange(5)[:, None] == 2, torch.nan, Y)}),
        ("x must be finite, but row 0", {"x": X * torch.inf}),
        ("x and y must have the same dimension, got 3 and 2", {"y": Y[:, :2]}),
        ("x must be float32 or float64, got torch.int64", {"x": torch.ones(4, 3, dtype=torch.long)}),
        ("x must be float32 or float64", {"x": np.ones((4, 3), dtype=int)}),
        ("x must be an array of floats", {"x": [["a", "b"]]}),
        ("x is torch.float32 but y is torch.float64", {"y": Y.double()}),
        ("a must have shape \\(4,\\), got \\(5,\\)", {"a": torch.ones(5)}),
        ("b must not be negative", {"b": -torch.ones(5)}),
        ("a must be finite", {"a": torch.full((4,), torch.nan)}),
        ("a has no mass", {"a": torch.zeros(4)}),
        ("same total mass in a balanced problem, got 4 and 1", {"a": torch.ones(4)}),
        ("blur must be a positive number, got 0", {"blur": 0.0}),
        ("blur must be a positive number, got nan", {"blur": float("nan")}),
        ("blur must be a positive number, got 'wide'", {"blur": "wide"}),
        ("reach must be a positive number", {"reach": -1.0}),
        ("either reach or reach_x", {"reach": 1.0, "reach_x": 1.0}),
        ("tol must be a positive number", {"tol": 0.0}),
        ("max_iterations must be at least 1", {"max_iterations": 0}),
        ("scaling must lie between", {"scaling": 1.5}),
        ("start_blur must be", {"start_blur": -1.0}),
        ("unknown engine 'fast'", {"engine": "fast"}),
        ("init must be a pair", {"init": (X[:, 0],)}),
        ("init\\[1\\] must have shape \\(5,\\)", {"init": (X[:, 0], X[:, 0])}),
        ("debias needs the same reach", {"debias": True, "reach_x": 1.0}),
        ("y_features is missing", {"x_features": X}),
        ("x_features must have shape \\(4, F\\)", {"x_features": Y, "y_features": Y}),
        ("same number of columns", {"x_features": X, "y_features": Y[:, :1]}),
        ("feature_weight must be", {"x_features": X, "y_features": Y, "feature_weight": -1.0}),
        ("feature_weight must be", {"x_features": X, "y_features": Y, "feature_weight": [1.0, 2.0]}),
    ],
)
def test_named(message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        solve(**{"x": X, "y": Y, "blur": 0.1, **arguments})


def test_mixed_devices() -> None:
    with pytest.raises(InputError, match="x is on cpu but y is on meta"):
        from otreg.reductions.checks import same_kind

        same_kind(X, Y.to("meta"), "x", "y")


def test_values_of_the_wrong_length() -> None:
    found = solve(X, Y, blur=0.5)
    with pytest.raises(InputError, match="values must have shape \\(5,\\)"):
        found.apply(X)
