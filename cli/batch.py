"""``otreg batch``: a study of many registrations, each in its folder, with a summary of all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .config import effective, load_config
from .errors import DONE, GATE_FAILED, say
from .interrupt import Interruption
from .options import PATH, Memory, json_option
from .output import echo, echo_json, fields, number
from .progress import BatchLine
from .register import PRESETS

if TYPE_CHECKING:
    from otreg.cohort import BatchResult

_STOPPING = "stopping after the cases in progress (Ctrl-C again: stop now; what is done stays, the rest can be resumed)"


@click.command(short_help="Register the pairs of a study, resumably, on all cores or a cluster.")
@click.argument("manifest", type=str)
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH,
    metavar="DIR",
    help="Folder to write: new, empty, or an earlier batch, of which only what is missing or changed is run again.",
)
@click.option("--fixed", type=PATH, metavar="FILE", help="FIXED of every row that names none.")
@click.option(
    "--fixed-landmarks", type=PATH, metavar="FILE", help="Its landmarks, for the rows that have landmarks."
)
@click.option("--preset", type=click.Choice(PRESETS), help="How freely shapes may deform.  [default: diffeo]")
@click.option(
    "--config",
    "config_path",
    type=PATH,
    metavar="FILE.toml",
    help="Settings of all cases from a file, such as the config.toml of a run. Options win over it, rows over both.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting of all cases, as config.toml names it; the value in TOML. May be repeated.",
)
@click.option(
    "--symmetric/--no-symmetric",
    default=None,
    help="Favour neither shape. Preset diffeo only.  [default: no-symmetric]",
)
@click.option(
    "--partial/--no-partial",
    default=None,
    help="One shape shows only a part of the other.  [default: no-partial]",
)
@click.option(
    "--labels", metavar="NAME", help="Point data that both carry as labels: their overlap (Dice) is reported."
)
@click.option(
    "--convert-frames/--no-convert-frames",
    default=None,
    help="Where two files name coordinate frames that differ, convert MOVING to FIXED's (else refuse).",
)
@click.option(
    "--repair/--no-repair",
    default=None,
    help="Drop points that are not finite, where they are few (else: refuse).",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.  [default: auto]"
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Seed of random choices, in every case.  [default: 0]",
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
    help="Threads of each case.  [default: cores / workers; on a cluster, as its workers were started]",
)
@click.option(
    "--memory",
    type=Memory(),
    metavar="SIZE",
    help="Most memory for all cases that run at a time (local), such as 12GB.  [default: 80% of the machine's]",
)
@click.option("--overview/--no-overview", default=True, help="Make the overview.  [default: overview]")
@click.option(
    "--quiet", is_flag=True, help="Print nothing but errors and the cases that failed or did not pass."
)
@json_option
def batch(
    manifest: str,
    output: Path,
    fixed: Path | None,
    fixed_landmarks: Path | None,
    config_path: Path | None,
    assignments: tuple[str, ...],
    scheduler: str,
    workers: int | None,
    threads: int | None,
    memory: float | None,
    overview: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Register every pair of MANIFEST, or every subject onto the surface of --fixed.

    MANIFEST is a CSV file with a header: columns moving and fixed, and any of name, moving_landmarks,
    fixed_landmarks, labels, partial, preset, seed, symmetric, repair, convert_frames, device and the settings
    of a config.toml, each for its row alone. A table of subjects says subject, surface and landmarks instead of
    name, moving and moving_landmarks. It may also be a TOML file with [[pairs]], or a pattern of files in quotes.
    Paths are relative to the manifest.

    \b
    DIR then holds
      NAME/             of each case, as `otreg register` writes it
      summary.csv       figures of every case: distances, landmarks, Dice, folding, time, reason
      summary.json      the same, with their spread over the study
      overview.png      every case small, the worst first; overview.html is the same as a page

    \b
    Examples
      otreg batch pairs.csv -o study --preset affine
      otreg batch 'subjects/*/lh.pial' -o study --fixed atlas/lh.pial
      otreg batch pairs.csv -o study --scheduler tcp://node7:8786 --threads 4

    Run again, it does what is missing or has changed. Exit codes: 0 all cases are done and passed; 2 bad input,
    every problem of the manifest by row, before anything runs; 3 finished, but some failed or did not pass, or
    Ctrl-C stopped it: one line on stderr for each.
    """
    config = load_config(config_path) if config_path else {}
    choices, settings = effective(config, options, assignments)
    threads = choices.pop("threads") if threads is None else threads

    progress = BatchLine(quiet=quiet)
    progress.message("loading the numerical libraries")
    try:
        from otreg import cohort

        progress.message("checking the manifest")
        with Interruption(_STOPPING) as stop:
            result = cohort.batch(
                manifest,
                output,
                fixed=fixed,
                fixed_landmarks=fixed_landmarks,
                settings=settings,
                scheduler=scheduler,
                workers=workers,
                threads=threads,
                memory=memory,
                overview=overview,
                progress=progress,
                stop=stop,
                **{name: value for name, value in choices.items() if name != "threads"},
            )
    finally:
        progress.clear()
    return _report(result, output, overview, quiet, as_json)


def _report(result: BatchResult, output: Path, overview: bool, quiet: bool, as_json: bool) -> int:
    summary = result.summary()
    if as_json:
        echo_json(summary)
    elif not quiet:
        spread = summary["figures"]["assd_after"] or {}
        rows = [
            ("cases", f"{summary['cases']:,}, {summary['ran']:,} of them run now"),
            ("passed", f"{summary['passed']:,}"),
            ("did not pass", f"{summary['not_passed']:,}"),
            ("failed", f"{summary['failed']:,}"),
            ("distance, median", number(spread.get("median"))),
            ("distance, largest", number(spread.get("max"))),
            ("summary", str(output / "summary.csv")),
        ]
        if overview:
            rows.append(("overview", str(output / "overview.html")))
        echo(fields(rows))
    for one in result.failed:
        say(f"failed: {one.name}: {one.reason}")
    for one in result.not_passed:
        say(f"did not pass: {one.name}: {one.reason or 'see report.json'}")
    if result.passed:
        return DONE
    counts = [
        f"{len(found):,} {words}"
        for found, words in (
            (result.failed, "failed"),
            (result.not_passed, "did not pass"),
            (result.waiting, "not run"),
        )
        if found
    ]
    say(f"{', '.join(counts)} of {summary['cases']:,} cases; run the same command again to go on")
    return GATE_FAILED
