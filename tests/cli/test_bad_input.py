"""Bad input to ``otreg register``: one line that names the file, exit code 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .support import bean, otreg, refused, write_landmarks, write_ply

POINTS, TRIANGLES = bean(2)


def _nan(path: Path) -> Path:
    points = POINTS.copy()
    points[[3, 7], 1] = np.nan
    return write_ply(path, points, TRIANGLES)


def _truncated(path: Path) -> Path:
    write_ply(path, POINTS, TRIANGLES)
    path.write_bytes(path.read_bytes()[:4000])
    return path


def _written(text: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(text)
        return path

    return write


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


# name of the file, how it is made, words that the complaint must hold beside the file's name
CASES: dict[str, tuple[str, Callable[[Path], Path], tuple[str, ...]]] = {
    "missing": ("none.ply", lambda path: path, ()),
    "a folder": ("folder.ply", _folder, ("folder",)),
    "empty": ("empty.ply", _written(b""), ("empty",)),
    "truncated": ("half.ply", _truncated, ()),
    "not a surface": ("notes.vtk", _written(b"Dear reader,\nthis is a letter.\n"), ()),
    "unknown suffix": ("photo.jpg", _written(b"\xff\xd8\xff\xe0" + bytes(200)), ()),
    "no points": ("nothing.ply", lambda path: write_ply(path, POINTS[:0], TRIANGLES[:0]), ("no points",)),
    "not a number": ("nan.ply", _nan, ("3", "--repair")),
    "one place": ("point.ply", lambda path: write_ply(path, 0 * POINTS + 5, TRIANGLES), ()),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ply(tmp_path_factory.mktemp("good") / "good.ply", POINTS, TRIANGLES)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_moving_file(case: str, good: Path, tmp_path: Path) -> None:
    name, make, words = CASES[case]
    path = make(tmp_path / name)
    line = refused(
        "register", path, good, "-o", tmp_path / "run", "--preset", "rigid", fresh=case == "not a number"
    )
    assert name in line
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()


def test_a_bad_fixed_file_and_bad_landmarks(good: Path, tmp_path: Path) -> None:
    bad = _nan(tmp_path / "nan.ply")
    assert "nan.ply" in refused("register", good, bad, "-o", tmp_path / "run")
    four = write_landmarks(tmp_path / "four.csv", POINTS[:4])
    five = write_landmarks(tmp_path / "five.csv", POINTS[:5])
    line = refused("register", good, good, "-o", tmp_path / "run", "--landmarks", four, five)
    assert "four.csv has 4" in line and "five.csv has 5" in line
    assert not (tmp_path / "run").exists()


def test_metres_against_millimetres(good: Path, tmp_path: Path) -> None:
    metres = write_ply(tmp_path / "metres.ply", POINTS / 1000, TRIANGLES)
    line = refused("register", metres, good, "-o", tmp_path / "run")
    assert "--scale" in line or "unit" in line
    assert not (tmp_path / "run").exists()


def test_unknown_settings_and_labels(good: Path, tmp_path: Path) -> None:
    line = refused("register", good, good, "-o", tmp_path / "run", "--set", "no_such_setting=1")
    assert "no_such_setting" in line
    line = refused("register", good, good, "-o", tmp_path / "run", "--labels", "region")
    assert "good.ply: no point data 'region'" in line
    assert not (tmp_path / "run").exists()


def test_outputs_that_are_not_ours(good: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    assert "not an earlier run" in refused("register", good, good, "-o", tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    assert "is a file" in refused("register", good, good, "-o", tmp_path / "thesis" / "chapter.tex")


def test_frames_that_differ_are_refused_unless_told_to_convert(good: Path, tmp_path: Path) -> None:
    lps, ras = tmp_path / "lps.vtk", tmp_path / "ras.vtk"
    assert otreg("convert", good, lps, "--from-frame", "LPS").returncode == 0
    assert otreg("convert", good, ras, "--from-frame", "RAS").returncode == 0
    line = refused("register", lps, ras, "-o", tmp_path / "run", "--preset", "rigid")
    assert "LPS" in line and "RAS" in line and "--convert-frames" in line
    assert not (tmp_path / "run").exists()
    done = otreg("register", lps, ras, "-o", tmp_path / "run", "--preset", "rigid", "--convert-frames")
    assert done.returncode == 0, done.stderr
    assert "converted from LPS to RAS" in done.stderr


def test_repair_drops_what_is_not_a_number_and_says_so(good: Path, tmp_path: Path) -> None:
    bad = _nan(tmp_path / "nan.ply")
    done = otreg("register", bad, good, "-o", tmp_path / "run", "--preset", "rigid", "--repair")
    assert done.returncode == 0, done.stderr
    assert "warning" in done.stderr and "2" in done.stderr


def test_what_could_not_be_written_afterwards_is_refused_before(good: Path, tmp_path: Path) -> None:
    lying = tmp_path / "scan.dat"
    lying.write_bytes(good.read_bytes())
    line = refused("register", lying, good, "-o", tmp_path / "run", "--preset", "rigid")
    assert "scan.dat: its suffix does not fit" in line and "the file is ply" in line
    cloud = tmp_path / "cloud.stl"
    write_ply(cloud, POINTS, TRIANGLES[:0])
    assert "cloud.stl" in refused("register", cloud, good, "-o", tmp_path / "run", "--preset", "rigid")
    assert not (tmp_path / "run").exists()


def test_landmarks_in_another_frame_than_their_surface(good: Path, tmp_path: Path) -> None:
    ras = tmp_path / "ras.vtk"
    assert otreg("convert", good, ras, "--from-frame", "RAS").returncode == 0
    marks = write_landmarks(tmp_path / "marks.csv", POINTS[:5])
    marks.write_text("# SPACE=LPS\n" + marks.read_text())
    line = refused("register", ras, ras, "-o", tmp_path / "run", "--landmarks", marks, marks)
    assert "marks.csv is in LPS" in line and "RAS" in line
    line = refused("evaluate", ras, ras, "--landmarks", marks, marks)
    assert "marks.csv is in LPS" in line
    assert not (tmp_path / "run").exists()


def test_evaluate_names_files(good: Path, tmp_path: Path) -> None:
    flat = write_ply(tmp_path / "flat.ply", POINTS * [1, 0, 0], TRIANGLES)
    assert "flat.ply: all triangles have no area" in refused("evaluate", good, flat)
    assert "good.ply: no point data" in refused("evaluate", good, good, "--labels", "region")
    lps, ras = tmp_path / "lps.vtk", tmp_path / "ras.vtk"
    assert otreg("convert", good, lps, "--from-frame", "LPS").returncode == 0
    assert otreg("convert", good, ras, "--from-frame", "RAS").returncode == 0
    line = refused("evaluate", lps, ras)
    assert "lps.vtk is in LPS" in line and "ras.vtk in RAS" in line
    assert "--moving" in refused("evaluate", good, good, "--transform", tmp_path / "t.h5")
