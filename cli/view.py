"""``otreg view``: a window to turn a run or surfaces in, or a web page where there is no display."""

from __future__ import annotations

from pathlib import Path

import click

from otreg.errors import InputError, OtregError

from .errors import say
from .files import check_output_file
from .options import PATH, Limits, Names, Size, repair_option
from .output import echo

TIMES = 33
"""Positions over time that are kept for the slider; between them it goes straight."""


@click.command(short_help="Open a window to turn a run or surfaces in.")
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="RUN_DIR|SURFACE...")
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="PAGE.html",
    help="Write this page instead of opening a window.  [without a display: RUN_DIR/view.html, or view.html]",
)
@click.option("--color-by", metavar="NAME", help="As for otreg render.  [default: displacement, for a run]")
@click.option("--limits", type=Limits(), metavar="LOW,HIGH", help="Values at the two ends of the colours.")
@click.option(
    "--panels",
    type=Names(),
    metavar="NAME,NAME...",
    help="What is shown of a run, side by side: as for otreg render.  [default: all, in one space]",
)
@click.option("--view", "views", type=Names(), default=(), metavar="NAME", help="Side to look from at first.")
@click.option(
    "--size", type=Size(), default="1280x860", show_default=True, help="Size of the window in pixels."
)
@click.option("--unit", default="mm", show_default=True, help="Unit of length, written beside numbers.")
@click.option("--title", metavar="TEXT", help="Title of the window.")
@repair_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def view(
    inputs: tuple[Path, ...],
    output: Path | None,
    color_by: str | None,
    limits: tuple[float, float] | None,
    panels: tuple[str, ...] | None,
    views: tuple[str, ...],
    size: tuple[int, int],
    unit: str,
    title: str | None,
    repair: bool,
    quiet: bool,
) -> None:
    """Open a window with a run or with surfaces: turn it, switch layers on and off, move through the deformation,
    pick points and read their values. In the window, h shows the keys.

    Where there is no display, a web page that does the same is written instead, and its path is printed.

    \b
    Examples
      otreg view run
      otreg view a.vtk b.ply --color-by thickness
      otreg view run -o run.html
    """
    run = inputs[0].is_dir()
    page = output or (inputs[0] / "view.html" if run else Path("view.html"))

    if page.suffix.lower() != ".html":
        raise InputError(f"{page}: is no web page; give a name that ends in .html (pictures: otreg render)")

    from otreg.visualize.display import no_display

    reason = no_display() if output is None else ""
    if reason is not None:
        check_output_file(page, list(inputs))

    from otreg import visualize

    scene = visualize.scene(
        *inputs,
        panels=(panels or ("all",)) if run else None,
        color_by=color_by,
        limits=limits,
        views=views,
        times=TIMES if run else 0,
        unit=unit,
        title=title or (str(inputs[0]) if run else None),
        repair=repair,
    )
    if reason is None:
        from otreg.visualize.window import show

        try:
            show(scene, size=size)
            return
        except OtregError as error:  # there is a display, and no window on it
            reason = str(error)
            check_output_file(page, list(inputs))
    if reason and not quiet:
        say(f"{reason}: writing a web page instead")
    scene.save(page)
    if not quiet:
        echo(str(page))
