"""``view`` without a display: it says so and writes a page; the window itself is tested with the library."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .support import bean, otreg, refused, succeed, write_ply


@pytest.fixture
def surface(tmp_path: Path) -> Path:
    return write_ply(tmp_path / "bean.ply", *bean(1))


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def is_page(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return text.lstrip().lower().startswith("<!doctype html>") and "bean" in text


@pytest.mark.skipif(os.name != "posix", reason="only there a display can be absent")
def test_without_a_display_a_page_is_written(surface: Path, tmp_path: Path, no_display: None) -> None:
    done = otreg("view", surface, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "view.html\n")
    assert done.stderr == "otreg: there is no display here: writing a web page instead\n"
    assert is_page(tmp_path / "view.html")
    done = otreg("view", surface, "-o", tmp_path / "named.html", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert is_page(tmp_path / "named.html")


def test_page_of_a_run_lies_in_its_folder(surface: Path, tmp_path: Path, no_display: None) -> None:
    succeed("register", surface, surface, "-o", tmp_path / "run", "--preset", "rigid", "--quiet")
    done = otreg("view", tmp_path / "run", fresh=True)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'run' / 'view.html'}\n"), done.stderr
    assert "no display" in done.stderr and done.stderr.count("\n") == 1
    text = (tmp_path / "run" / "view.html").read_text(encoding="utf-8")
    assert all(name in text for name in ("moving", "moved", "fixed"))


def test_what_cannot_be_shown_is_refused(surface: Path, tmp_path: Path, no_display: None) -> None:
    page = tmp_path / "a.html"
    assert "none.ply" in refused("view", tmp_path / "none.ply", "-o", page)
    assert "report.json" in refused("view", tmp_path, "-o", page)
    assert "thickness" in refused("view", surface, "-o", page, "--color-by", "thickness")
    assert "unknown view" in refused("view", surface, "-o", page, "--view", "inside")
    assert "a.txt" in refused("view", surface, "-o", tmp_path / "a.txt")
    assert not page.exists()
