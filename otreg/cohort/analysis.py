"""All statistics of a template, in one folder: components, distances, regression, group differences."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from otreg.cohort.archive import folder_aside, write_json
from otreg.cohort.components import Components, principal_components
from otreg.cohort.covariates import Covariates
from otreg.cohort.groups import LEVEL, GroupDifference, group_difference
from otreg.cohort.momenta import MomentaSpace
from otreg.cohort.permutations import check_permutations
from otreg.cohort.regression import Regression, geodesic_regression
from otreg.cohort.rows import Manifest
from otreg.cohort.runs import write_run_folder
from otreg.cohort.template_result import Template, table_text
from otreg.deformations import Composite, Deformation
from otreg.errors import InputError
from otreg.io import write
from otreg.registration.report import VERSION
from otreg.surface import FloatArray, Surface

REPORT = "statistics.json"
STEPS = (-2, -1, 1, 2)
"""Standard deviations at which the shapes of a mode are written."""


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """What :func:`statistics` found; regression and groups are None where they were not asked for."""

    components: Components
    regression: Regression | None
    groups: GroupDifference | None
    report: dict[str, Any]


def statistics(
    template: Template | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    covariates: Manifest | None = None,
    on: str | None = None,
    groups: str | None = None,
    statistic: str = "hotelling",
    modes: int = 5,
    permutations: int = 10_000,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Statistics:
    """Compute and write the statistics of a cohort.

    Parameters
    ----------
    template : Template or path
        Or the folder of one.
    folder : path
        Written whole or not at all; an earlier one of statistics is replaced.
    covariates : path or sequence of mappings, optional
        Table with the column ``subject``; needed for ``on`` and ``groups``.
    on : str, optional
        Its column of numbers that shape is regressed on.
    groups : str, optional
        Its column that tells two groups apart.
    statistic : {"hotelling", "difference"}
        See :func:`otreg.cohort.groups.group_difference`.
    modes : int, default 5
        Most components that are written.
    permutations : int, default 10000
    seed : int, default 0
    progress : callable, optional
        Told what is being done.

    Returns
    -------
    Statistics

    Raises
    ------
    ManifestError
        With everything that is wrong with the covariates.
    InputError
        On a folder that holds something else, or other bad input; nothing has been written then.
    """
    known = template if isinstance(template, Template) else Template.load(template)
    target = Path(folder)
    check_folder(target)
    check_permutations(permutations)
    say = progress or (lambda what: None)
    if covariates is None and (on is not None or groups is not None):
        raise InputError(f"{on or groups}: is a column of covariates, and no table of them is given")
    values, words = None, None
    if covariates is not None:
        table = Covariates(covariates, known.names)
        values = None if on is None else table.numbers(on)
        words = None if groups is None else table.words(groups)
        table.check()
    say("components")
    components = principal_components(known, modes=modes)
    regression = difference = None
    if values is not None and on is not None:
        say("regression")
        regression = geodesic_regression(known, values, on=on, permutations=permutations, seed=seed)
    if words is not None and groups is not None:
        say("groups")
        difference = group_difference(
            known, words, column=groups, statistic=statistic, permutations=permutations, seed=seed
        )
    found = Statistics(components, regression, difference, {})
    found.report.update(_report(known, found, seed))
    say("writing")
    with folder_aside(target) as aside:
        _write(found, known, aside, target)
    return found


def check_folder(folder: Path) -> None:
    """Refuse a folder that is neither new, nor empty, nor one of statistics."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file():
        raise InputError(
            f"{folder}: holds files and no earlier statistics of otreg; choose a new or empty folder"
        )


def _report(template: Template, found: Statistics, seed: int) -> dict[str, Any]:
    components, regression, groups = found.components, found.regression, found.groups
    report: dict[str, Any] = {
        "otreg": VERSION,
        "kind": "statistics",
        "subjects": len(template),
        "seed": seed,
        "template": {name: template.report[name] for name in ("key", "ratio", "converged", "poor")},
        "mean_momenta": float(template.space.norms(components.mean)[0]),
        "components": {
            "variances": components.variances.tolist(),
            "explained": components.explained.tolist(),
            "total_variance": components.total,
        },
        "regression": None,
        "groups": None,
    }
    if regression is not None:
        report["regression"] = {
            "on": regression.on,
            "subjects": len(regression.names),
            "range": [float(regression.values.min()), float(regression.values.max())],
            "r_squared": regression.r_squared,
            "p_value": regression.p_value,
            "permutations": regression.permutations,
            "speed": float(template.space.norms(regression.slope)[0]),
        }
    if groups is not None:
        marked = groups.shape.point_data["p_corrected"] <= LEVEL
        weights = groups.shape.weights
        report["groups"] = {
            "column": groups.column,
            "groups": list(groups.groups),
            "counts": list(groups.counts),
            "statistic": groups.statistic,
            "p_value": groups.p_value,
            "permutations": groups.permutations,
            "level": LEVEL,
            "area_marked": float(weights[marked].sum() / weights.sum()),
            "largest_difference": float(np.linalg.norm(groups.shape.point_data["difference"], axis=1).max()),
        }
    return report


def _write(found: Statistics, template: Template, aside: Path, target: Path) -> None:
    components, names = found.components, list(template.names)
    components.save(aside / "components.h5")
    columns = [f"mode_{k + 1}" for k in range(len(components))]
    scores = (dict(zip(columns, row.tolist(), strict=True)) for row in components.scores)
    _table(
        aside / "scores.csv",
        ["subject", *columns],
        [{"subject": name, **row} for name, row in zip(names, scores, strict=True)],
    )
    shares = components.explained
    rows = [
        {"mode": k + 1, "variance": variance, "explained": share, "cumulative": total}
        for k, (variance, share, total) in enumerate(
            zip(components.variances.tolist(), shares.tolist(), np.cumsum(shares).tolist(), strict=True)
        )
    ]
    _table(aside / "explained_variance.csv", ["mode", "variance", "explained", "cumulative"], rows)
    lengths = (dict(zip(names, row.tolist(), strict=True)) for row in components.distances)
    matrix = [{"subject": name, **row} for name, row in zip(names, lengths, strict=True)]
    _table(aside / "distances.csv", ["subject", *names], matrix)
    for mode in range(len(components)):
        _write_mode(components, mode, aside / "modes" / f"mode_{mode + 1:02d}", target)
    if found.regression is not None:
        _write_regression(found.regression, template, aside, target)
    if found.groups is not None:
        found.groups.save(aside / "groups.h5")
        write(found.groups.shape, aside / "groups.vtk")
    write_json(aside / REPORT, found.report)


def _write_mode(components: Components, mode: int, folder: Path, target: Path) -> None:
    surfaces = {f"{_signed(step)}sd.vtk": components.surface(mode, step) for step in STEPS}
    ends = STEPS[0], STEPS[-1]
    about = {
        "kind": "mode",
        "mode": mode + 1,
        "from": f"{ends[0]} standard deviations",
        "to": f"{ends[1]} standard deviations",
        "standard_deviation": float(np.sqrt(components.variances[mode])),
        "explained": float(components.explained[mode]),
    }
    momenta = [components.momenta(mode, end) for end in ends]
    files = [f"{_signed(end)}sd.vtk" for end in ends]
    final = target / folder.parent.name / folder.name
    _write_motion(folder, final, components.space, momenta, files, surfaces, about)


def _write_regression(regression: Regression, template: Template, aside: Path, target: Path) -> None:
    regression.save(aside / "regression.h5")
    rows = [
        {"subject": name, regression.on: value, "residual": residual}
        for name, value, residual in zip(
            regression.names, regression.values.tolist(), regression.residuals.tolist(), strict=True
        )
    ]
    _table(aside / "regression.csv", ["subject", regression.on, "residual"], rows)
    low, high = float(regression.values.min()), float(regression.values.max())
    surfaces = {
        "low.vtk": regression.surface(low),
        "middle.vtk": regression.surface(float(regression.values.mean())),
        "high.vtk": regression.surface(high),
    }
    about = {"kind": "regression", "on": regression.on, "from": low, "to": high}
    momenta = [regression.momenta(low), regression.momenta(high)]
    _write_motion(
        aside / "regression",
        target / "regression",
        template.space,
        momenta,
        ["low.vtk", "high.vtk"],
        surfaces,
        about,
    )


def _write_motion(
    folder: Path,
    final: Path,
    space: MomentaSpace,
    momenta: list[FloatArray],
    files: list[str],
    surfaces: dict[str, Surface],
    about: dict[str, Any],
) -> None:
    """The way from one shape to another, through the template, as the folder of a run."""
    first, last = (surfaces[name] for name in files)
    moved = last.with_data({"displacement": last.points - first.points})
    flows = [space.flow(one) for one in momenta]
    there: list[Deformation] = [flows[0].inverse, flows[1]]
    report = {"otreg": VERSION, "passed": None, "warnings": [], **about}
    write_run_folder(folder, moved, Composite(there), report, final / files[0], final / files[1], surfaces)


def _signed(step: int) -> str:
    return f"{'minus' if step < 0 else 'plus'}_{abs(step)}"


def _table(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    path.write_text(table_text(columns, rows), encoding="utf-8", newline="")
