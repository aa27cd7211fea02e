"""Measure kernel systems (K + λI) α = v with and without their preconditioner.

    python benchmarks/kernel_system.py --points 10000 --width 0.1 --regularisation 0.1,0.001
    python benchmarks/kernel_system.py --points 10000 --kernel laplacian --width 0.2

Points on an ellipsoid of diameter 1, three columns of a smooth field with noise. Each row: λ, the columns of the
preconditioner, seconds to make it, seconds to solve, iterations, the residual reached, and seconds for the gradient
with respect to points, λ and width. Solves that are not done after --cap iterations stop there: their residual
says so, and they get no gradient.
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

from otreg.errors import ConvergenceWarning
from otreg.kernels import RADIAL, KernelSystem


def cloud(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Points on an ellipsoid whose bounding box has a diagonal of 1, and values on them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    axes = torch.tensor([60.0, 45.0, 35.0], dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True) * axes / (2.0 * axes.norm())
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return x.to(dtype), (torch.sin(8.0 * x) + 0.3 * noise).to(dtype)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def measure(arguments: argparse.Namespace, count: int, regularisation: float, rank: int) -> dict[str, Any]:
    dtype = getattr(torch, arguments.dtype)
    points, values = cloud(count, dtype)
    points.requires_grad_()
    width, noise = (
        torch.tensor(each, dtype=dtype, requires_grad=True) for each in (arguments.width, regularisation)
    )
    kernel = RADIAL[arguments.kernel](width)
    row: dict[str, Any] = {"points": count, "regularisation": regularisation}
    settings = {"rank": rank, "tol": arguments.tol, "max_iterations": arguments.cap}
    build, system = timed(lambda: KernelSystem(kernel, points, noise, **settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solve, found = timed(lambda: system.solve_with_info(values))
    row |= {"rank": system.rank, "build": build, "solve": solve, "iterations": int(found.iterations.max())}
    row |= {"residual": float(found.residual.max()), "converged": bool(found.converged.all())}
    if row["converged"]:
        loss = (found.solution * values).sum()
        row["gradient"] = timed(lambda: torch.autograd.grad(loss, (points, noise, width)))[0]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", default="10000", help="how many, several by commas")
    parser.add_argument("--regularisation", default="0.1", help="λ, several by commas")
    parser.add_argument("--kernel", default="gaussian", choices=sorted(RADIAL))
    parser.add_argument("--width", type=float, default=0.1)
    parser.add_argument("--ranks", default="300,0")
    parser.add_argument("--dtype", default="float64", choices=("float32", "float64"))
    parser.add_argument("--tol", type=float, default=1e-5)
    parser.add_argument("--cap", type=int, default=300)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [
        measure(arguments, int(count), float(regularisation), int(rank))
        for count in arguments.points.split(",")
        for regularisation in arguments.regularisation.split(",")
        for rank in arguments.ranks.split(",")
    ]
    for row in rows:
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    print(f"{arguments.kernel}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=2))


if __name__ == "__main__":
    main()
