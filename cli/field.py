"""``otreg field``: a transform as an image of displacements, or as an ITK transform, for other programs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otreg.errors import InputError, NotInvertibleError

from .errors import warn
from .files import check_output_file, read_shape, transform_path
from .options import PATH, json_option, output_option
from .output import echo, echo_json, fields, number
from .progress import ProgressLine

if TYPE_CHECKING:
    from otreg.deformations import DisplacementField, ItkTransform


@dataclasses.dataclass
class Sampling:
    """Progress of the sampling, in the words of the progress line; steps are points of the grid."""

    step: int
    steps: int
    elapsed: float
    remaining: float | None
    stage: str = "sampling"
    distance: float | None = None


@click.command(short_help="Write a transform as a displacement field or an ITK transform.")
@click.argument("transform", type=PATH)
@output_option("FIELD", "File to write: .nii.gz, .nii, .nrrd, .vti, .h5, .tfm or .txt.")
@click.option(
    "--direction",
    type=click.Choice(["points", "images"]),
    default="points",
    show_default=True,
    help="points: moves points of MOVING to FIXED. images: resamples images of MOVING onto FIXED.",
)
@click.option("--inverse", is_flag=True, help="Exchange MOVING and FIXED.")
@click.option(
    "--like",
    type=PATH,
    metavar="FILE",
    help="Sample around a surface, or on the grid of an image (NIfTI, NRRD).",
)
@click.option(
    "--bounds",
    nargs=6,
    type=float,
    metavar="X0 X1 Y0 Y1 Z0 Z1",
    help="Sample around this box.  [default: box of the shape that was registered]",
)
@click.option("--spacing", type=float, help="Distance of grid points.  [default: 1/64 of the box's diagonal]")
@click.option(
    "--margin", type=float, help="Added on each side.  [default: 1/10 of the diagonal; image: none]"
)
@click.option(
    "--frame",
    type=click.Choice(["RAS", "LPS"]),
    help="Frame of a transform that does not say.  [default: LPS, with a warning]",
)
@json_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def field(
    transform: Path,
    output: Path,
    direction: str,
    inverse: bool,
    like: Path | None,
    bounds: tuple[float, ...] | None,
    spacing: float | None,
    margin: float | None,
    frame: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write TRANSFORM (transform.h5 of a run, or the run's folder) for programs that read images or ITK transforms.

    .nii.gz, .nii, .nrrd and .vti hold the displacements on a grid; .h5 is an ITK transform in which affine parts
    are exact and the rest is a grid; .tfm and .txt hold affine maps. Points move opposite to images: with
    --direction points (default) the file moves points of MOVING to FIXED; with --direction images it is what
    ANTs, 3D Slicer and SimpleITK use to resample an image of MOVING onto FIXED. All but .vti are in LPS.

    FILE of --like and --bounds lie in the space where the map begins: MOVING's for points, FIXED's for images
    (with --inverse the other way round).

    \b
    Examples
      otreg field run -o points.nii.gz
      otreg field run -o resample.h5 --direction images --like fixed-mri.nii.gz --spacing 2
      otreg field rigid.h5 -o rigid.tfm --direction images
    """
    path = transform_path(transform)
    name = output.name.lower()
    as_itk, as_text = name.endswith((".h5", ".hdf5", ".tfm", ".txt")), name.endswith((".tfm", ".txt"))
    if not as_itk and not name.endswith((".nii.gz", ".nii", ".nrrd", ".vti")):
        raise InputError(
            f"{output}: a field is written as .nii.gz, .nii, .nrrd, .vti, .h5, .tfm or .txt; choose such a name"
        )
    if as_text and (like or bounds or spacing is not None or margin is not None):
        raise InputError(
            f"{output}: holds an affine map, which has no grid; leave out --like, --bounds, --spacing and --margin"
        )
    if like and bounds:
        raise InputError("--like and --bounds both say where to sample; give one of them")
    check_output_file(output, [path, *([like] if like else [])])

    from otreg.deformations import Affine, Composite, itk_transform, load_transform, sample_field

    found = load_transform(path)
    stages = found.stages if isinstance(found, Composite) else (found,)
    if as_text and not all(isinstance(stage, Affine) for stage in stages):
        raise InputError(f"{output}: holds affine maps alone, and {path} bends; choose .h5, .nii.gz or .nrrd")
    line = ProgressLine(quiet=quiet or as_json)
    begun = time.monotonic()

    def progress(step: int, steps: int) -> None:
        elapsed = time.monotonic() - begun
        line(Sampling(step, steps, elapsed, elapsed * (steps - step) / step))

    write = itk_transform if as_itk else sample_field
    try:
        result: DisplacementField | ItkTransform = write(
            found,
            direction=direction,
            inverse=inverse,
            frame=frame,
            spacing=spacing,
            margin=margin,
            progress=progress,
            **_place(like, bounds),
        )
        line.clear()
    except (InputError, NotInvertibleError) as error:
        line.clear()
        text = str(error).replace(
            "(like a surface or an image, or bounds)", "(--like SURFACE or IMAGE, or --bounds)"
        )
        raise type(error)(f"{path}: {text}") from None
    for note in result.save(output):
        warn(f"{path}: {note} (--frame RAS)")
    if as_json:
        echo_json(_facts(output, result))
    elif not quiet:
        echo(fields(_rows(output, result)))


def _place(like: Path | None, bounds: tuple[float, ...] | None) -> dict[str, Any]:
    """Keyword arguments that say where to sample."""
    if like is not None:
        from otreg.io.grids import is_image, read_grid

        if is_image(like):
            grid, frame = read_grid(like)
            return {"grid": grid, "grid_frame": frame}
        shape = read_shape(like)
        box = [shape.points.min(axis=0), shape.points.max(axis=0)]
        return {"bounds": box, "grid_frame": shape.frame}
    if bounds:
        return {"bounds": [bounds[0::2], bounds[1::2]]}
    return {}


def _facts(output: Path, result: DisplacementField | ItkTransform) -> dict[str, Any]:
    """What was written, for ``--json``."""
    from otreg.deformations import DisplacementField

    field = result if isinstance(result, DisplacementField) else result.field
    found: dict[str, Any] = {
        "path": output,
        "direction": result.direction,
        "maps": result.maps,
        "frame": result.frame,
        "written_in": result.frame if output.name.lower().endswith(".vti") else "LPS",
    }
    if field is not None:
        found["grid"] = {
            "shape": field.grid.shape,
            "spacing": field.grid.spacing,
            "origin": field.grid.origin,
            "directions": field.grid.directions,
        }
    found["accuracy"] = result.accuracy._asdict()
    return found


def _rows(output: Path, result: DisplacementField | ItkTransform) -> list[tuple[str, str]]:
    """What was written, for people."""
    from otreg.deformations import DisplacementField

    facts = _facts(output, result)
    rows = [
        ("written", str(output)),
        ("maps", result.maps),
        ("frame", f"{facts['frame'] or 'unknown'}, written as {facts['written_in'] or 'it is'}"),
    ]
    field = result if isinstance(result, DisplacementField) else result.field
    if field is None:
        return [*rows, ("accuracy", "exact, an affine map")]
    spacing = sorted({number(float(step)) for step in field.grid.spacing}, key=float)
    outside = "no motion" if isinstance(result, DisplacementField) else "the affine parts alone"
    return [
        *rows,
        ("grid", f"{' x '.join(map(str, field.grid.shape))} points, {' x '.join(spacing)} apart"),
        (
            "accuracy",
            f"mean {result.accuracy.mean:.3g}, largest {result.accuracy.largest:.3g} "
            "between the points of the grid",
        ),
        ("outside", outside),
    ]
