"""``otreg template``: the average shape of a cohort, with one deformation to each subject."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .config import load_config, merge, parse_assignments
from .errors import DONE, GATE_FAILED, say, warn
from .options import PATH, Memory, json_option, repair_option
from .output import echo, echo_json, fields, number
from .progress import ProgressLine
from .register import PRESETS

if TYPE_CHECKING:
    from otreg.cohort import Template


@click.command(short_help="Make the average shape of a cohort, resumably, on all cores or a cluster.")
@click.argument("manifest", type=str)
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH,
    metavar="DIR",
    help="Folder to write: new, empty, or an earlier template, which is continued where it stopped.",
)
@click.option(
    "--start", metavar="NAME", help="Subject whose mesh the template gets.  [default: the one of median size]"
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Most times that all subjects are registered; it ends earlier once it has converged.",
)
@click.option(
    "--similarity", is_flag=True, help="Take size out of the differences between subjects, with the pose."
)
@click.option(
    "--control-points",
    type=click.IntRange(min=10),
    default=300,
    show_default=True,
    help="Of each deformation.",
)
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="spline",
    show_default=True,
    help="Of the registrations that give correspondences.",
)
@click.option(
    "--config",
    "config_path",
    type=PATH,
    metavar="FILE.toml",
    help="Settings of the registrations from a file, such as the config.toml of a run: its table [settings].",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting of the registrations, as config.toml names it. May be repeated.",
)
@click.option(
    "--labels",
    metavar="NAME",
    help="Point data of all subjects that are labels: the template gets those of most.",
)
@repair_option
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where to compute.  [default: auto]",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Seed of random choices.  [default: 0]"
)
@click.option(
    "--scheduler",
    default="local",
    show_default=True,
    metavar="local|ADDRESS",
    help="Processes of this machine, or a running Dask scheduler: tcp://HOST:PORT or its scheduler file (.json).",
)
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Processes (local).  [default: all cores]"
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of each subject.  [default: cores / workers; on a cluster, as its workers were started]",
)
@click.option(
    "--memory",
    type=Memory(),
    metavar="SIZE",
    help="Most memory for all subjects that run at a time (local), such as 12GB.  [default: 80% of the machine's]",
)
@click.option(
    "--quiet", is_flag=True, help="Print nothing but errors and subjects that failed or do not fit."
)
@json_option
def template(
    manifest: str,
    output: Path,
    start: str | None,
    iterations: int,
    similarity: bool,
    control_points: int,
    preset: str,
    config_path: Path | None,
    assignments: tuple[str, ...],
    labels: str | None,
    repair: bool,
    device: str,
    seed: int,
    scheduler: str,
    workers: int | None,
    threads: int | None,
    memory: float | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Make the average shape of the subjects of MANIFEST, and one deformation from it to each of them.

    MANIFEST is a CSV file with the columns subject and surface; paths are relative to it. Further structures of the
    same subjects have a column each (surface2, …, or surface_hippocampus, surface_amygdala, …) and share one
    deformation.

    \b
    DIR then holds
      template.vtk      the average shape; point data `spread`: how far the subjects are from it
      subjects/NAME/    template onto subject, as `otreg register` writes a run
      summary.csv       figures of every subject, and which do not fit
      report.json       convergence of every pass, settings, means of the figures
      template.h5       everything that `otreg statistics` needs

    \b
    Examples
      otreg template subjects.csv -o atlas
      otreg template subjects.csv -o atlas --similarity --labels region
      otreg template subjects.csv -o atlas --scheduler tcp://node7:8786 --threads 4
      otreg render atlas/template.vtk -o template.png --color-by spread

    Stopped at any time, the same command goes on with the subjects that are missing. Exit codes: 0 done; 2 bad
    input, every problem of the manifest by row, before anything runs; 3 written, but some subjects failed or the
    template has not converged.
    """
    config = load_config(config_path) if config_path else {"settings": {}}
    registration = merge(config["settings"], parse_assignments(assignments))
    progress = ProgressLine(quiet=quiet)
    progress.message("loading the numerical libraries")
    try:
        from otreg import cohort

        settings = cohort.TemplateSettings(
            iterations=iterations,
            similarity=similarity,
            control_points=control_points,
            preset=preset,
            settings=registration,
            labels=labels,
            repair=repair,
            device=device,
            seed=seed,
        )
        progress.message("checking the manifest")
        result = cohort.template(
            manifest,
            output,
            start=start,
            settings=settings,
            scheduler=scheduler,
            workers=workers,
            threads=threads,
            memory=memory,
            progress=lambda what, done, total: progress.message(f"{what}: {done} of {total} subjects"),
        )
    finally:
        progress.clear()
    return _report(result, output, quiet, as_json)


def _report(result: Template, output: Path, quiet: bool, as_json: bool) -> int:
    report = result.report
    if as_json:
        echo_json({**report, "results": dict(zip(result.names, result.figures, strict=True))})
    elif not quiet:
        means = report["figures"]
        rows = [
            ("subjects", f"{report['subjects']:,}, starting from {report['start']}"),
            (
                "iterations",
                f"{report['iterations']}, {'converged' if report['converged'] else 'not converged'}",
            ),
            ("last change", f"{100.0 * report['share_moved']:.2g} % of the distance to a subject"),
            ("mean of the momenta", f"{100.0 * report['ratio']:.2g} % of a typical subject's"),
            ("distance to a subject", f"{number(means['before'])} before its deformation, mean of all"),
            ("residual", f"{number(means['rms'])} after it ({100.0 * means['explained']:.1f} % explained)"),
            ("between the surfaces", number(means.get("assd"))),
            *([("Dice", number(means["dice"]))] if "dice" in means else []),
            ("template", str(output / "template.vtk")),
            ("summary", str(output / "summary.csv")),
        ]
        echo(fields(rows))
    for name, reason in result.poor_fits.items():
        warn(f"does not fit: {name}: {reason}")
    for name, reason in report["failed"].items():
        say(f"failed: {name}: {reason}")
    if report["failed"]:
        say(f"{len(report['failed']):,} subjects failed; run the same command again once they are mended")
        return GATE_FAILED
    if not report["converged"]:
        say(f"not converged after {report['iterations']} iterations; allow more with --iterations")
        return GATE_FAILED
    return DONE
