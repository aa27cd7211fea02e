"""What a registration is told: defaults, ``--config FILE.toml`` over them, then options and ``--set``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from otreg.errors import InputError

DEFAULTS: dict[str, Any] = {
    "preset": "diffeo",
    "seed": 0,
    "symmetric": False,
    "partial": False,
    "labels": None,
    "device": "auto",
    "threads": None,
    "repair": False,
    "convert_frames": False,
}
"""The top-level keys of a configuration, and the defaults; the table ``settings`` stands beside them."""

_TYPES: dict[str, tuple[type, str]] = {
    "preset": (str, "a string"),
    "seed": (int, "a whole number"),
    "symmetric": (bool, "true or false"),
    "partial": (bool, "true or false"),
    "labels": (str, "a string"),
    "device": (str, "a string"),
    "threads": (int, "a whole number"),
    "repair": (bool, "true or false"),
    "convert_frames": (bool, "true or false"),
}

# a run also writes down where it came from; that is read by people and says nothing about what to do
_INFORMATION = ("otreg", "version", "moving", "fixed", "landmarks")

_BARE_WORD = re.compile(r"[A-Za-z_][\w./-]*")
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")


def load_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration file.

    Parameters
    ----------
    path : path
        A TOML file with top-level keys among ``preset, seed, symmetric, partial, labels, device, threads, repair,
        convert_frames`` and a table ``[settings]``, such as the ``config.toml`` that a run writes.

    Returns
    -------
    dict
        What the file says, the table under ``"settings"`` (empty if there is none).

    Raises
    ------
    InputError
        If the file cannot be read, is not TOML, or holds a key or a type that is not known.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(
            f"{path}: is a folder; --config takes a TOML file, for instance its config.toml"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from None
    found = {key: value for key, value in found.items() if key not in _INFORMATION}
    settings = found.pop("settings", {})
    if not isinstance(settings, dict):
        raise InputError(f"{path}: settings must be a table ([settings])")
    for key, value in found.items():
        if key not in _TYPES:
            raise InputError(
                f"{path}: unknown key {key!r}; known: {', '.join(_TYPES)} and the table [settings]"
            )
        wanted, words = _TYPES[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise InputError(f"{path}: {key} must be {words}, not {value!r}")
    return {**found, "settings": settings}


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn ``["a.b=1", "c=word"]`` into ``{"a": {"b": 1}, "c": "word"}``.

    A value is read as TOML (``true``, ``1e-3``, ``[1, 2]``, ``"text"``); a single bare word is taken as text.

    Raises
    ------
    InputError
        For a missing ``=``, a key that is not a name, or a value that is not TOML.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key):
            raise InputError(f"--set {assignment}: write it as key=value")
        *tables, last = key.split(".")
        node = tree
        for name in tables:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise InputError(f"--set {assignment}: {name} was given a value before")
        node[last] = _value(text.strip(), assignment)
    return tree


def _value(text: str, assignment: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    if set(parsed) == {"value"}:
        return parsed["value"]
    if _BARE_WORD.fullmatch(text):
        return text
    raise InputError(f"--set {assignment}: {text!r} is not a TOML value; put text in quotes")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree of settings over another, table by table; the inputs stay as they are."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def effective(
    config: Mapping[str, Any], options: Mapping[str, Any], assignments: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Combine what was said where.

    Parameters
    ----------
    config : mapping
        From :func:`load_config`, or empty.
    options : mapping
        Command-line options by top-level key; ``None`` where the user did not give one.
    assignments : sequence of str
        The ``--set`` values.

    Returns
    -------
    choices : dict
        A value for each key of :data:`DEFAULTS`.
    settings : dict
        Tree of settings for :func:`otreg.registration.register`.
    """
    given = {key: value for key, value in options.items() if value is not None}
    choices = {**DEFAULTS, **{key: value for key, value in config.items() if key != "settings"}, **given}
    return choices, merge(config.get("settings", {}), parse_assignments(assignments))
