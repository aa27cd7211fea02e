"""The end of a template: every subject measured and written as a run, and the template itself."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otreg.cohort.archive import load_archive
from otreg.cohort.runs import write_run_folder
from otreg.cohort.schedule import Scheduler
from otreg.cohort.settings import TemplateSettings
from otreg.cohort.step import FIT, State, Targets
from otreg.cohort.subjects import STRUCTURE, Cohort, joined
from otreg.cohort.template_result import SURFACE, Template, placed
from otreg.io import read, write
from otreg.registration.report import VERSION
from otreg.registration.report import finish as judged
from otreg.surface import FloatArray, IntArray, Surface

SUBJECTS = "subjects"
"""Folder with a run for each subject: the template is MOVING, the subject is FIXED."""

_OUTLYING = 4.0
"""Robust standard deviations above the median from which a residual is out of the ordinary."""

_WORTH_NAMING = 0.005
"""Share of the template's diameter below which no residual is."""


def finish_template(
    cohort: Cohort,
    settings: TemplateSettings,
    folder: Path,
    work: Path,
    state: State,
    scheduler: Scheduler,
    progress: Callable[[str, int, int], object] | None,
) -> Template:
    """Write everything that a template's folder holds, ``template.h5`` last."""
    about = state.about
    failed = about["failed"]
    kept = [subject for subject in cohort.subjects if subject.name not in failed]
    fits = work / f"pass_{about['pass_kept']:02d}"
    loaded = [load_archive(fits / f"{subject.name}.h5", FIT) for subject in kept]
    targets = [work / f"targets_{about['iteration']:02d}" / f"{subject.name}.h5" for subject in kept]
    momenta = np.stack([arrays["momenta"] for arrays, _ in loaded])
    shape = _final_shape(state, settings.labels, targets)
    write(shape, folder / SURFACE)
    cases = [
        {
            "name": subject.name,
            "template": str((folder / SURFACE).absolute()),
            "surfaces": [str(path.absolute()) for path in subject.surfaces],
            "structures": list(cohort.structures),
            "fit": str((fits / f"{subject.name}.h5").absolute()),
            "state": str((work / "state.h5").absolute()),
            "folder": str((folder / SUBJECTS / subject.name).absolute()),
            "labels": settings.labels,
            "repair": settings.repair,
            "seed": settings.seed,
            "device": settings.device,
        }
        for subject in kept
    ]
    done = 0

    def told(*_: object) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("measuring", done, len(cases))

    outcomes = scheduler.run(measure_subject, cases, on_done=told)
    squares = np.zeros(len(shape))
    figures = []
    for (_, fit), outcome, row in zip(loaded, outcomes, momenta, strict=True):
        one = {**fit, **(outcome.value or {}), "assd": (outcome.value or {}).get("assd")}
        one["poor"] = outcome.reason
        squares += ((state.space.flow(row).map(shape.points) - shape.points) ** 2).sum(axis=1)
        figures.append(one)
    _judge(figures, shape.diameter)
    shape = shape.with_data({"spread": np.sqrt(squares / len(kept))})
    last = about["history"][-1]
    report = {
        "otreg": VERSION,
        "kind": "template",
        "versions": {
            "otreg": VERSION,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "key": about["key"],
        "start": about["start"],
        "iterations_asked": settings.iterations,
        "iterations": about["iteration"] + 1,
        "converged": about["converged"],
        "ratio": last["ratio"],
        "share_moved": [one for one in about["history"] if one["kind"] == "register"][-1]["share_moved"],
        "subjects": len(kept),
        "diameter": shape.diameter,
        "widths": list(state.space.widths),
        "control_points": len(state.control_index),
        "settings": settings.as_dict(),
        "passes": about["history"],
        "failed": failed,
        "poor": {
            subject.name: one["poor"] for subject, one in zip(kept, figures, strict=True) if one["poor"]
        },
        "figures": {
            name: float(np.mean(values))
            for name in ("norm", "explained", "rms", "before", "assd", "dice")
            if (values := [one[name] for one in figures if one.get(name) is not None])
        },
    }
    found = Template(
        shape,
        cohort.structures,
        state.space,
        tuple(subject.name for subject in kept),
        momenta,
        np.array([fit["scale"] for _, fit in loaded]),
        np.stack([arrays["rotation"] for arrays, _ in loaded]),
        np.stack([arrays["translation"] for arrays, _ in loaded]),
        tuple(figures),
        report,
    )
    found.save(folder)
    return found


def _final_shape(state: State, labels: str | None, targets: Sequence[Path]) -> Surface:
    """The template with the labels that most subjects have where its vertices belong; no other data of one subject."""
    kept = {name: values for name, values in state.shape.point_data.items() if name == STRUCTURE}
    if labels is not None:
        found = np.stack([_labels_of(path) for path in targets])
        kept[labels] = most_frequent(found)
    names = {name: table for name, table in state.shape.label_names.items() if name in kept}
    return Surface(state.shape.points, state.shape.triangles, kept, state.shape.frame, names)


def _labels_of(path: Path) -> IntArray:
    labels = Targets.load(path).labels
    assert labels is not None
    return labels


def most_frequent(labels: IntArray) -> IntArray:
    """The most frequent label of each column, (N, V) -> (V,); of several, the smallest."""
    codes, places = np.unique(labels, return_inverse=True)
    places = places.reshape(labels.shape)
    votes = np.stack([(places == code).sum(axis=0) for code in range(len(codes))])
    return np.asarray(codes[votes.argmax(axis=0)], dtype=np.int64)


def measure_subject(case: Mapping[str, Any]) -> dict[str, Any]:
    """Write the run of one subject, template onto subject, and return its figures. Runs in a worker."""
    template = read(case["template"])
    state = State.load(Path(case["state"]))
    arrays, about = load_archive(case["fit"], FIT)
    shapes = [read(Path(path), repair=case["repair"]) for path in case["surfaces"]]
    fixed = joined(shapes, case["structures"], case["labels"])
    pose = about["scale"], arrays["rotation"], arrays["translation"]
    transform = placed(state.space.flow(arrays["momenta"]), pose)
    settings: dict[str, Any] = {
        "preset": "template",
        "seed": case["seed"],
        "symmetric": False,
        "partial": False,
        "labels": case["labels"],
        "device": case["device"],
        "settings": {},
        "absolute": {"widths": list(state.space.widths)},
        "stages": [],
        "interrupted": False,
    }
    result = judged(template, fixed, transform, settings, None, case["labels"], case["seed"])
    folder, fixed_path = Path(case["folder"]), Path(case["surfaces"][0])
    several = {"subject.vtk": fixed} if len(shapes) > 1 else {}
    if several:
        fixed_path = folder / "subject.vtk"
    write_run_folder(
        folder, result.moved, transform, result.report, Path(case["template"]), fixed_path, several
    )
    after = result.report["quality"]["after"]
    return {
        "assd": after["assd"],
        "dice": None if after["dice"] is None else after["dice"]["mean"],
        "flipped": None if after["triangles"] is None else after["triangles"]["flipped"],
    }


def _judge(figures: list[dict[str, Any]], diameter: float) -> None:
    """Say of each subject in ``poor`` why it does not fit; None where it does."""
    limits = {}
    for name, least in (("rms", _WORTH_NAMING), ("norm", 0.0), ("assd", _WORTH_NAMING)):
        values = np.array([one[name] for one in figures if one.get(name) is not None])
        limits[name] = max(_limit(values), least * diameter) if len(values) >= 5 else float("inf")
    words = {
        "rms": "one geodesic leaves more than is usual of its correspondences",
        "norm": "it is farther from the template than is usual",
        "assd": "the template ends farther from its surface than is usual",
    }
    for one in figures:
        reasons = [one["poor"]] if one["poor"] else []
        reasons += [
            f"{text} ({one[name]:.3g}, against {limits[name]:.3g})"
            for name, text in words.items()
            if one.get(name) is not None and one[name] > limits[name]
        ]
        reasons += [f"its registration failed the quality gate: {line}" for line in one["registered_reasons"]]
        one["poor"] = "; ".join(reasons) or None


def _limit(values: FloatArray) -> float:
    """Median plus :data:`_OUTLYING` robust standard deviations."""
    middle = float(np.median(values))
    return middle + _OUTLYING * 1.4826 * float(np.median(np.abs(values - middle)))
