"""Measure entropic transport against other tools, in one run: a table, and JSON on request.

    python benchmarks/transport.py --points 1000,10000 --blurs 0.05,0.01 --shapes cube,surface --json out.json
    python benchmarks/transport.py --points 10000 --only ours,schedule
    python benchmarks/transport.py --points 100000 --shapes surface --blurs 0.01 --only ours --tolerances 0.01

What is measured (``--only``), each case in a process of its own:

    ours        seconds to a row+column error of 1e-2 and 1e-3 (``--tolerances``), value and gradient, debiased;
                a warm step to each
    schedule    value and gradient with exactly GeomLoss' schedule and updates, on our sums
    geomloss    SamplesLoss(backend="online"), its defaults: value and gradient, and how converged that is
    multiscale  SamplesLoss(backend="multiscale")
    keops       our solver on the KeOps engine: only with ``--device cuda``
    flash, flash_exact   flash-sinkhorn's SamplesLoss, as it comes (TF32) and with ``allow_tf32=False``: likewise

Tools that are not installed, or do not finish within ``--limit`` seconds, are shown so. The first call of
KeOps tools compiles for 10 to 30 s; it is made beforehand on 100 points and not counted. On a GPU a whole call is
made beforehand too, since kernels are compiled and tuned for each size.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TOOLS = ("ours", "schedule", "geomloss", "multiscale", "keops", "flash", "flash_exact")
NEEDS = {
    "geomloss": "geomloss", "multiscale": "geomloss", "keops": "pykeops", "flash": "flash_sinkhorn",
    "flash_exact": "flash_sinkhorn",
}  # fmt: skip
GPU_ONLY = ("keops", "flash", "flash_exact")


def shapes(kind: str, count: int, device: str) -> tuple[Tensor, Tensor]:
    """Two clouds of unit diameter: uniform in the cube, or spread by area over two surfaces."""
    generator = torch.Generator().manual_seed(0)
    if kind == "cube":
        x, y = torch.rand(2, count, 3, generator=generator)
    else:
        x, y = (surface_points(kind, number, count, generator) for number in (0, 1))
    low, high = torch.minimum(x.amin(0), y.amin(0)), torch.maximum(x.amax(0), y.amax(0))
    diameter = (high - low).norm()
    return ((x - low) / diameter).to(device), ((y - low) / diameter).to(device)


def surface_points(kind: str, number: int, count: int, generator: torch.Generator) -> Tensor:
    """Points by area on a surface file of the folder ``kind`` (its first two), or on a bent sphere."""
    folder = Path(kind)
    if kind != "surface" and folder.is_dir():
        import numpy as np

        import otreg

        files = sorted(
            path for path in folder.iterdir() if path.suffix in (".gii", ".ply", ".vtk", ".stl", ".vtp")
        )
        points, _ = otreg.read(files[number]).sample(count, np.random.default_rng(number))
        return torch.from_numpy(points).float()
    x = torch.randn(count, 3, generator=generator)
    x = x / x.norm(dim=1, keepdim=True) * (1 + 0.2 * torch.sin(5 * x[:, :1]))
    return x * torch.tensor([1.0, 1.0, 1.0] if number == 0 else [1.1, 1.0, 0.9])


def measure(
    tool: str, kind: str, count: int, blur: float, device: str, tolerances: tuple[float, ...]
) -> dict[str, Any]:
    """Run one case in this process."""
    small = shapes(kind, 100, device)
    x, y = shapes(kind, count, device)
    run: Callable[..., dict[str, Any]] = {
        "ours": lambda *given: ours(*given, tolerances),
        "keops": lambda *given: ours(*given, tolerances, engine="keops"),
        "schedule": schedule,
        "geomloss": lambda *given: geomloss(*given, backend="online"),
        "multiscale": lambda *given: geomloss(*given, backend="multiscale"),
        "flash": lambda *given: flash(*given, exact=False),
        "flash_exact": lambda *given: flash(*given, exact=True),
    }[tool]
    run(*small, 0.1)
    if device == "cuda":
        run(x, y, blur)
        torch.cuda.reset_peak_memory_stats()
    before = peak(device)
    found = run(x, y, blur)
    return {**found, "memory_mb": peak(device) - before}


def peak(device: str) -> float:
    """Peak memory so far, in MB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def clock(x: Tensor) -> float:
    """Seconds, once the device has finished; of this process alone, where it has one thread on a CPU."""
    if x.is_cuda:
        torch.cuda.synchronize()
    alone = torch.get_num_threads() == 1 and not x.is_cuda
    return time.process_time() if alone else time.perf_counter()


def ours(
    x: Tensor, y: Tensor, blur: float, tolerances: tuple[float, ...], engine: str = "auto"
) -> dict[str, Any]:
    """Time to each tolerance, and of a warm step after moving the points by 1% of the diameter: the median of three.

    The steps follow one another down the gradient, as those of a registration do.
    """
    from otreg.transport import SinkhornDivergence

    x, found = x.clone().requires_grad_(), {}
    for tol in tolerances:
        module = SinkhornDivergence(blur, tol=tol, engine=engine)
        start = clock(x)
        value = module(x, y)
        (grad,) = torch.autograd.grad(value, x)
        found[f"seconds_to_{tol:g}"] = clock(x) - start
        result = module.result
        assert result is not None
        found[f"iterations_to_{tol:g}"], found["error"] = result.iterations, result.marginal_error
        found["value"] = float(value.detach())
        here, seconds = x.detach(), []
        for _ in range(3):
            here = (here - 0.01 * grad / grad.norm(dim=1).max()).requires_grad_()
            start = clock(x)
            (grad,) = torch.autograd.grad(module(here, y), here)
            seconds.append(clock(x) - start)
            here = here.detach()
        found[f"warm_seconds_{tol:g}"] = statistics.median(seconds)
    return {**found, "seconds": found[f"seconds_to_{tolerances[-1]:g}"]}


def schedule(x: Tensor, y: Tensor, blur: float) -> dict[str, Any]:
    """GeomLoss' own loop (symmetric updates, scaling 0.5, no test of convergence) over our softmins."""
    from otreg.reductions import softmin, softmin_pair
    from otreg.reductions.engines import get_engine
    from otreg.together import together

    start = clock(x)
    low, high = torch.minimum(x.amin(0), y.amin(0)), torch.maximum(x.amax(0), y.amax(0))
    diameter = float((high - low).norm())
    steps = range(math.ceil(math.log(blur / diameter) / math.log(0.5) - 1e-12))
    blurs = [diameter, *(diameter * 0.5**step for step in steps), blur]
    a, b = (torch.full_like(points[:, 0], 1 / len(points), dtype=torch.float64) for points in (x, y))
    reduce, log_a, log_b = get_engine("auto", x.device.type), a.log(), b.log()

    def updates(
        potentials: tuple[Tensor, Tensor, Tensor, Tensor], now: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        f, g, p, q = potentials
        if x.is_cuda:
            eps = now**2
            fa, gb, pa, qb = log_a + f / eps, log_b + g / eps, log_a + p / eps, log_b + q / eps
            pairs = ((x, y, gb), (y, x, fa), (x, x, pa), (y, y, qb))
            return tuple(-eps * reduce(*pair, eps, None)[0] for pair in pairs)
        cross, own = together(
            lambda: softmin_pair(x, y, f, g, a, b, blur=now),
            lambda: (
                softmin_pair(x, x, p, p, a, a, blur=now).to_x,
                softmin_pair(y, y, q, q, b, b, blur=now).to_x,
            ),
        )
        return (*cross, *own)

    zero = torch.zeros_like(a), torch.zeros_like(b)
    potentials = updates((*zero, *zero), blurs[0])
    for now in blurs:
        new = updates(potentials, now)
        potentials = tuple(0.5 * (old + other) for old, other in zip(potentials, new, strict=True))
    f, g, p, q = updates(potentials, blur)
    value = (f - p).mean() + (g - q).mean()
    to_y, to_x = together(
        lambda: softmin(x, y, potentials[1], b, blur=blur, values=y).mean,
        lambda: softmin(x, x, potentials[2], a, blur=blur, values=x).mean,
    )
    grad = a[:, None] * (to_x - to_y)
    return {"seconds": clock(x) - start, "value": float(value), "gradient_norm": float(grad.norm())}


def geomloss(x: Tensor, y: Tensor, blur: float, backend: str) -> dict[str, Any]:
    """SamplesLoss with its defaults; then how far its potentials are from converged."""
    from geomloss import SamplesLoss

    from otreg.reductions import softmin

    settings = {"loss": "sinkhorn", "p": 2, "blur": blur, "scaling": 0.5, "backend": backend}
    x = x.clone().requires_grad_()
    start = clock(x)
    value = SamplesLoss(**settings)(x, y)
    (grad,) = torch.autograd.grad(value, x)
    found = {"seconds": clock(x) - start, "value": float(value.detach()), "gradient_norm": float(grad.norm())}
    if backend == "online" and len(x) <= (200_000 if x.is_cuda else 20_000):
        with torch.no_grad():
            f, g = SamplesLoss(**settings, debias=False, potentials=True)(x, y)
            f, g = f.reshape(-1), g.reshape(-1)
            row = torch.expm1(
                (f - softmin(x, y, g, g.new_full((len(y),), 1 / len(y)), blur=blur).value) / blur**2
            )
            column = torch.expm1(
                (g - softmin(y, x, f, f.new_full((len(x),), 1 / len(x)), blur=blur).value) / blur**2
            )
            found["error"] = float(row.abs().mean() + column.abs().mean())
    return found


def flash(x: Tensor, y: Tensor, blur: float, exact: bool) -> dict[str, Any]:
    """flash-sinkhorn's drop-in for SamplesLoss, with the conventions of GeomLoss."""
    from flash_sinkhorn import SamplesLoss

    x = x.clone().requires_grad_()
    start = clock(x)
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=blur, scaling=0.5, debias=True, half_cost=True, allow_tf32=not exact
    )
    value = loss(x, y)
    (grad,) = torch.autograd.grad(value, x)
    return {"seconds": clock(x) - start, "value": float(value.detach()), "gradient_norm": float(grad.norm())}


def table(rows: list[dict[str, Any]]) -> str:
    """The results as aligned text."""
    columns = {
        "shape": "shape", "points": "points", "blur": "blur", "tool": "tool", "seconds": "seconds",
        "to 1e-2": "seconds_to_0.01", "to 1e-3": "seconds_to_0.001", "warm 1e-2": "warm_seconds_0.01",
        "warm 1e-3": "warm_seconds_0.001", "error": "error", "value": "value", "MB": "memory_mb",
    }  # fmt: skip
    lines = [tuple(columns)]
    for row in rows:
        cells = [format_cell(row.get(key)) for key in columns.values()]
        if "skipped" in row:
            cells[4] = row["skipped"]
        lines.append(tuple(cells))
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def format_cell(value: Any) -> str:
    """A number in a few digits."""
    if value is None:
        return ""
    return f"{value:.7g}" if isinstance(value, float) and abs(value) < 0.1 else (
        f"{value:.3f}" if isinstance(value, float) else str(value)
    )  # fmt: skip


def main() -> None:
    """Parse, run each case in its own process, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", default="1000,10000,50000")
    parser.add_argument(
        "--shapes", default="cube,surface", help="cube, surface, or folders that hold two surfaces"
    )
    parser.add_argument("--blurs", default="0.05,0.01,0.002", help="relative to the diameter")
    parser.add_argument("--only", default=",".join(TOOLS), help=f"some of {', '.join(TOOLS)}")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tolerances", default="0.01,0.001", help="marginal errors to reach, for ours")
    parser.add_argument("--limit", type=float, default=600.0, help="most seconds for one case")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.case is not None:
        warnings.simplefilter("ignore")
        case = json.loads(given.case)
        found = measure(
            case["tool"], case["shape"], case["points"], case["blur"], given.device, tuple(case["tolerances"])
        )
        print(json.dumps(found))
        return
    unknown = set(given.only.split(",")) - set(TOOLS)
    if unknown:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; choose from {', '.join(TOOLS)}")
    tolerances = [float(tol) for tol in given.tolerances.split(",")]
    if not all(tol > 0 for tol in tolerances):
        parser.error("--tolerances: positive numbers, separated by commas")
    rows = []
    for shape in given.shapes.split(","):
        for points in map(int, given.points.split(",")):
            for blur in map(float, given.blurs.split(",")):
                for tool in given.only.split(","):
                    if tool in GPU_ONLY and given.device != "cuda":
                        continue
                    case = {"shape": shape, "points": points, "blur": blur, "tool": tool}
                    rows.append({**case, **run_case({**case, "tolerances": tolerances}, given)})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))
    if given.json is not None:
        about = {"torch": torch.__version__, "threads": given.threads, "device": given.device}
        given.json.write_text(json.dumps({"about": about, "results": rows}, indent=1) + "\n")


def run_case(case: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Run one case in a process of its own, within the limit."""
    needed = NEEDS.get(case["tool"])
    if needed is not None and importlib.util.find_spec(needed) is None:
        return {"skipped": "not installed"}
    command = [sys.executable, __file__, "--case", json.dumps(case), "--device", given.device]
    command += ["--threads", str(given.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=given.limit)
    except subprocess.TimeoutExpired:
        return {"skipped": f"> {given.limit:g} s"}
    if done.returncode:
        return {"skipped": "failed: " + (done.stderr.strip().splitlines() or ["no message"])[-1][:60]}
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
