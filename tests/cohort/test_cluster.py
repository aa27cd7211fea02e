"""A Dask cluster of this machine: a scheduler and two workers, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from otreg.cohort import open_scheduler, run_cases
from otreg.errors import InputError
from tests.cohort import jobs
from tests.support import ROOT


class Cluster(NamedTuple):
    """A scheduler, by its scheduler file, and the processes of it and its workers."""

    file: Path
    processes: list[subprocess.Popen[bytes]]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        }
        command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.file.parent,
        )
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        """One more worker; without a nanny, so that what is killed stays dead."""
        options = (
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            str(self.file.parent),
        )
        return self.start("dask_worker", "--scheduler-file", str(self.file), *options)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    cluster = Cluster(tmp_path_factory.mktemp("dask") / "scheduler.json", [])
    address = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(cluster.file))
    scheduler = cluster.start("dask_scheduler", *address)
    deadline = time.monotonic() + 60
    while not cluster.file.exists():
        assert scheduler.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    for _ in range(2):
        cluster.worker()
    yield cluster
    for process in reversed(cluster.processes):
        process.kill()
        process.wait()


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


def test_bad_use_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otreg.cohort.cluster.CONNECT", 1.0)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 "):
        run_cases(jobs.square, [1.0], scheduler="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match="workers is for the scheduler local"):
        run_cases(jobs.square, [1.0], scheduler=str(cluster.file), workers=2)
    with pytest.raises(InputError, match="threads must be"):
        run_cases(jobs.square, [1.0], scheduler=str(cluster.file), threads=0)
