"""What a registration is told: defaults, ``--config FILE.toml`` over them, then options and ``--set``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from otreg.configuration import DEFAULTS, load_config, merge
from otreg.errors import InputError

__all__ = ["DEFAULTS", "effective", "load_config", "merge", "parse_assignments"]

_BARE_WORD = re.compile(r"[A-Za-z_][\w./-]*")
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")


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


def effective(
    config: Mapping[str, Any], options: Mapping[str, Any], assignments: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Combine what was said where.

    Parameters
    ----------
    config : mapping
        From :func:`otreg.configuration.load_config`, or empty.
    options : mapping
        Command-line options by top-level key; ``None`` where the user did not give one.
    assignments : sequence of str
        The ``--set`` values.

    Returns
    -------
    choices : dict
        A value for each key of :data:`otreg.configuration.DEFAULTS`.
    settings : dict
        Tree of settings for :func:`otreg.registration.register`.
    """
    given = {key: value for key, value in options.items() if value is not None}
    choices = {**DEFAULTS, **{key: value for key, value in config.items() if key != "settings"}, **given}
    return choices, merge(config.get("settings", {}), parse_assignments(assignments))
