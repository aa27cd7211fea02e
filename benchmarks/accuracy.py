"""The error against truth, for otreg and for others, on the same pairs in one run.

    python benchmarks/accuracy.py data                      # the surfaces of this repository
    python benchmarks/accuracy.py data ../anatomy --presets spline rigid --tasks femur --json a.json

Each tool gets two binary PLY files: moving as it is; fixed with its vertices and triangles shuffled, and
remeshed where both share one topology, since tools that snap to vertices look far better than they are when
the tessellations agree. What is measured is the distance from truth (pairs.py says which), not that between
the surfaces. Landmarks are carried by the displacement of the three nearest vertices, for every tool alike.

Columns: otreg with each preset named; `icp`, a similarity by iterated closest points from several poses;
`meshmonk` where it is installed, started from the similarity's pose. Seconds and peak memory are those of the
whole process, its start and the reading of the files included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from measures import surface_distance, turned_share
from meshes import Mesh, remeshed, shuffled, write_mesh
from pairs import Pair, Task, find_tasks
from peer import PEERS, available
from tools import ToolFailed, machine, run


def main() -> None:
    options = parse()
    tools = [f"otreg:{preset}" for preset in options.presets]
    tools += [name for name in options.peers if available(name)]
    missing = [name for name in options.peers if not available(name)]
    tasks = [task for folder in options.folders for task in find_tasks(folder)]
    if options.tasks:
        tasks = [task for task in tasks if any(word in task.name for word in options.tasks.split(","))]
    if not tasks:
        raise SystemExit("no task found: see pairs.py for the files that are looked for")
    if missing:
        print(f"not installed here, so left out: {', '.join(missing)}", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for task in tasks:
        rows += measure(task, tools, options)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    print("\n" + table(rows, tools))
    print(
        "\nerror against truth (Dice: higher is better) · seconds · peak MB · share of triangles turned over"
    )
    print(json.dumps(machine()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders with pairs, laid out as pairs.py says")
    parser.add_argument("--presets", nargs="*", default=["spline"], help="otreg presets  [default: spline]")
    parser.add_argument(
        "--peers", nargs="*", choices=sorted(PEERS), default=sorted(PEERS), help="other tools"
    )
    parser.add_argument(
        "--tasks", default="", help="words, comma-separated: tasks whose name holds one of them"
    )
    parser.add_argument("--args", default="", help="further arguments for otreg, in one string")
    parser.add_argument(
        "--work", type=Path, default=Path("out/accuracy"), help="folder for the files that are made"
    )
    parser.add_argument("--json", type=Path, help="file for all figures, written after every task")
    parser.add_argument("--limit", type=float, default=1500.0, help="seconds that a tool may take")
    return parser.parse_args()


def measure(task: Task, tools: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every tool on one task; a row per tool and truth."""
    pair = task.load()
    rng = np.random.default_rng(1)
    fixed = shuffled(remeshed(pair.fixed) if pair.same_topology else pair.fixed, rng)
    rows: list[dict[str, Any]] = []
    for tool in tools:
        folder = options.work / "_".join(task.name.replace(">", "-").split()) / tool.replace(":", "_")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_mesh(folder / "moving.ply", pair.moving)
        write_mesh(folder / "fixed.ply", fixed)
        base = {
            "task": task.name,
            "tool": tool,
            "moving": len(pair.moving.points),
            "fixed": len(fixed.points),
        }
        try:
            done = run(tool, folder, arguments=tuple(options.args.split()), limit=options.limit)
            found = judged(pair, fixed, done.moved)
        except (ToolFailed, ValueError, OSError) as error:
            rows.append({**base, "unit": pair.truths[0].unit, "failed": str(error)})
            print(json.dumps(rows[-1]), flush=True)
            continue
        for row in found:
            rows.append({**base, **row, "seconds": round(done.seconds, 1), "peak_mb": round(done.peak_mb)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def judged(pair: Pair, fixed: Mesh, moved: np.ndarray) -> list[dict[str, Any]]:
    """The figures of one result, a row per truth."""
    if moved.shape != pair.moving.points.shape:
        raise ValueError(f"{len(moved)} vertices came back for {len(pair.moving.points)}")
    if not np.isfinite(moved).all():
        raise ValueError("the moved vertices are not finite")
    common = {
        "nearest": round(surface_distance(moved, fixed.points), 4),
        "turned": round(turned_share(pair.moving, moved), 5),
    }
    return [
        {"unit": truth.unit, "error": round(truth.error(pair.moving.points, moved), 4), **common}
        for truth in pair.truths
    ]


def table(rows: list[dict[str, Any]], tools: list[str]) -> str:
    """A table in Markdown: a line per task and truth, a column per tool."""
    cells = [["task", "unit", "vertices", *tools]]
    for key in dict.fromkeys((row["task"], row["unit"]) for row in rows):
        here = {row["tool"]: row for row in rows if (row["task"], row["unit"]) == key}
        first = next(iter(here.values()))
        cells.append([*key, f"{first['moving']}/{first['fixed']}", *(cell(here.get(tool)) for tool in tools)])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return os.linesep.join(lines)


def cell(row: dict[str, Any] | None) -> str:
    """One tool's figures on one task."""
    if row is None:
        return ""
    if "failed" in row:
        return "failed"
    turned = f" · turned {100 * row['turned']:.1f}%" if row["turned"] > 0.0005 else ""
    return f"{row['error']:.3g} · {row['seconds']:.0f} s · {row['peak_mb']} MB{turned}"


if __name__ == "__main__":
    main()
