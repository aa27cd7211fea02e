"""The benchmark's own reference, plain torch with all pairs stored, agrees with what it measures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from tests.attachments.cases import as_surface, organ

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "attachments.py"


def test_exact_merged_and_dense_agree() -> None:
    spec = importlib.util.spec_from_file_location("attachments_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    fixed, moving = as_surface(organ(3, 1)), as_surface(organ(3, 2))
    points, triangles = benchmark.placed(moving, fixed)
    assert points.dtype == torch.float32
    found = benchmark.compare("current", 0.2, points, triangles, fixed, True)
    assert abs(found["dense_change"]) < 1e-4
    assert abs(found["value_change"]) < 0.05 and found["gradient_change"] < 0.05
    assert min(found["exact"], found["merged"], found["dense"]) > 0.0
    assert float(points.amax()) == pytest.approx(float(fixed.points.max()), rel=0.2)
