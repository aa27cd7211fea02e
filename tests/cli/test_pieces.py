"""The command line's own pieces, without starting a process: settings, tables, progress, errors, Ctrl-C."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from otreg_cli import errors
from otreg_cli.config import effective, load_config, merge, parse_assignments
from otreg_cli.files import check_output_directory, check_output_file
from otreg_cli.interrupt import Interruption, Remembered
from otreg_cli.loading import without_collection
from otreg_cli.output import fields, number, plain, table
from otreg_cli.progress import ProgressLine, format_event, format_seconds
from otreg_cli.quality_table import quality_table

from otreg.errors import InputError

# Settings -------------------------------------------------------------------------------------------------


def test_assignments_are_toml() -> None:
    given = ["a.b=1", "a.c=2.5e-3", "flag=true", "list=[1, 2]", "text='two words'", "word=auto", "a.d = -1"]
    assert parse_assignments(given) == {
        "a": {"b": 1, "c": 2.5e-3, "d": -1},
        "flag": True,
        "list": [1, 2],
        "text": "two words",
        "word": "auto",
    }


@pytest.mark.parametrize("bad", ["novalue", "=1", "a..b=1", "a=two words", "a=1\nb=2", "a=[1", "a=", "a b=1"])
def test_bad_assignments_are_named(bad: str) -> None:
    with pytest.raises(InputError, match="--set"):
        parse_assignments([bad])


def test_an_assignment_into_a_value_is_refused() -> None:
    with pytest.raises(InputError, match="was given a value before"):
        parse_assignments(["a=1", "a.b=2"])


def test_merging_leaves_its_inputs_alone() -> None:
    below, above = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": 4}
    assert merge(below, above) == {"a": {"b": 9, "c": 2}, "d": 3, "e": 4}
    assert below == {"a": {"b": 1, "c": 2}, "d": 3}


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        'preset = "rigid"\nseed = 3\npartial = true\n[settings]\nalpha = 1\n[settings.inner]\nbeta = 2\n'
    )
    options = {"preset": "affine", "seed": None, "partial": False, "device": None}
    choices, settings = effective(load_config(path), options, ["inner.beta=5", "gamma=7"])
    assert choices["preset"] == "affine"
    assert choices["seed"] == 3
    assert choices["partial"] is False
    assert choices["device"] == "auto"
    assert settings == {"alpha": 1, "inner": {"beta": 5}, "gamma": 7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("presets = 'rigid'", "unknown key 'presets'"),
        ("seed = 'one'", "seed must be a whole number"),
        ("seed = true", "seed must be a whole number"),
        ("partial = 1", "partial must be true or false"),
        ("settings = 3", "settings must be a table"),
        ("a = [", "not a TOML file"),
        ("\x00", "not a TOML file"),
    ],
)
def test_bad_configurations_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_missing_configurations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match="is a folder"):
        load_config(tmp_path)


# What is printed ------------------------------------------------------------------------------------------


def test_json_has_no_nan_and_no_numpy() -> None:
    value = {
        "a": np.float32(1.5),
        "b": np.array([1.0, np.nan]),
        "c": float("inf"),
        "d": (Path("x"), None, True),
        3: np.int64(4),
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "a": 1.5,
        "b": [1.0, None],
        "c": None,
        "d": ["x", None, True],
        "3": 4,
    }


def test_numbers_and_tables() -> None:
    assert [number(x) for x in (None, float("nan"), True, 20002, 1.23456, 0.0, 123456.7, "x")] == [
        "-", "-", "yes", "20,002", "1.235", "0", "123,457", "x",
    ]  # fmt: skip
    assert table([["a", "1"], ["bb", "22"]], ["", "n"]) == "     n\na    1\nbb  22"
    assert fields([("a", "x"), ("bb", "y")]) == "a   x\nbb  y"


def test_quality_is_shown_side_by_side_and_gaps_are_dashes() -> None:
    before = {"assd": 3.0, "moved_to_fixed": {"mean": 3.5}, "landmarks": None, "dice": None}
    after = {"assd": 0.5, "moved_to_fixed": {"mean": 0.6}, "dice": {"mean": 0.9, "labels": {"condyle": 0.8}}}
    text = quality_table([("before", before), ("after", after)], "mm")
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["before", "after"]
    assert lines[1][-2:] == ["3", "0.5"] and "(mm)" in lines[1]
    assert ["Dice", "of", "labels,", "mean", "-", "0.9"] in lines
    assert "landmark" not in text


# Progress -------------------------------------------------------------------------------------------------


@dataclass
class Event:
    stage: str = "spline"
    step: int = 3
    steps: int = 10
    distance: float | None = 1.25
    elapsed: float = 4.0
    remaining: float | None = 75.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_of_progress_says_stage_step_distance_and_time_left() -> None:
    line = format_event(Event())
    assert line.startswith("spline") and "3/10" in line and "1.25" in line and "1:15 min left" in line
    assert len(format_event(Event(stage="x" * 200), 40)) == 40
    assert format_event(Event(step=0, steps=0, distance=None, remaining=None))
    assert (
        format_seconds(5.4) == "5 s" and format_seconds(59.7) == "60 s" and format_seconds(60) == "1:00 min"
    )


def test_progress_only_reaches_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, quiet, seen in (
        (Terminal(), False, True),
        (Terminal(), True, False),
        (io.StringIO(), False, False),
    ):
        line = ProgressLine(stream, quiet=quiet)
        line(Event())
        line.message("reading")
        line.clear()
        assert bool(stream.getvalue()) is seen


def test_progress_is_drawn_at_most_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    line = ProgressLine(stream, interval=1000.0)
    for step in range(50):
        line(Event(step=step))
    line(Event(stage="other"))
    assert stream.getvalue().count("\r") == 2


# Errors and Ctrl-C ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.vtk: is empty"), 2, "otreg: error: a.vtk: is empty"),
        (InputError("two\nlines"), 2, "otreg: error: two lines"),
        (click.UsageError("no such thing."), 2, "otreg: error: no such thing (see otreg --help)"),
        (PermissionError(13, "Permission denied", "x.ply"), 2, "otreg: error: x.ply: Permission denied"),
        (
            ValueError("deep\ninside"),
            1,
            "otreg: internal error: ValueError: deep (set OTREG_DEBUG=1 to see where)",
        ),
        (
            OSError("libfoo.so cannot be opened"),
            1,
            "otreg: internal error: OSError: libfoo.so cannot be opened",
        ),
        (MemoryError(), 1, "otreg: internal error: ran out of memory"),
        (KeyboardInterrupt(), 130, "otreg: stopped by Ctrl-C before it was done"),
        (click.Abort(), 130, "otreg: stopped by Ctrl-C before it was done"),
    ],
)
def test_each_error_is_one_line_and_a_code(
    error: BaseException,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OTREG_DEBUG", raising=False)

    def command() -> int | None:
        raise error

    assert errors.run(command) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line) and err.count("\n") == 1


def test_debugging_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTREG_DEBUG", "1")

    def command() -> int | None:
        raise ValueError("deep")

    assert errors.run(command) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_message_reaches_a_stderr_that_is_busy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C may come in the middle of a write of the progress bar: Python refuses to enter the stream twice."""

    class Busy(io.StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

        def fileno(self) -> int:
            return file.fileno()

    with (tmp_path / "stderr").open("w") as file:
        monkeypatch.setattr("sys.stderr", Busy())
        errors.say("stopping after this step")
    assert (tmp_path / "stderr").read_text() == "otreg: stopping after this step\n"


def test_the_first_interrupt_asks_and_the_second_ends(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again" in capsys.readouterr().err


# Outputs --------------------------------------------------------------------------------------------------


def test_outputs_that_would_lose_something_are_refused_before_any_work(tmp_path: Path) -> None:
    source = tmp_path / "a.ply"
    source.write_text("x")
    (tmp_path / "link.ply").symlink_to(source)
    with pytest.raises(InputError, match="is also the input"):
        check_output_file(tmp_path / "link.ply", [source])
    with pytest.raises(InputError, match="is a folder"):
        check_output_file(tmp_path, [])
    with pytest.raises(InputError, match="does not exist"):
        check_output_file(tmp_path / "none" / "b.ply", [])
    check_output_file(tmp_path / "b.ply", [source])

    with pytest.raises(InputError, match="holds files and is not an earlier run"):
        check_output_directory(tmp_path, [])
    with pytest.raises(InputError, match="is a file"):
        check_output_directory(source, [])
    with pytest.raises(InputError, match="not a folder"):
        check_output_directory(source / "run", [])
    check_output_directory(tmp_path / "new" / "run", [source])
    run = tmp_path / "run"
    run.mkdir()
    check_output_directory(run, [source])
    for name in ("report.json", "transform.h5", "moved.ply"):
        (run / name).write_text("{}")
    check_output_directory(run, [source])
    with pytest.raises(InputError, match="would be replaced"):
        check_output_directory(run, [run / "moved.ply"])


def test_a_swallowed_ctrl_c_is_raised_again_at_the_next_step() -> None:
    """As where a library calls back from C, and Python can only drop the exception."""
    before = signal.getsignal(signal.SIGINT)
    with Remembered() as interrupt:
        interrupt.check()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("enabled", [True, False])
def test_loading_leaves_the_collection_of_garbage_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(KeyError), without_collection():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
