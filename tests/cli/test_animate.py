"""``animate``: files that move, words about the way, and nothing left behind after Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from otreg import read

from .support import ROTATION, bean, command, environment, refused, succeed, write_ply


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bean turned back onto itself."""
    folder = tmp_path_factory.mktemp("animate")
    points, triangles = bean(2)
    moving = write_ply(folder / "moving.ply", points @ ROTATION.T + [80.0, 0.0, 0.0], triangles)
    fixed = write_ply(folder / "fixed.ply", points, triangles)
    succeed("register", moving, fixed, "-o", folder / "run", "--preset", "rigid", "--quiet")
    return folder / "run"


def test_gif_of_a_run(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.gif"
    options = [
        "--frames",
        "4",
        "--fps",
        "10",
        "--size",
        "320x240",
        "--bounce",
        "--view",
        "top",
        "--title",
        "Bean",
    ]
    out = succeed("animate", run, "-o", path, *options, fresh=True)
    assert out.splitlines() == [
        str(path),
        "length        4 frames, 2.2 s",
        "0.00 to 1.00  rigid map: interpolated as a steady motion",
    ]
    image = Image.open(path)
    assert image.n_frames == 6 and image.size == (320, 240)
    frames = []
    for number in range(4):
        image.seek(number)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
    changed = [np.abs(frames[k + 1] - frames[k]).max(axis=2)[40:200].max() for k in range(3)]
    assert min(changed) > 60


def test_series_of_a_run(run: Path, tmp_path: Path) -> None:
    """The first surface is the moving one, the last the moved one; where it is told to be quiet it is."""
    assert succeed("animate", run, "-o", tmp_path / "run.pvd", "--frames", "3", "--quiet") == ""
    names = [f"moved_{number:03d}.vtp" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "run_frames").iterdir()) == ["fixed.vtp", *names]
    first, _, last = (read(tmp_path / "run_frames" / name) for name in names)
    assert np.array_equal(first.points, read(run.parent / "moving.ply").points)
    assert np.allclose(last.points, read(run / "moved.ply").points)


def test_what_cannot_be_animated_is_refused(run: Path, tmp_path: Path) -> None:
    assert "report.json" in refused("animate", tmp_path, "-o", tmp_path / "a.gif")
    assert "a.avi" in refused("animate", run, "-o", tmp_path / "a.avi")
    assert "%03d" in refused("animate", run, "-o", tmp_path / "a.png")
    assert "third" in refused(
        "animate", run, "-o", tmp_path / "a.gif", "--frames", 5, "--seconds", 2, "--fps", 9
    )
    assert "nothing is left" in refused("animate", run, "-o", tmp_path / "a.gif", "--skip-pose")
    assert "unknown view" in refused("animate", run, "-o", tmp_path / "a.gif", "--view", "inside")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals as on Linux")
def test_interrupted_leaves_nothing(run: Path, tmp_path: Path) -> None:
    """Ctrl-C while it is being written: exit code 130, one line, no file."""
    path = tmp_path / "frames-%04d.png"
    process = subprocess.Popen(
        command("animate", run, "-o", path, "--frames", "2000", "--size", "240x160"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120.0
    while not any(tmp_path.glob(".frames.*/1.png")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert err.strip() == "otreg: stopped by Ctrl-C before it was done; nothing is half written"
    assert list(tmp_path.iterdir()) == []
