"""The subjects of a template: which surfaces each one has, and whether they can be used together."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from otreg.errors import InputError
from otreg.io import read
from otreg.registration.checks import check_pair
from otreg.surface import Surface

STRUCTURE = "structure"
"""Point data of the template that tell its structures apart, where there are several."""

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_SURFACE = re.compile(r"surface(?:_(?P<name>[A-Za-z][\w-]*)|(?P<number>[2-9]|[1-9]\d))?")


@dataclasses.dataclass(frozen=True)
class Subject:
    """One subject: a name that can be a folder's, and the file of each structure, in the order of the columns."""

    name: str
    surfaces: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class Cohort:
    """All subjects, and the names of the structures that each of them has."""

    subjects: tuple[Subject, ...]
    structures: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def names(self) -> list[str]:
        """Names of the subjects, in order."""
        return [subject.name for subject in self.subjects]


def read_subjects(manifest: str | os.PathLike[str]) -> Cohort:
    """Read a CSV with the columns ``subject`` and ``surface``.

    Several structures have a column each: ``surface``, ``surface2``, … or ``surface_hippocampus``,
    ``surface_amygdala``, …, which name them. Paths are relative to the folder of the manifest.

    Raises
    ------
    InputError
        With every problem of the table, by row: unknown columns, missing cells, names that are doubled or cannot
        name a folder, files that do not exist.
    """
    path = Path(manifest)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name and the folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); save it as CSV in UTF-8") from None
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    if not rows:
        raise InputError(f"{path}: is empty; it wants the columns subject and surface")
    header = [cell.strip() for cell in rows[0]]
    problems = []
    structures: dict[int, str] = {}
    for place, column in enumerate(header):
        match = _SURFACE.fullmatch(column)
        if match:
            structures[place] = match["name"] or column
        elif column != "subject":
            problems.append(f"unknown column {column!r}: use subject, surface, surface2, …, or surface_NAME")
    problems += [f"the column {column!r} comes twice" for column in sorted(_doubled(header))]
    for wanted, there in (("subject", "subject" in header), ("surface", bool(structures))):
        if not there:
            problems.append(f"no column {wanted!r}")
    if len(rows) < 3:
        problems.append(f"{len(rows) - 1} subjects; a template needs two or more")
    subjects = []
    for number, row in enumerate(rows[1:], start=2):
        cells = [*(cell.strip() for cell in row), *[""] * (len(header) - len(row))]
        if len(row) > len(header):
            problems.append(f"row {number}: {len(row)} cells under {len(header)} columns")
        name = cells[header.index("subject")] if "subject" in header else ""
        if "subject" in header and not name:
            problems.append(f"row {number}: no subject")
        elif name and not _NAME.fullmatch(name):
            problems.append(f"row {number}: subject {name!r} cannot name a folder: use letters, digits, . _ -")
        files = []
        for place in structures:
            file = path.parent / cells[place]
            if not cells[place]:
                problems.append(f"row {number}: no {header[place]}")
            elif not file.is_file():
                problems.append(f"row {number}: {file}: no such file")
            files.append(file)
        subjects.append(Subject(name, tuple(files)))
    for name in sorted(_doubled([subject.name.lower() for subject in subjects if subject.name])):
        where = [str(k) for k, subject in enumerate(subjects, start=2) if subject.name.lower() == name]
        problems.append(f"rows {', '.join(where)}: the same subject {name!r}")
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}")
    return Cohort(tuple(subjects), tuple(structures.values()))


def check_surfaces(cohort: Cohort, *, repair: bool = False, labels: str | None = None) -> str | None:
    """Read every surface once, and refuse what could not be registered to the others.

    Returns
    -------
    str or None
        The frame that all surfaces are in, None where no file says it.

    Raises
    ------
    InputError
        With every problem, by subject.
    """
    problems: list[str] = []
    frames: dict[str, str] = {}
    first: list[Surface] | None = None
    for subject in cohort.subjects:
        shapes = []
        for file in subject.surfaces:
            try:
                shape = read(file, repair=repair)
                check_pair(shape, shape, "rigid", None)
                if labels is not None and labels not in shape.point_data:
                    raise InputError(f"{file}: no point data {labels!r}")
                shapes.append(shape)
            except InputError as error:
                problems.append(f"{subject.name}: {error}")
        for shape, file in zip(shapes, subject.surfaces, strict=False):
            if shape.frame is not None:
                frames.setdefault(shape.frame, str(file))
        if len(shapes) < len(subject.surfaces):
            continue
        if first is None:
            first = shapes
            continue
        for mine, reference in zip(shapes, first, strict=True):
            ratio = mine.diameter / reference.diameter
            if not 0.2 < ratio < 5.0:
                problems.append(
                    f"{subject.name}: {mine.called('surface')} is {ratio:.3g} times the size of "
                    f"{reference.called('first')}: bring all to one unit (otreg convert --scale)"
                )
    if len(frames) > 1:
        named = ", ".join(f"{file} is in {frame}" for frame, file in frames.items())
        problems.append(f"mixed frames: {named}: convert them to one (otreg convert)")
    if problems:
        raise InputError("; ".join(problems))
    return next(iter(frames), None)


def joined(shapes: Sequence[Surface], structures: Sequence[str], labels: str | None = None) -> Surface:
    """Several structures as one surface, whose point data :data:`STRUCTURE` say which is which.

    Of the other point data only ``labels`` are kept; a single structure stays as it is but for its point data.
    """
    offsets = np.cumsum([0, *(len(shape) for shape in shapes)])
    triangles = [shape.triangles + offset for shape, offset in zip(shapes, offsets, strict=False)]
    data = {}
    names: dict[str, dict[int, str]] = {}
    if labels is not None:
        data[labels] = np.concatenate([np.squeeze(shape.point_data[labels]) for shape in shapes])
        for shape in shapes:
            if labels in shape.label_names:
                names[labels] = dict(shape.label_names[labels])
    if len(shapes) > 1:
        data[STRUCTURE] = np.repeat(np.arange(len(shapes)), [len(shape) for shape in shapes])
        names[STRUCTURE] = dict(enumerate(structures))
    frame = next((shape.frame for shape in shapes if shape.frame is not None), None)
    metadata = {"path": shapes[0].metadata["path"]} if "path" in shapes[0].metadata else {}
    return Surface(
        np.concatenate([shape.points for shape in shapes]),
        np.concatenate(triangles),
        data,
        frame,
        names,
        metadata=metadata,
    )


def parts_of(shape: Surface) -> list[Surface]:
    """The structures of a joined surface, in order; one surface without :data:`STRUCTURE` is its own only part."""
    if STRUCTURE not in shape.point_data:
        return [shape]
    codes = np.asarray(shape.point_data[STRUCTURE]).astype(np.int64)
    parts = []
    for code in range(int(codes.max()) + 1):
        rows = np.flatnonzero(codes == code)
        number = np.full(len(shape), -1)
        number[rows] = np.arange(len(rows))
        triangles = number[shape.triangles]
        data = {name: values[rows] for name, values in shape.point_data.items() if name != STRUCTURE}
        names = {name: table for name, table in shape.label_names.items() if name != STRUCTURE}
        parts.append(
            Surface(shape.points[rows], triangles[(triangles >= 0).all(axis=1)], data, shape.frame, names)
        )
    return parts


def _doubled(names: Sequence[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}
