"""``otreg info``: what a file holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from .files import is_run_directory, is_transform, read_report
from .options import PATH, json_option
from .output import echo, echo_json, fields, number
from .quality_table import quality_table


@click.command(short_help="Show what a surface, landmark file, transform or run holds.")
@click.argument("file", type=PATH)
@json_option
def info(file: Path, as_json: bool) -> None:
    """Show what FILE holds: a surface, a point cloud, landmarks, a transform, or the folder of a run.

    \b
    Examples
      otreg info lh.pial
      otreg info run
      otreg info run/transform.h5 --json
    """
    if is_run_directory(file):
        report = read_report(file)
        if as_json:
            echo_json(report)
        else:
            echo(_run_text(file, report))
        return
    if file.is_file() and is_transform(file):
        found: Mapping[str, Any] = _describe_transform(file)
    else:
        from otreg import io

        found = io.describe(file)
    if as_json:
        echo_json(found)
    else:
        echo(fields(list(_flat(found))))


def _run_text(folder: Path, report: Mapping[str, Any]) -> str:
    quality = report.get("quality") or {}
    about = fields(
        [
            (key, _text(report[key]))
            for key in ("moving", "fixed", "preset", "passed", "interrupted", "seconds")
            if key in report and not isinstance(report[key], (dict, list))
        ]
    )
    figures = quality_table([("before", quality.get("before")), ("after", quality.get("after"))])
    notes = "\n".join(f"warning: {warning}" for warning in report.get("warnings") or [])
    return "\n\n".join(part for part in (f"run  {folder}", about, figures, notes) if part)


def _describe_transform(file: Path) -> dict[str, Any]:
    from otreg.deformations import Composite, load_transform

    transform = load_transform(file)
    stages = transform.stages if isinstance(transform, Composite) else (transform,)
    return {
        "path": str(file),
        "kind": "transform",
        "direction": "points of MOVING to FIXED",
        "moving_frame": transform.moving_frame,
        "fixed_frame": transform.fixed_frame,
        "stages": [repr(stage) for stage in stages],
        "metadata": dict(transform.metadata),
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """One line for each leaf of a tree, named by its path."""
    lines: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.") if value else [(f"{prefix}{key}", "none")]
        else:
            lines.append((f"{prefix}{key}", _text(value)))
    return lines


def _text(value: Any) -> str:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value) if value else "none"
    return "unknown" if value is None else number(value)
