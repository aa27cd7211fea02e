"""The benchmark of flows, on something tiny."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


def test_benchmark(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "flows.py"
    if not script.exists():
        pytest.skip("the benchmarks do not come with the installed package")
    command = [sys.executable, str(script), "--points", "50,60", "--control-points", "12", "--steps", "4"]
    run = subprocess.run(
        [*command, "--widths", "0.4,0.2", "--methods", "midpoint", "--json", str(tmp_path / "out.json")],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["points"] for row in rows] == [50, 60] and "midpoint" in run.stdout
    for row in rows:
        assert row["displacement"] == pytest.approx(0.1, rel=0.5)
        assert 0 < row["smallest det"] < 1
        assert row["inverse error"] < 1e-9 < row["backward error"] < 1e-3
