"""Tables of coordinates: .txt, .csv, .xyz … as point clouds, and NumPy's .npy."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.columns import AXES, join_columns, split_columns
from otreg.io.formats import declared_frame, suffix_of
from otreg.io.numbers import parse_numbers
from otreg.surface import FloatArray, Surface

_BARE = (".xyz", ".pts", ".particles")
"""Suffixes of plain coordinates: programs that read them expect three numbers a row and no header."""

# Axis names that say the frame, as 3D Slicer's tables have them.
FRAMED_AXES = {("r", "a", "s"): "RAS", ("l", "p", "s"): "LPS"}


@dataclass
class Table:
    """Columns of a text table: numeric ones as arrays, others as lists of str."""

    columns: list[NDArray[Any] | list[str]]
    header: list[str] | None
    frame: str | None

    @property
    def numeric(self) -> list[int]:
        """Places of the numeric columns."""
        return [k for k, column in enumerate(self.columns) if isinstance(column, np.ndarray)]

    def coordinates(self) -> tuple[list[int], str | None]:
        """Places of x, y, z and the frame: by name (x y z, r a s, l p s), else the first three of numbers."""
        if self.header:
            names = [name.strip().lower() for name in self.header]
            for axes, frame in ((AXES, None), *FRAMED_AXES.items()):
                if all(axis in names for axis in axes):
                    places = [names.index(axis) for axis in axes]
                    if all(place in self.numeric for place in places):
                        return places, frame or self.frame
                    raise InputError("the columns x, y, z are not all numbers; correct the table")
        if len(self.numeric) < 3:
            raise InputError(
                "each row must have three numbers, x y z; the table is damaged or of another kind"
            )
        return self.numeric[:3], self.frame


def read_table(data: bytes) -> Table:
    """Split text into columns at tabs, semicolons, commas or blanks; ``#`` starts a comment line."""
    text = data.decode("utf-8-sig", "replace")
    lines = [line for line in (raw.strip(" \r\f\v") for raw in text.split("\n")) if line]
    comments = "\n".join(line for line in lines if line[0] in "#%")
    lines = [line for line in lines if line[0] not in "#%"]
    # Some point files start with the number of points.
    if len(lines) > 1 and lines[0].isdigit() and int(lines[0]) == len(lines) - 1:
        del lines[0]
    if not lines:
        raise InputError("no points: the table has no rows")
    separator = next((mark for mark in "\t;," if mark in lines[-1]), None)
    rows = _split(lines[:1], separator)
    header = rows[0] if any(not _is_number(word) for word in rows[0]) else None
    # A first row of names and numbers ("A,1,2,3") is data like the others.
    if header and sum(map(_is_number, header)) >= 3:
        header = None
    body = lines[1:] if header else lines
    if not body:
        raise InputError("no points: the table has a header but no rows")
    return Table(_columns(body, separator, header), header, declared_frame(comments))


def _split(lines: list[str], separator: str | None) -> list[list[str]]:
    if separator is None:
        return [line.split() for line in lines]
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        return [[word.strip() for word in row] for row in rows]
    except csv.Error as error:
        # a carriage return inside a line, say
        raise InputError(f"the table is damaged ({error}): correct or export it again") from error


def _columns(
    body: list[str], separator: str | None, header: list[str] | None
) -> list[NDArray[Any] | list[str]]:
    """Columns of the body; rows of another length are refused."""
    width = len(header) if header else len(_split(body[:1], separator)[0])
    lengths = [line.count(separator) + 1 if separator else len(line.split()) for line in body]
    plain = separator is None or '"' not in "".join(body[:1000])
    if plain and lengths.count(width) == len(body):
        joined = "\n".join(body)
        numbers = parse_numbers((joined.replace(separator, " ") if separator else joined).encode())
        if len(numbers) == width * len(body):
            sample = _split(body[:50], separator)
            table = numbers.reshape(len(body), width)
            return [_typed(table[:, k], [row[k] for row in sample]) for k in range(width)]
    rows = _split(body, separator)
    for number, row in enumerate(rows):
        if len(row) == width + 1 and row[-1] == "":
            row.pop()
        if len(row) != width:
            counts = f"row {number + 1 + bool(header)} has {len(row)} values where {width} are expected"
            raise InputError(
                f"{counts}: it is truncated, damaged, or no table of points; correct or export it again"
            )
    columns: list[NDArray[Any] | list[str]] = []
    for k in range(width):
        words = [row[k] for row in rows]
        numeric = all(_is_number(word) or not word for word in words) and any(words)
        if numeric:
            values = np.array([float(word) if word else np.nan for word in words])
            columns.append(_typed(values, words))
        else:
            columns.append(words)
    return columns


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return "_" not in word


def _typed(values: FloatArray, words: list[str]) -> NDArray[Any]:
    """Integers where the text has them."""
    whole = all(re.fullmatch(r"[-+]?\d+", word) for word in words)
    return (
        values.astype(np.int64)
        if whole and np.all(np.isfinite(values) & (values == np.rint(values)))
        else values
    )


def read_text(data: bytes, path: Path) -> Surface:
    """Read a table as a point cloud: further columns are point data, those of words labels with names."""
    table = read_table(data)
    places, frame = table.coordinates()
    points = np.stack([np.asarray(table.columns[k], np.float64) for k in places], axis=1)
    columns, names = [], {}
    for place, column in enumerate(table.columns):
        if place in places:
            continue
        name = table.header[place] if table.header else f"column_{place + 1}"
        if isinstance(column, list):
            words = list(dict.fromkeys(column))
            number = {word: k for k, word in enumerate(words)}
            names[name] = dict(enumerate(words))
            column = np.array([number[word] for word in column], np.int64)
        columns.append((name, column))
    point_data = join_columns(columns)
    return Surface(
        points,
        point_data=point_data,
        frame=frame,
        label_names={k: v for k, v in names.items() if k in point_data},
    )


def write_text(surface: Surface, path: Path) -> list[str]:
    """Write the points, one a row: ``.csv`` and ``.txt`` with all point data under a header, others bare."""
    suffix = suffix_of(path)
    warnings: list[str] = []
    columns: list[tuple[str, list[str]]] = [
        (a, [repr(v) for v in surface.points[:, k].tolist()]) for k, a in enumerate(AXES)
    ]
    if suffix not in _BARE:
        for name, values in split_columns(surface.point_data):
            columns.append((name, _words(surface, name, values, warnings)))
    text = io.StringIO()
    if surface.frame:
        text.write(f"# SPACE={surface.frame}\n")
    separator = "," if suffix == ".csv" else "\t" if len(columns) > 3 else " "
    rows = csv.writer(text, delimiter=separator, lineterminator="\n")
    if suffix == ".csv" or len(columns) > 3:
        rows.writerow([name for name, _ in columns])
    rows.writerows(zip(*(words for _, words in columns), strict=True))
    path.write_text(text.getvalue(), encoding="utf-8")
    return warnings


def _words(surface: Surface, name: str, values: NDArray[Any], warnings: list[str]) -> list[str]:
    """A column as text: label names where reading them back gives the same numbers."""
    labels = surface.label_names.get(name)
    if labels is None:
        return [repr(v) if isinstance(v, float) else str(v) for v in values.tolist()]
    seen = list(dict.fromkeys(values.tolist()))
    words = [labels.get(value, "") for value in seen]
    if (
        seen == list(range(len(seen)))
        and len(set(words)) == len(words)
        and not any(map(_is_number, words))
        and all(words)
    ):
        return [labels[value] for value in values.tolist()]
    warnings.append(f"the names of the labels {name!r} were left out: a table holds names or numbers")
    return [str(value) for value in values.tolist()]


def read_npy(data: bytes, path: Path) -> Surface:
    """Read an array of shape (N, 3) as a point cloud; pickled objects are refused."""
    points = load_array(data)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise InputError(
            f"an array of shape (N, 3) of real numbers is needed, got {points.shape} of {points.dtype}"
        )
    return Surface(points)


def load_array(data: bytes) -> NDArray[Any]:
    """The plain array of an .npy file; pickled objects are refused."""
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    # numpy parses the header as Python source: a damaged one raises the errors of a damaged program.
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(
            f"cannot be read as a plain array ({reason}); save it again with numpy.save"
        ) from None


def write_npy(surface: Surface, path: Path) -> list[str]:
    """Write the points as an array of shape (N, 3), float64."""
    with path.open("wb") as file:
        np.save(file, surface.points, allow_pickle=False)
    return []
