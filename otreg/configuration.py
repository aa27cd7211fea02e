"""What a registration is told, as a configuration file says it: defaults, types, TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
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
        try:
            check_choice(key, value)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return {**found, "settings": settings}


def check_choice(key: str, value: Any) -> None:
    """Refuse a top-level key that is not known, or a value of another type than it takes."""
    if key not in _TYPES:
        raise InputError(f"unknown key {key!r}; known: {', '.join(_TYPES)} and the table [settings]")
    wanted, words = _TYPES[key]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise InputError(f"{key} must be {words}, not {value!r}")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree of settings over another, table by table; the inputs stay as they are."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged
