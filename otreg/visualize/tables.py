"""What the report of a registration says, as words and HTML tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any

from otreg.visualize.charts import figure

Where = tuple[str, ...]
Row = tuple[str, Where, str]
"""What a figure is called, where it is in the quality, and whether it is a length, a share or a plain number."""

# What matters most first: where points arrive, then what overlaps, then how far surfaces are apart.
_ROWS: tuple[tuple[str, tuple[Row, ...]], ...] = (
    (
        "Landmarks: distance to where they belong",
        (
            ("mean", ("landmarks", "mean"), "length"),
            ("median", ("landmarks", "median"), "length"),
            ("95 % are below", ("landmarks", "p95"), "length"),
            ("largest", ("landmarks", "max"), "length"),
        ),
    ),
    ("Overlap of labels (Dice, 1 is perfect)", (("mean", ("dice", "mean"), "number"),)),
    (
        "Distance between the surfaces",
        (
            ("mean of both ways (ASSD)", ("assd",), "length"),
            ("from moved to fixed, mean", ("moved_to_fixed", "mean"), "length"),
            ("from moved to fixed, 95 % are below", ("moved_to_fixed", "p95"), "length"),
            ("from moved to fixed, largest", ("moved_to_fixed", "max"), "length"),
            ("from fixed to moved, mean", ("fixed_to_moved", "mean"), "length"),
            ("from fixed to moved, 95 % are below", ("fixed_to_moved", "p95"), "length"),
            ("from fixed to moved, largest", ("fixed_to_moved", "max"), "length"),
        ),
    ),
    (
        "Angle between normals where they meet",
        (
            ("mean", ("normal_angle_degrees", "mean"), "degrees"),
            ("95 % are below", ("normal_angle_degrees", "p95"), "degrees"),
        ),
    ),
    (
        "Health of the map",
        (
            ("triangles turned over", ("triangles", "flipped"), "share"),
            ("triangles without area", ("triangles", "degenerate"), "share"),
            ("needles turned over (any bend does that)", ("triangles", "needles_flipped"), "share"),
            ("folded at vertices (det J ≤ 0)", ("log_jacobian", "folded"), "share"),
            ("folded in the space around", ("log_jacobian_around", "folded"), "share"),
            ("log det J, smallest", ("log_jacobian", "min"), "number"),
            ("log det J, mean", ("log_jacobian", "mean"), "number"),
            ("log det J, standard deviation", ("log_jacobian", "std"), "number"),
            ("there and back again, largest error", ("inverse_error", "max"), "length"),
        ),
    ),
)


def verdict(report: Mapping[str, Any], unit: str) -> str:
    """Whether to trust the registration, in plain words: a ``<section>``."""
    quality, reasons = report["quality"], list(report["gate"]["reasons"])
    after, before, diameter = quality["after"], quality["before"], report["inputs"]["fixed"]["diameter"]
    passed = bool(report["passed"]) and not report.get("interrupted")
    lines = [
        f"On average the surfaces are now {length(after['assd'], unit)} apart, "
        f"{after['assd'] / max(diameter, 1e-300):.2%} of the fixed shape's size; before they were "
        f"{length(before['assd'], unit)} apart."
    ]
    if after.get("landmarks"):
        lines.append(
            f"The {after['landmarks']['count']} landmarks are {length(after['landmarks']['mean'], unit)} from where "
            f"they belong on average, at most {length(after['landmarks']['max'], unit)}."
        )
    health = _health(after)
    lines += [health] if health else []
    if report.get("interrupted"):
        heading = "Stopped early: this is the best map so far"
    elif passed:
        heading = "Passed the quality gate"
    else:
        heading = "Did not pass the quality gate: look closely before you use it"
    listed = "".join(f"<li>{escape(_sentence(reason))}</li>" for reason in reasons)
    listed = f"<p>Because:</p><ul>{listed}</ul>" if listed else ""
    words = "".join(f"<p>{escape(line)}</p>" for line in lines)
    mark = '<span aria-hidden="true">✓</span>' if passed else '<span aria-hidden="true">!</span>'
    return f'<section class="verdict {"good" if passed else "bad"}"><h2>{mark} {heading}</h2>{listed}{words}</section>'


def _health(after: Mapping[str, Any]) -> str:
    jacobian, triangles = after.get("log_jacobian"), after.get("triangles")
    said = []
    if jacobian is not None:
        folded = jacobian["folded"]
        said.append(
            "the map folds nowhere on the surface"
            if folded == 0
            else f"the map folds at {folded:.3%} of the vertices"
        )
    if triangles is not None:
        flipped = triangles["flipped"]
        said.append(
            "no triangle turned over" if flipped == 0 else f"{flipped:.3%} of the triangles turned over"
        )
    return _sentence(", ".join(said)) if said else ""


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def length(value: float, unit: str) -> str:
    """A length with its unit, if there is one."""
    return f"{figure(value)} {unit}".strip()


def quality_table(quality: Mapping[str, Any], unit: str) -> str:
    """Figures before and after, those that were measured."""
    before, after = quality.get("before") or {}, quality.get("after") or {}
    rows: list[str] = []
    for group, items in _ROWS:
        lines = []
        for name, where, kind in items:
            values = [_look_up(tree, where) for tree in (before, after)]
            if all(value is None for value in values):
                continue
            cells = "".join(f"<td>{_written(value, kind, unit)}</td>" for value in values)
            lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
        if lines:
            rows.append(f'<tr class="group"><th colspan="3" scope="rowgroup">{escape(group)}</th></tr>')
            rows += lines
    head = '<tr><th scope="col">Figure</th><th scope="col">before</th><th scope="col">after</th></tr>'
    return _table("Quality before and after the registration", head, rows) + _labels(before, after)


def _labels(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    named = (after.get("dice") or {}).get("labels") or {}
    if not named:
        return ""
    earlier = (before.get("dice") or {}).get("labels") or {}
    rows = [
        f'<tr><th scope="row">{escape(str(name))}</th><td>{_written(earlier.get(name), "number", "")}</td>'
        f"<td>{_written(value, 'number', '')}</td></tr>"
        for name, value in named.items()
    ]
    head = '<tr><th scope="col">Label</th><th scope="col">before</th><th scope="col">after</th></tr>'
    table = _table("Overlap of each label (Dice)", head, rows)
    return f"<details><summary>Overlap of each of {len(named)} labels</summary>{table}</details>"


def inputs_table(report: Mapping[str, Any], unit: str) -> str:
    """Who was moved onto whom."""
    rows = []
    for role in ("moving", "fixed"):
        item = report["inputs"][role]
        path = item.get("path")
        name = "given as arrays" if not path else PurePath(path).name
        whole = "" if not path else f' title="{escape(str(path), quote=True)}"'
        cells = [
            f'<td class="words"{whole}>{escape(name)}</td>',
            f"<td>{item['points']:,}</td>",
            f"<td>{item['triangles']:,}</td>" if item["triangles"] else "<td>none: a cloud</td>",
            f"<td>{length(item['diameter'], unit)}</td>",
            f"<td>{escape(item.get('frame') or 'not said')}</td>",
        ]
        rows.append(f'<tr><th scope="row">{role}</th>{"".join(cells)}</tr>')
    columns = ("points", "triangles", "size (diagonal)", "frame")
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    head = f'<tr><th scope="col">role</th><th scope="col" class="words">file</th>{head}</tr>'
    return _table("What was registered", head, rows)


def stages_table(stages: Sequence[Mapping[str, Any]], unit: str) -> str:
    """The stages with their times, and what became of them."""
    rows = []
    for stage in stages:
        before, after = stage.get("held_back_before"), stage.get("held_back_after")
        cells = [
            "<td>kept</td>" if stage["kept"] else "<td><strong>dropped</strong></td>",
            f"<td>{len(stage['residuals'])}</td>" if stage.get("residuals") else "<td>–</td>",
            f"<td>{_written(before, 'length', unit)}</td>",
            f"<td>{_written(after, 'length', unit)}</td>",
            f"<td>{stage['seconds']:.1f}</td>",
            f'<td class="words">{escape(_remarks(stage))}</td>',
        ]
        rows.append(f'<tr><th scope="row">{escape(stage["stage"])}</th>{"".join(cells)}</tr>')
    whole = sum(stage["seconds"] for stage in stages)
    rows.append(
        f'<tr class="sum"><th scope="row">all</th><td colspan="4"></td><td>{whole:.1f}</td><td></td></tr>'
    )
    columns = ("stage", "", "steps", "held-back distance before", "after", "seconds")
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    head = f'<tr>{head}<th scope="col" class="words">remarks</th></tr>'
    return _table("Stages of the registration, in their order", head, rows)


def _remarks(stage: Mapping[str, Any]) -> str:
    said = []
    if stage.get("stopped_before_folding"):
        said.append("stopped at the step before it would have folded")
    if stage.get("start"):
        said.append(f"went on from the {stage['start']} start")
    if "across" in stage:
        said.append(
            "residuals across the surface alone" if stage["across"] else "residuals along it count, too"
        )
    if stage.get("scale") is not None:
        said.append(f"scale {figure(float(stage['scale']))}")
    if stage.get("trial") and not stage["kept"]:
        said.append("a trial that brought too little")
    return "; ".join(said)


def settings_table(report: Mapping[str, Any]) -> str:
    """How it was run: enough to run it again."""
    run = [
        (name, report[name])
        for name in ("preset", "seed", "symmetric", "partial", "labels", "device", "threads", "repair")
        if report.get(name) is not None
    ]
    rows = [_pair(name, value) for name, value in [*run, *report.get("settings", {}).items()]]
    rows.append('<tr class="group"><th colspan="2" scope="rowgroup">Versions</th></tr>')
    rows += [_pair(name, value) for name, value in report.get("versions", {}).items()]
    head = '<tr><th scope="col">Setting</th><th scope="col">value</th></tr>'
    return _table("Settings and versions", head, rows)


def warnings_list(report: Mapping[str, Any]) -> str:
    """Everything the user should know."""
    warnings = report.get("warnings") or []
    if not warnings:
        return "<p>None.</p>"
    return "<ul>" + "".join(f"<li>{escape(_sentence(str(text)))}</li>" for text in warnings) + "</ul>"


def _pair(name: str, value: Any) -> str:
    written = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    written = figure(float(value)) if isinstance(value, float) else written
    return (
        f'<tr><th scope="row">{escape(str(name).replace("_", " "))}</th><td>{escape(str(written))}</td></tr>'
    )


def _table(caption: str, head: str, rows: Iterable[str]) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption, quote=True)}"><table>'
        f"<caption>{escape(caption)}</caption><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _written(value: Any, kind: str, unit: str) -> str:
    if value is None:
        return "–"
    if kind == "share":
        return f"{value:.3%}" if value else "none"
    if kind == "degrees":
        return f"{figure(value)}°"
    return escape(length(value, unit) if kind == "length" else figure(value))


def _look_up(tree: Any, where: Where) -> Any:
    for key in where:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree
