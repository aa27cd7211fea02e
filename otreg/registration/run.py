"""A registration on disk: a folder with the moved shape, the map, the report and the configuration."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from otreg.io import write
from otreg.registration.result import Registration


def write_run(registration: Registration, out_dir: str | Path, moving_path: Path, fixed_path: Path) -> Path:
    """Write ``moved.<suffix of MOVING>``, ``transform.h5``, ``report.json`` and ``config.toml``.

    Everything is written into a folder aside, which then takes the place of ``out_dir``: a run is there whole or
    not at all. What the format of MOVING cannot hold is added to the report's warnings.
    """
    out_dir = Path(out_dir)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        suffix = "".join(moving_path.suffixes[-2:]) if moving_path.suffix == ".gz" else moving_path.suffix
        moved = aside / f"moved{_full_suffix(moving_path, suffix)}"
        registration.report["warnings"].extend(write(registration.moved, moved))
        registration.transform.save(aside / "transform.h5")
        report = registration.report
        report["inputs"]["moving"]["path"] = str(moving_path.resolve())
        report["inputs"]["fixed"]["path"] = str(fixed_path.resolve())
        report["outputs"] = {"moved": moved.name, "transform": "transform.h5", "config": "config.toml"}
        (aside / "report.json").write_text(
            json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        (aside / "config.toml").write_text(_config(report, moving_path, fixed_path), encoding="utf-8")
        aside.chmod(0o755)
        if out_dir.exists():
            old = aside.with_name(aside.name + "-old")
            out_dir.rename(old)
            aside.rename(out_dir)
            shutil.rmtree(old)
        else:
            aside.rename(out_dir)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return out_dir


def _full_suffix(path: Path, suffix: str) -> str:
    """Keep the double suffix by which GIFTI surfaces are known."""
    return f".surf{suffix}" if ".surf" in path.suffixes else suffix


def _config(report: dict[str, Any], moving: Path, fixed: Path) -> str:
    """The effective configuration as TOML."""
    lines = [
        f"# otreg {report['otreg']}: otreg register MOVING FIXED -o OUT_DIR --config this-file",
        f"moving = {json.dumps(str(moving))}",
        f"fixed = {json.dumps(str(fixed))}",
    ]
    for name in (
        "preset",
        "seed",
        "symmetric",
        "partial",
        "labels",
        "device",
        "threads",
        "repair",
        "convert_frames",
    ):
        if report.get(name) is not None:
            lines.append(f"{name} = {json.dumps(report[name])}")
    lines += ["", "[settings]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in report["settings"].items()]
    return "\n".join(lines) + "\n"
