"""``otreg render``: a picture of a run or of surfaces, made without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .files import check_output_file
from .options import PATH, Colour, Limits, Names, Size, output_option, repair_option
from .output import echo


@click.command(short_help="Make a picture of a run or of surfaces.")
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="RUN_DIR|SURFACE...")
@output_option("PICTURE.png", "Picture to write: .png, .svg, .pdf, or .html to turn it in a browser.")
@click.option(
    "--panels",
    type=Names(),
    metavar="NAME,NAME...",
    help="What is shown of a run, side by side: moving, fixed, moved, before, overlay, arrows, grid, slices, lattice, "
    "threads, contours, all.  [default: moving,fixed,overlay]",
)
@click.option(
    "--color-by",
    metavar="NAME",
    help="Point data to colour by, or displacement, deformation, distance, log_det, curvature."
    "  [default: displacement, for a run]",
)
@click.option("--limits", type=Limits(), metavar="LOW,HIGH", help="Values at the two ends of the colours.")
@click.option(
    "--view",
    "views",
    type=Names(),
    default=(),
    metavar="NAME,NAME...",
    help="Sides to look from, one row each: left, right, front, back, top, bottom, iso; anterior, posterior, superior, "
    "inferior where the frame is known.  [default: the side that shows most]",
)
@click.option("--side-by-side", is_flag=True, help="Give each surface a panel of its own.")
@click.option("--arrows", type=click.IntRange(1), default=200, show_default=True, help="How many arrows.")
@click.option(
    "--arrow-scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Length of arrows, in displacements.",
)
@click.option(
    "--cells",
    type=click.IntRange(2),
    default=16,
    show_default=True,
    help="Cells of a grid, along its long side.",
)
@click.option("--threads", type=click.IntRange(1), default=80, show_default=True, help="How many threads.")
@click.option("--contours", type=click.IntRange(1), default=16, show_default=True, help="How many contours.")
@click.option("--size", type=Size(), help="Size in pixels, WIDTHxHEIGHT.  [default: by the number of panels]")
@click.option(
    "--background", type=Colour(), default="white", show_default=True, help="white, black, grey or #rrggbb."
)
@click.option("--transparent", is_flag=True, help="Leave the background out (PNG and SVG).")
@click.option("--unit", default="mm", show_default=True, help="Unit of length, written beside the scale bar.")
@click.option("--title", metavar="TEXT", help="Title of the picture.")
@repair_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def render(inputs: tuple[Path, ...], output: Path, quiet: bool, **options: Any) -> None:
    """Make a picture of a run (moving, fixed and moved) or of surfaces. It needs no display.

    \b
    Examples
      otreg render run -o run.png
      otreg render run -o map.png --panels grid,arrows --color-by log_det
      otreg render run -o sheet.pdf --view front,left,top --panels before,overlay
      otreg render a.vtk b.ply -o both.png --size 1600x900 --color-by thickness
    """
    check_output_file(output, list(inputs))

    from otreg import visualize

    visualize.render(list(inputs), output, **options)
    if not quiet:
        echo(str(output))
