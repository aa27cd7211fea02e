"""One case of a batch: what identifies it, running it, and the figures that the summary takes from its report."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from otreg.cohort.manifest import Case

FIGURES = (
    "seconds",
    "assd_before",
    "assd_after",
    "landmarks_before",
    "landmarks_after",
    "dice_before",
    "dice_after",
    "flipped",
    "folded",
    "inverse_error",
)
"""What :func:`figures` takes from a report."""

_LAYOUT = 1
"""Of what goes into :func:`digest`; another one makes every case run again."""


class ContentHashes:
    """SHA-256 of files, each read once while this lives."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def __call__(self, path: Path) -> str:
        if path not in self._known:
            with path.open("rb") as file:
                self._known[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[path]


def digest(case: Case, content: Callable[[Path], str]) -> str:
    """Hash of all that a case's result follows from: what is in its files, and its settings.

    Neither where the files are nor how they are called, except for the suffix of MOVING, which names the format of the
    moved shape. The version of otreg is left out too: a study keeps what it has, and its summary names the versions.

    Parameters
    ----------
    case : Case
    content : callable
        Hash of a file's content.

    Returns
    -------
    str
        64 hexadecimal digits (SHA-256).
    """
    said = {
        "layout": _LAYOUT,
        "moving": content(case.moving),
        "fixed": content(case.fixed),
        "landmarks": [content(path) for path in case.landmarks or ()],
        "suffixes": [suffix.lower() for suffix in case.moving.suffixes[-2:]],
        "choices": case.choices,
        "settings": case.settings,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def as_plain(case: Case, folder: Path, identity: str, threads: int | None, thumbnail: bool) -> dict[str, Any]:
    """A case as plain data for :func:`register_case`, its paths absolute: workers may be in other folders."""
    return {
        "name": case.name,
        "moving": str(case.moving.absolute()),
        "fixed": str(case.fixed.absolute()),
        "landmarks": None if case.landmarks is None else [str(path.absolute()) for path in case.landmarks],
        "choices": case.choices,
        "settings": case.settings,
        "folder": str(folder.absolute()),
        "hash": identity,
        "threads": threads,
        "thumbnail": thumbnail,
    }


def register_case(case: Mapping[str, Any]) -> dict[str, Any]:
    """Register one pair and write its folder, as ``otreg register`` does.

    Runs in a worker. The folder appears whole or not at all, and its ``report.json`` has, beside what a run's has,
    ``case``: its ``name``, the ``hash`` of :func:`digest` and the ``seconds`` it took.

    Parameters
    ----------
    case : mapping
        Made by :func:`as_plain`.

    Returns
    -------
    dict
        ``report`` (what :func:`entry` takes from it) and ``thumbnail`` (PNG as bytes, or None).
    """
    from otreg.io.pairs import read_pair
    from otreg.registration import register, write_run

    began = time.perf_counter()
    moving, fixed = Path(case["moving"]), Path(case["fixed"])
    marks = None if case["landmarks"] is None else (Path(case["landmarks"][0]), Path(case["landmarks"][1]))
    choices = case["choices"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"otreg(\.|$)")
        moving_shape, fixed_shape, landmarks = read_pair(moving, fixed, marks, choices)
    result = register(
        moving_shape,
        fixed_shape,
        choices["preset"],
        landmarks=landmarks,
        settings=case["settings"],
        symmetric=choices["symmetric"],
        partial=choices["partial"],
        device=choices["device"],
        threads=case["threads"],
        seed=choices["seed"],
        labels=choices["labels"],
    )
    result.report["warnings"].extend(str(one.message) for one in caught)
    result.report.update(
        repair=choices["repair"],
        convert_frames=choices["convert_frames"],
        case={"name": case["name"], "hash": case["hash"], "seconds": time.perf_counter() - began},
    )
    write_run(result, case["folder"], moving, fixed)
    picture = None
    if case["thumbnail"]:
        from otreg.cohort.overview import thumbnail

        picture = thumbnail(result)
    return {"report": entry(result.report), "thumbnail": picture}


def read_entry(folder: Path) -> dict[str, Any] | None:
    """What :func:`entry` takes from the report of a folder; None where there is no whole run in it."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return entry(report)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def entry(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a batch keeps of a report: hash, figures, verdict, warnings, version, number of points."""
    gate = report["gate"]
    return {
        "hash": report["case"]["hash"],
        "otreg": report["otreg"],
        "passed": bool(report["passed"]),
        "reason": "; ".join(str(reason) for reason in gate["reasons"]) or None,
        "warnings": [str(line) for line in report["warnings"]],
        "diameter": float(report["inputs"]["fixed"]["diameter"]),
        "points": sum(int(report["inputs"][role]["points"]) for role in ("moving", "fixed")),
        "figures": figures(report),
    }


def figures(report: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a report, in the order of :data:`FIGURES`; None where there is none.

    Seconds are those of reading and registering. Lengths are in the unit of the files: ``assd``, the mean distance
    between the surfaces both ways; ``landmarks``, the mean distance between them; ``inverse_error``, the largest.
    ``dice`` is the mean over the labels; ``flipped`` is a share of triangles, ``folded`` the larger share of the
    surface and of the space around it where the map folds.
    """
    before, after = report["quality"]["before"], report["quality"]["after"]

    def of(quality: Mapping[str, Any], *keys: str) -> float | None:
        value: Any = quality
        for key in keys:
            value = None if value is None else value.get(key)
        return None if value is None else float(value)

    folds = [of(after, "log_jacobian", "folded"), of(after, "log_jacobian_around", "folded")]
    values = (
        float(report["case"]["seconds"]),
        of(before, "assd"),
        of(after, "assd"),
        of(before, "landmarks", "mean"),
        of(after, "landmarks", "mean"),
        of(before, "dice", "mean"),
        of(after, "dice", "mean"),
        of(after, "triangles", "flipped"),
        max((fold for fold in folds if fold is not None), default=None),
        of(after, "inverse_error", "max"),
    )
    return dict(zip(FIGURES, values, strict=True))
