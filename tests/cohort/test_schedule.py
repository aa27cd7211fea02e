"""The processes of this machine: what they return, how they fail, what becomes of those that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from otreg.cohort import open_scheduler, run_cases
from otreg.cohort.division import available_cores, divide, total_memory
from otreg.cohort.schedule import Outcome, Scheduler
from otreg.errors import InputError
from tests.cohort import jobs
from tests.support import ROOT


@pytest.fixture(scope="module")
def one() -> Scheduler:
    """One process for the tests that do not care how many there are."""
    with open_scheduler(cases=1, workers=1, threads=1) as scheduler:
        yield scheduler  # type: ignore[misc]


def test_outcomes_come_in_the_order_of_the_cases_and_are_told_as_they_come(one: Scheduler) -> None:
    told: list[tuple[int, Outcome]] = []
    outcomes = one.run(jobs.square, [3.0, -2.0, 0.5], on_done=lambda *what: told.append(what))
    assert [outcome.value for outcome in outcomes] == [9.0, 4.0, 0.25]
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert sorted(told) == list(enumerate(outcomes))
    assert one.run(jobs.square, []) == []


def test_processes_stay_and_have_their_threads(one: Scheduler) -> None:
    before = dict(os.environ)
    found = [outcome.value for _ in range(2) for outcome in one.run(jobs.environment, [0, 1])]
    assert len({entry["pid"] for entry in found}) == 1 and found[0]["pid"] != os.getpid()
    assert all(entry["torch"] == 1 and entry["omp"] == "1" and entry["interrupt"] for entry in found)
    assert dict(os.environ) == before


def test_a_failure_is_a_line_and_stops_nobody(one: Scheduler) -> None:
    cases = ["input", "zero", "memory", "file", "unsendable", "fine"]
    *failed, fine = one.run(jobs.fail, cases)
    assert fine.status == "done" and fine.value == "fine"
    assert {outcome.status for outcome in failed} == {"failed"}
    reasons = [outcome.reason or "" for outcome in failed]
    assert reasons[0] == "case.ply: holds no points; export it again"
    assert reasons[1] == "ZeroDivisionError: division by zero"
    assert reasons[2].startswith("ran out of memory")
    assert reasons[3] == "gone.ply: No such file or directory"
    assert reasons[4] and not any("\n" in reason for reason in reasons)


def test_warnings_of_otreg_come_along(one: Scheduler) -> None:
    (outcome,) = one.run(jobs.complain, ["this"])
    assert outcome.warnings == ("this is odd",)


def test_a_killed_process_takes_only_its_case_which_is_run_once_more(one: Scheduler, tmp_path: Path) -> None:
    cases = [
        {"marker": str(tmp_path / name), "times": times} for name, times in (("a", 1), ("b", 0), ("c", 9))
    ]
    once, never, always = one.run(jobs.die, cases)
    assert once.status == never.status == "done"
    assert always.status == "failed" and "killed, 2 times" in (always.reason or "")
    assert [(tmp_path / name).read_text() for name in ("a", "c")] == ["1", "2"]
    assert one.run(jobs.square, [2.0])[0].value == 4.0


def test_stop_finishes_what_is_in_progress_and_begins_nothing(one: Scheduler, tmp_path: Path) -> None:
    cases = [{"folder": str(tmp_path), "name": str(number), "seconds": 0.5} for number in range(3)]
    outcomes = one.run(jobs.sleep, cases, stop=lambda: (tmp_path / "0.began").exists())
    assert [outcome.status for outcome in outcomes] == ["done", "stopped", "stopped"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.began", "0.ended"]


def test_memory_keeps_cases_apart_and_refuses_those_that_never_fit(one: Scheduler) -> None:
    from otreg.cohort.local import _Queue

    queue = _Queue(4, [6.0, 6.0, 3.0, 11.0], 10.0)
    ((index, reason),) = queue.too_large()
    assert index == 3 and "more than the limit" in reason
    assert queue.next() == 0
    assert queue.next() == 2  # the second large one has to wait, the small one goes ahead
    assert queue.next() is None
    queue.finished(0)
    assert queue.next() == 1
    queue.finished(1)
    queue.finished(2)
    assert queue.again(0) and queue.next() == 0 and not queue.again(0)


def test_two_processes_work_at_a_time(tmp_path: Path) -> None:
    if available_cores() < 2:
        pytest.skip("needs two cores")
    cases = [{"folder": str(tmp_path), "name": str(number), "seconds": 1.0} for number in range(2)]
    with open_scheduler(cases=2, workers=2, threads=1) as scheduler:
        scheduler.run(jobs.square, [1.0, 2.0])
        outcomes = scheduler.run(jobs.sleep, cases)
    assert len({outcome.value for outcome in outcomes}) == 2
    began = [(tmp_path / f"{number}.began").stat().st_mtime for number in range(2)]
    ended = [float((tmp_path / f"{number}.ended").read_text()) for number in range(2)]
    assert max(began) < min(ended)


@pytest.mark.parametrize(
    "asked, cases, size, expected",
    [
        ({}, 100, 1e9, (8, 1)),
        ({}, 3, 1e9, (3, 2)),
        ({}, 100, 9e9, (3, 2)),  # 27 of 30 GB
        ({}, 100, 40e9, (1, 8)),
        ({"threads": 4}, 100, 1e9, (2, 4)),
        ({"workers": 3}, 100, 1e9, (3, 2)),
        ({"workers": 2, "threads": 3}, 100, 1e9, (2, 3)),
    ],
)
def test_cores_and_memory_are_divided(
    asked: dict[str, int], cases: int, size: float, expected: tuple[int, int]
) -> None:
    found = divide(cases, **asked, memory=30e9, case_memory=[size] * cases, cores=8)  # type: ignore[arg-type]
    assert found[:2] == expected
    assert found.workers * found.threads <= 8


def test_impossible_divisions_are_refused() -> None:
    with pytest.raises(InputError, match=r"5 workers with 2 threads each are more than the 8 cores"):
        divide(10, workers=5, threads=2, cores=8)
    for wrong in (
        {"workers": 0},
        {"threads": 0},
        {"threads": True},
        {"memory": 0.0},
        {"memory": float("nan")},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            divide(10, cores=8, **wrong)  # type: ignore[arg-type]
    total = total_memory()
    assert total is None or 1e8 < total < 1e14


def test_workers_end_when_their_leader_is_killed(tmp_path: Path) -> None:
    code = f"""
if __name__ == "__main__":
    from otreg.cohort import run_cases
    from tests.cohort import jobs
    run_cases(jobs.sleep, [{{"folder": {str(tmp_path)!r}, "name": "x", "seconds": 60}}], workers=1, threads=1)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    leader = subprocess.Popen([sys.executable, str(script)], env=environment)
    began = tmp_path / "x.began"
    deadline = time.monotonic() + 60
    while not (began.exists() and began.read_text()):
        assert leader.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    worker = int(began.read_text())
    leader.kill()
    leader.wait()
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from otreg.cohort import run_cases\nfrom tests.cohort import jobs\n"
        "run_cases(jobs.square, [1.0], workers=1, threads=1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert '__name__ == "__main__"' in done.stderr.splitlines()[-1]


def test_results_do_not_depend_on_which_process_made_them(one: Scheduler) -> None:
    first = [outcome.value for outcome in one.run(jobs.product, [1, 2, 1])]
    second = [outcome.value for outcome in run_cases(jobs.product, [2, 1], workers=1, threads=1)]
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[0], second[1])
    np.testing.assert_array_equal(first[1], second[0])
