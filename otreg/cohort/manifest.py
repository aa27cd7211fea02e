"""The cases of a study: what is registered with what, and how; checked as a whole before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from otreg.cohort.rows import Manifest, Problems, Row, distinct_names, read_rows, source_name, why_unsafe
from otreg.configuration import DEFAULTS, check_choice
from otreg.errors import InputError

ALIASES = {"subject": "name", "surface": "moving", "landmarks": "moving_landmarks"}
"""Columns of a table of subjects, and what they are in one of pairs."""

PATHS = ("moving", "fixed", "moving_landmarks", "fixed_landmarks")
CHOICES = tuple(name for name in DEFAULTS if name != "threads")
"""Columns that say of one row what options say of all. Threads are the machine's, not the study's."""

_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")
_REMEMBERED = 16
"""Surfaces that stay in memory while cases are checked: the same fixed one is read once."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One pair to register.

    Attributes
    ----------
    name : str
        Of its folder; no two cases of a study share one.
    where : str
        Its row in the manifest.
    moving, fixed : Path
    landmarks : (Path, Path) or None
        On moving and on fixed.
    choices : dict
        Value for each of :data:`CHOICES`.
    settings : dict
        All of :class:`otreg.registration.Settings`, defaults included.
    points : int or None
        Of moving and fixed together; None where they have not been read.
    """

    name: str
    where: str
    moving: Path
    fixed: Path
    landmarks: tuple[Path, Path] | None
    choices: dict[str, Any]
    settings: dict[str, Any]
    points: int | None = None


def read_manifest(
    manifest: Manifest,
    *,
    fixed: str | os.PathLike[str] | None = None,
    fixed_landmarks: str | os.PathLike[str] | None = None,
    choices: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    reserved: Collection[str] = (),
    done: Callable[[Case], bool] | None = None,
) -> list[Case]:
    """Read a manifest and check every case in it.

    Parameters
    ----------
    manifest : path, pattern of files, or sequence of mappings
        See :func:`otreg.cohort.rows.read_rows`. Columns: ``moving`` and ``fixed`` (files, relative to the manifest),
        ``name``, ``moving_landmarks`` and ``fixed_landmarks``, any of :data:`CHOICES` and of the settings. A table of
        subjects says ``subject``, ``surface``, ``landmarks`` for ``name``, ``moving``, ``moving_landmarks``.
    fixed, fixed_landmarks : path, optional
        For the rows that name none; relative to the current folder.
    choices, settings : mapping, optional
        For all rows; a row's own values win. Defaults: those of ``otreg register``.
    reserved : collection of str
        Names that no case may have.
    done : callable, optional
        Says of a case that it has been run before on just these files: then its files are not read again.

    Returns
    -------
    list of Case

    Raises
    ------
    ManifestError
        With everything that is wrong: unknown columns, values that cannot be read, missing or damaged files, names that
        are not safe or come twice, frames, units, labels or landmarks that do not go together.
    InputError
        If the manifest cannot be read at all, or ``choices`` or ``settings`` are wrong by themselves.
    """
    from otreg.registration.settings import Settings

    base = {**{name: DEFAULTS[name] for name in CHOICES}, **(choices or {})}
    numbers = Settings.from_mapping(settings).as_dict()
    problems = Problems(source_name(manifest))
    rows = read_rows(manifest, problems)
    known = (*PATHS, "name", *CHOICES, *numbers)
    rows = [_renamed(row, problems) for row in rows]
    _check_columns(rows, known, problems)
    outside = {"fixed": fixed, "fixed_landmarks": fixed_landmarks}
    _check_required(rows, outside, problems)
    names = _names(rows)
    _check_names(rows, names, reserved, problems)
    cases = []
    for row, name in zip(rows, names, strict=True):
        case = _case(row, name, outside, base, numbers, problems)
        if case is not None:
            cases.append(case)
    cases = _checked_files(cases, done, problems)
    problems.check()
    return cases


def _renamed(row: Row, problems: Problems) -> Row:
    values: dict[str, Any] = {}
    for column, value in row.values.items():
        name = ALIASES.get(column, column)
        if name in values:
            problems.add("header", f"columns {column!r} and {name!r} are the same; keep one")
        values[name] = value
    return dataclasses.replace(row, values=values)


def _check_columns(rows: Sequence[Row], known: Sequence[str], problems: Problems) -> None:
    for column in dict.fromkeys(column for row in rows for column in (*row.columns, *row.values)):
        if column and column not in known and column not in ALIASES:
            near = difflib.get_close_matches(column, [*known, *ALIASES], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join((*known, *ALIASES))}"
            problems.add("header", f"unknown column {column!r}; {hint}")


def _check_required(rows: Sequence[Row], outside: Mapping[str, Any], problems: Problems) -> None:
    """Refuse rows without surfaces, and say it once where no row has them."""
    for column, cure in (
        ("moving", "moving (or surface)"),
        ("fixed", "fixed, or give one for all with --fixed"),
    ):
        if outside.get(column) is None and not any(column in row.values for row in rows):
            problems.add("header", f"there is no column {cure}")
            continue
        for row in rows:
            if outside.get(column) is None and column not in row.values:
                problems.add(row.where, f"names no {column} surface")


def _names(rows: Sequence[Row]) -> list[str]:
    """Names for all rows: their own, or from what differs between their files."""
    unnamed = [row for row in rows if "name" not in row.values and "moving" in row.values]
    moving = [Path(str(row.values["moving"])) for row in unnamed]
    names = distinct_names(moving) if moving else []
    fixed = [Path(str(row.values.get("fixed", ""))) for row in unnamed]
    if len(set(names)) < len(names) and len(set(fixed)) > 1:
        names = [f"{a}-to-{b}" for a, b in zip(names, distinct_names(fixed), strict=True)]
    found = {id(row): name for row, name in zip(unnamed, names, strict=True)}
    return [str(row.values.get("name", found.get(id(row), ""))) for row in rows]


def _case(
    row: Row,
    name: str,
    outside: Mapping[str, Any],
    base: Mapping[str, Any],
    numbers: Mapping[str, Any],
    problems: Problems,
) -> Case | None:
    """What a row says, or None where it says too little."""
    choices, settings = dict(base), dict(numbers)
    for column, value in row.values.items():
        try:
            if column in CHOICES:
                choices[column] = _choice(column, value)
            elif column in numbers:
                settings[column] = _setting(column, value, numbers[column])
        except InputError as error:
            problems.add(row.where, str(error))
    paths = {column: row.path(column) for column in PATHS}
    for column, path in outside.items():
        if paths[column] is None and path is not None:
            paths[column] = Path(path)
    marks = [column for column in PATHS[2:] if paths[column] is not None]
    if marks == ["moving_landmarks"]:
        problems.add(row.where, "has landmarks on moving, but none on fixed (column fixed_landmarks)")
    elif "fixed_landmarks" in row.values and len(marks) == 1:
        problems.add(row.where, "has landmarks on fixed, but none on moving (column moving_landmarks)")
    try:
        _check_choices(choices)
    except InputError as error:
        problems.add(row.where, str(error))
    missing = [path for path in paths.values() if path is not None and not path.is_file()]
    for path in dict.fromkeys(missing):
        problems.add(row.where, f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    moving, fixed = paths["moving"], paths["fixed"]
    if moving is None or fixed is None or missing:
        return None
    pair = (paths["moving_landmarks"], paths["fixed_landmarks"])
    landmarks = (pair[0], pair[1]) if pair[0] is not None and pair[1] is not None else None
    return Case(name, row.where, moving, fixed, landmarks, choices, settings)


def _choice(name: str, value: Any) -> Any:
    """The value of a column of :data:`CHOICES`; cells of a table are text."""
    default = DEFAULTS[name]
    if isinstance(value, str) and isinstance(default, bool):
        word = value.lower()
        value = True if word in _YES else False if word in _NO else value
    elif isinstance(value, str) and isinstance(default, int):
        value = _number(value, whole=True)
    check_choice(name, value)
    return value


def _setting(name: str, value: Any, default: float) -> Any:
    from otreg.registration.settings import Settings

    if isinstance(value, str):
        value = _number(value, whole=isinstance(default, int))
    Settings.from_mapping({name: value})
    return value


def _number(text: str, whole: bool) -> Any:
    """The number that a text is, or the text, which is then refused with its column's name."""
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return text


def _check_choices(choices: Mapping[str, Any]) -> None:
    from otreg.registration.checks import check_device
    from otreg.registration.settings import PRESETS

    if choices["preset"] not in PRESETS:
        raise InputError(f"unknown preset {choices['preset']!r}: use one of {', '.join(PRESETS)}")
    if choices["symmetric"] and choices["preset"] != "diffeo":
        raise InputError(f"symmetric needs the preset diffeo, got {choices['preset']!r}")
    if choices["seed"] < 0:
        raise InputError(f"seed must be 0 or more, got {choices['seed']}")
    check_device(choices["device"])


def _check_names(
    rows: Sequence[Row], names: Sequence[str], reserved: Collection[str], problems: Problems
) -> None:
    # on many systems two folders cannot differ by capitals alone
    taken = {name.lower(): "" for name in reserved}
    for row, name in zip(rows, names, strict=True):
        if not name:
            continue  # it has no moving surface either, which is said elsewhere
        why, key = why_unsafe(name), name.lower()
        if why is not None:
            problems.add(row.where, why)
        elif key in taken:
            other = f"{taken[key]} has it too" if taken[key] else "the study has a file of that name"
            problems.add(row.where, f"name {name!r} is taken: {other}; give it another one (column name)")
        taken.setdefault(key, row.where)


def _checked_files(
    cases: Sequence[Case], done: Callable[[Case], bool] | None, problems: Problems
) -> list[Case]:
    """Read what each case names, as a registration does, note what it would stumble over, and count points."""
    from otreg.io.pairs import read_pair, read_surface
    from otreg.registration.checks import check_pair

    remembered = functools.lru_cache(_REMEMBERED)(read_surface)
    checked = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the case itself says it again
        for case in cases:
            checked.append(case)
            try:
                if done is not None and done(case):
                    continue
                pair = read_pair(case.moving, case.fixed, case.landmarks, case.choices, surface=remembered)
                check_pair(pair[0], pair[1], case.choices["preset"], pair[2])
                checked[-1] = dataclasses.replace(case, points=len(pair[0]) + len(pair[1]))
            except (InputError, OSError) as error:
                problems.add(case.where, str(error))
    return checked
