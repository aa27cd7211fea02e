"""Measure attachments on a pair of surfaces: seconds for a value with its gradient, and what merging costs.

    python benchmarks/attachments.py data/metacarpal_1.vtk data/metacarpal_2.stl
    python benchmarks/attachments.py data/cerebellum_suit.surf.gii data/cerebellum_mnisymc.surf.gii --json out.json

The moving surface is first put over the fixed one by its box. Widths are shares of the fixed shape's diameter.
``exact`` is the attachment as it is, ``merged`` with ``resolution`` a third of the width; ``dense`` is the formula in
plain torch with every N×M array stored (``--dense``, small surfaces only). For merged ones: relative change of the
value, and of the gradient smoothed by a kernel of the attachment's width, as a deformation of that width sees it.
Seconds are those of a later call in a loop, the best of three, of this process alone where it has one thread.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import otreg
from otreg.attachments import MMD, Current, Transport, Varifold
from otreg.reductions import kernel_sum

KINDS: dict[str, Callable[..., Any]] = {
    "current": Current,
    "varifold": Varifold,
    "varifold, linear": lambda *given, **more: Varifold(*given, oriented=True, orientation="linear", **more),
    "varifold, exponential": lambda *given, **more: Varifold(*given, oriented=True, **more),
    "mmd": MMD,
}


def main() -> None:
    """Read the arguments, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("moving", type=Path)
    parser.add_argument("fixed", type=Path)
    parser.add_argument("--widths", default="0.05,0.02,0.01")
    parser.add_argument("--kinds", default=",".join(name for name in KINDS if "," not in name))
    parser.add_argument("--all-kinds", action="store_true", help="oriented varifolds too")
    parser.add_argument("--transport", action="store_true", help="transport too, at its default blur")
    parser.add_argument("--dense", action="store_true", help="plain torch that stores all pairs too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fixed = otreg.read(options.fixed)
    points, triangles = placed(otreg.read(options.moving), fixed)
    print(f"{len(triangles)} triangles onto {len(fixed.triangles)}, float32, {options.threads} thread(s)")
    rows = []
    for name in KINDS if options.all_kinds else options.kinds.split(","):
        for share in map(float, options.widths.split(",")):
            rows.append(compare(name, share, points, triangles, fixed, options.dense))
            print(rows[-1], flush=True)
    if options.transport:
        for reach in (None, 0.05 * fixed.diameter):
            warnings.simplefilter("ignore")
            attachment = Transport(fixed, reach=reach, tol=1e-2)
            seconds, value, _ = timed(attachment, points, triangles)
            rows.append({"kind": repr(attachment), "exact": seconds, "value": value})
            print(rows[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def placed(moving: otreg.Surface, fixed: otreg.Surface) -> tuple[Tensor, Tensor]:
    """Points of the moving surface, scaled and shifted onto the fixed one's box, float32; its triangles."""
    scale = fixed.diameter / moving.diameter
    points = (moving.points - moving.bounds.mean(axis=0)) * scale + fixed.bounds.mean(axis=0)
    return torch.from_numpy(points).float(), torch.from_numpy(moving.triangles.copy())


def compare(
    name: str, share: float, points: Tensor, triangles: Tensor, fixed: otreg.Surface, with_dense: bool
) -> dict[str, Any]:
    """One kind at one width."""
    width = share * fixed.diameter
    exact, value, gradient = timed(KINDS[name](fixed, width), points, triangles)
    attachment = KINDS[name](fixed, width, resolution=width / 3)
    merged, merged_value, merged_gradient = timed(attachment, points, triangles)
    seen, merged_seen = (
        kernel_sum(points, points, part, width=width) for part in (gradient, merged_gradient)
    )
    found = {
        "kind": name,
        "width": share,
        "exact": exact,
        "merged": merged,
        "value_change": round(merged_value / value - 1, 5),
        "gradient_change": round(float((seen - merged_seen).norm() / seen.norm()), 5),
    }
    if with_dense and name == "current":
        found["dense"], dense_value, _ = timed(dense_current(fixed, width), points, triangles)
        found["dense_change"] = round(value / dense_value - 1, 7)
    return found


def timed(
    attachment: Callable[[Tensor, Tensor], Tensor], points: Tensor, triangles: Tensor
) -> tuple[float, float, Tensor]:
    """Seconds for value and gradient after a first call, the value, and the gradient."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    x = points.clone().requires_grad_()
    torch.autograd.grad(attachment(x, triangles), x)
    seconds = []
    for repetition in range(3):
        # moved a little, as in a loop, and back
        shift = 1e-4 * (repetition - 2) * (points.amax(dim=0) - points.amin(dim=0))
        x = (points + shift).requires_grad_()
        start = clock()
        value = attachment(x, triangles)
        (gradient,) = torch.autograd.grad(value, x)
        seconds.append(clock() - start)
    return round(min(seconds), 3), float(value.detach()), gradient


def dense_current(fixed: otreg.Surface, width: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The textbook's current, autograd and all: what a package without streamed sums does."""

    def parts(points: Tensor, triangles: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = points[triangles].unbind(dim=1)
        return (a + b + c) / 3, 0.5 * torch.linalg.cross(b - a, c - a)

    def product(x: Tensor, v: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return ((-(torch.cdist(x, y) ** 2) / (2 * width**2)).exp() * (v @ w.T)).sum()

    y, w = parts(torch.from_numpy(fixed.points.copy()).float(), torch.from_numpy(fixed.triangles.copy()))
    own, areas = product(y, w, y, w), w.norm(dim=1, keepdim=True)
    norm = product(y, areas, y, areas)

    def value(points: Tensor, triangles: Tensor) -> Tensor:
        x, v = parts(points, triangles)
        return 0.5 * width**2 * (product(x, v, x, v) - 2 * product(x, v, y, w) + own) / norm

    return value


if __name__ == "__main__":
    main()
