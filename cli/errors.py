"""What the user sees when something goes wrong: one line on stderr, and the exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

import click

from otreg.errors import ManifestError, OtregError

DONE = 0
INTERNAL_ERROR = 1
BAD_INPUT = 2
GATE_FAILED = 3
ABORTED = 130
"""What a shell reports for a program that Ctrl-C ended; used only where nothing was written."""

CLEAR_LINE = "\r\x1b[K"
"""Takes a line of progress off a terminal."""

DEBUG_VARIABLE = "OTREG_DEBUG"


def say(line: str) -> None:
    """Print one line on stderr, where everything goes that is not a result."""
    with contextlib.suppress(OSError, ValueError):  # a closed stderr must not turn into another error
        start = CLEAR_LINE if rewrites_lines(sys.stderr) else ""
        text = f"{start}otreg: {one_line(line)}"
        try:
            print(text, file=sys.stderr, flush=True)
        except RuntimeError:
            # Ctrl-C came while the progress bar was being written: the stream is busy, the terminal is not
            os.write(sys.stderr.fileno(), f"{text}\n".encode(errors="replace"))


def warn(line: str) -> None:
    """Print one warning on stderr, unless the command was told to be quiet."""
    warnings.warn(line, UserWarning, stacklevel=2)


def rewrites_lines(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which a line can be drawn again."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def one_line(text: str) -> str:
    """Join the lines of a message, so that a script can read it as one."""
    return " ".join(text.split("\n")).strip() if "\n" in text else text.strip()


def run(command: Callable[[], int | None]) -> int:
    """Run a command, print whatever error it raises, and return the exit code.

    Parameters
    ----------
    command : callable
        Takes nothing; returns an exit code, or None for 0.

    Returns
    -------
    int
        0 done; 1 an error of ours; 2 bad usage or bad input; 3 from a command whose quality gate failed;
        130 when Ctrl-C ended it before anything was written.
    """
    try:
        code = command()
        return DONE if code is None else code
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("stopped by Ctrl-C before it was done; nothing is half written")
        return ABORTED
    except click.UsageError as error:
        asked = error.ctx.command_path if error.ctx else "otreg"
        return _bad_input(f"{error.format_message().rstrip('.')} (see {asked} --help)")
    except click.ClickException as error:
        return _bad_input(error.format_message())
    except ManifestError as error:
        for problem in error.problems:
            say(problem)
        return _bad_input(str(error))
    except OtregError as error:
        # the library names its own keyword; here it is an option
        return _bad_input(str(error).replace("repair=True", "--repair"))
    except MemoryError:
        return _internal_error("ran out of memory; use fewer points or a machine with more")
    except OSError as error:
        if error.errno is None:  # not about a file: for instance a library that cannot be loaded
            return _internal_error(_describe(error))
        where = f"{_name(error.filename)}: " if error.filename is not None else ""
        return _bad_input(f"{where}{error.strerror or error}")
    except Exception as error:
        return _internal_error(_describe(error))


@contextlib.contextmanager
def quiet_libraries(quiet: bool = False) -> Iterator[None]:
    """Show otreg's own warnings as one line each on stderr (unless ``quiet``) and hide those of libraries."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not quiet:
            say(f"warning: {message}")

    with warnings.catch_warnings():
        if not debugging():
            warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"otreg(_cli)?(\.|$)")
        warnings.showwarning = show
        yield


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def _bad_input(message: str) -> int:
    _traceback_if_asked()
    say(f"error: {message}")
    return BAD_INPUT


def _internal_error(message: str) -> int:
    _traceback_if_asked()
    hint = "" if debugging() else f" (set {DEBUG_VARIABLE}=1 to see where)"
    say(f"internal error: {message}{hint}")
    return INTERNAL_ERROR


def _traceback_if_asked() -> None:
    if debugging():
        traceback.print_exc()


def _describe(error: BaseException) -> str:
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _name(filename: str | bytes | int) -> str:
    return os.fsdecode(filename) if isinstance(filename, (str, bytes)) else str(filename)
