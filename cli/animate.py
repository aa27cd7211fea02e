"""``otreg animate``: the way from moving to fixed as a loop, a film, pictures or a ParaView series."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import warn
from .files import check_output_directory, check_output_file
from .interrupt import Remembered
from .options import PATH, Names, Size, output_option
from .output import echo, fields
from .progress import ProgressLine

if TYPE_CHECKING:
    from otreg.visualize.animate import Animation


@click.command(short_help="Animate a run: GIF, MP4, WebM, pictures or a ParaView series.")
@click.argument("run", type=PATH, metavar="RUN_DIR")
@output_option(
    "FILE", "What to write: .gif, .mp4, .webm, frame-%03d.png or a folder for pictures, .pvd for ParaView."
)
@click.option("--frames", type=int, metavar="N", help="Pictures from beginning to end.  [default: 48]")
@click.option("--seconds", type=float, metavar="S", help="How long the motion takes, one way.  [default: 2]")
@click.option("--fps", type=float, metavar="F", help="Frames a second.  [default: 24]")
@click.option("--bounce", is_flag=True, help="Go back to the beginning in the same way.")
@click.option(
    "--skip-pose", is_flag=True, help="Begin after the rigid or affine part, for the change of shape alone."
)
@click.option(
    "--panels",
    type=Names(),
    default=("overlay",),
    metavar="NAME,NAME...",
    help="What is shown, side by side: as for otreg render.  [default: overlay]",
)
@click.option("--color-by", metavar="NAME", help="As for otreg render.  [default: displacement]")
@click.option(
    "--view", "views", type=Names(), default=(), metavar="NAME,NAME...", help="Sides, as for otreg render."
)
@click.option("--size", type=Size(), help="Size in pixels, WIDTHxHEIGHT.  [default: 960x720]")
@click.option("--unit", default="mm", show_default=True, help="Unit of length, written beside the scale bar.")
@click.option("--title", metavar="TEXT", help="Title above the pictures.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def animate(run: Path, output: Path, quiet: bool, **options: Any) -> None:
    """Show how a run's map carries the moving shape to the fixed one.

    Flows are shown on their own way, integrated over time. Other maps have no way of their own: affine ones move
    steadily, splines straight. What is printed says which part is which.

    \b
    Examples
      otreg animate run -o run.gif
      otreg animate run -o run.mp4 --seconds 4 --fps 30 --view front,left --bounce
      otreg animate run -o run.pvd --frames 25
      otreg animate run -o frames-%03d.png --skip-pose
    """
    if output.suffix:
        check_output_file(output, [])
    else:
        check_output_directory(output / "frames", [run])

    from otreg import visualize

    line, interrupt = ProgressLine(quiet=quiet), Remembered()

    def told(event: Any) -> None:
        interrupt.check()
        line(event)

    line.message(f"reading {run}")
    try:
        with interrupt:
            made = visualize.animate(run, output, progress=told, **options)
    finally:
        line.clear()
    for warning in made.warnings:
        warn(warning)
    if not quiet:
        echo(_text(made))


def _text(made: Animation) -> str:
    """The file, its length, and how each part of the way was found."""
    length = f"{made.frames} frames" + (f", {made.seconds:.1f} s" if made.seconds else "")
    ways = [(f"{leg.start:.2f} to {leg.end:.2f}", str(leg)) for leg in made.legs]
    return "\n".join([str(made.path), fields([("length", length), *ways])])
