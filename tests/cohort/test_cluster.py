"""A Dask cluster of this machine: a scheduler and two workers, each a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from otreg.cohort import open_scheduler, run_cases
from otreg.errors import InputError
from tests.cohort import jobs
from tests.cohort.clusters import Cluster, cluster_in


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    with cluster_in(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster


def test_results_are_those_of_this_machine_bit_for_bit(cluster: Cluster) -> None:
    seeds = list(range(6))
    told: list[int] = []
    with open_scheduler(str(cluster.file), cases=6, threads=1) as scheduler:
        there = scheduler.run(jobs.product, seeds, on_done=lambda index, _: told.append(index))
        assert str(cluster.file) in scheduler.describe()
    here = run_cases(jobs.product, seeds, workers=1, threads=1)
    assert sorted(told) == seeds
    for one, other in zip(there, here, strict=True):
        assert one.status == other.status == "done"
        np.testing.assert_array_equal(one.value, other.value)


def test_failures_are_lines(cluster: Cluster) -> None:
    outcomes = run_cases(jobs.fail, ["zero", "fine", "input"], scheduler=str(cluster.file))
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "failed"]
    assert outcomes[0].reason == "ZeroDivisionError: division by zero"
    assert outcomes[2].reason == "case.ply: holds no points; export it again"


def test_a_lost_worker_is_survived_and_its_case_runs_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    cases = [{"folder": str(tmp_path), "name": str(number), "seconds": 1.0} for number in range(4)]
    killed: list[int] = []

    def kill_one() -> bool:
        began = sorted(tmp_path.glob("*.began"))
        running = [path for path in began if path.read_text() and not path.with_suffix(".ended").exists()]
        if not killed and len(running) == 2:
            killed.append(int(running[0].read_text()))
            os.kill(killed[0], signal.SIGKILL)
        return False

    outcomes = run_cases(jobs.sleep, cases, scheduler=str(cluster.file), threads=1, stop=kill_one)
    assert killed and killed[0] in {process.pid for process in cluster.processes}
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert killed[0] not in {outcome.value for outcome in outcomes}
    assert len(list(tmp_path.glob("*.ended"))) == 4


def test_a_case_that_kills_its_workers_is_given_up(cluster: Cluster, tmp_path: Path) -> None:
    cluster.worker()
    case = {"marker": str(tmp_path / "x"), "times": 9}
    (outcome,) = run_cases(jobs.die, [case], scheduler=str(cluster.file))
    assert outcome.status == "failed" and "worker was lost, 2 times" in (outcome.reason or "")
    cluster.worker()
    assert run_cases(jobs.square, [3.0], scheduler=str(cluster.file))[0].value == 9.0


def test_stop_lets_go(cluster: Cluster, tmp_path: Path) -> None:
    cases = [{"folder": str(tmp_path), "name": str(number), "seconds": 0.5} for number in range(9)]
    outcomes = run_cases(
        jobs.sleep, cases, scheduler=str(cluster.file), stop=lambda: any(tmp_path.glob("*.ended"))
    )
    stopped = [outcome for outcome in outcomes if outcome.status == "stopped"]
    assert len(stopped) >= 6


def test_a_scheduler_that_is_lost_is_said(tmp_path: Path) -> None:
    cases = [{"folder": str(tmp_path), "name": str(number), "seconds": 2.0} for number in range(3)]
    with cluster_in(tmp_path) as cluster:

        def kill_the_scheduler() -> bool:
            if any(tmp_path.glob("*.began")):
                cluster.processes[0].kill()
            return False

        outcomes = run_cases(jobs.sleep, cases, scheduler=str(cluster.file), stop=kill_the_scheduler)
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert "scheduler was lost" in (outcomes[0].reason or "")


def test_bad_use_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otreg.cohort.cluster.CONNECT", 1.0)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 "):
        run_cases(jobs.square, [1.0], scheduler="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match="workers is for the scheduler local"):
        run_cases(jobs.square, [1.0], scheduler=str(cluster.file), workers=2)
    with pytest.raises(InputError, match="threads must be"):
        run_cases(jobs.square, [1.0], scheduler=str(cluster.file), threads=0)
