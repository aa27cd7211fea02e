"""What is installed: a wheel built from the sources, looked into and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"), {})


def built(folder: Path, environment: dict[str, str]) -> Path:
    """A wheel, built from a copy of the sources, since building leaves a folder behind."""
    copy = folder / "sources"
    copy.mkdir()
    for name in ("otreg", "cli"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [*command, "-w", str(folder), str(copy)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "otreg").rglob("*.py")}
    expected |= {f"otreg_cli/{path.relative_to(ROOT / 'cli')}" for path in (ROOT / "cli").rglob("*.py")}
    assert expected <= names
    assert "otreg/py.typed" in names
    page = {str(path.relative_to(ROOT)) for path in (ROOT / "otreg" / "visualize" / "page").iterdir()}
    assert "otreg/visualize/page/viewer.js" in page and page <= names
    assert "otreg/reductions/softmin.cu" in names, "what the fused engine compiles on a GPU"
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"otreg", "otreg_cli"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_wheel_holds_the_library_of_sums(wheel: Path) -> None:
    assert [
        name
        for name in zipfile.ZipFile(wheel).namelist()
        if re.match(r"otreg/reductions/_library.*\.so", name)
    ]


def test_without_a_compiler_everything_is_installed_but_the_library(tmp_path: Path) -> None:
    """Nothing fails, and sums over pairs go through torch."""
    wheel = built(tmp_path, {"CC": "no-such-compiler"})
    names = zipfile.ZipFile(wheel).namelist()
    assert "otreg/reductions/compiled.py" in names and not [name for name in names if name.endswith(".so")]
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import torch, otreg; from otreg.reductions import compiled, softmin\n"
        "assert not compiled.is_available()\n"
        "print(otreg.__file__, float(softmin(torch.zeros(1, 3), torch.ones(1, 3), blur=1.0).value[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    path, value = done.stdout.split()
    assert path.startswith(str(tmp_path)) and abs(float(value) - 1.5) < 1e-6


def test_wheel_installs_and_runs(wheel: Path, tmp_path: Path) -> None:
    """Installed somewhere else, the program on the PATH is ours and answers."""
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert not (target / "cli").exists()
    environment = {**os.environ, "PYTHONPATH": str(target)}
    answer = subprocess.run(
        [str(target / "bin" / "otreg"), "--version"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == f"otreg {PROJECT['version']}"
    where = subprocess.run(
        [sys.executable, "-c", "import otreg, otreg_cli; print(otreg.__file__, otreg_cli.__file__)"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.count(str(target)) == 2


def test_nothing_named_cli_is_installed() -> None:
    """The distribution that these tests run against brings no top-level package named cli."""
    # a working copy's own egg-info lists sources; only what was installed has a record
    installed = [found for found in metadata.distributions(name="otreg") if found.read_text("RECORD")]
    files = [file for found in installed for file in found.files or []]
    assert files
    assert not [str(file) for file in files if file.parts[0] == "cli"]


def test_version_is_the_same_everywhere() -> None:
    import otreg

    assert otreg.__version__ == PROJECT["version"] == metadata.version("otreg")


def test_lower_bounds_are_those_that_are_tested() -> None:
    """pyproject.toml's minimum versions are the ones in .ci/minimum.txt."""

    def trimmed(version: str) -> str:
        return re.sub(r"(\.0)+$", "", version)

    declared = {}
    for requirement in PROJECT["dependencies"]:
        found = re.fullmatch(r"([A-Za-z0-9_-]+)>=([0-9.]+)", requirement)
        assert found, f"{requirement}: give a lower bound"
        declared[found[1]] = trimmed(found[2])
    lines = (ROOT / ".ci" / "minimum.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert declared == {name: trimmed(version) for name, version in pinned.items()}
