"""Small shapes with known maps, and the program as a user starts it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from otreg_cli.main import main

ROTATION = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
OFFSET = np.array([30.0, -20.0, 15.0])


def command(*arguments: object) -> list[str]:
    """The command line that starts otreg in a process of its own."""
    return [sys.executable, "-m", "otreg_cli.main", *map(str, arguments)]


def environment(**extra: str) -> dict[str, str]:
    """An environment with one thread, no terminal width and no debugging, whatever the tests run in."""
    kept = {key: value for key, value in os.environ.items() if key not in ("OTREG_DEBUG", "COLUMNS")}
    return {**kept, "OMP_NUM_THREADS": "1", **extra}


def otreg(
    *arguments: object, cwd: Path | None = None, fresh: bool = False, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run otreg to its end.

    Parameters
    ----------
    arguments
        As on the command line.
    cwd : path, optional
        Folder to be in.
    fresh : bool
        Start a process of its own, as a user does. Otherwise the same entry point is called in this process,
        which saves seconds of loading; each command is also tested in a fresh one.
    extra
        Environment variables of a fresh process.
    """
    if fresh or extra:
        return subprocess.run(
            command(*arguments),
            cwd=cwd,
            env=environment(**extra),
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    given = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    before = dict(os.environ)
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(given)
        except SystemExit as ending:
            code = ending.code
        finally:
            os.environ.clear()
            os.environ.update(before)
    assert isinstance(code, int)
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())


def succeed(*arguments: object, cwd: Path | None = None, fresh: bool = False) -> str:
    """Run otreg, expect exit code 0 and no word on stderr, and return its stdout."""
    done = otreg(*arguments, cwd=cwd, fresh=fresh)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def refused(*arguments: object, cwd: Path | None = None, fresh: bool = False) -> str:
    """Run otreg, expect exit code 2 with one line of complaint and an empty stdout, and return the line."""
    done = otreg(*arguments, cwd=cwd, fresh=fresh)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("otreg: error: "), done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    return done.stderr


def bean(subdivisions: int = 3) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A closed surface without symmetry, about 100 across: 642 points at 3 subdivisions."""
    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    x, y, z = np.asarray(ball.vertices, dtype=np.float64).T
    points = np.stack([50 * x + 12 * z**2, 30 * y * (1 + 0.3 * x), 20 * z + 8 * x * y + 5 * x**2], axis=1)
    return points, np.asarray(ball.faces, dtype=np.int64)


def smooth_map(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth deformation of the bean's surroundings followed by a rotation and an offset."""
    bent = points + 4.0 * np.stack(
        [np.sin(points[:, 1] / 25), np.sin(points[:, 2] / 20), np.sin(points[:, 0] / 30)], axis=1
    )
    return bent @ ROTATION.T + OFFSET


def write_ply(path: Path, points: NDArray[np.float64], triangles: NDArray[np.int64]) -> Path:
    """Write an ASCII PLY by hand, with whatever numbers it is given."""
    lines = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(points)}",
        *(f"property double {axis}" for axis in "xyz"),
        f"element face {len(triangles)}",
        "property list uchar int vertex_indices",
        "end_header",
        *(" ".join(repr(float(value)) for value in point) for point in points),
        *("3 " + " ".join(map(str, triangle)) for triangle in triangles),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_landmarks(path: Path, points: NDArray[np.float64]) -> Path:
    """Write landmarks as CSV: name, x, y, z."""
    rows = (f"P{index},{x!r},{y!r},{z!r}" for index, (x, y, z) in enumerate(points.tolist()))
    path.write_text("name,x,y,z\n" + "\n".join(rows) + "\n")
    return path
