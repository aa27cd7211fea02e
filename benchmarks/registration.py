"""Time, memory, error against truth, folding and inverse of registrations: otreg's and others', in one run.

    python benchmarks/registration.py                                   # the pairs of this repository's data/
    python benchmarks/registration.py ../anatomy --tasks femur,heart --tools otreg:diffeo,meshmonk --json a.json
    python benchmarks/registration.py --sizes 10000,100000 --tasks cerebellum

Each case (a task and a tool) is a process of its own and gets two binary PLY files: moving as it is; fixed with its
vertices and triangles shuffled, and remeshed where both share one topology, since tools that snap to vertices look
far better than they are when the tessellations agree. Tools, chosen by ``--tools``:

    otreg:PRESET    ours, through the command line
    icp             a similarity by iterated closest points from several poses; the next four start from its pose
    meshmonk        MeshMonk's pyramid with its published settings
    pycpd           coherent point drift, its defaults, on 2,000 points of each
    nricp           trimesh's nricp_amberg with its defaults
    deformetrica    Deformetrica on 4,000 triangles of each, torch kernels, gradient ascent

Those not installed are shown as skipped. To have them all: pip install "meshmonk[io]" pycpd rtree scikit-learn psutil;
pip install --no-deps deformetrica==4.3.0 (what it asks for besides is from 2020, and not used here).

Columns of the table, and what they are called with ``--json``:

    error       from truth (pairs.py says which): mm, lower is better; or Dice, higher is better
    surface     mean distance of points drawn on one surface to the other, both ways: says little about truth
    turned      % of triangles turned over
    folded      % of moving's vertices where det J <= 0 (otreg's report)
    inverse     largest |phi^-1(phi(x)) - x| at 1,000 vertices, % of fixed's diameter (otreg's transform.h5)
    seconds, MB wall clock and peak memory of the whole process, its start and the reading of files included

``--sizes`` subdivides or decimates both meshes to about so many vertices each. Only landmarks tell the truth then.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measures import LandmarkTruth, inverse_error, surface_distance, turned_share, vertex_distance
from meshes import Mesh, remeshed, resized, shuffled, write_mesh
from pairs import Pair, Task, find_tasks
from peer import PEERS, missing
from tools import ToolFailed, machine, run

ROOT = Path(__file__).parents[1]
OURS = ("otreg:spline", "otreg:diffeo")
COLUMNS = ("task", "vertices", "tool", "error", "surface", "turned", "folded", "inverse", "seconds", "MB")
LEFT = ("task", "tool")  # columns of words; numbers stand at the right


def main() -> None:
    """Parse, run every case, print the table."""
    options = parse()
    tasks = [task for folder in options.folders for task in find_tasks(folder)]
    if options.tasks:
        tasks = [task for task in tasks if any(word in task.name for word in options.tasks.split(","))]
    if not tasks:
        raise SystemExit("no task found: see pairs.py for the files that are looked for")
    rows: list[dict[str, Any]] = []
    for task, pair in cases(tasks, options.sizes):
        for row in measure(task, pair, options):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    print(table(rows))
    print(json.dumps(machine()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[ROOT / "data"], help="folders with pairs, as pairs.py says"
    )
    parser.add_argument(
        "--tasks", default="", help="words, comma-separated: tasks whose name holds one of them"
    )
    parser.add_argument(
        "--tools",
        help="comma-separated  [default: spline and diffeo of otreg, and all others without --sizes]",
    )
    parser.add_argument("--sizes", default="", help="numbers of vertices, comma-separated")
    parser.add_argument("--args", default="", help="further arguments for otreg, in one string")
    parser.add_argument("--limit", type=float, default=1500.0, help="seconds that a tool may take")
    parser.add_argument(
        "--work", type=Path, default=Path("out/registration"), help="folder for what is written"
    )
    parser.add_argument("--json", type=Path, help="file for all figures, written after every case")
    options = parser.parse_args()
    options.sizes = [int(size) for size in options.sizes.split(",") if size]
    if any(size < 100 for size in options.sizes):
        parser.error("--sizes: whole numbers of at least 100")
    options.tools = options.tools.split(",") if options.tools else [*OURS, *([] if options.sizes else PEERS)]
    unknown = [tool for tool in options.tools if tool not in PEERS and not tool.startswith("otreg:")]
    if unknown:
        parser.error(f"--tools: unknown {', '.join(unknown)}; use otreg:PRESET, {', '.join(PEERS)}")
    return options


def cases(tasks: list[Task], sizes: list[int]) -> Iterator[tuple[str, Pair]]:
    """Every pair that tools are to register, with its name."""
    for task in tasks:
        pair = task.load()
        if not sizes:
            yield task.name, pair
        for size in sizes:
            truths = tuple(truth for truth in pair.truths if isinstance(truth, LandmarkTruth))
            yield (
                f"{task.name} of {size}",
                Pair(resized(pair.moving, size), resized(pair.fixed, size), truths),
            )


def measure(task: str, pair: Pair, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run every tool on one pair; a row per tool and truth, or one that says why there is none."""
    fixed = shuffled(remeshed(pair.fixed) if pair.same_topology else pair.fixed, np.random.default_rng(1))
    for tool in options.tools:
        base = {"task": task, "tool": tool, "moving": len(pair.moving.points), "fixed": len(fixed.points)}
        absent = missing(tool)
        if absent:
            yield {**base, "skipped": f"not installed: {', '.join(absent)}"}
            continue
        folder = options.work / "_".join(task.replace(">", "-").split()) / tool.replace(":", "_")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_mesh(folder / "moving.ply", pair.moving)
        write_mesh(folder / "fixed.ply", fixed)
        try:
            done = run(tool, folder, arguments=tuple(options.args.split()), limit=options.limit)
            found = {**judged(pair, fixed, done.moved), **regularity(pair.moving, fixed, done.out)}
        except (ToolFailed, ValueError, OSError) as error:
            yield {**base, "failed": str(error)}
            continue
        base.update(found, seconds=round(done.seconds, 1), peak_mb=round(done.peak_mb))
        for truth in pair.truths:
            error = round(truth.error(pair.moving.points, done.moved), 4)
            yield {**base, "unit": truth.unit, "error": error}
        if not pair.truths:
            yield base


def judged(pair: Pair, fixed: Mesh, moved: np.ndarray) -> dict[str, float]:
    """What can be said of any result, whatever made it."""
    if moved.shape != pair.moving.points.shape:
        raise ValueError(f"{len(moved)} vertices came back for {len(pair.moving.points)}")
    if not np.isfinite(moved).all():
        raise ValueError("the moved vertices are not finite")
    return {
        "surface": round(surface_distance(Mesh(moved, pair.moving.triangles), fixed), 4),
        "nearest": round(vertex_distance(moved, fixed.points), 4),
        "turned": round(turned_share(pair.moving, moved), 5),
    }


def regularity(moving: Mesh, fixed: Mesh, out: Path | None) -> dict[str, Any]:
    """What otreg's files say of its map: nothing for other tools, which leave none."""
    if out is None:
        return {}
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    jacobian = report["quality"]["after"]["log_jacobian"]
    inverse = inverse_error(out / "transform.h5", moving, fixed)
    return {
        "folded": round(jacobian["folded"], 5),
        "least_log_jacobian": jacobian["min"],
        "inverse": None if inverse is None else float(f"{inverse:.3g}"),
        "passed": report["passed"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text; why a line is empty stands behind it."""
    lines = [COLUMNS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    notes = ["", *(note(row) for row in rows)]
    shown = []
    for line, remark in zip(lines, notes, strict=True):
        parts = [
            text.ljust(width) if name in LEFT else text.rjust(width)
            for name, text, width in zip(COLUMNS, line, widths, strict=True)
        ]
        shown.append("  ".join([*parts, remark]).rstrip())
    return "\n".join(shown)


def note(row: dict[str, Any]) -> str:
    """Why there are no figures."""
    return ", ".join(f"{word}: {row[word]}" for word in ("skipped", "failed") if word in row)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""

    def number(key: str, form: str, factor: float = 1.0) -> str:
        value = row.get(key)
        return "" if value is None else format(factor * value, form)

    error = f"{row['error']:.3g} {row['unit'].removeprefix('vertex ')}" if "error" in row else ""
    values = {
        "task": row["task"],
        "vertices": f"{row['moving']}/{row['fixed']}",
        "tool": row["tool"],
        "error": error,
        "surface": number("surface", ".3g"),
        "turned": number("turned", ".2f", 100.0),
        "folded": number("folded", ".2f", 100.0),
        "inverse": number("inverse", ".1g", 100.0),
        "seconds": number("seconds", ".1f"),
        "MB": number("peak_mb", "d", 1),
    }
    return tuple(values[name] for name in COLUMNS)


if __name__ == "__main__":
    main()
