"""The entry point ``otreg``: one group of commands, one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from otreg import __version__

from .animate import animate
from .apply import apply
from .batch import batch
from .compose import compose
from .convert import convert
from .errors import quiet_libraries
from .errors import run as run_safely
from .evaluate import evaluate
from .field import field
from .info import info
from .output import finish, prepare_streams
from .register import register
from .render import render
from .report import report
from .statistics import statistics
from .template import template
from .view import view

_HELP = """Register surfaces and point clouds of the same anatomy.

A map moves POINTS of MOVING into FIXED's space. `otreg register` finds it, `otreg apply` uses it on anything
that lives in MOVING's space, and with --inverse on anything in FIXED's.

\b
  otreg register patient.stl atlas.vtk -o run
  otreg apply run/transform.h5 patient-landmarks.mrk.json -o in-atlas.csv
  otreg evaluate run/moved.stl atlas.vtk
  otreg render run -o run.png
  otreg report run -o run.html
  otreg field run -o field.nii.gz
  otreg animate run -o run.gif
  otreg view run
  otreg batch study.csv -o study --fixed atlas.vtk
  otreg template subjects.csv -o atlas
  otreg statistics atlas
"""

_EPILOG = """\b
Results go to stdout, progress and messages to stderr.
Exit codes: 0 done; 1 internal error; 2 bad usage or bad input, in one line on stderr;
3 finished and written, but the quality gate failed, a case of a batch failed, or Ctrl-C stopped it early
(a second Ctrl-C, or one outside `register` and `batch`, ends it at once: 130, nothing half written).
OTREG_DEBUG=1 shows tracebacks."""


@click.group(
    help=_HELP,
    epilog=_EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "--version", prog_name="otreg", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    register,
    apply,
    evaluate,
    compose,
    info,
    convert,
    render,
    report,
    view,
    animate,
    field,
    batch,
    template,
    statistics,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``otreg`` with the given arguments (default: the program's own) and exit with its code."""
    prepare_streams()
    # Threads that spin while they wait for each other make a run three times slower as soon as another program
    # wants one of the cores; threads that sleep at once make it a tenth slower when none does. A few microseconds of
    # spinning serve both. The numerical libraries read this while they are loaded, which is later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    given = list(sys.argv[1:] if arguments is None else arguments)

    def command() -> int | None:
        with quiet_libraries("--quiet" in given):
            return cli.main(given, prog_name="otreg", standalone_mode=False)

    code = run_safely(command)
    finish()
    sys.exit(code)


if __name__ == "__main__":
    main()
