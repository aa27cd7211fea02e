"""``otreg statistics``: components, distances, regression and group differences of a template's subjects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from otreg.errors import InputError

from .options import PATH, json_option
from .output import echo, echo_json, fields, number
from .progress import ProgressLine


@click.command(short_help="Compute modes, scores, regressions and group differences of a template.")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="OUT_DIR",
    help="Folder to write: new, empty, or earlier statistics, which are replaced.  [default: DIR/statistics]",
)
@click.option(
    "--covariates",
    type=PATH,
    metavar="FILE.csv",
    help="What is known of the subjects: a column subject, and others.",
)
@click.option("--on", metavar="COLUMN", help="Column of numbers that shape is regressed on.")
@click.option("--groups", metavar="COLUMN", help="Column that tells two groups apart.")
@click.option(
    "--statistic",
    type=click.Choice(["hotelling", "difference"]),
    default="hotelling",
    show_default=True,
    help="Of the groups at each vertex: Hotelling's T², or the length of the difference of the means.",
)
@click.option(
    "--modes", type=click.IntRange(min=1), default=5, show_default=True, help="Most modes to write."
)
@click.option(
    "--permutations", type=click.IntRange(min=1), default=10000, show_default=True, help="Of the tests."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Seed of the permutations.  [default: 0]",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
def statistics(
    folder: Path,
    output: Path | None,
    covariates: Path | None,
    on: str | None,
    groups: str | None,
    statistic: str,
    modes: int,
    permutations: int,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compute the statistics of the subjects of DIR, which `otreg template` has written.

    \b
    OUT_DIR then holds
      scores.csv, explained_variance.csv    principal components of the deformations
      modes/mode_01/, …                     shapes at -2, -1, 1, 2 standard deviations, and the way from the first
                                            to the last as a run that `otreg render` and `otreg animate` read
      distances.csv                         between all subjects
      regression.csv, regression/           with --on: the shape at the ends of the range, and the way between
      groups.vtk                            with --groups: point data difference, statistic, p_vertex, p_corrected
      statistics.json                       what is printed, and more
      *.h5                                  the same for Python

    \b
    Examples
      otreg statistics atlas
      otreg statistics atlas -o study --covariates subjects.csv --on age --groups sex
      otreg render atlas/statistics/modes/mode_01 -o mode.png --panels moving,moved
    """
    if (on is not None or groups is not None) and covariates is None:
        raise InputError(
            f"--{'on' if on is not None else 'groups'} names a column of --covariates FILE.csv: give that"
        )
    if covariates is not None and on is None and groups is None:
        raise InputError(f"{covariates}: what is it for? Name a column with --on or --groups")
    target = folder / "statistics" if output is None else output
    progress = ProgressLine(quiet=quiet)
    progress.message("loading the numerical libraries")
    try:
        from otreg import cohort

        found = cohort.statistics(
            folder,
            target,
            covariates=covariates,
            on=on,
            groups=groups,
            statistic=statistic,
            modes=modes,
            permutations=permutations,
            seed=seed,
            progress=progress.message,
        )
    finally:
        progress.clear()
    if as_json:
        echo_json(found.report)
    elif not quiet:
        echo(fields([*_rows(found.report), ("written", str(target))]))


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    shares = ", ".join(f"{100.0 * share:.1f} %" for share in report["components"]["explained"])
    rows = [("subjects", f"{report['subjects']:,}"), ("explained by the modes", shares or "nothing differs")]
    regression, groups = report["regression"], report["groups"]
    if regression is not None:
        rows.append(
            (
                f"on {regression['on']}",
                f"R² {number(regression['r_squared'])}, p = {number(regression['p_value'])} "
                f"({regression['subjects']:,} subjects)",
            )
        )
    if groups is not None:
        first, second = groups["groups"]
        rows.append(
            (
                f"{second} against {first}",
                f"p = {number(groups['p_value'])}, {100.0 * groups['area_marked']:.1f} % of the surface at "
                f"{groups['level']}, differences up to {number(groups['largest_difference'])}",
            )
        )
    return rows
