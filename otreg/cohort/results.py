"""What a batch returns, and its summary as files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from otreg.cohort.pair import FIGURES
from otreg.errors import InputError
from otreg.io import atomic_path

if TYPE_CHECKING:
    from otreg.cohort.overview import Overview

SUMMARY = "summary.json"
TABLE = "summary.csv"
THUMBNAILS = "thumbnails"
COLUMNS = ("name", "moving", "fixed", "status", "passed", *FIGURES, "reason", "warnings")


@dataclasses.dataclass(frozen=True)
class CaseResult:
    """One case of a batch.

    Attributes
    ----------
    name : str
        Also of its folder.
    moving, fixed : str
        Paths, absolute.
    status : {"done", "failed", "waiting"}
        ``waiting``: not run yet, because the batch was stopped.
    passed : bool
        Whether it is done and passed the quality gate.
    reason : str or None
        Why it failed or did not pass, in one line.
    figures : dict
        See :func:`otreg.cohort.pair.figures`; empty unless done.
    warnings : list of str
    diameter : float or None
        Of the fixed shape.
    hash : str
        Of inputs and settings.
    otreg : str or None
        Version that ran it.
    """

    name: str
    moving: str
    fixed: str
    status: Literal["done", "failed", "waiting"] = "waiting"
    passed: bool = False
    reason: str | None = None
    figures: dict[str, float | None] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    diameter: float | None = None
    hash: str = ""
    otreg: str | None = None

    def row(self) -> dict[str, Any]:
        """Plain values by column of the summary."""
        figures = {name: self.figures.get(name) for name in FIGURES}
        values = {**dataclasses.asdict(self), **figures}
        return {name: values[name] for name in (*COLUMNS, "diameter", "hash", "otreg")}

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> CaseResult:
        """The opposite of :meth:`row`."""
        own = {field.name: row[field.name] for field in dataclasses.fields(cls) if field.name != "figures"}
        figures = {name: row[name] for name in FIGURES} if row["status"] == "done" else {}
        return cls(**own, figures=figures)


@dataclasses.dataclass(frozen=True)
class BatchResult:
    """A batch: its cases, in the order of the manifest, and the folder that holds their runs.

    Attributes
    ----------
    folder : Path
    results : list of CaseResult
    about : dict
        ``manifest``, ``scheduler`` (where cases ran), ``ran`` (how many this time), ``seconds`` (that this took),
        ``interrupted``.
    """

    folder: Path
    results: list[CaseResult]
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def failed(self) -> list[CaseResult]:
        """Cases that ended in an error."""
        return [result for result in self.results if result.status == "failed"]

    @property
    def not_passed(self) -> list[CaseResult]:
        """Cases that are done and did not pass the quality gate."""
        return [result for result in self.results if result.status == "done" and not result.passed]

    @property
    def waiting(self) -> list[CaseResult]:
        """Cases that have not been run."""
        return [result for result in self.results if result.status == "waiting"]

    @property
    def passed(self) -> bool:
        """Whether all cases are done and passed."""
        return all(result.passed for result in self.results)

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds: counts, spread of the figures over the cases that are done, and all cases."""
        done = [result for result in self.results if result.status == "done"]
        return {
            **self.about,
            "cases": len(self.results),
            "passed": sum(result.passed for result in self.results),
            "not_passed": len(self.not_passed),
            "failed": len(self.failed),
            "waiting": len(self.waiting),
            "versions": sorted({result.otreg for result in done if result.otreg}),
            "figures": {name: _spread([result.figures.get(name) for result in done]) for name in FIGURES},
            "results": [result.row() for result in self.results],
        }

    def save(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Write ``summary.json`` and ``summary.csv`` into a folder, by default the batch's own, each whole or not."""
        target = self.folder if folder is None else Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        with atomic_path(target / TABLE) as temporary:
            temporary.write_text(self._table(), encoding="utf-8", newline="")
        with atomic_path(target / SUMMARY) as temporary:
            text = json.dumps(self.summary(), indent=1, allow_nan=False, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> BatchResult:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the folder holds no batch, or its summary is damaged.
        """
        path = Path(folder) / SUMMARY
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            results = [CaseResult.of_row(row) for row in found["results"]]
            about = {key: found[key] for key in ("manifest", "scheduler", "ran", "seconds", "interrupted")}
        except FileNotFoundError:
            raise InputError(
                f"{folder}: is not the folder of a batch, it has no {SUMMARY}; see otreg batch"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: is damaged or of no batch ({error}); run otreg batch again") from None
        return cls(Path(folder), results, about)

    def plot(self) -> Overview:
        """All cases small, worst first; ``.save("overview.png")`` or ``.html``, and notebooks show it inline."""
        from otreg.cohort.overview import Overview

        return Overview(self.folder.absolute().name, self.results, self.picture)

    def picture(self, result: CaseResult) -> bytes | None:
        """The small picture of a case as PNG, or None where none was made."""
        path = thumbnail_path(self.folder, result.name, result.hash)
        return path.read_bytes() if result.status == "done" and path.is_file() else None

    def _table(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for result in self.results:
            row = result.row()
            row["warnings"] = "; ".join(row["warnings"])
            row["passed"] = "yes" if row["passed"] else "no"
            writer.writerow(row)
        return text.getvalue()


def thumbnail_path(folder: Path, name: str, identity: str) -> Path:
    """Where the small picture of a case lies; its name says of which inputs and settings."""
    return folder / THUMBNAILS / f"{name}-{identity[:12]}.png"


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "mean": statistics.fmean(known),
        "median": statistics.median(known),
        "min": min(known),
        "max": max(known),
    }
