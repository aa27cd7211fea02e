"""Options and parameter types that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
"""A path as the user wrote it; otreg's readers say what is wrong with it, better than click would."""


class Size(click.ParamType):
    """``WIDTHxHEIGHT`` in pixels."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)\s*[xX]\s*(\d+)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a size such as 1600x900", param, ctx)
        width, height = int(match[1]), int(match[2])
        if not (16 <= width <= 16384 and 16 <= height <= 16384):
            self.fail(f"{value!r} is out of bounds: 16 to 16384 pixels a side", param, ctx)
        return width, height


def json_option(function: Decorated) -> Decorated:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else.")(
        function
    )


def repair_option(function: Decorated) -> Decorated:
    """Add ``--repair``."""
    text = "Drop points that are not finite, where they are few (else: refuse)."
    return click.option("--repair", is_flag=True, help=text)(function)


def output_option(metavar: str, text: str) -> Callable[[Decorated], Decorated]:
    """Add the required ``-o``/``--output``."""
    return click.option("-o", "--output", required=True, type=PATH, metavar=metavar, help=text)
