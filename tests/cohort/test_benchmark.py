"""The benchmark of cohorts: its study is one that registers, its figures follow from the seconds as it says."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import otreg
from otreg.cohort.manifest import read_manifest
from tests.support import ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not (ROOT / "benchmarks").exists():
        pytest.skip("the benchmarks do not come with the installed package")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(__import__("sys").modules, "cohort", raising=False)
    import cohort

    return cohort


def test_the_study_has_the_sizes_asked_for(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.write_study(tmp_path, 2, 700)
    (first, second) = read_manifest(benchmark.manifest(tmp_path, 2))
    fixed, moving = otreg.read(first.fixed), otreg.read(first.moving)
    assert len(fixed) == len(moving) == pytest.approx(700, rel=0.05)
    assert second.name == "s0001" and first.fixed == second.fixed
    # deformed, but not beyond recognition: lengths of edges change by a few percent
    ends = moving.triangles[:, :2]
    lengths = [np.linalg.norm(np.diff(shape.points[ends], axis=1)[:, 0], axis=1) for shape in (fixed, moving)]
    change = np.abs(np.log(lengths[1] / lengths[0]))
    assert 0.01 < change.mean() < 0.3


def test_figures_follow_from_seconds(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "available_cores", lambda: 2)
    monkeypatch.setattr(benchmark, "loop", lambda folder, pairs, *_: 5.0 * pairs)
    monkeypatch.setattr(benchmark, "run_batch", lambda folder, pairs, *_: 4.0 + 1.5 * pairs)
    monkeypatch.setattr(benchmark, "empty", lambda **_: 0.002)
    monkeypatch.setattr(benchmark, "dask", lambda *_: nullcontext("scheduler.json"))
    options = argparse.Namespace(pairs=10, vertices=100, preset="rigid", workers=2, without_dask=False)
    rows = {row["way"]: row for row in benchmark.measure(Path(), options)}
    assert list(rows) == ["loop", "loop, all cores", "1 worker", "2 workers", "overview", "Dask, 2"]
    assert rows["loop"]["start"] == pytest.approx(0.0)
    assert rows["loop"]["hours"] == pytest.approx(5000 / 3600)
    for way in ("1 worker", "2 workers", "Dask, 2"):
        assert rows[way]["a pair"] == pytest.approx(1.5) and rows[way]["start"] == pytest.approx(4.0)
        assert rows[way]["hours"] == pytest.approx(1504 / 3600)
    text = benchmark.table(list(rows.values()))
    assert "| 2 workers | 19.0 | 1.50 | 4.0 | 2.0 | 0.42 |" in text
