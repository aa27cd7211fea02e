"""A batch while it runs: its folder, what is done in it, what is still to do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from otreg.cohort.manifest import Case
from otreg.cohort.pair import as_plain, read_entry, register_case
from otreg.cohort.results import SUMMARY, TABLE, THUMBNAILS, BatchResult, CaseResult, thumbnail_path
from otreg.cohort.schedule import Outcome, open_scheduler
from otreg.errors import InputError
from otreg.io import atomic_path

MARKER = ".otreg-batch"
"""An empty file in a batch's folder, from before its first case is done; it is also what a running batch locks."""

OVERVIEWS = ("overview.png", "overview.html")
RESERVED = (SUMMARY, TABLE, THUMBNAILS, *OVERVIEWS)
"""Names in a batch's folder that are no case's."""

SUMMARY_INTERVAL = 20.0
"""Least seconds between two summaries that are written on the way."""

BASE_MEMORY = 550e6
"""Bytes of a process that registers hardly any points: libraries, samples, pictures.

Seen: 419 MB at 5,124 points of moving and fixed together and 499 MB at 81,924 with the preset diffeo; 321 and 425 MB
with rigid; about 100 MB more where pictures are made.
"""

BYTES_PER_POINT = 2e3
"""Of moving and fixed; seen: 500 (spline) to 1,400 (rigid)."""

BYTES_PER_ENTRY = 96.0
"""For each pair of a sampled point and a control point: six widths, float32, two copies, twice the points at last."""

# what a process that was killed while it wrote leaves behind: see write_run and atomic_path
_LEFT_BEHIND = re.compile(r"\..+-[a-z0-9_]{8}(-old)?|\.[0-9a-f]{8}\..+")


class BatchProgress(NamedTuple):
    """State after one more case (or before the first).

    ``done`` and ``failed`` of ``total`` cases, those of earlier runs included; seconds ``elapsed`` and, once that can
    be said, ``remaining``; the ``name`` of the case that ended, None at the start; ``where`` cases run.
    """

    done: int
    failed: int
    total: int
    elapsed: float
    remaining: float | None
    name: str | None
    where: str


def estimated_memory(points: int | None, preset: str, settings: Mapping[str, Any]) -> float:
    """Bytes that a case takes: a constant, so many for each point, and the kernels of the coarse spline.

    Parameters
    ----------
    points : int or None
        Of moving and fixed together; None where that is not known.
    preset : str
    settings : mapping
        All of :class:`otreg.registration.Settings`.
    """
    entries = settings["points"] * settings["control_points"] if preset in ("spline", "diffeo") else 0
    return BASE_MEMORY + BYTES_PER_POINT * (points or 0) + BYTES_PER_ENTRY * entries


def check_folder(folder: Path) -> None:
    """Refuse, before any work, a folder that is neither new, nor empty, nor of an earlier batch."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; a batch writes a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise InputError(f"{folder}: holds files and is not an earlier batch; choose a new or empty folder")
    above = folder.absolute()
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{folder}: the folder {above} cannot be written to; choose another one")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder and keep it to one batch at a time; a lock of the system ends with the process that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / MARKER).open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows: two batches in one folder are left to the user
        except BlockingIOError:
            raise InputError(
                f"{folder}: another otreg batch is at work in it; wait for it, or stop it"
            ) from None
        except OSError:
            pass  # file systems without locks
        yield


class Study:
    """The cases of a batch and what is known of them.

    Parameters
    ----------
    folder : Path
    cases : sequence of Case
        All of them.
    identities : mapping
        Hash of each case, by name.
    entries : mapping
        What the reports say of those that were done before, by name; see :func:`otreg.cohort.pair.entry`.
    source : str
        What the manifest is called.
    overview : bool
        Whether to make pictures.
    progress : callable, optional
        Told of a :class:`BatchProgress`.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[Case],
        identities: Mapping[str, str],
        entries: Mapping[str, Mapping[str, Any]],
        source: str,
        overview: bool,
        progress: Callable[[BatchProgress], object] | None,
    ) -> None:
        self.folder, self.cases, self.identities = folder, list(cases), identities
        self.overview, self.progress = overview, progress
        self.entries = dict(entries)
        self.reasons: dict[str, str] = {}
        self.source = source
        self.where = ""
        self._describe: Callable[[], str] | None = None
        self.ran = 0
        self.interrupted = False
        self._began = time.monotonic()
        self._written = -float("inf")

    def run(
        self,
        scheduler: str,
        workers: int | None,
        threads: int | None,
        memory: float | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        """Run what is not done."""
        _clear_away(self.folder)
        todo = [case for case in self.cases if case.name not in self.entries]
        sizes = {case.name: self._memory(case) for case in self.cases}
        opened = open_scheduler(
            scheduler,
            cases=len(self.cases),
            workers=workers,
            threads=threads,
            memory=memory,
            case_memory=list(sizes.values()),
        )
        self.interrupted = bool(todo)
        if not todo:
            return
        with opened as running:
            self._describe = running.describe
            self._tell(None)
            plain = [
                as_plain(
                    case, self.folder / case.name, self.identities[case.name], running.threads, self.overview
                )
                for case in todo
            ]
            outcomes = running.run(
                register_case,
                plain,
                case_memory=[sizes[case.name] for case in todo],
                on_done=lambda index, outcome: self._settle(todo[index], outcome),
                stop=stop,
            )
        self._describe = None
        self.interrupted = any(outcome.status == "stopped" for outcome in outcomes)

    def _memory(self, case: Case) -> float:
        points = case.points if case.name not in self.entries else int(self.entries[case.name]["points"])
        return estimated_memory(points, case.choices["preset"], case.settings)

    def _settle(self, case: Case, outcome: Outcome) -> None:
        """Note what became of a case."""
        if outcome.status == "stopped":
            return
        self.ran += 1
        place = self.folder / case.name
        found, picture = (
            (outcome.value["report"], outcome.value["thumbnail"]) if outcome.value else (None, None)
        )
        if found is None:
            # a process may be lost after it has written its case
            found = read_entry(place)
            if found is not None and found["hash"] != self.identities[case.name]:
                found = None
        if found is not None:
            self.entries[case.name] = found
        else:
            # an earlier run of other inputs would look like the result of these
            _remove(place)
            self.reasons[case.name] = outcome.reason or "failed"
        if picture is not None:
            self._keep_picture(case.name, picture)
        self._tell(case.name)
        if time.monotonic() - self._written > SUMMARY_INTERVAL:
            self._written = time.monotonic()
            self.result().save()

    def _keep_picture(self, name: str, picture: bytes) -> None:
        target = thumbnail_path(self.folder, name, self.identities[name])
        target.parent.mkdir(exist_ok=True)
        with atomic_path(target) as temporary:
            temporary.write_bytes(picture)

    def _tell(self, name: str | None) -> None:
        if self._describe is not None:
            self.where = self._describe()  # workers of a cluster come and go
        if self.progress is None:
            return
        done, failed, total = len(self.entries), len(self.reasons), len(self.cases)
        elapsed = time.monotonic() - self._began
        left = elapsed / self.ran * (total - done - failed) if self.ran else None
        self.progress(BatchProgress(done, failed, total, elapsed, left, name, self.where))

    def result(self) -> BatchResult:
        """What is known by now."""
        about = {
            "manifest": self.source,
            "scheduler": self.where,
            "ran": self.ran,
            "seconds": time.monotonic() - self._began,
            "interrupted": self.interrupted,
        }
        return BatchResult(self.folder, [self._result(case) for case in self.cases], about)

    def _result(self, case: Case) -> CaseResult:
        name, paths = case.name, (str(case.moving.absolute()), str(case.fixed.absolute()))
        identity = self.identities[name]
        found = self.entries.get(name)
        if found is None:
            reason = self.reasons.get(name)
            status = "waiting" if reason is None else "failed"
            return CaseResult(name, *paths, status, reason=reason, hash=identity)  # type: ignore[arg-type]
        return CaseResult(
            name,
            *paths,
            "done",
            passed=found["passed"],
            reason=found["reason"],
            figures=dict(found["figures"]),
            warnings=list(found["warnings"]),
            diameter=found["diameter"],
            hash=identity,
            otreg=found["otreg"],
        )

    def write(self) -> BatchResult:
        """Write the summary and the overview."""
        result = self.result()
        result.save()
        if self.overview:
            self._complete_pictures(result)
            sheet = result.plot()
            for name in OVERVIEWS:
                sheet.save(self.folder / name)
        return result

    def _complete_pictures(self, result: BatchResult) -> None:
        """Make the small pictures that are missing, and remove those of other inputs and settings."""
        from otreg.cohort.overview import thumbnail
        from otreg.visualize.run import read_run

        wanted = {
            thumbnail_path(self.folder, one.name, one.hash): one
            for one in result.results
            if one.status == "done"
        }
        for path in (self.folder / THUMBNAILS).glob("*"):
            if path not in wanted:
                path.unlink(missing_ok=True)
        for path, one in wanted.items():
            if path.exists():
                continue
            try:
                picture = thumbnail(read_run(self.folder / one.name))
            except InputError:
                continue  # its fixed surface is gone by now
            if picture is None:
                return  # nothing can be drawn here
            self._keep_picture(one.name, picture)


def _clear_away(folder: Path) -> None:
    """Remove what a batch that was killed has left half written."""
    for path in folder.iterdir():
        if path.name != MARKER and _LEFT_BEHIND.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Remove a case's folder, which is gone or whole at any moment."""
    if folder.is_dir():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        shutil.rmtree(aside)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
