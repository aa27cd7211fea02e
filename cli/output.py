"""Results on stdout: plain lines, small tables, and JSON that every parser reads."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MISSING = "-"


def prepare_streams() -> None:
    """Make stdout and stderr print any text, file names in another encoding included, without failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def echo(text: str) -> None:
    """Print on stdout; a reader that has gone away (``otreg info … | head``) is no error."""
    with _broken_pipe_tolerated():
        print(text, flush=True)


def finish() -> None:
    """Flush stdout, so that a closed pipe cannot make the interpreter complain while it ends."""
    with _broken_pipe_tolerated():
        sys.stdout.flush()


class _broken_pipe_tolerated(contextlib.AbstractContextManager[None]):
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is None or not issubclass(kind, BrokenPipeError):
            return False
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
        return True


def echo_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    echo(json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Turn NumPy values, paths and tuples into what JSON knows; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, torch tensors
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return str(value)


def number(value: Any) -> str:
    """Write a number with four significant digits, thousands separated in counts; ``-`` for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}"
    return str(value)


def table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """Lay out rows of text in columns: the first to the left, the others to the right."""
    lines = ([list(header)] if header else []) + [list(row) for row in rows]
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    laid_out = (
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    return "\n".join(laid_out)


def fields(pairs: Sequence[tuple[str, str]], indent: str = "") -> str:
    """Lay out names and values, one pair a line, the values in one column."""
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{indent}{name.ljust(width)}  {value}".rstrip() for name, value in pairs)
