"""``otreg compose``: several maps, one after the other, as one."""

from __future__ import annotations

from pathlib import Path

import click

from otreg.errors import InputError

from .files import check_output_file, transform_path
from .options import PATH, output_option
from .output import echo, fields


@click.command(short_help="Join transforms into one: the first named is applied first.")
@click.argument("transforms", nargs=-1, required=True, type=PATH, metavar="T1 T2 ...")
@output_option("T", "Transform to write (.h5).")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def compose(transforms: tuple[Path, ...], output: Path, quiet: bool) -> None:
    """Join transforms into one file. T1 is applied first, then T2, and so on.

    \b
    Example: from the patient to the atlas to the template
      otreg compose patient-to-atlas.h5 atlas-to-template.h5 -o patient-to-template.h5
    """
    if output.suffix.lower() != ".h5":
        raise InputError(f"{output}: a transform is written as .h5; choose such a name")
    paths = [transform_path(path) for path in transforms]
    check_output_file(output, paths)

    from otreg import deformations

    deformations.compose(*(deformations.load_transform(path) for path in paths)).save(output)
    if not quiet:
        echo(fields([("written", str(output)), ("transforms", str(len(paths)))]))
