"""Options and parameter types that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

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


class Names(click.ParamType):
    """Names with commas between them."""

    name = "NAMES"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} are not names with commas between them", param, ctx)
        return names


class Memory(click.ParamType):
    """An amount of memory such as ``12GB``, in bytes."""

    name = "SIZE"
    units: ClassVar[dict[str, float]] = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", str(value).strip().upper())
        if match is None or not float(match[1]) > 0:
            self.fail(f"{value!r} is not an amount of memory such as 12GB", param, ctx)
        return float(match[1]) * self.units[match[2]]


class Limits(click.ParamType):
    """``LOW,HIGH``."""

    name = "LOW,HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            low, high = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} are not two numbers such as 0,5", param, ctx)
        return low, high


class Colour(click.ParamType):
    """A name or ``#rrggbb``."""

    name = "COLOR"
    known: ClassVar[dict[str, str]] = {
        "white": "#ffffff",
        "black": "#000000",
        "grey": "#808080",
        "gray": "#808080",
    }

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        if isinstance(value, tuple):
            return value
        text = self.known.get(str(value).lower(), str(value))
        if re.fullmatch(r"#[0-9a-fA-F]{6}", text) is None:
            self.fail(f"{value!r} is not a colour such as white, black, grey or #e0e0e0", param, ctx)
        red, green, blue = (int(text[place : place + 2], 16) / 255 for place in (1, 3, 5))
        return red, green, blue


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
