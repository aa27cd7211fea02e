"""``otreg apply``: move points, landmarks or a surface with a map that was found before."""

from __future__ import annotations

from pathlib import Path

import click

from otreg.errors import InputError, NotInvertibleError

from .errors import warn
from .files import check_output_file, read_shape, transform_path, write_shape
from .options import PATH, output_option, repair_option
from .output import echo, fields


@click.command(short_help="Move a surface, a cloud or landmarks with a transform.")
@click.argument("transform", type=PATH)
@click.argument("input", type=PATH)
@output_option("OUTPUT", "File to write, in the format that its suffix names.")
@click.option("--inverse", is_flag=True, help="From FIXED's space back into MOVING's.")
@click.option(
    "--convert-frames",
    is_flag=True,
    help="Where INPUT is in another coordinate frame than the map's, convert it first (else refuse).",
)
@repair_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def apply(
    transform: Path,
    input: Path,
    output: Path,
    inverse: bool,
    convert_frames: bool,
    repair: bool,
    quiet: bool,
) -> None:
    """Move INPUT with TRANSFORM, the transform.h5 of a run (or the run's folder).

    A map moves POINTS of MOVING into FIXED's space; with --inverse it moves points of FIXED's space back.
    INPUT may be a mesh, a point cloud or landmarks, of any format that otreg reads, and OUTPUT of any that it
    writes.

    \b
    Examples
      otreg apply run/transform.h5 landmarks.mrk.json -o moved.mrk.json
      otreg apply run/transform.h5 atlas-labels.vtk -o on-patient.ply --inverse
    """
    path = transform_path(transform)
    check_output_file(output, [path, input])
    shape = read_shape(input, repair=repair)

    from otreg.deformations import load_transform

    found = load_transform(path)
    mover = found.inverse if inverse else found
    begins = mover.moving_frame
    try:
        if convert_frames and begins and shape.frame and shape.frame != begins:
            from otreg.frames import convert_frame

            warn(f"{input}: converted from {shape.frame} to {begins}, in which the map begins")
            shape = convert_frame(shape, begins)
        moved = mover(shape)
    except (InputError, NotInvertibleError) as error:
        raise InputError(f"{input}: {error}") from None
    write_shape(moved, output)
    if quiet:
        return
    rows = [("written", str(output)), ("points", f"{len(shape):,}")]
    if inverse:
        import numpy as np

        # how far the map carries the result from the points that it should reach
        residual = np.linalg.norm(found(moved.points) - shape.points, axis=1)
        rows.append(("residual", f"mean {residual.mean():.3g}, largest {residual.max():.3g}"))
    echo(fields(rows))
