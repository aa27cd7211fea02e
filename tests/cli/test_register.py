"""``register`` and what is done with its results: apply, evaluate, compose, info, render."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

import otreg as package

from .support import (
    bean,
    command,
    environment,
    otreg,
    refused,
    smooth_map,
    succeed,
    write_landmarks,
    write_ply,
)

# fewer points than the defaults, where what is tested is what happens around a registration
FEW = tuple(
    word
    for name in ("points=300", "fine_points=600", "control_points=20", "starts=20")
    for word in ("--set", name)
)
RUN_FILES = ["config.toml", "moved.ply", "report.json", "transform.h5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A moving and a fixed surface whose true map is known, with landmarks on both."""
    folder = tmp_path_factory.mktemp("register")
    points, triangles = bean(3)
    order = np.random.default_rng(0).permutation(len(points))
    rank = np.argsort(order)
    write_ply(folder / "moving.ply", points, triangles)
    write_ply(folder / "fixed.ply", smooth_map(points)[order], rank[triangles])
    write_landmarks(folder / "moving.csv", points[::80])
    write_landmarks(folder / "fixed.csv", smooth_map(points[::80]))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A finished run with the default preset, at fewer points than the default."""
    done = otreg("register", "moving.ply", "fixed.ply", "-o", "run", *FEW, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "before" in done.stdout and "after" in done.stdout
    for name in RUN_FILES:
        assert str(Path("run") / name) in done.stdout
    assert "\r" not in done.stderr and "\x1b" not in done.stdout + done.stderr
    return folder / "run"


def test_a_run_holds_its_files_and_comes_close_to_the_truth(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == RUN_FILES
    report = json.loads((run / "report.json").read_text())
    after, before = report["quality"]["after"], report["quality"]["before"]
    assert after["assd"] < 0.2 * before["assd"]
    points, triangles = bean(3)
    moved = package.read(run / "moved.ply")
    np.testing.assert_array_equal(moved.triangles, triangles)
    assert np.linalg.norm(moved.points - smooth_map(points), axis=1).mean() < 4.0
    np.testing.assert_allclose(moved.point_data["displacement"], moved.points - points, atol=1e-3)
    assert tomllib.loads((run / "config.toml").read_text())["preset"] == "diffeo"


def test_the_same_configuration_gives_the_same_result(run: Path, folder: Path) -> None:
    done = otreg(
        "register", "moving.ply", "fixed.ply", "-o", "again", "--config", "run/config.toml", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    first, second = package.read(run / "moved.ply"), package.read(folder / "again" / "moved.ply")
    np.testing.assert_allclose(second.points, first.points, atol=1e-4)


def test_json_and_quiet_and_an_earlier_run_is_replaced(folder: Path) -> None:
    arguments = ("register", "moving.ply", "fixed.ply", "-o", "rigid", "--preset", "rigid", *FEW)
    report = json.loads(succeed(*arguments, "--json", "--landmarks", "moving.csv", "fixed.csv", cwd=folder))
    assert report["quality"]["after"]["landmarks"]["count"] == len(bean(3)[0][::80])
    assert report == json.loads((folder / "rigid" / "report.json").read_text())
    assert succeed(*arguments, "--quiet", "--seed", "5", "--threads", "1", cwd=folder) == ""
    assert sorted(path.name for path in (folder / "rigid").iterdir()) == RUN_FILES
    assert tomllib.loads((folder / "rigid" / "config.toml").read_text())["seed"] == 5
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_apply_forwards_and_back(run: Path, folder: Path) -> None:
    moved = package.read(run / "moved.ply")
    succeed("apply", run / "transform.h5", folder / "moving.ply", "-o", folder / "forwards.vtk")
    forwards = package.read(folder / "forwards.vtk")
    np.testing.assert_allclose(forwards.points, moved.points, atol=1e-3)
    done = otreg("apply", run, folder / "forwards.vtk", "-o", folder / "back.ply", "--inverse")
    assert done.returncode == 0, done.stderr
    back = package.read(folder / "back.ply")
    np.testing.assert_allclose(back.points, bean(3)[0], atol=1e-2)
    assert "residual" in done.stdout

    succeed("apply", run, folder / "moving.csv", "-o", folder / "marks.mrk.json", "--quiet")
    marks = package.read_landmarks(folder / "marks.mrk.json")
    assert marks.names == package.read_landmarks(folder / "moving.csv").names
    truth = package.read_landmarks(folder / "fixed.csv").points
    assert np.linalg.norm(marks.points - truth, axis=1).mean() < 4.0


def test_compose_is_one_after_the_other(run: Path, folder: Path) -> None:
    there_and_back = folder / "twice.h5"
    succeed("compose", run / "transform.h5", run, "-o", there_and_back)
    once = package.load_transform(run / "transform.h5")
    points = bean(2)[0]
    np.testing.assert_allclose(package.load_transform(there_and_back)(points), once(once(points)), atol=1e-6)


def test_info_of_runs_and_transforms(run: Path) -> None:
    text = succeed("info", run)
    assert "before" in text and "after" in text
    assert "moving.ply (642 points)" in text and "fixed.ply (" in text
    assert json.loads(succeed("info", run, "--json")) == json.loads((run / "report.json").read_text())
    assert "diffeomorphism" in succeed("info", run / "transform.h5").lower()
    assert json.loads(succeed("info", run / "transform.h5", "--json"))


def test_evaluate_agrees_with_the_report(run: Path, folder: Path) -> None:
    arguments = ("evaluate", run / "moved.ply", folder / "fixed.ply")
    found = json.loads(succeed(*arguments, "--moving", folder / "moving.ply", "--json"))
    after = json.loads((run / "report.json").read_text())["quality"]["after"]
    assert found["assd"] == pytest.approx(after["assd"], rel=0.05)
    assert found["triangles"]["count"] == len(bean(3)[1])
    assert found["log_jacobian"] is None
    found = json.loads(succeed(*arguments, "--moving", folder / "moving.ply", "--transform", run, "--json"))
    for name, value in after["log_jacobian"].items():
        assert found["log_jacobian"][name] == pytest.approx(value, abs=1e-6), name
    text = succeed(*arguments, "--landmarks", folder / "fixed.csv", folder / "fixed.csv")
    assert "9 landmarks" in text and "distance" in text


def test_render_makes_a_picture(run: Path, folder: Path) -> None:
    picture = folder / "picture.png"
    assert str(picture) in succeed("render", run, "-o", picture, "--size", "640x480", "--title", "A bean")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_known_frame_is_checked_when_a_transform_is_applied(folder: Path) -> None:
    for name in ("moving", "fixed"):
        succeed("convert", folder / f"{name}.ply", folder / f"{name}-ras.vtk", "--from-frame", "RAS")
    arguments = ("register", "moving-ras.vtk", "fixed-ras.vtk", "-o", "ras", "--preset", "rigid", "--quiet")
    done = otreg(*arguments, *FEW, cwd=folder)
    assert done.returncode == 0, done.stderr
    succeed("convert", folder / "moving-ras.vtk", folder / "moving-lps.vtk", "--frame", "LPS")
    line = refused("apply", folder / "ras", folder / "moving-lps.vtk", "-o", folder / "wrong.vtk")
    assert "RAS" in line and "LPS" in line and "moving-lps.vtk" in line
    assert not (folder / "wrong.vtk").exists()


def test_a_result_that_does_not_fit_ends_with_3_and_is_written(folder: Path, tmp_path: Path) -> None:
    # a flat plate cannot become a bean by rotation and offset
    points, triangles = bean(3)
    plate = write_ply(tmp_path / "plate.ply", points * [1.0, 1.0, 0.02] * [0.3, 3.0, 1.0], triangles)
    arguments = ("register", plate, folder / "fixed.ply", "-o", tmp_path / "run", "--preset", "rigid", *FEW)
    done = otreg(*arguments)
    assert done.returncode == 3, done.stderr
    assert "quality gate failed" in done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == RUN_FILES
    assert json.loads((tmp_path / "run" / "report.json").read_text())["passed"] is False
    assert "gate: the surfaces are" in succeed("info", tmp_path / "run")


def _start_on_terminal(folder: Path, output: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a registration whose stderr is a terminal, so that its progress can be watched."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("register", folder / "large-moving.ply", folder / "large-fixed.ply", "-o", output),
        env=environment(TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=slave,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    os.close(slave)
    return process, master


def _read_until(master: int, word: str, process: subprocess.Popen[str], limit: float = 120.0) -> str:
    seen, end = "", time.monotonic() + limit
    while word not in seen and time.monotonic() < end:
        try:
            seen += os.read(master, 4096).decode(errors="replace")
        except OSError:  # the other side was closed
            break
    assert word in seen, (seen, process.poll())
    return seen


@pytest.fixture(scope="module")
def large(folder: Path) -> Path:
    points, triangles = bean(4)
    write_ply(folder / "large-moving.ply", points, triangles)
    write_ply(folder / "large-fixed.ply", smooth_map(points), triangles)
    return folder


def test_the_first_interrupt_keeps_the_best_so_far(large: Path, tmp_path: Path) -> None:
    process, master = _start_on_terminal(large, tmp_path / "run")
    seen = _read_until(master, "distance", process)
    process.send_signal(signal.SIGINT)
    seen += _read_until(master, "stopped early", process)
    out, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 3
    assert "\r" in seen and "\r" not in out and "[" not in out
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == RUN_FILES
    assert json.loads((tmp_path / "run" / "report.json").read_text())["interrupted"] is True


def test_the_second_interrupt_writes_nothing(large: Path, tmp_path: Path) -> None:
    process, master = _start_on_terminal(large, tmp_path / "run")
    _read_until(master, "distance", process)
    process.send_signal(signal.SIGINT)
    _read_until(master, "Ctrl-C again", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    os.close(master)
    assert process.returncode in (3, 130)
    if process.returncode == 130:  # 3: it had finished in between
        assert list(tmp_path.iterdir()) == []


def test_symmetric_is_for_the_preset_diffeo(folder: Path, tmp_path: Path) -> None:
    arguments = ("register", folder / "moving.ply", folder / "fixed.ply", "-o", tmp_path / "run")
    words = refused(*arguments, "--symmetric", "--preset", "spline")
    assert "symmetric needs the preset diffeo" in words and not (tmp_path / "run").exists()
