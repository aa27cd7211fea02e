"""A registration as one web page: verdict, figures, pictures, curves, histograms, and a scene to turn and scrub."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from otreg.deformations import Affine, legs
from otreg.deformations.composite import Composite
from otreg.errors import InputError, OtregError
from otreg.io import atomic_path
from otreg.proximity import SurfaceIndex
from otreg.registration import Registration
from otreg.surface import FloatArray, IntArray, Surface
from otreg.visualize.build import scene
from otreg.visualize.charts import curves, histogram, length_axis, linear_axis, runs
from otreg.visualize.decimate import at_vertices, decimate_surface
from otreg.visualize.run import Run, read_run
from otreg.visualize.scene import Scene
from otreg.visualize.tables import (
    inputs_table,
    length,
    quality_table,
    settings_table,
    stages_table,
    verdict,
    warnings_list,
)
from otreg.visualize.web import page, scene_figure

_SAMPLES = 20_000
_JACOBIANS = 5_000
"""Points at which the map's Jacobian is computed; a flow's takes a few seconds for so many."""
_TIMES = 13
_MOST_SHOWN = 0.995
"""Share of the distances that a histogram's axis spans."""


def write_report(
    what: Registration | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    unit: str = "mm",
    title: str | None = None,
) -> Path:
    """Write the report of a registration into one HTML file, whole or not at all.

    Parameters
    ----------
    what : Registration or path
        What :func:`otreg.register` returned, or the folder that ``otreg register`` wrote.
    output : path
        A ``.html`` file.
    unit, title
        See :func:`report_html`.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    InputError
        On another suffix, or a folder that is not a run or misses files.
    """
    target = Path(output)
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{target}: reports are written as HTML; give a name that ends in .html")
    text = report_html(what, unit=unit, title=title)
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def report_html(
    what: Registration | str | os.PathLike[str], *, unit: str = "mm", title: str | None = None
) -> str:
    """Write the report of a registration as one HTML page that needs no network.

    Parameters
    ----------
    what : Registration or path
        What :func:`otreg.register` returned, or the folder that ``otreg register`` wrote.
    unit : str, default "mm"
        Unit of lengths, written beside numbers; files do not say. ``""`` writes none.
    title : str, optional
        Default: the names of the two files.

    Returns
    -------
    str
        The same for the same run on the same machine. Distances are those of 20,000 points drawn evenly over each
        surface, log det J that of 5,000 points drawn over moving; both draws have a fixed seed.

    Raises
    ------
    InputError
        If the folder is not a run, or misses files.
    """
    if isinstance(what, Registration):
        run, report = Run(what.moving, what.fixed, what.moved, what.transform), what.report
    elif isinstance(what, str | os.PathLike):
        run, report = read_run(Path(what)), _read_report(Path(what))
    else:
        raise TypeError(f"a report is made of a Registration or a run's folder, got {type(what).__name__}")
    names = [PurePath(report["inputs"][role].get("path") or role).name for role in ("moving", "fixed")]
    heading = title if title is not None else f"{names[0]} onto {names[1]}"
    try:
        sections = _sections(run, report, unit)
    except (KeyError, TypeError) as error:
        raise InputError(f"the report of the run is damaged or from another version ({error!r})") from error
    body = "\n".join(
        f'<section><h2 id="{_anchor(name)}">{escape(name)}</h2>{content}</section>'
        for name, content in sections
    )
    links = " · ".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name, _ in sections)
    header = (
        f"<header><p>Registration report, otreg {escape(str(report.get('otreg', '')))}</p>"
        f"<h1>{escape(heading)}</h1></header>"
    )
    links = f'<nav aria-label="Sections">{links}</nav>'
    main = "\n".join(['<main class="report">', header, verdict(report, unit), links, body, "</main>"])
    return page(heading, main, styles=("style.css", "report.css"))


def _read_report(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))  # that it can be read, read_run has seen
    for part in ("quality", "gate", "inputs", "stages"):
        if part not in report:
            raise InputError(f"{path}: is damaged or no report of otreg register (it has no {part})")
    return dict(report)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _sections(run: Run, report: Mapping[str, Any], unit: str) -> list[tuple[str, str]]:
    found = [
        ("What was registered", inputs_table(report, unit) + _direction(report)),
        ("In three dimensions", _interactive(run, unit)),
        ("Pictures", _pictures(run, unit)),
        ("Figures", quality_table(report["quality"], unit)),
        ("Distances", _distances(run.moved, run.fixed, unit)),
        ("Change of volume", _volumes(run)),
        (
            "Stages and convergence",
            _convergence(report["stages"], unit) + stages_table(report["stages"], unit),
        ),
        ("Warnings", warnings_list(report)),
        ("Settings", settings_table(report)),
    ]
    return [(name, content) for name, content in found if content]


def _direction(report: Mapping[str, Any]) -> str:
    shares = report.get("unmatched")
    partial = (
        f" {shares['moving']:.1%} of moving and {shares['fixed']:.1%} of fixed found no partner on the other shape."
        if shares
        else ""
    )
    return f"<p>The map moves points of moving into the space of fixed.{partial}</p>"


def _interactive(run: Run, unit: str) -> str:
    light, numbers, notes = _light(run)
    shown: Scene = scene(light, panels=["all"], color_by=_colours(light), times=_TIMES, unit=unit)
    shown.notes += notes
    how = (
        "Drag to turn, right or two fingers to shift, wheel after a click to zoom, click to read a point. The slider "
        "takes moved from where moving was (before) to its place on fixed (after)."
    )
    way = [] if run.transform is None else [str(leg) for leg in legs(run.transform)]
    said = f"<p>The way in between: {escape('; '.join(way))}.</p>" if way else ""
    return f"<p>{how}</p>{scene_figure(shown, numbers=numbers)}{said}"


def _colours(run: Run) -> str | None:
    """Deformation where shapes were deformed, displacement where they were only placed."""
    if run.transform is None or len(run.moving) != len(run.moved):
        return None
    stages = run.transform.stages if isinstance(run.transform, Composite) else (run.transform,)
    return "displacement" if all(isinstance(stage, Affine) for stage in stages) else "deformation"


def _light(run: Run) -> tuple[Run, dict[str, IntArray], list[str]]:
    """The run with fewer vertices where it has too many for a browser, thinned before anything is computed on them.

    With the vertices that are left, by the name of the shape, and sentences that say so.
    """
    numbers: dict[str, IntArray] = {}
    notes = []
    fixed, rows = decimate_surface(run.fixed)
    if len(rows) < len(run.fixed):
        numbers["fixed"] = rows
        notes.append(_note("fixed", run.fixed, fixed))
    moving, moved = run.moving, run.moved
    if len(moving) == len(moved) and len(moving.triangles) == len(moved.triangles):
        moved, rows = decimate_surface(moved)
        if len(rows) < len(run.moved):
            moving = at_vertices(moving, rows, moved.triangles)
            numbers["moving"] = numbers["moved"] = rows
            notes.append(_note("moving and moved", run.moved, moved))
    return Run(moving, fixed, moved, run.transform), numbers, notes


def _note(name: str, whole: Surface, part: Surface) -> str:
    if not whole.has_triangles:
        return f"{name}: shown with {len(part):,} of {len(whole):,} points, to keep this page light."
    return (
        f"{name}: shown with {len(part.triangles):,} of {len(whole.triangles):,} triangles, between {len(part):,} of "
        f"{len(whole):,} vertices, to keep this page light. All figures are of the whole shapes."
    )


def _pictures(run: Run, unit: str) -> str:
    first: Sequence[str] = ("moving", "fixed", "overlay")
    second = [name for name in ("contours", "grid") if name == "grid" or run.fixed.has_triangles]
    wanted: list[tuple[Sequence[str], str | None, str]] = [
        (first, None, "Moving, fixed, and moved over the outline of fixed")
    ]
    if run.transform is not None:
        words = "Moved, coloured by its distance to fixed" if len(second) > 1 else "Moved"
        wanted.append((second, "distance", f"{words}, and a grid that the map deforms"))
    found = []
    for panels, color_by, words in wanted:
        size = (1500, 540) if len(panels) == 3 else (1500, 560)
        try:
            image = scene(run, panels=list(panels), color_by=color_by, unit=unit, size=size).image()
        except InputError:
            raise
        except OtregError as error:  # no graphics on this machine: the page does without
            return f"<p>There are no pictures, because {escape(str(error))}.</p>"
        from otreg.visualize.screen import png_bytes

        data = base64.b64encode(png_bytes(image)).decode("ascii")
        found.append(
            f'<figure><img src="data:image/png;base64,{data}" width="{size[0]}" height="{size[1]}" '
            f'alt="{escape(words, quote=True)}."><figcaption>{escape(words)}.</figcaption></figure>'
        )
    return "".join(found)


def _distances(moved: Surface, fixed: Surface, unit: str) -> str:
    rng = np.random.default_rng(0)
    there, back = (
        SurfaceIndex(to).closest(shape.sample(_SAMPLES, rng)[0]).distances
        for shape, to in ((moved, fixed), (fixed, moved))
    )
    far = float(np.quantile(np.concatenate([there, back]), _MOST_SHOWN))
    title = f"distance ({unit})" if unit else "distance"
    said = [
        f"{name}: half are below {length(float(np.median(values)), unit)}, 95 % below "
        f"{length(float(np.quantile(values, 0.95)), unit)}"
        for name, values in (("from moved to fixed", there), ("from fixed to moved", back))
    ]
    chart = histogram(
        [("moved to fixed", there), ("fixed to moved", back)],
        title=title,
        limits=(0.0, far),
        description=f"Histogram of distances. {'. '.join(said)}.",
    )
    return (
        f"<figure>{chart}<figcaption>How far one surface is from the other after the registration, both ways; "
        f"{'; '.join(said)}. What is farther than the axis reaches is in the last bar.</figcaption></figure>"
    )


def _volumes(run: Run) -> str:
    if run.transform is None:
        return "<p>The map itself, transform.h5, is not there, so its change of volume is not known.</p>"
    points: FloatArray = run.moving.sample(_JACOBIANS, np.random.default_rng(0))[0]
    determinants = np.asarray(run.transform.jacobian_determinant(points), dtype=np.float64)
    regular = determinants[determinants > 0]
    folded = 1.0 - len(regular) / len(determinants)
    if not len(regular):
        return "<p>The map folds everywhere on the surface: det J is never above 0.</p>"
    logarithms = np.log(regular)
    middle = float(np.median(logarithms))
    if float(np.ptp(logarithms)) < 1e-9:
        return (
            f"<p>The map changes all volumes alike, by a factor of {float(np.exp(middle)):.4g} "
            f"(log det J = {middle:.3g}).</p>"
        )
    low, high = (float(value) for value in np.quantile(logarithms, [0.0025, 0.9975]))
    low, high = min(low, 0.0), max(high, 0.0)
    said = (
        f"half of the surface is between {np.exp(np.quantile(logarithms, 0.25)):.3g} and "
        f"{np.exp(np.quantile(logarithms, 0.75)):.3g} times its volume"
    )
    chart = histogram(
        [("log det J", logarithms)],
        title="log det J: below 0 the map shrinks, above 0 it swells",
        limits=(low, high),
        description=f"Histogram of log det J over moving: {said}.",
        marks=[(0.0, "no change")],
    )
    words = "nowhere" if folded == 0 else f"at {folded:.2%} of the points"
    return (
        f"<figure>{chart}<figcaption>How much the map swells or shrinks the space at the surface of moving, its size "
        f"as a whole included: {said}. It folds {words}.</figcaption></figure>"
    )


def _convergence(stages: Sequence[Mapping[str, Any]], unit: str) -> str:
    stepped = [stage for stage in stages if stage.get("residuals")]
    of = f" ({unit})" if unit else ""
    found = ""
    if stepped:
        steps = runs([len(stage["residuals"]) for stage in stepped])
        values = [np.maximum(np.asarray(stage["residuals"], dtype=np.float64), 1e-300) for stage in stepped]
        everything = np.concatenate(values)
        chart = curves(
            [(_called(stage), x, y) for stage, x, y in zip(stepped, steps, values, strict=True)],
            x=linear_axis("step", 0.0, float(steps[-1][-1]) + 1.0),
            y=length_axis(f"distance{of}", everything),
            description=f"Distance of matches over {len(everything)} steps: from {length(everything[0], unit)} to "
            f"{length(everything[-1], unit)}.",
        )
        without = any(stage["stage"] == "flow by attachment" for stage in stepped)
        words = (
            " The flow by attachment has no matches: its curve is the distance of surfaces."
            if without
            else ""
        )
        found += (
            f"<figure>{chart}<figcaption>How far points were from their matches, step by step. Each stage matches "
            f"more finely than the one before, so that its first step may be above the last of that.{words}"
            "</figcaption></figure>"
        )
    else:
        found += (
            "<p>This run's report does not hold the distances of single steps; run it again to see them.</p>"
        )
    judged = [stage for stage in stages if stage["kept"] and stage.get("held_back_after") is not None]
    if len(judged) > 1:
        after = np.array([stage["held_back_after"] for stage in judged], dtype=np.float64)
        places = np.arange(1, len(judged) + 1, dtype=np.float64)
        axis = linear_axis("stage that was kept", 0.5, len(judged) + 0.5)
        axis = axis._replace(
            ticks=[(float(k), stage["stage"]) for k, stage in zip(places, judged, strict=True)]
        )
        chart = curves(
            [("", places, after)],
            x=axis,
            y=length_axis(f"distance{of}", np.maximum(after, 1e-300)),
            description="Distance of held-back points after each stage: "
            + ", ".join(
                f"{stage['stage']} {length(value, unit)}" for stage, value in zip(judged, after, strict=True)
            ),
        )
        found += (
            f"<figure>{chart}<figcaption>Points that no match has seen judge each stage: their distance to the other "
            "shape, directions of the surfaces included, after it. A stage that does not lower it is dropped, "
            "but for a flow that takes the place of a spline."
            "</figcaption></figure>"
        )
    return f'<div class="pair">{found}</div>'


def _called(stage: Mapping[str, Any]) -> str:
    return str(stage["stage"]) if stage["kept"] else f"{stage['stage']} (dropped)"
