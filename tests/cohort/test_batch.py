"""Batches: their folders and summaries, what is run again, what a kill leaves, the same on a cluster."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import otreg as package
from otreg.cohort import BatchProgress, BatchResult, batch
from otreg.cohort.study import MARKER, estimated_memory
from otreg.errors import InputError, ManifestError
from tests.cli.support import command, environment, otreg, write_ply
from tests.cohort.clusters import cluster_in
from tests.cohort.shapes import write_study

RUN_FILES = ["config.toml", "moved.ply", "report.json", "transform.h5"]
QUICK = {"preset": "rigid", "workers": 1, "threads": 1}


def times(folder: Path) -> dict[str, int]:
    """When the report of each case was written, by name."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/report.json")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three pairs, run with the preset affine into ``out``."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    told: list[BatchProgress] = []
    result = batch(
        folder / "pairs.csv", folder / "out", preset="affine", workers=1, threads=1, progress=told.append
    )
    assert result.passed and len(result.results) == 3
    assert [event.done for event in told] == [0, 1, 2, 3] and {event.total for event in told} == {3}
    assert told[0].remaining is None and told[-1].remaining == 0.0
    assert told[-1].where == "1 process with 1 thread on this machine"
    return folder


def test_each_case_has_its_folder_and_the_summary_its_figures(study: Path) -> None:
    out = study / "out"
    for number in range(3):
        run = out / f"s{number}"
        assert sorted(path.name for path in run.iterdir()) == RUN_FILES
        report = json.loads((run / "report.json").read_text())
        assert report["case"]["name"] == run.name and report["preset"] == "affine"
        assert report["inputs"]["fixed"]["path"] == str(study / "fixed.ply")
        truth = package.read(study / "fixed.ply").points
        assert np.linalg.norm(package.read(run / "moved.ply").points - truth, axis=1).mean() < 4.0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["cases"], summary["passed"], summary["failed"], summary["ran"]) == (3, 3, 0, 3)
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["s0", "s1", "s2"]
    for row in rows:
        report = json.loads((out / row["name"] / "report.json").read_text())
        after = report["quality"]["after"]
        assert float(row["assd_after"]) == after["assd"] < float(row["assd_before"])
        assert float(row["landmarks_after"]) == after["landmarks"]["mean"]
        assert float(row["inverse_error"]) == after["inverse_error"]["max"]
        assert row["passed"] == "yes" and row["dice_after"] == "" and float(row["seconds"]) > 0
    largest = max(float(row["assd_after"]) for row in rows)
    assert summary["figures"]["assd_after"]["max"] == largest
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") and path.name != MARKER]


def test_a_case_is_what_register_makes_of_it(study: Path, tmp_path: Path) -> None:
    arguments = ("--landmarks", study / "s1.csv", study / "fixed.csv", "--preset", "affine", "--threads", "1")
    arguments += ("--set", "points=200", "--set", "starts=10")
    assert (
        otreg(
            "register", study / "s1.ply", study / "fixed.ply", "-o", tmp_path / "one", *arguments
        ).returncode
        == 0
    )
    batched = package.read(study / "out" / "s1" / "moved.ply").points
    np.testing.assert_allclose(package.read(tmp_path / "one" / "moved.ply").points, batched, atol=1e-6)
    config = (study / "out" / "s1" / "config.toml").read_text()
    done = (tmp_path / "one" / "config.toml").read_text()
    assert config.split("preset")[1] == done.split("preset")[1]


def test_the_overview_shows_every_case_worst_first(study: Path) -> None:
    result = BatchResult.load(study / "out")
    page = (study / "out" / "overview.html").read_text()
    assert page.count("<img ") == 3 and "3 passed" in page
    order = sorted(result.results, key=lambda one: -(one.figures["assd_after"] or 0.0))
    places = [page.index(f'href="{one.name}/"') for one in order]
    assert places == sorted(places)
    image = result.plot().image()
    assert image.shape[2] == 3 and image.std() > 10  # there is something on it
    assert (study / "out" / "overview.png").read_bytes()[:4] == b"\x89PNG"
    coloured = np.ptp(image.astype(int), axis=2) > 40
    assert coloured.any(axis=0).sum() > 400  # three shapes beside each other, each about 200 pixels wide


def test_results_are_loaded_as_they_were_saved(study: Path, tmp_path: Path) -> None:
    result = BatchResult.load(study / "out")
    result.save(tmp_path / "copy")
    again = BatchResult.load(tmp_path / "copy")
    assert again.results == result.results and again.about == result.about
    assert again.plot().save(tmp_path / "sheet.html").read_text().count("<figure") == 3
    with pytest.raises(InputError, match="PNG or HTML"):
        result.plot().save(tmp_path / "sheet.gif")
    with pytest.raises(InputError, match="is not the folder of a batch"):
        BatchResult.load(tmp_path)
    (tmp_path / "copy" / "summary.json").write_text('{"results": [1]}')
    with pytest.raises(InputError, match="is damaged"):
        BatchResult.load(tmp_path / "copy")


def test_only_what_is_missing_or_changed_runs_again(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)  # what was found there counts here: contents decide
    manifest, out, options = tmp_path / "pairs.csv", tmp_path / "out", {**QUICK, "preset": "affine"}
    first = times(out)
    assert len(first) == 3
    assert batch(manifest, out, **options).about["ran"] == 0  # type: ignore[arg-type]
    assert times(out) == first

    before = package.read(tmp_path / "s1.ply")
    write_ply(tmp_path / "s1.ply", before.points * 1.01, before.triangles)
    (out / "s2" / "report.json").unlink()  # as no kill of ours would leave it
    with pytest.raises(ManifestError, match="s2: is there, and no case of a batch"):
        batch(manifest, out, **options)  # type: ignore[arg-type]
    for path in (out / "s2").iterdir():
        path.unlink()
    result = batch(manifest, out, **options)  # type: ignore[arg-type]
    second = times(out)
    assert result.about["ran"] == 2 and result.passed
    assert second["s0"] == first["s0"] and second["s1"] > first["s1"] and second["s2"] > first["s2"]
    assert len(list((out / "thumbnails").iterdir())) == 3

    # with another seed nothing of it is done
    stopped = batch(manifest, out, seed=1, stop=lambda: True, **options)  # type: ignore[arg-type]
    assert [one.status for one in stopped.results] == ["waiting"] * 3


def test_a_failed_case_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    manifest = write_study(tmp_path)
    out = tmp_path / "out"
    kept = (tmp_path / "s1.ply").read_bytes()

    def lose_a_file(event: BatchProgress) -> None:
        if event.name is None:
            (tmp_path / "s1.ply").unlink()

    result = batch(manifest, out, progress=lose_a_file, **QUICK)  # type: ignore[arg-type]
    assert [one.status for one in result.results] == ["done", "failed", "done"] and not result.passed
    (failed,) = result.failed
    assert failed.name == "s1" and "s1.ply: no such file" in (failed.reason or "")
    assert not (out / "s1").exists()
    assert json.loads((out / "summary.json").read_text())["failed"] == 1
    page = (out / "overview.html").read_text()
    assert page.index(">s1<") < page.index(">s0<") and "no such file" in page
    (tmp_path / "s1.ply").write_bytes(kept)
    again = batch(manifest, out, overview=False, **QUICK)  # type: ignore[arg-type]
    assert again.about["ran"] == 1 and again.passed


def test_memory_and_stop(study: Path, tmp_path: Path) -> None:
    result = batch(study / "pairs.csv", tmp_path / "small", memory=1e6, **QUICK)  # type: ignore[arg-type]
    assert {one.status for one in result.results} == {"failed"}
    assert "more than the limit of 0.0 GB" in (result.failed[0].reason or "")
    few, many = ({"points": points, "control_points": 300} for points in (3000, 30000))
    sizes = [estimated_memory(None, "rigid", few), estimated_memory(20000, "rigid", many)]
    sizes += [estimated_memory(20000, "diffeo", few), estimated_memory(20000, "diffeo", many)]
    assert sizes == sorted(sizes) and 3e8 < sizes[0] < 1e9 and len(set(sizes)) == 4
    stopped = batch(
        study / "pairs.csv",
        tmp_path / "stopped",
        stop=lambda: any((tmp_path / "stopped").glob("*/report.json")),
        overview=False,
        **QUICK,  # type: ignore[arg-type]
    )
    assert [one.status for one in stopped.results].count("waiting") >= 1
    assert stopped.about["interrupted"] and not stopped.passed


def test_an_input_in_a_folder_that_would_be_replaced(study: Path) -> None:
    rows = [{"moving": study / "out" / "s0" / "moved.ply", "fixed": study / "fixed.ply", "name": "s0"}]
    with pytest.raises(ManifestError, match="which the case would replace"):
        batch(rows, study / "out", preset="affine", workers=1, threads=1)
    assert (study / "out" / "s0" / "moved.ply").exists()


def test_folders_that_are_not_ours_or_in_use_are_refused(study: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("years of work")
    with pytest.raises(InputError, match="is not an earlier batch"):
        batch(study / "pairs.csv", tmp_path / "other", **QUICK)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is a file"):
        batch(study / "pairs.csv", study / "s0.ply", **QUICK)  # type: ignore[arg-type]
    fcntl = pytest.importorskip("fcntl")
    with (study / "out" / MARKER).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another otreg batch is at work"):
            batch(study / "pairs.csv", study / "out", preset="affine", workers=1, threads=1)


def test_killed_in_mid_run_and_resumed(tmp_path: Path) -> None:
    write_study(tmp_path)
    arguments = ("batch", "pairs.csv", "-o", "out", "--preset", "affine", "--workers", "1", "--threads", "1")
    leader = subprocess.Popen(
        command(*arguments),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not times(tmp_path / "out"):
        assert leader.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    leader.send_signal(signal.SIGKILL)
    leader.wait()
    before = times(tmp_path / "out")
    assert 1 <= len(before) < 3
    for name in before:  # what is there is whole
        assert sorted(path.name for path in (tmp_path / "out" / name).iterdir()) == RUN_FILES
        package.load_transform(tmp_path / "out" / name / "transform.h5")
    done = otreg(*arguments, "--json", cwd=tmp_path, fresh=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    after = times(tmp_path / "out")
    # the worker may have ended one more case before it saw that its leader was gone
    assert len(after) == 3 and summary["ran"] in (3 - len(before), 2 - len(before)) and summary["passed"] == 3
    assert {name: after[name] for name in before} == before
    assert not [
        path for path in (tmp_path / "out").iterdir() if path.name.startswith(".") and path.name != MARKER
    ]
    assert len(list((tmp_path / "out" / "thumbnails").iterdir())) == 3


def test_a_cluster_gives_the_same_results_although_it_loses_a_worker(study: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    out = tmp_path / "out"
    with cluster_in(tmp_path) as cluster:
        killed: list[int] = []

        def kill_one() -> bool:
            # both are at work by now: each folder is written aside first
            if not killed and any(out.glob("*/report.json")):
                killed.append(cluster.living()[0])
                os.kill(killed[0], signal.SIGKILL)
            return False

        result = batch(
            study / "pairs.csv",
            out,
            preset="affine",
            scheduler=str(cluster.file),
            threads=1,
            overview=False,  # without pictures, workers need not load VTK
            stop=kill_one,
        )
        assert killed and len(cluster.living()) == 1
    assert result.passed and result.about["ran"] == 3
    for number in range(3):
        here, there = (folder / f"s{number}" for folder in (study / "out", out))
        assert (here / "moved.ply").read_bytes() == (there / "moved.ply").read_bytes()
        local, remote = (json.loads((run / "report.json").read_text())["quality"] for run in (here, there))
        assert local == remote
