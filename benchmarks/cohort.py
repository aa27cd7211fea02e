"""What a batch saves over a shell loop, what a second worker and what Dask cost, and what 1,000 subjects would take.

    python benchmarks/cohort.py [--pairs 20] [--vertices 10000] [--preset diffeo] [--workers 2] [--json out.json]

Pairs are smoothly deformed, turned and moved copies of one closed surface, each onto the first one. Every way starts
from nothing, in processes of its own, and each case has one thread, except for the loop over all cores:

    loop             `otreg register` for one pair after the other, as a shell does it
    loop, all cores  the same with the threads that otreg takes by itself
    1 worker         `otreg batch --workers 1`: libraries are loaded once
    N workers        `otreg batch --workers N`
    overview         the same with the overview, which the others leave out
    Dask             `otreg batch --scheduler` on a scheduler and N workers of this machine, which run before it starts

``start`` is what a way takes besides its cases, from the run of one case (N for N workers): T(first) - first * slope,
with slope = (T(pairs) - T(first)) / (pairs - first). 1,000 subjects take start + 1,000 * slope. ``an empty case`` is
what a scheduler itself takes for each of 500 cases that do nothing. Other programs must be silent meanwhile.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from meshes import Mesh, resized, write_mesh

from otreg.cohort import open_scheduler
from otreg.cohort.division import available_cores

EMPTY = 500
SUBJECTS = 1000


def main() -> None:
    """Read the arguments, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--vertices", type=int, default=10000)
    parser.add_argument("--preset", default="diffeo")
    parser.add_argument("--workers", type=int, default=min(2, available_cores()))
    parser.add_argument("--without-dask", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.pairs <= options.workers:
        parser.error("--pairs must be more than --workers")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_study(place, options.pairs, options.vertices)
        rows = list(measure(place, options))
    print(
        f"{options.pairs} pairs of {options.vertices:,} vertices, preset {options.preset}, "
        f"{available_cores()} cores"
    )
    print(table(rows))
    if options.json:
        options.json.write_text(
            json.dumps({"rows": rows, "empty": EMPTY, "subjects": SUBJECTS}, indent=1) + "\n"
        )


def write_study(folder: Path, pairs: int, vertices: int) -> None:
    """One surface and its deformed copies, with a manifest of all and one for each first number of them."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    x, y, z = np.asarray(ball.vertices).T
    bean = np.stack([50 * x + 12 * z**2, 30 * y * (1 + 0.3 * x), 20 * z + 8 * x * y + 5 * x**2], axis=1)
    fixed = resized(Mesh(bean, np.asarray(ball.faces)), vertices)
    write_mesh(folder / "fixed.ply", fixed)
    generator = np.random.default_rng(0)
    for number in range(pairs):
        centres = fixed.points[generator.choice(len(fixed.points), 8, replace=False)]
        pushes = generator.normal(0.0, 4.0, (8, 3))
        near = np.exp(-0.5 * ((fixed.points[:, None] - centres) ** 2).sum(2) / 15.0**2)
        angle = generator.uniform(-0.5, 0.5)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        moved = (fixed.points + near @ pushes) @ turn.T + generator.normal(0, 20, 3)
        write_mesh(folder / f"s{number:04d}.ply", Mesh(moved, fixed.triangles))


def manifest(folder: Path, pairs: int) -> Path:
    path = folder / f"first-{pairs}.csv"
    path.write_text("moving,fixed\n" + "".join(f"s{number:04d}.ply,fixed.ply\n" for number in range(pairs)))
    return path


def measure(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each way, printed on stderr as it comes."""
    workers = options.workers
    single = ["--workers", "1", "--threads", "1", "--no-overview"]
    several = ["--workers", str(workers), "--threads", "1"]

    def row(way: str, first: int, seconds: Any, empty: float | None = None) -> dict[str, Any]:
        few, many = seconds(first), seconds(options.pairs)
        slope = (many - few) / (options.pairs - first)
        found = {
            "way": way,
            "seconds": many,
            "a pair": slope,
            "start": few - first * slope,
            "empty": empty,
            "hours": (few + (SUBJECTS - first) * slope) / 3600,
        }
        print(found, file=sys.stderr, flush=True)
        return found

    yield row("loop", 1, lambda pairs: loop(folder, pairs, options.preset, ["--threads", "1"]))
    if available_cores() > 1:
        yield row("loop, all cores", 1, lambda pairs: loop(folder, pairs, options.preset, []))
    yield row("1 worker", 1, lambda pairs: run_batch(folder, pairs, options.preset, single), empty(workers=1))
    if workers > 1:
        plain = [*several, "--no-overview"]
        both = empty(workers=workers)
        yield row(f"{workers} workers", workers, lambda n: run_batch(folder, n, options.preset, plain), both)
        yield row("overview", workers, lambda n: run_batch(folder, n, options.preset, several))
    if not options.without_dask:
        with dask(folder, workers) as scheduler:
            there = ["--scheduler", scheduler, "--threads", "1", "--no-overview"]
            run_batch(
                folder, workers, options.preset, there
            )  # its workers load otreg once, before the clock runs
            alone = empty(scheduler=scheduler)
            yield row(
                f"Dask, {workers}", workers, lambda n: run_batch(folder, n, options.preset, there), alone
            )


def otreg(*arguments: object) -> float:
    """Seconds of one command; a result that does not pass its gate counts too."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "otreg_cli.main", *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr)
    return time.perf_counter() - began


def loop(folder: Path, pairs: int, preset: str, options: list[str]) -> float:
    """`otreg register` for one pair after the other."""
    with tempfile.TemporaryDirectory() as out:
        return sum(
            otreg(
                *("register", folder / f"s{number:04d}.ply", folder / "fixed.ply", "--quiet"),
                *("-o", Path(out) / str(number), "--preset", preset, *options),
            )
            for number in range(pairs)
        )


def run_batch(folder: Path, pairs: int, preset: str, options: list[str]) -> float:
    """`otreg batch` of the first so many pairs."""
    with tempfile.TemporaryDirectory() as out:
        study = manifest(folder, pairs)
        return otreg("batch", study, "-o", Path(out) / "study", "--preset", preset, "--quiet", *options)


def empty(scheduler: str = "local", workers: int | None = None) -> float:
    """Seconds of a case that does nothing, workers being there already."""
    threads = 1 if workers is not None else None
    with open_scheduler(scheduler, cases=EMPTY, workers=workers, threads=threads) as opened:
        opened.run(operator.neg, [1])
        began = time.perf_counter()
        opened.run(operator.neg, list(range(EMPTY)))
        return (time.perf_counter() - began) / EMPTY


@contextmanager
def dask(folder: Path, workers: int) -> Iterator[str]:
    """A Dask scheduler and its workers, one thread each, as laboratories start them."""
    file = folder / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    where = ["--scheduler-file", str(file), "--no-dashboard"]
    commands = [["dask_scheduler", "--host", "127.0.0.1", "--port", "0", *where]]
    commands += [["dask_worker", "--nthreads", "1", "--local-directory", str(folder), *where]] * workers
    processes = []
    try:
        for command in commands:
            full = [sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:]]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            processes.append(subprocess.Popen(full, env=environment, **quiet))  # type: ignore[call-overload]
            while not file.exists():
                time.sleep(0.1)
        from distributed import Client

        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield str(file)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        f"| way | seconds | a pair, s | start, s | an empty case, ms | {SUBJECTS:,} subjects, h |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        alone = "" if row["empty"] is None else f"{1e3 * row['empty']:.1f}"
        lines.append(
            f"| {row['way']} | {row['seconds']:.1f} | {row['a pair']:.2f} | {row['start']:.1f} | {alone} | "
            f"{row['hours']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
