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

MOST_SHOWN = 6
"""Labels and names listed for people; ``--json`` has them all."""


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
        echo(fields(_lines(found)))


def _run_text(folder: Path, report: Mapping[str, Any]) -> str:
    quality = report.get("quality") or {}
    inputs = report.get("inputs") or {}
    about = fields(
        [
            (role, _input_text(inputs[role]))
            for role in ("moving", "fixed")
            if isinstance(inputs.get(role), dict)
        ]
        + [(key, _text(report[key])) for key in ("preset", "passed", "interrupted") if key in report]
    )
    figures = quality_table([("before", quality.get("before")), ("after", quality.get("after"))])
    lines = [f"gate: {reason}" for reason in (report.get("gate") or {}).get("reasons") or []]
    notes = "\n".join(lines + [f"warning: {warning}" for warning in report.get("warnings") or []])
    return "\n\n".join(part for part in (f"run  {folder}", about, figures, notes) if part)


def _input_text(entry: Mapping[str, Any]) -> str:
    frame = f", {entry['frame']}" if entry.get("frame") else ""
    return f"{entry.get('path')} ({number(entry.get('points'))} points{frame})"


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


def _lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One line for each thing worth knowing of a shape, values or a transform."""
    lines: list[tuple[str, str]] = []
    for key, value in found.items():
        if key == "bounds" and value:
            spans = (f"{axis} {low:.6g} to {high:.6g}" for axis, low, high in zip("xyz", *value, strict=True))
            lines.append((key, ", ".join(spans)))
        elif key == "point_data" and value:
            lines += [(f"data {name}", _data_text(entry)) for name, entry in value.items()]
        elif key == "labels":
            lines += [(f"labels {name}", _labels_text(counts)) for name, counts in value.items()]
        elif key == "stages":
            lines += [(f"stage {index + 1}", str(stage)) for index, stage in enumerate(value)]
        elif isinstance(value, Mapping):
            lines += [(f"{key} {name}", _text(item)) for name, item in value.items()]
        elif key.endswith("frame") or value not in (None, []):
            lines.append((key.replace("_", " "), _text(value)))
    return lines


def _data_text(entry: Mapping[str, Any]) -> str:
    shape = entry["shape"]
    text = f"{entry['dtype']}, {'1 value' if len(shape) == 1 else f'{shape[-1]} values'} a point"
    if "minimum" in entry:
        text += f", {number(entry['minimum'])} to {number(entry['maximum'])}"
    return text


def _labels_text(counts: Mapping[str, int]) -> str:
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:MOST_SHOWN]]
    more = [f"and {len(counts) - MOST_SHOWN} more"] if len(counts) > MOST_SHOWN else []
    return f"{len(counts)}: " + ", ".join([*shown, *more])


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        more = [f"and {len(value) - MOST_SHOWN} more"] if len(value) > MOST_SHOWN else []
        return ", ".join([_text(item) for item in value[:MOST_SHOWN]] + more) if value else "none"
    return "unknown" if value is None else number(value)
