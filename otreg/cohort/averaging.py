"""The average shape of a cohort: registrations, and updates in the space of momenta, in turns.

A pass finds, for every subject, the momenta p_i at the template as it is (:mod:`otreg.cohort.step`). Then the
template is moved by the geodesic of their mean, ``x ← φ_p̄(x + r̄)``, so that the next momenta have a mean near zero:
the template is where the cohort's geodesics balance (Vaillant, Miller, Younes & Trouvé 2004, NeuroImage 23, section
3). r̄ is the mean of what no geodesic of these widths explains, seen from the template: without it, detail of the
first subject that is finer than the narrowest width would stay for ever.

Passes of kind ``register`` find new targets, from coarse to fine; passes of kind ``refit`` keep the last ones
and move the template by the momenta alone, until their mean is next to nothing: r̄ and p̄ would hold each other
up otherwise. The state before each pass is a file, and so is what a pass finds of a subject: what is killed
loses the subjects in progress, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from otreg.cohort.archive import load_archive
from otreg.cohort.finish import finish_template
from otreg.cohort.momenta import MomentaSpace
from otreg.cohort.pair import ContentHashes
from otreg.cohort.rows import Manifest
from otreg.cohort.schedule import Outcome, Scheduler, open_scheduler
from otreg.cohort.settings import Level, TemplateSettings
from otreg.cohort.step import FIT, State, across, apply, centroid_size, pose_of, subject_step
from otreg.cohort.subjects import Cohort, Subject, check_surfaces, joined, read_subjects
from otreg.cohort.template_result import TEMPLATE, Template
from otreg.errors import InputError, OtregError
from otreg.io import read
from otreg.registration.sampling import farthest_points
from otreg.surface import FloatArray

WORK = "work"
"""Folder of the state and of what passes find."""

REFIT_TOLERANCE = 0.02
"""``|mean p|`` over the mean ``|p_i|`` below which targets that stay the same are balanced well enough."""

MOST_REFITS = 3

_LAYOUT = 1

Progress = Callable[[str, int, int], object]


def template(
    manifest: Manifest,
    folder: str | os.PathLike[str],
    *,
    start: str | None = None,
    settings: TemplateSettings | None = None,
    scheduler: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    memory: float | None = None,
    progress: Progress | None = None,
) -> Template:
    """Make the average shape of a cohort, with one deformation to each subject.

    Parameters
    ----------
    manifest : path or sequence of mappings
        Columns ``subject`` and ``surface``; more structures in ``surface2``, … or ``surface_NAME`` share each
        subject's deformation. See :func:`otreg.cohort.subjects.read_subjects`.
    folder : path
        New, empty, or that of an earlier template. If that was of the same subjects and settings it is continued
        where it stopped, or returned as it is when it was finished; otherwise it is made anew.
    start : str, optional
        Name of the subject whose mesh becomes the template's. Default: the one of median size, which has the
        shortest way to go on average.
    settings : TemplateSettings, optional
    scheduler, workers, threads, memory
        See :func:`otreg.cohort.schedule.open_scheduler`.
    progress : callable, optional
        Called with what is being done, how many subjects are done and how many there are.

    Returns
    -------
    Template
        What :meth:`Template.load` reads from the folder.

    Raises
    ------
    ManifestError
        With everything that is wrong with the manifest and its surfaces, before anything runs.
    InputError
        On an unknown start, a folder that holds something else, or bad settings.
    OtregError
        If fewer than two subjects could be registered.
    """
    chosen = settings or TemplateSettings()
    cohort = read_subjects(manifest)
    first = None
    if start is not None:
        first = next((subject for subject in cohort.subjects if subject.name == start), None)
        if first is None:
            raise InputError(f"start: no subject {start!r} in {cohort.source}")
    check_surfaces(cohort, repair=chosen.repair, labels=chosen.labels)
    path = Path(folder)
    _check_folder(path)
    key = _key(cohort, chosen, start)
    work = path / WORK
    done = path / TEMPLATE
    if done.is_file():
        earlier = Template.load(path)
        if earlier.report.get("key") == key and earlier.report.get("iterations_asked") == chosen.iterations:
            return earlier
    work.mkdir(parents=True, exist_ok=True)
    state = _resumed(work, key, chosen)
    if state is None:
        shutil.rmtree(work)
        work.mkdir()
        state = _first_state(cohort, first or _middle(cohort, chosen), chosen, key)
        state.save(work / "state.h5")
    with open_scheduler(
        scheduler, cases=len(cohort), workers=workers, threads=threads, memory=memory
    ) as opened:
        run = _Run(cohort, chosen, work, opened, progress)
        while not state.about["finished"]:
            state = run.one_pass(state)
            state.save(work / "state.h5")
            run.tidy(state)
        return finish_template(cohort, chosen, path, work, state, opened, progress)


class _Run:
    """All passes of one template."""

    def __init__(
        self,
        cohort: Cohort,
        settings: TemplateSettings,
        work: Path,
        scheduler: Scheduler,
        progress: Progress | None,
    ) -> None:
        self.cohort, self.settings, self.work = cohort, settings, work
        self.scheduler, self.progress = scheduler, progress

    def one_pass(self, state: State) -> State:
        """All subjects at the template as it is, and the template that follows."""
        began = time.perf_counter()
        about = dict(state.about)
        number, kind, iteration = about["pass"], about["kind"], about["iteration"]
        level = self.settings.level(iteration)
        fits = self.work / f"pass_{number:02d}"
        targets = self.work / f"targets_{iteration:02d}"
        fits.mkdir(exist_ok=True)
        targets.mkdir(exist_ok=True)
        what = f"iteration {iteration + 1}" if kind == "register" else "balancing"
        reasons = self._subjects(state, level.settings, fits, targets, what)
        known = [name for name in self.cohort.names if name not in reasons]
        if len(known) < 2:
            name, reason = next(iter(reasons.items()))
            raise OtregError(f"only {len(known)} subjects could be registered; {name}: {reason}")
        loaded = [load_archive(fits / f"{name}.h5", FIT) for name in known]
        momenta = np.stack([arrays["momenta"] for arrays, _ in loaded])
        norms = state.space.norms(momenta)
        mean = momenta.mean(axis=0)
        length = float(state.space.norms(mean)[0])
        typical = float(norms.mean())
        negligible = typical <= 1e-6 * state.shape.diameter
        ratio = 0.0 if negligible else length / typical
        correction = np.mean([arrays["correction"] for arrays, _ in loaded], axis=0, dtype=np.float64)
        if kind == "refit":
            correction = np.zeros_like(correction)
        moved = state.space.flow(mean).map(state.shape.points + correction)
        # Momenta also hold what keeps each flow from carrying the shape away as a whole, which does not cancel in
        # their mean. Where the template lies says nothing about its shape: it stays.
        moved = apply(pose_of(moved, state.shape.points, state.shape.weights, False), moved)
        if self.settings.similarity:
            sizes = np.array([figures["size"] for _, figures in loaded])
            moved = _resized(moved, state.shape.weights, sizes)
        change = across(state.shape, moved)
        spread = float(np.mean([figures["across"] for _, figures in loaded]))
        share_moved = change / spread if spread > 1e-6 * state.shape.diameter else 0.0
        about["history"] = [
            *about["history"],
            {
                "pass": number,
                "kind": kind,
                "iteration": iteration + 1,
                "widths": list(state.space.widths),
                "control_points": len(state.control_index),
                "mean_momenta": length,
                "typical_momenta": typical,
                "ratio": ratio,
                "change": change,
                "share_moved": share_moved,
                "rms": float(np.mean([figures["rms"] for _, figures in loaded])),
                "explained": float(np.mean([figures["explained"] for _, figures in loaded])),
                "seconds": time.perf_counter() - began,
            },
        ]
        about["failed"] = reasons
        about["pass"] = number + 1
        if kind == "refit":
            about["refits"] += 1
            if ratio <= REFIT_TOLERANCE or about["refits"] > MOST_REFITS:
                # momenta that fit the template as it is: it is moved no more
                about.update(finished=True, pass_kept=number)
                return _with(state, state.shape.points, np.zeros_like(mean), about)
        if kind == "register":
            settled = level.finest and share_moved <= self.settings.tolerance
            if settled or iteration + 1 >= self.settings.iterations:
                about.update(kind="refit", refits=0, converged=bool(settled))
            else:
                about["iteration"] = iteration + 1
            if _level(self.settings, about).widths != level.widths:
                return _levelled(state, moved, self.settings, about)
        return _with(state, moved, mean, about)

    def _subjects(
        self, state: State, registration: dict[str, Any], fits: Path, targets: Path, what: str
    ) -> dict[str, str]:
        """Run a pass for the subjects that have not been done; why others failed, by name."""
        before = self.work / f"pass_{state.about['pass'] - 1:02d}"
        waiting = [subject for subject in self.cohort.subjects if not (fits / f"{subject.name}.h5").is_file()]
        state_path = self.work / "state.h5"
        cases = [
            {
                "state": str(state_path.absolute()),
                "surfaces": [str(path.absolute()) for path in subject.surfaces],
                "targets": str((targets / f"{subject.name}.h5").absolute()),
                "fit": str((fits / f"{subject.name}.h5").absolute()),
                "warm": str((before / f"{subject.name}.h5").absolute()) if state.about["warm"] else None,
                "preset": self.settings.preset,
                "settings": registration,
                "similarity": self.settings.similarity,
                "stiffness": self.settings.stiffness,
                "labels": self.settings.labels,
                "repair": self.settings.repair,
                "device": self.settings.device,
                "threads": self.scheduler.threads,
                "seed": self.settings.seed,
            }
            for subject in waiting
        ]
        total, count = len(self.cohort), len(self.cohort) - len(waiting)

        def told(index: int, outcome: Outcome) -> None:
            nonlocal count
            count += 1
            if self.progress is not None:
                self.progress(what, count, total)

        if self.progress is not None:
            self.progress(what, count, total)
        outcomes = self.scheduler.run(subject_step, cases, on_done=told)
        return {
            subject.name: str(outcome.reason)
            for subject, outcome in zip(waiting, outcomes, strict=True)
            if outcome.status != "done"
        }

    def tidy(self, state: State) -> None:
        """Remove what no later pass reads."""
        keep = {f"pass_{number:02d}" for number in (state.about["pass"] - 1, state.about["pass"])}
        keep.add(f"targets_{state.about['iteration']:02d}")
        for folder in self.work.iterdir():
            if folder.is_dir() and folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder")
    ours = (folder / WORK).is_dir() or (folder / TEMPLATE).is_file()
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise InputError(
            f"{folder}: holds files and is not an earlier template of otreg; choose a new or empty folder"
        )


def _key(cohort: Cohort, settings: TemplateSettings, start: str | None) -> str:
    """Hash of all that the passes follow from; more iterations only continue what is there."""
    hashes = ContentHashes()
    content = []
    for subject in cohort.subjects:
        for path in subject.surfaces:
            content.append([subject.name, hashes(path)])
    said = {
        "layout": _LAYOUT,
        "content": content,
        "structures": cohort.structures,
        "start": start,
        "settings": {key: value for key, value in settings.as_dict().items() if key != "iterations"},
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _resumed(work: Path, key: str, settings: TemplateSettings) -> State | None:
    """The state of an earlier run of the same work, if there is one that this one can go on from."""
    with contextlib.suppress(InputError):
        state = State.load(work / "state.h5")
        about = state.about
        if about["key"] != key:
            return None
        if about["kind"] == "register":
            return state if about["iteration"] < settings.iterations else None
        if about["converged"] or about["iterations"] == settings.iterations:
            return state
        if about["iteration"] + 1 < settings.iterations:
            # it had ended without having converged, and may go on now
            more = {**about, "kind": "register", "iteration": about["iteration"] + 1, "finished": False}
            more["iterations"] = settings.iterations
            return _levelled(state, state.shape.points, settings, more)
    return None


def _middle(cohort: Cohort, settings: TemplateSettings) -> Subject:
    """The subject of median size."""
    sizes = []
    for subject in cohort.subjects:
        shapes = [read(path, repair=settings.repair) for path in subject.surfaces]
        whole = joined(shapes, cohort.structures)
        sizes.append(centroid_size(whole.points, np.maximum(whole.weights, 0.0)))
    order = np.argsort(sizes, kind="stable")
    return cohort.subjects[int(order[(len(order) - 1) // 2])]


def _first_state(cohort: Cohort, subject: Subject, settings: TemplateSettings, key: str) -> State:
    shapes = [read(path, repair=settings.repair) for path in subject.surfaces]
    shape = joined(shapes, cohort.structures, settings.labels)
    about = {
        "key": key,
        "start": subject.name,
        "pass": 0,
        "kind": "register",
        "iteration": 0,
        "iterations": settings.iterations,
        "refits": 0,
        "converged": False,
        "finished": False,
        "failed": {},
        "history": [],
        "warm": False,
    }
    empty = np.zeros(0, np.int64)
    space = MomentaSpace(shape.points[:1], (1.0,))
    blank = State(shape, cohort.structures, space, empty, empty, np.zeros(0), np.zeros((1, 3)), about)
    return _levelled(blank, shape.points, settings, about)


def _level(settings: TemplateSettings, about: dict[str, Any]) -> Level:
    """The level of the next pass. Refits always have the finest one, whatever iteration the last targets are from."""
    refit = about["kind"] == "refit"
    return settings.level(len(settings.widths) if refit else about["iteration"])


def _levelled(state: State, points: FloatArray, settings: TemplateSettings, about: dict[str, Any]) -> State:
    """The state at new points with control points and widths of its level, chosen on these points."""
    shape = state.shape.with_points(points)
    level = _level(settings, about)
    used = np.flatnonzero(shape.weights > 0) if shape.has_triangles else np.arange(len(shape))
    control = used[farthest_points(shape.points[used], level.control_points)]
    fit = used[farthest_points(shape.points[used], settings.fit_points)]
    owner = cKDTree(shape.points[fit]).query(shape.points[used])[1]
    weights = np.asarray(np.bincount(owner, shape.weights[used], len(fit)), dtype=np.float64)
    widths = tuple(share * shape.diameter for share in level.widths)
    space = MomentaSpace(shape.points[control], widths)
    nothing = np.zeros((len(control), 3))
    return State(shape, state.structures, space, control, fit, weights, nothing, {**about, "warm": False})


def _with(state: State, points: FloatArray, moved_by: FloatArray, about: dict[str, Any]) -> State:
    """The state at new points: control points move with the template's vertices that they are."""
    shape = state.shape.with_points(points)
    space = MomentaSpace(shape.points[state.control_index], state.space.widths, steps=state.space.steps)
    return State(
        shape,
        state.structures,
        space,
        state.control_index,
        state.fit_index,
        state.fit_weights,
        moved_by,
        {**about, "warm": True},
    )


def _resized(points: FloatArray, weights: FloatArray, sizes: FloatArray) -> FloatArray:
    """Points scaled about their centre to the geometric mean of the subjects' sizes."""
    centre = weights @ points / weights.sum()
    factor = float(np.exp(np.mean(np.log(sizes)))) / centroid_size(points, weights)
    return np.asarray(centre + factor * (points - centre), dtype=np.float64)
