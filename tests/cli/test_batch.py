"""``otreg batch`` as a user runs it: output, exit codes, every problem at once, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cohort.shapes import write_study

from .support import bean, command, environment, otreg, refused, write_ply

QUICK = ("--workers", "1", "--threads", "1")


def test_all_is_well_then_one_does_not_pass(tmp_path: Path) -> None:
    write_study(tmp_path, subjects=1)
    points, triangles = bean(2)
    ball = points / np.linalg.norm(points, axis=1, keepdims=True) * [90.0, 20.0, 6.0]
    done = otreg("batch", "pairs.csv", "-o", "out", "--preset", "affine", *QUICK, cwd=tmp_path, fresh=True)
    assert done.returncode == 0 and done.stderr == ""
    assert "cases" in done.stdout and str(Path("out") / "summary.csv") in done.stdout

    write_ply(tmp_path / "odd.ply", ball, triangles)
    with (tmp_path / "pairs.csv").open("a") as file:
        file.write("odd,odd.ply,fixed.ply,,,200,10\n")
    # the first row is done; the second is run with a preset that cannot bring it close
    arguments = ("batch", "pairs.csv", "-o", "out", "--preset", "affine", *QUICK, "--json", "--no-overview")
    text = (tmp_path / "pairs.csv").read_text().splitlines()
    text = [f"{line},{'preset' if not k else 'rigid' if k == 2 else ''}" for k, line in enumerate(text)]
    (tmp_path / "pairs.csv").write_text("\n".join(text) + "\n")
    done = otreg(*arguments, cwd=tmp_path, fresh=True)
    assert done.returncode == 3, (done.stdout, done.stderr)
    summary = json.loads(done.stdout)
    assert (summary["cases"], summary["ran"], summary["passed"], summary["not_passed"]) == (2, 1, 1, 1)
    first, last = done.stderr.splitlines()
    assert first.startswith("otreg: did not pass: odd: ")
    assert last.startswith("otreg: 1 did not pass of 2 cases")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["results"] == summary["results"]


def test_every_problem_is_said_before_anything_runs(tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / "bad.csv").write_text(
        "moving,fixed,name,sed\ns0.ply,fixed.ply,a,\nnone.ply,fixed.ply,a,\ns1.ply,gone.ply,b,\n"
    )
    done = otreg("batch", "bad.csv", "-o", "out", cwd=tmp_path, fresh=True)
    assert done.returncode == 2 and done.stdout == ""
    *lines, last = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["header", "row 3", "row 3", "row 4"]
    assert "did you mean 'seed'?" in lines[0]
    assert last.startswith("otreg: error: bad.csv: 4 problems, nothing was run")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.csv", "-o", "out"], "none.csv: no such file"),
        (["*.vtk", "-o", "out"], "matches no file"),
        ([".", "-o", "out"], "is a folder"),
        (["pairs.csv", "-o", "fixed.ply"], "is a file"),
        (["pairs.csv", "-o", "."], "is not an earlier batch"),
        (["pairs.csv", "-o", "out", "--memory", "much"], "12GB"),
        (["pairs.csv", "-o", "out", "--workers", "1000"], "more than the"),
        (["pairs.csv", "-o", "out", "--set", "pints=3"], "unknown setting 'pints'"),
        (["pairs.csv", "-o", "out", "--scheduler", "nonsense"], "no Dask scheduler answers at nonsense"),
    ],
)
def test_bad_use_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--scheduler" in arguments:
        pytest.importorskip("distributed")
        monkeypatch.setattr("otreg.cohort.cluster.CONNECT", 1.0)
    write_study(tmp_path, subjects=1)
    assert words in refused("batch", *arguments, cwd=tmp_path)


def test_a_pattern_and_ctrl_c(tmp_path: Path) -> None:
    """The first Ctrl-C, sent to the whole group as a terminal does, lets the case in progress be finished."""
    write_study(tmp_path)
    arguments = ("batch", "s*.ply", "-o", "out", "--fixed", "fixed.ply", "--preset", "affine", *QUICK)
    process = subprocess.Popen(
        command(*arguments),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*/report.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    first, last = said.splitlines()
    assert first.startswith("otreg: stopping after the cases in progress")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["interrupted"] and 1 <= summary["passed"] <= 2
    assert last.startswith(f"otreg: {summary['waiting']} not run of 3 cases")
