"""A Dask cluster of this machine: a scheduler and two workers, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support import ROOT


class Cluster(NamedTuple):
    """A scheduler, by its scheduler file, and the processes of it and its workers."""

    file: Path
    processes: list[subprocess.Popen[bytes]]

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of Dask's programs; a case that loses two workers is given up."""
        # the tests, but not the sources beside them: workers run the package that is installed, as the tests do
        path = self.file.parent / "path"
        path.mkdir(exist_ok=True)
        if not (path / "tests").exists():
            (path / "tests").symlink_to(ROOT / "tests", target_is_directory=True)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{program}", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.file.parent,
        )
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        """Start one more worker; without a nanny, so that what is killed stays dead."""
        options = (
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            str(self.file.parent),
        )
        return self.start("dask_worker", "--scheduler-file", str(self.file), *options)

    def living(self) -> list[int]:
        """Process ids of the workers that have not ended."""
        return [process.pid for process in self.processes[1:] if process.poll() is None]


@contextmanager
def cluster_in(folder: Path) -> Iterator[Cluster]:
    """A scheduler and two workers for the time of a block."""
    cluster = Cluster(folder / "scheduler.json", [])
    try:
        address = (
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(cluster.file),
        )
        scheduler = cluster.start("dask_scheduler", *address)
        deadline = time.monotonic() + 60
        while not cluster.file.exists():
            assert scheduler.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        for _ in range(2):
            cluster.worker()
        yield cluster
    finally:
        for process in reversed(cluster.processes):
            process.kill()
            process.wait()
