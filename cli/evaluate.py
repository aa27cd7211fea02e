"""``otreg evaluate``: how well a moved surface fits the fixed one."""

from __future__ import annotations

from pathlib import Path

import click

from otreg.errors import InputError

from .files import read_surface, transform_path
from .options import PATH, json_option, repair_option
from .output import echo, echo_json


@click.command(short_help="Measure how well MOVED fits FIXED.")
@click.argument("moved", type=PATH)
@click.argument("fixed", type=PATH)
@click.option(
    "--moving",
    type=PATH,
    help="MOVED before it was moved: adds the shares of flipped and degenerate triangles.",
)
@click.option(
    "--transform",
    type=PATH,
    help="The map that moved it (or the run's folder), with --moving: adds log det J over the surface.",
)
@click.option(
    "--labels", metavar="NAME", help="Point data that both carry as labels: adds their overlap (Dice)."
)
@click.option(
    "--landmarks",
    nargs=2,
    type=PATH,
    metavar="M F",
    help="Files of corresponding landmarks, both in FIXED's space: adds the distances between them.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the sample points.",
)
@repair_option
@json_option
def evaluate(
    moved: Path,
    fixed: Path,
    moving: Path | None,
    transform: Path | None,
    labels: str | None,
    landmarks: tuple[Path, Path] | None,
    seed: int,
    repair: bool,
    as_json: bool,
) -> None:
    """Measure how well MOVED fits FIXED.

    Distances run from points spread evenly over one surface to the nearest place on the other, triangles
    included, both ways; their unit is that of the files. Nothing is moved.

    \b
    Examples
      otreg evaluate run/moved.vtk atlas.vtk
      otreg evaluate run/moved.vtk atlas.vtk --moving patient.vtk --transform run
      otreg evaluate run/moved.vtk atlas.vtk --labels "Cartilage Region" --json
    """
    if transform is not None and moving is None:
        raise InputError(f"{transform}: --transform needs --moving too: det J is measured on that surface")

    from otreg import io, quality
    from otreg.io.pairs import check_landmarks

    moved_shape, fixed_shape = (read_surface(path, repair=repair) for path in (moved, fixed))
    pair = None if landmarks is None else (io.read_landmarks(landmarks[0]), io.read_landmarks(landmarks[1]))
    if landmarks is not None and pair is not None:
        check_landmarks(landmarks, pair, (fixed_shape, fixed_shape))
    before = None if moving is None else read_surface(moving, repair=repair)
    found_map = None
    if transform is not None:
        from otreg.deformations import load_transform

        found_map = load_transform(transform_path(transform))
    found = quality.evaluate(
        moved_shape,
        fixed_shape,
        moving=before,
        labels=labels,
        landmarks=pair,
        transform=found_map,
        seed=seed,
    )
    if as_json:
        echo_json(found)
    else:
        echo(quality.format_table(found))
