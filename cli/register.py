"""``otreg register``: find the map that carries one surface onto another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .config import effective, load_config
from .errors import DONE, GATE_FAILED, say, warn
from .files import check_output_directory
from .interrupt import Interruption
from .loading import without_collection
from .options import PATH, json_option
from .output import echo, echo_json, fields
from .progress import ProgressLine
from .quality_table import quality_table

if TYPE_CHECKING:
    from otreg.registration import Registration

PRESETS = ("rigid", "similarity", "affine", "spline", "diffeo")


@click.command(short_help="Find the map that carries MOVING onto FIXED.")
@click.argument("moving", type=PATH)
@click.argument("fixed", type=PATH)
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH,
    metavar="OUT_DIR",
    help="Folder to write: new, empty, or an earlier run, which is replaced.",
)
@click.option("--preset", type=click.Choice(PRESETS), help="How freely MOVING may deform.  [default: diffeo]")
@click.option(
    "--landmarks",
    nargs=2,
    type=PATH,
    metavar="M F",
    help="Files of corresponding landmarks on MOVING and on FIXED, in the same order.",
)
@click.option(
    "--config",
    "config_path",
    type=PATH,
    metavar="FILE.toml",
    help="Settings from a file, such as the config.toml of an earlier run. Options win over it.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting, as config.toml names it; the value in TOML. May be repeated.",
)
@click.option(
    "--symmetric/--no-symmetric",
    default=None,
    help="Favour neither shape: exchanged, they give the inverse map. Preset diffeo only.  [default: no-symmetric]",
)
@click.option(
    "--partial/--no-partial",
    default=None,
    help="MOVING shows only a part of FIXED, or FIXED only a part of MOVING.  [default: no-partial]",
)
@click.option(
    "--labels", metavar="NAME", help="Point data that both carry as labels: their overlap (Dice) is reported."
)
@click.option(
    "--convert-frames/--no-convert-frames",
    default=None,
    help="Where both files name a coordinate frame and they differ, convert MOVING to FIXED's (else refuse).",
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
    "--threads", type=click.IntRange(min=1), metavar="N", help="Processor threads.  [default: all cores]"
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Seed of random choices: the same seed, the same result.  [default: 0]",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
def register(
    moving: Path,
    fixed: Path,
    output: Path,
    landmarks: tuple[Path, Path] | None,
    config_path: Path | None,
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Find the map that carries MOVING onto FIXED, and move MOVING with it.

    A map moves POINTS of MOVING into FIXED's space. Both may be meshes or point clouds of any format that
    otreg reads (`otreg info FILE` shows what it finds), at any distance and orientation and, except for
    `--preset rigid`, of any size. Mirror images are not matched.

    \b
    OUT_DIR then holds
      moved.*         MOVING in FIXED's space: the same points, triangles and data, plus `displacement`
      transform.h5    the map, for `otreg apply`, `compose` and Python
      report.json     quality before and after, stages, settings, versions, warnings
      config.toml     what `--config` needs to repeat the run

    \b
    Examples
      otreg register patient.stl atlas.vtk -o run
      otreg register a.ply b.ply -o run --preset similarity --landmarks a.csv b.csv
      otreg register a.ply b.ply -o again --config run/config.toml --seed 7

    Ctrl-C keeps the best map so far, marked as interrupted (exit code 3); a second one writes nothing.
    The exit code is 3, too, if the result does not pass the quality gate.
    """
    config = load_config(config_path) if config_path else {}
    choices, settings = effective(config, options, assignments)
    inputs = [moving, fixed, *(landmarks or ()), *([config_path] if config_path else [])]
    check_output_directory(output, [path for path in inputs if path != config_path])
    if choices["threads"] is not None:
        # the numerical libraries read this while they are loaded, which is below
        os.environ["OMP_NUM_THREADS"] = str(choices["threads"])

    progress = ProgressLine(quiet=quiet)
    progress.message("reading")
    try:
        from otreg.io.pairs import read_pair

        moving_shape, fixed_shape, pair = read_pair(moving, fixed, landmarks, choices)
        progress.message("loading the numerical libraries")
        with without_collection():
            from otreg import registration

        with Interruption() as stop:
            result = registration.register(
                moving_shape,
                fixed_shape,
                choices["preset"],
                landmarks=pair,
                settings=settings,
                symmetric=choices["symmetric"],
                partial=choices["partial"],
                device=choices["device"],
                threads=choices["threads"],
                seed=choices["seed"],
                labels=choices["labels"],
                progress=progress,
                stop=stop,
            )
            progress.message("writing")
            result.report.update(repair=choices["repair"], convert_frames=choices["convert_frames"])
            registration.write_run(result, output, moving, fixed)
    finally:
        progress.clear()
    return _report(result, output, quiet, as_json)


def _report(result: Registration, output: Path, quiet: bool, as_json: bool) -> int:
    interrupted = bool(result.report.get("interrupted"))
    if as_json:
        echo_json(result.report)
    elif not quiet:
        quality = result.report.get("quality", {})
        unit = (quality.get("after") or {}).get("unit")
        echo(quality_table([("before", quality.get("before")), ("after", quality.get("after"))], unit))
        echo("")
        echo(fields([(name, str(path)) for name, path in written_files(output)]))
    for warning in result.warnings:
        warn(str(warning))
    if interrupted:
        say(f"stopped early by Ctrl-C: {output} holds the best so far, marked as interrupted")
        return GATE_FAILED
    if not result.passed:
        reasons = "; ".join(_reasons(result.report)) or "see report.json"
        say(f"the quality gate failed: {reasons}; {output} is written all the same, look before you use it")
        return GATE_FAILED
    return DONE


def written_files(output: Path) -> list[tuple[str, Path]]:
    """Name the files of a run, in the order in which people want them."""
    moved = sorted(path for path in output.iterdir() if path.name.startswith("moved."))
    others = [output / name for name in ("transform.h5", "report.json", "config.toml")]
    return [*(("moved", path) for path in moved), *((path.stem, path) for path in others if path.exists())]


def _reasons(report: Mapping[str, Any]) -> list[str]:
    gate = report.get("gate") or {}
    return [str(reason) for reason in gate.get("reasons", [])] if isinstance(gate, Mapping) else []
