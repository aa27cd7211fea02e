"""``otreg convert``: another format, frame or unit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from otreg.errors import InputError

from .files import check_output_file, read_shape, write_shape
from .options import PATH, repair_option
from .output import echo, fields

if TYPE_CHECKING:
    from otreg.surface import Landmarks, Surface

FRAMES = ("RAS", "LPS", "tkRAS")


@click.command(short_help="Write a surface or landmarks in another format, frame or unit.")
@click.argument("input", metavar="IN", type=PATH)
@click.argument("output", metavar="OUT", type=PATH)
@click.option(
    "--frame",
    type=click.Choice(FRAMES),
    help="Frame to convert to. RAS and LPS differ in the signs of x and y; tkRAS (FreeSurfer) is RAS less "
    "the file's c_ras.",
)
@click.option(
    "--from-frame", type=click.Choice(FRAMES), help="Frame that IN is in, where the file itself does not say."
)
@click.option(
    "--c-ras",
    nargs=3,
    type=float,
    metavar="R A S",
    help="RAS position of tkRAS's origin (mri_info --cras), where a conversion needs it and IN does not say.",
)
@click.option(
    "--scale",
    type=float,
    metavar="FACTOR",
    help="Multiply coordinates, for instance by 1000 from metres to millimetres.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Values on IN's points to add, under a NAME if given: .annot, .label.gii, .shape.gii, lh.sulc, a table. "
    "May be repeated.",
)
@repair_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def convert(
    input: Path,
    output: Path,
    frame: str | None,
    from_frame: str | None,
    c_ras: tuple[float, float, float] | None,
    scale: float | None,
    data: tuple[str, ...],
    repair: bool,
    quiet: bool,
) -> None:
    """Write IN as OUT, in the format that OUT's suffix names.

    Points keep their order. Between RAS and LPS, vectors on points (floating, three components, not called a
    colour) turn with them. What OUT's format cannot hold is named in a warning.

    \b
    Examples
      otreg convert lh.pial lh.vtk --frame RAS --data region=lh.aparc.annot
      otreg convert scan-in-metres.obj scan.ply --scale 1000
      otreg convert landmarks.fcsv landmarks.csv
    """
    check_output_file(output, [input])
    shape = read_shape(input, repair=repair)
    for given in data:
        shape = _with_data(shape, input, given)
    try:
        shape = _transformed(shape, frame, from_frame, c_ras, scale)
    except InputError as error:
        raise InputError(f"{input}: {error}") from None
    write_shape(shape, output)
    if quiet:
        return
    echo(
        fields([("written", str(output)), ("points", f"{len(shape):,}"), ("frame", shape.frame or "unknown")])
    )


def _with_data(shape: Surface | Landmarks, input: Path, given: str) -> Surface:
    """The shape with the values of ``FILE`` or ``NAME=FILE`` on its points."""
    from otreg import io
    from otreg.surface import Surface

    if not isinstance(shape, Surface):
        raise InputError(f"{input}: holds landmarks, which carry no values; leave out --data")
    name, equals, path = given.partition("=")
    if not equals or Path(given).exists():
        return io.attach_point_data(shape, given)
    return io.attach_point_data(shape, path, name)


def _transformed(
    shape: Surface | Landmarks,
    frame: str | None,
    from_frame: str | None,
    c_ras: tuple[float, float, float] | None,
    scale: float | None,
) -> Surface | Landmarks:
    from otreg.frames import convert_frame, scale_units

    if from_frame is not None:
        if shape.frame not in (None, from_frame):
            raise InputError(
                f"the file says that it is in {shape.frame}, not in {from_frame}; leave out --from-frame"
            )
        shape = dataclasses.replace(shape, frame=from_frame)
    if frame is not None:
        if shape.frame is None:
            raise InputError("the file does not say which frame it is in; say it with --from-frame")
        shape = convert_frame(shape, frame, c_ras=c_ras)
    return shape if scale is None else scale_units(shape, scale)
