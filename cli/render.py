"""``otreg render``: a picture of a run or of surfaces, made without a display."""

from __future__ import annotations

from pathlib import Path

import click

from .files import check_output_file
from .options import PATH, Size, output_option, repair_option
from .output import echo


@click.command(short_help="Make a picture of a run or of surfaces.")
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="RUN_DIR|SURFACE...")
@output_option("PICTURE.png", "Picture to write.")
@click.option("--size", type=Size(), default="1800x640", show_default=True, help="Size in pixels.")
@click.option(
    "--color-by", metavar="NAME", help="Point data to colour by.  [default: displacement, for a run]"
)
@click.option("--unit", default="mm", show_default=True, help="Unit of length, written beside the scale bar.")
@click.option("--title", metavar="TEXT", help="Title of the picture.")
@repair_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def render(
    inputs: tuple[Path, ...],
    output: Path,
    size: tuple[int, int],
    color_by: str | None,
    unit: str,
    title: str | None,
    repair: bool,
    quiet: bool,
) -> None:
    """Make a picture of a run (moving, fixed and moved) or of surfaces. It needs no display.

    \b
    Examples
      otreg render run -o run.png
      otreg render a.vtk b.ply -o both.png --size 1600x900 --color-by thickness
    """
    check_output_file(output, list(inputs))

    from otreg import visualize

    visualize.render(
        list(inputs), output, size=size, color_by=color_by, unit=unit, title=title, repair=repair
    )
    if not quiet:
        echo(str(output))
