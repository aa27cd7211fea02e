"""The subjects of a template: which surfaces each one has, and whether they can be used together."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from otreg.cohort.rows import Manifest, Problems, read_rows, source_name, why_unsafe
from otreg.errors import InputError
from otreg.io import read
from otreg.overlap import check_labels
from otreg.registration.checks import check_pair
from otreg.surface import Surface

STRUCTURE = "structure"
"""Point data of the template that tell its structures apart, where there are several."""

_SURFACE = re.compile(r"surface(?:_(?P<name>[A-Za-z][\w-]*)|(?P<number>[2-9]|[1-9]\d))?")

_SIZE_RATIO = 5.0
"""Beyond this ratio of diameters two files are in different units, or not of one anatomy."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One subject: a name that can be a folder's, its row, and the file of each structure, as the columns come."""

    name: str
    where: str
    surfaces: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class Cohort:
    """All subjects, and the names of the structures that each of them has."""

    subjects: tuple[Subject, ...]
    structures: tuple[str, ...]
    source: str = "the subjects given"

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def names(self) -> list[str]:
        """Names of the subjects, in order."""
        return [subject.name for subject in self.subjects]


def read_subjects(manifest: Manifest) -> Cohort:
    """Read a table with the columns ``subject`` and ``surface``.

    Several structures have a column each: ``surface``, ``surface2``, … or ``surface_hippocampus``,
    ``surface_amygdala``, …, which name them. Paths are relative to the folder of the manifest.

    Parameters
    ----------
    manifest : path or sequence of mappings
        See :func:`otreg.cohort.rows.read_rows`.

    Returns
    -------
    Cohort

    Raises
    ------
    ManifestError
        With every problem of the table, by row: unknown columns, missing cells, names that are doubled or cannot
        name a folder, files that do not exist, fewer than two subjects.
    InputError
        If it cannot be read at all.
    """
    problems = Problems(source_name(manifest))
    rows = read_rows(manifest, problems)
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    structures = {}
    for column in columns:
        match = _SURFACE.fullmatch(column)
        if match:
            structures[column] = match["name"] or column
        elif column != "subject":
            problems.add(
                "header", f"unknown column {column!r}: use subject, surface, surface2, … or surface_NAME"
            )
    if "subject" not in columns:
        problems.add("header", "no column 'subject'")
    if not structures:
        problems.add("header", "no column 'surface'")
    if len(set(structures.values())) < len(structures):
        problems.add("header", "two columns name the same structure")
    if len(rows) < 2:
        problems.add("table", "lists one subject; a template needs two or more")
    taken: dict[str, str] = {}
    subjects = []
    for row in rows:
        name = str(row.values.get("subject", ""))
        why = why_unsafe(name)
        if "subject" in columns and not name:
            problems.add(row.where, "no subject")
        elif name and why is not None:
            problems.add(row.where, why)
        elif name and name.lower() in taken:
            # on many systems two folders cannot differ by capitals alone
            problems.add(row.where, f"subject {name!r} is that of {taken[name.lower()]} already")
        taken.setdefault(name.lower(), row.where)
        files = []
        for column in structures:
            file = row.path(column)
            if file is None:
                problems.add(row.where, f"no {column}")
            elif not file.is_file():
                problems.add(row.where, f"{file}: no such file")
            else:
                files.append(file)
        subjects.append(Subject(name, row.where, tuple(files)))
    problems.check()
    return Cohort(tuple(subjects), tuple(structures.values()), source_name(manifest))


def check_surfaces(cohort: Cohort, *, repair: bool = False, labels: str | None = None) -> str | None:
    """Read every surface once, and refuse what could not be registered to the others.

    Returns
    -------
    str or None
        The frame that all surfaces are in, None where no file says it.

    Raises
    ------
    ManifestError
        With every problem, by row.
    """
    problems = Problems(cohort.source)
    frames: dict[str, str] = {}
    sizes: dict[int, tuple[float, Path]] = {}
    for subject in cohort.subjects:
        for place, file in enumerate(subject.surfaces):
            try:
                shape = read(file, repair=repair)
                check_pair(shape, shape, "rigid", None)
                if labels is not None:
                    check_labels(shape, shape, labels)
            except InputError as error:
                problems.add(subject.where, str(error))
                continue
            if shape.frame is not None and shape.frame != next(iter(frames), shape.frame):
                other, named = next(iter(frames.items()))
                problems.add(
                    subject.where,
                    f"{file} is in {shape.frame}, but {named} in {other}: convert it (otreg convert)",
                )
            elif shape.frame is not None:
                frames.setdefault(shape.frame, str(file))
            size, first = sizes.setdefault(place, (shape.diameter, file))
            if not 1.0 / _SIZE_RATIO < shape.diameter / size < _SIZE_RATIO:
                problems.add(
                    subject.where,
                    f"{file} is {shape.diameter / size:.3g} times the size of {first}: bring all to one unit "
                    "(otreg convert --scale)",
                )
    problems.check()
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
