"""Manifests as rows of names and values, whatever they are written in, and everything that is wrong with them."""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from otreg.errors import InputError, ManifestError

Manifest = str | os.PathLike[str] | Sequence[Mapping[str, Any]]

_WILDCARD = re.compile(r"[*?\[]")
_MOST_NAMED = 4
"""Rows with the same problem that are listed one by one."""

LONGEST_NAME = 100
_UNSAFE = re.compile(r"[^\w .+=@()-]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a manifest.

    Attributes
    ----------
    where : str
        What its readers call it: ``row 4`` (of the file, the header being row 1), ``pair 2``.
    values : dict
        By column. Text where the manifest is a table of text; empty cells are left out.
    folder : Path
        Its relative paths are relative to this.
    columns : tuple of str
        All that there are, those without a value in this row too; empty where that is not known.
    """

    where: str
    values: dict[str, Any]
    folder: Path
    columns: tuple[str, ...] = ()

    def path(self, column: str) -> Path | None:
        """The path in a column, or None."""
        value = self.values.get(column)
        return None if value is None else self.folder / Path(os.path.expanduser(str(value)))


class Problems:
    """Collects what is wrong, so that all of it can be said at once."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: dict[str, list[str]] = {}

    def add(self, where: str, text: str) -> None:
        """Note that ``text`` is wrong at ``where``."""
        places = self._found.setdefault(" ".join(text.split()), [])
        if where not in places:
            places.append(where)

    @property
    def lines(self) -> list[str]:
        """One line for each thing that is wrong, with the rows where it is."""
        return [f"{_places(places)}: {text}" for text, places in self._found.items()]

    def check(self) -> None:
        """Raise ManifestError if there are any."""
        if self._found:
            raise ManifestError(self.source, self.lines)


def _places(places: Sequence[str]) -> str:
    if len(places) <= _MOST_NAMED:
        return ", ".join(places)
    return f"{', '.join(places[:_MOST_NAMED])} and {len(places) - _MOST_NAMED:,} more"


def source_name(manifest: Manifest) -> str:
    """What messages call a manifest."""
    return str(manifest) if isinstance(manifest, str | os.PathLike) else "the cases given"


def read_rows(manifest: Manifest, problems: Problems) -> list[Row]:
    """Read a manifest.

    Parameters
    ----------
    manifest : path, pattern, or sequence of mappings
        A table of text with a header (commas, semicolons or tabs), a ``.toml`` file with ``[[pairs]]`` (or
        ``[[subjects]]``) whose top-level keys hold for all of them, a pattern of files such as
        ``subjects/*/lh.pial`` (rows of ``moving`` and ``name``), or rows as Python has them.
    problems : Problems
        Gets what is wrong with single rows.

    Returns
    -------
    list of Row

    Raises
    ------
    InputError
        If it cannot be read at all, or there is nothing in it.
    """
    if not isinstance(manifest, str | os.PathLike):
        rows = [Row(f"case {k}", _given(values), Path()) for k, values in enumerate(manifest, 1)]
    elif _WILDCARD.search(os.fspath(manifest)) and not Path(manifest).exists():
        rows = _matching(os.fspath(manifest))
    else:
        path = Path(manifest)
        rows = _read_toml(path) if path.suffix.lower() == ".toml" else _read_table(path, problems)
    if not rows:
        problems.check()
        raise InputError(f"{source_name(manifest)}: lists nothing")
    return rows


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in values.items() if value is not None and value != ""}


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a manifest is a CSV or TOML file, or a pattern of files"
        ) from None
    except IsADirectoryError:
        raise InputError(
            f"{path}: is a folder; name a CSV file, or a pattern such as '{path}/*.vtk'"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text in UTF-8; a manifest is a CSV or TOML file") from None


def _read_table(path: Path, problems: Problems) -> list[Row]:
    text = _text(path)
    header = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    columns: list[str] = []
    rows: list[Row] = []
    try:
        for number, cells in enumerate(reader, 1):
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if not columns:
                columns = stripped
                for name in sorted({name for name in columns if columns.count(name) > 1}):
                    problems.add(
                        "header", f"column {name!r} comes more than once" if name else "a column has no name"
                    )
                continue
            if len(stripped) > len(columns) and any(stripped[len(columns) :]):
                problems.add(
                    f"row {number}", f"has {len(stripped)} cells, but the header {len(columns)} columns"
                )
            values = _given(dict(zip(columns, stripped, strict=False)))
            rows.append(Row(f"row {number}", values, path.parent, tuple(columns)))
    except csv.Error as error:
        raise InputError(f"{path}: no table of text ({error})") from None
    return rows


def _read_toml(path: Path) -> list[Row]:
    try:
        found = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a TOML file: {error}") from None
    tables = [key for key in ("pairs", "subjects") if key in found]
    if len(tables) != 1 or not isinstance(found[tables[0]], list):
        raise InputError(f"{path}: holds no list of [[pairs]] or of [[subjects]], or holds both")
    kind = tables[0]
    shared = {key: value for key, value in found.items() if key != kind}
    rows = []
    for number, own in enumerate(found[kind], 1):
        if not isinstance(own, dict):
            raise InputError(f"{path}: {kind} must be tables ([[{kind}]])")
        rows.append(Row(f"{kind[:-1]} {number}", _given(_spread(shared) | _spread(own)), path.parent))
    return rows


def _spread(values: Mapping[str, Any]) -> dict[str, Any]:
    """The table ``settings`` as columns beside the others."""
    settings = values.get("settings")
    if not isinstance(settings, Mapping):
        return dict(values)
    return {**{key: value for key, value in values.items() if key != "settings"}, **settings}


def _matching(pattern: str) -> list[Row]:
    """A row for each file that a pattern matches, named by what differs between their paths."""
    files = sorted(Path(name) for name in glob.glob(os.path.expanduser(pattern), recursive=True))
    files = [path for path in files if path.is_file()]
    if not files:
        raise InputError(f"{pattern}: matches no file")
    names = distinct_names(files)
    return [
        Row(str(path), {"moving": str(path), "name": name}, Path())
        for path, name in zip(files, names, strict=True)
    ]


def distinct_names(files: Sequence[Path]) -> list[str]:
    """A name for each file: the parts of its path, without suffix, that not all of them share.

    ``s1/lh.pial`` and ``s2/lh.pial`` are ``s1`` and ``s2``, ``a.vtk`` and ``b.vtk`` are ``a`` and ``b``.
    """
    from otreg.io.formats import suffix_of

    def parts(path: Path) -> list[str]:
        name = path.name.removesuffix(".gz") if path.name.lower().endswith(".gz") else path.name
        suffix = suffix_of(path).removesuffix(".gz")
        stem = name[: -len(suffix)] if suffix and name.lower().endswith(suffix) else name
        return [*path.parts[:-1], stem.removesuffix(".surf")]

    split = [parts(path) for path in files]
    if len(files) == 1 or len({len(one) for one in split}) > 1:
        kept = [
            one[-1:] if len({tuple(other[-1:]) for other in split}) == len(split) else one for one in split
        ]
    else:
        last = [one[-1] for one in split]
        if len(set(last)) == len(last):
            kept = [[name] for name in last]
        else:
            differing = [k for k in range(len(split[0])) if len({one[k] for one in split}) > 1]
            kept = [[one[k] for k in differing] or one[-1:] for one in split]
    return [safe_name("-".join(part for part in one if part not in (os.sep, "..", "."))) for one in kept]


def safe_name(text: str) -> str:
    """Text with everything replaced that a folder on some system cannot be called."""
    name = _UNSAFE.sub("_", text).strip(". ")[:LONGEST_NAME] or "case"
    return f"{name}_" if _RESERVED.fullmatch(name) else name


def why_unsafe(name: str) -> str | None:
    """Why a name given by the user cannot be that of a folder; None if it can."""
    if name != safe_name(name):
        bad = _UNSAFE.search(name)
        why = f"because of {bad[0]!r}" if bad else "on every system"
        return f"name {name!r} cannot be that of a folder {why}; {safe_name(name)!r} can"
    return None
