"""The public entry: a batch of registrations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from otreg.cohort.manifest import Case, read_manifest
from otreg.cohort.pair import ContentHashes, digest, read_entry
from otreg.cohort.results import BatchResult
from otreg.cohort.rows import Manifest, source_name
from otreg.cohort.schedule import LOCAL
from otreg.cohort.study import RESERVED, BatchProgress, Study, check_folder, held
from otreg.errors import InputError


def batch(
    manifest: Manifest,
    output: str | os.PathLike[str],
    *,
    fixed: str | os.PathLike[str] | None = None,
    fixed_landmarks: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    symmetric: bool | None = None,
    partial: bool | None = None,
    labels: str | None = None,
    device: str | None = None,
    seed: int | None = None,
    repair: bool | None = None,
    convert_frames: bool | None = None,
    scheduler: str = LOCAL,
    workers: int | None = None,
    threads: int | None = None,
    memory: float | None = None,
    overview: bool = True,
    progress: Callable[[BatchProgress], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> BatchResult:
    """Register every pair of a manifest, or every subject onto one fixed surface.

    Each case gets a folder in ``output`` such as ``otreg register`` writes; ``summary.csv`` and ``summary.json``
    collect their figures, ``overview.png`` and ``overview.html`` show all of them small, worst first. What is already
    there, from the same inputs and settings, is not run again. A case that fails stops no other.

    Parameters
    ----------
    manifest : path, pattern of files, or sequence of mappings
        See :func:`otreg.cohort.manifest.read_manifest`.
    output : path
        Folder: new, empty, or of an earlier batch.
    fixed, fixed_landmarks : path, optional
        For the rows that name none.
    preset, settings, symmetric, partial, labels, device, seed, repair, convert_frames : optional
        As :func:`otreg.register` and ``otreg register``; a row's own values win.
    scheduler : str, default "local"
        ``local``, or the address (or scheduler file) of a running Dask cluster.
    workers, threads, memory : optional
        See :func:`otreg.cohort.schedule.open_scheduler`. Results depend on the number of threads in their last bits.
    overview : bool, default True
        Whether small pictures and the overview are made.
    progress : callable, optional
        Told of each case with a :class:`BatchProgress`.
    stop : callable, optional
        Asked several times a second whether to stop; cases in progress are finished.

    Returns
    -------
    BatchResult

    Raises
    ------
    ManifestError
        With everything that is wrong with the manifest, before anything runs.
    InputError
        For bad options, a folder that holds something else or is in use, a cluster that does not answer.
    """
    folder = Path(output)
    given = {
        "preset": preset,
        "symmetric": symmetric,
        "partial": partial,
        "labels": labels,
        "device": device,
        "seed": seed,
        "repair": repair,
        "convert_frames": convert_frames,
    }
    check_folder(folder)
    content = ContentHashes()
    identities: dict[str, str] = {}
    entries: dict[str, dict[str, Any]] = {}

    def is_done(case: Case) -> bool:
        place = folder / case.name
        found = read_entry(place)
        if found is None and place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise InputError(
                f"{place}: is there, and no case of a batch; give the case another name, or move it away"
            )
        for path in (case.moving, case.fixed, *(case.landmarks or ())):
            if place.resolve() in path.resolve().parents:
                raise InputError(
                    f"{path}: lies in {place}, which the case would replace; give the case another name"
                )
        identities[case.name] = digest(case, content)
        if found is None or found["hash"] != identities[case.name]:
            return False
        entries[case.name] = found
        return True

    cases = read_manifest(
        manifest,
        fixed=fixed,
        fixed_landmarks=fixed_landmarks,
        choices={name: value for name, value in given.items() if value is not None},
        settings=settings,
        reserved=RESERVED,
        done=is_done,
    )
    with held(folder):
        study = Study(folder, cases, identities, entries, source_name(manifest), overview, progress)
        try:
            study.run(scheduler, workers, threads, memory, stop)
        except BaseException:
            if study.ran:  # what is done is worth a summary, even on the way out
                study.result().save()
            raise
        return study.write()
