"""``otreg report``: one web page about a run."""

from __future__ import annotations

from pathlib import Path

import click

from .files import check_output_file
from .options import PATH, output_option
from .output import echo


@click.command(short_help="Write a web page about a run.")
@click.argument("run_dir", type=PATH, metavar="RUN_DIR")
@output_option("REPORT.html", "Page to write.")
@click.option("--unit", default="mm", show_default=True, help="Unit of length, written beside numbers.")
@click.option("--title", metavar="TEXT", help="Title of the page.  [default: the names of the files]")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def report(run_dir: Path, output: Path, unit: str, title: str | None, quiet: bool) -> None:
    """Write one web page about a run of `otreg register`, to read, to print and to send.

    It holds whether the result can be trusted, the figures before and after, pictures, histograms of distances
    and of the change of volume, the stages, and a scene to turn in which the deformation can be scrubbed. It needs
    no network and no display. Big meshes are decimated for the scene alone, and the page says so.

    \b
    Example
      otreg report run -o report.html
    """
    check_output_file(output, [run_dir / "report.json"])

    from otreg import visualize

    visualize.write_report(run_dir, output, unit=unit, title=title)
    if not quiet:
        echo(str(output))
