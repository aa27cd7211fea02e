"""Run a tool on two PLY files as a user would, in a process of its own, and measure its time and memory."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from meshes import Array, read_mesh

HERE = Path(__file__).parent


class ToolFailed(Exception):
    """A tool ended with an error, or took too long; the message is its last line."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a tool did.

    Attributes
    ----------
    moved : array, shape (N, 3)
        Where it put the vertices of moving.
    seconds, peak_mb : float
        Wall clock and peak memory (MB) of the whole process, its start included.
    out : Path or None
        The folder that otreg wrote, with ``report.json`` and ``transform.h5``; None for other tools.
    """

    moved: Array
    seconds: float
    peak_mb: float
    out: Path | None = None


def program() -> list[str]:
    """The ``otreg`` command: the one beside this Python, or the one on the PATH."""
    beside = Path(sys.executable).with_name("otreg")
    found = str(beside) if beside.exists() else shutil.which("otreg")
    if found is None:
        raise SystemExit("there is no otreg command here: install the package first (pip install .)")
    return [found]


def run(tool: str, folder: Path, *, arguments: tuple[str, ...] = (), limit: float = 1500.0) -> Run:
    """Register ``folder/moving.ply`` to ``folder/fixed.ply``.

    Parameters
    ----------
    tool : str
        ``otreg:PRESET`` or the name of a peer.
    arguments : tuple of str
        Further arguments for otreg.
    limit : float
        Seconds after which the tool is ended.

    Raises
    ------
    ToolFailed
    """
    files = [str(folder / name) for name in ("moving.ply", "fixed.ply")]
    if tool.startswith("otreg:"):
        out: Path | None = folder / "out"
        command = [*program(), "register", *files, "-o", str(out), "--preset", tool.split(":", 1)[1]]
        command += ["--quiet", *arguments]
        moved, fine = folder / "out" / "moved.ply", (0, 3)  # 3: finished, but the quality gate failed
    else:
        out, command = None, [sys.executable, str(HERE / "peer.py"), tool, str(folder)]
        moved, fine = folder / "moved.ply", (0,)
    seconds, peak_mb, code, log = measured(command, folder, limit)
    if code == -signal.SIGKILL and seconds >= limit:
        raise ToolFailed(f"not done after {limit:g} s")
    if code not in fine:
        lines = log.strip().splitlines() or [f"exit code {code}"]
        raise ToolFailed(lines[-1][:200])
    return Run(read_mesh(moved).points, seconds, peak_mb, out)


def measured(command: list[str], folder: Path, limit: float) -> tuple[float, float, int, str]:
    """Run a command; its seconds, peak memory in MB, exit code and output."""
    result, log = folder / "used.json", folder / "log.txt"
    launcher = [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(limit), str(result), str(log)]
    subprocess.run([*launcher, *command], check=True, stdin=subprocess.DEVNULL)
    used = json.loads(result.read_text(encoding="utf-8"))
    text = log.read_text(encoding="utf-8", errors="replace")
    return used["seconds"], used["peak_mb"], used["code"], text


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in information.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    versions = {}
    for name in ("otreg", "torch", "numpy", "scipy", "vtk", "trimesh", "meshmonk", "pycpd", "deformetrica"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
        "versions": versions,
    }
