"""Help, version, usage errors: quick, on the right stream, with the right code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import otreg as package

from .support import bean, command, environment, otreg, refused, succeed, write_ply

COMMANDS = ("register", "apply", "evaluate", "compose", "info", "convert", "render", "batch")


def test_version_and_help() -> None:
    assert succeed("--version", fresh=True) == f"otreg {package.__version__}\n"
    text = succeed("--help", fresh=True)
    assert "A map moves POINTS of MOVING into FIXED's space" in " ".join(text.split())
    for name in COMMANDS:
        assert f"\n  {name} " in text
    assert succeed() == text
    assert succeed("-h") == text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(name: str) -> None:
    text = succeed(name, "--help")
    assert text.startswith(f"Usage: otreg {name}")
    assert "Example" in text and f"otreg {name} " in text.split("Example")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command"),
        (["info"], "Missing argument"),
        (["info", "--nonsense", "x"], "No such option"),
        (["register", "a", "b"], "Missing option '-o'"),
        (["register", "a", "b", "-o", "run", "--preset", "elastic"], "'spline'"),
        (["register", "a", "b", "-o", "run", "--threads", "0"], "--threads"),
        (["register", "a", "b", "-o", "run", "--set", "novalue"], "key=value"),
        (["register", "a", "b", "-o", "run", "--config", "none.toml"], "none.toml: no such file"),
        (["compose", "-o", "t.h5"], "T1"),
        (["compose", "a.h5", "-o", "t.txt"], "t.txt"),
        (["render", "a", "-o", "a.png", "--size", "big"], "1600x900"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    assert words in refused(*arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from otreg_cli.main import main\n"
        "try:\n    main(['register', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'vtk', 'vtkmodules', 'nibabel', 'h5py', 'scipy', 'numpy', 'trimesh'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [command()[0], "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["info", "a.ply"], ["info", "a.ply", "--json"]])
def test_a_reader_that_goes_away_is_met_with_silence(arguments: list[str], tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", *bean(1))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=environment(),
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    assert done.returncode == (1 if arguments == ["--help"] else 0)  # click's own printing ends with 1


def test_internal_errors_are_one_line_and_a_traceback_on_request(tmp_path: Path) -> None:
    # a folder of this name hides the real module from this process only
    (tmp_path / "vtkmodules").mkdir()
    (tmp_path / "vtkmodules" / "__init__.py").write_text("raise RuntimeError('broken library')\n")
    (tmp_path / "vtk.py").write_text("raise RuntimeError('broken library')\n")
    (tmp_path / "a.vtp").write_text(
        '<?xml version="1.0"?>\n<VTKFile type="PolyData" version="0.1"></VTKFile>\n'
    )
    quiet = otreg("info", tmp_path / "a.vtp", PYTHONPATH=str(tmp_path))
    assert quiet.returncode == 1
    assert quiet.stderr.startswith("otreg: internal error: RuntimeError: broken library")
    assert quiet.stderr.count("\n") == 1 and "OTREG_DEBUG=1" in quiet.stderr
    loud = otreg("info", tmp_path / "a.vtp", PYTHONPATH=str(tmp_path), OTREG_DEBUG="1")
    assert loud.returncode == 1 and "Traceback" in loud.stderr
