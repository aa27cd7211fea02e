"""Time for memory: five problems by plain autograd and by otreg.autodiff, at growing sizes. Memory and seconds.

    OMP_NUM_THREADS=2 python benchmarks/memory.py [--quick] [--json FILE] [--device cuda] [--problems scan,blockwise]

One loss and its gradient, from data to the end of the backward pass, each in a process of its own; the work is that of
examples/. MB are the peak of the process beyond what it held after the same work in a tiny size, with ``--device cuda``
the peak of what torch allocates. The norms of both gradients are compared.

The C library is told to give freed arrays back at once, so that what is measured is what is held; that costs both ways
time.

The largest size in 16 GB is computed, not run: memory is taken as a + b sizeᵖ through the two neighbouring sizes
between which it grew fastest, p = 2 where plain autograd stores a matrix of all pairs and p = 1 otherwise. Where it
grew by less than 10 MB or a tenth, nothing can be said but "more than" the largest size that was run; nor beyond a
hundred times that.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from helpers.processes import measured, serve  # noqa: E402 it lies in the folder of the examples

# torch is imported in the functions, hence in the processes that measure alone: they begin with the peak of this one

MEMORY = 16 * 1024
"""MB of a usual machine."""

FARTHEST = 100
"""Times the largest size that was run: no slope is trusted further."""

AGREEMENT = 2e-2
"""Largest relative difference of the norms of both gradients: solvers end at their tolerance."""

GLIBC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""Freed arrays of 1 MB and more go back to the system at once, so that what is measured is what is held."""

WAYS = ("plain", "ours")
Found = dict[str, dict[int, dict[str, Any]]]
"""For each way and each size: megabytes, seconds, gradient."""


def conjugate_gradient(way: str, size: int, device: str, side: int) -> list[Any]:
    import torch

    example = importlib.import_module("conjugate_gradient_in_a_network")
    data = example.scans(size, side, 8, torch.Generator().manual_seed(2))
    truth, y, mask, rough = (each.to(device) for each in data)
    with torch.device(device):
        network = example.Reconstruction(rough, stages=3, channels=16)
        (network(y, mask, way) - truth).abs().square().mean().backward()
    return [parameter.grad for parameter in network.parameters()]


def blockwise(way: str, size: int, device: str, side: int) -> list[Any]:
    import torch

    example = importlib.import_module("nngp_covariance")
    images, labels = (each.to(device) for each in example.images_of(size, side)[:2])
    variances = example.start().to(device).requires_grad_()
    with torch.device(device):
        example.loss(example.covariance(images, variances, way), labels).backward()
    return [variances.grad]


def scan(way: str, size: int, device: str, side: int) -> list[Any]:
    import torch

    example = importlib.import_module("sinkhorn_10000")
    x, y = (each.to(device) for each in example.clouds(size))
    x.requires_grad_()
    with torch.device(device):
        (example.plain if way == "plain" else example.scanned)(x, y, 20).backward()
    return [x.grad]


def proximal_least_squares(way: str, size: int, device: str, side: int) -> list[Any]:
    import torch

    example = importlib.import_module("unfolded_deblurring")
    clean, blurred = (
        each.to(device) for each in example.pictures(size, side, torch.Generator().manual_seed(2))
    )
    inside = (..., slice(example.RADIUS, -example.RADIUS), slice(example.RADIUS, -example.RADIUS))
    with torch.device(device):
        network = example.Deblurring(stages=3, channels=16)
        found = network(blurred, "plain" if way == "plain" else "implicit")
        (found - clean)[inside].square().mean().backward()
    return [parameter.grad for parameter in network.parameters()]


def eager_penalty(way: str, size: int, device: str, side: int) -> list[Any]:
    import torch

    example = importlib.import_module("penalties_along_the_way")
    clean, noisy = (
        each.to(device) for each in example.pictures(size, side, torch.Generator().manual_seed(2))
    )
    with torch.device(device):
        network = example.Denoiser(layers=8, channels=16)
        found, penalties = network(noisy, "plain" if way == "plain" else "eager", None)
        ((found - clean).square().mean() + penalties.mean()).backward()
    return [parameter.grad for parameter in network.parameters()]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is measured.

    Attributes
    ----------
    name : str
        As a reader of the README knows it.
    unit : str
        Of the size.
    work : callable
        ``(way, size, device, side) -> gradients``.
    side : int
        Pixels of the images, in each direction.
    sizes, quick : tuple of int
        Growing sizes, of which both ways are run.
    further : tuple of int
        Sizes beyond, for ours alone.
    power : int
        How the memory of plain autograd grows with the size; ours grows in proportion.
    """

    name: str
    unit: str
    work: Callable[[str, int, str, int], list[Any]]
    side: int
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    further: tuple[int, ...] = ()
    power: int = 1


PROBLEMS = (
    Problem("conjugate gradients in each layer", "images", conjugate_gradient, 128, (2, 4, 8), (3, 6), (16,)),
    Problem(
        "covariances of all pairs, through layers",
        "images",
        blockwise,
        24,
        (50, 75, 100),
        (16, 32),
        (200,),
        2,
    ),
    Problem("20 Sinkhorn iterations", "points", scan, 0, (1500, 2000, 3000), (300, 600), (10_000,), 2),
    Problem("proximal steps in each layer", "images", proximal_least_squares, 80, (8, 16, 32), (4, 8), (64,)),
    Problem("penalties on all activations", "images", eager_penalty, 96, (32, 64, 128), (8, 16)),
)


def case(problem: str, way: str, size: int, device: str, side: int | None = None) -> dict[str, float]:
    """One loss and its gradient, in this process; the norm of the gradient."""
    import torch

    torch.manual_seed(1)
    chosen = {each.work.__name__: each for each in PROBLEMS}[problem]
    gradients = chosen.work(way, size, device, chosen.side if side is None else side)
    return {"gradient": float(torch.cat([each.flatten().abs().double() for each in gradients]).norm())}


def largest(found: dict[int, dict[str, Any]], power: int) -> tuple[float, bool]:
    """The largest size in 16 GB, and whether it follows from a slope; otherwise it is larger than that.

    The steepest stretch counts: a system that takes idle pages back makes the peaks of long runs look small.
    """
    sizes = sorted(found)
    slopes = [
        ((found[above]["megabytes"] - found[below]["megabytes"]) / (above**power - below**power), above)
        for below, above in itertools.pairwise(sizes)
    ]
    slope, above = max(slopes)
    below = sizes[sizes.index(above) - 1]
    if slope * (above**power - below**power) < max(10.0, 0.1 * found[below]["megabytes"]):
        return float(sizes[-1]), False
    reached = above**power + (MEMORY - found[above]["megabytes"]) / slope
    size, most = reached ** (1.0 / power), FARTHEST * sizes[-1]
    return (size, True) if size <= most else (float(most), False)


def in_words(size: float, computed: bool) -> str:
    """Two digits of what is computed."""
    if not computed:
        return f"more than {size:,.0f}"
    digits = max(len(str(int(size))) - 2, 0)
    return f"about {round(size, -digits):,.0f}"


def measure(problem: Problem, sizes: Sequence[int], further: Sequence[int], device: str) -> Found:
    """Run both ways, and see that they agree."""
    name = problem.work.__name__
    found: Found = {way: {} for way in WAYS}
    for size in (*sizes, *further):
        for way in WAYS if size in sizes else ("ours",):
            found[way][size] = measured(__file__, problem=name, way=way, size=size, device=device)
        cells = [f"{name:24}{size:8}"]
        for way in WAYS:
            row = found[way].get(size)
            cells.append(f"{row['megabytes']:9.0f} MB{row['seconds']:8.2f} s" if row else f"{'not run':>21}")
        print("".join(cells), flush=True)
    for size in sizes:
        one, other = (found[way][size]["gradient"] for way in WAYS)
        if not abs(one / other - 1.0) < AGREEMENT:
            raise SystemExit(f"{name}, {size}: norms of the gradients are {one} and {other}")
    return found


def row(problem: Problem, sizes: Sequence[int], found: Found) -> str:
    """One row of the README."""
    size = sizes[-1]
    cells = [f"{problem.name}, {size:,} {problem.unit}", f"`{problem.work.__name__}`"]
    for way in WAYS:
        cells.append("{megabytes:,.0f} MB, {seconds:.1f} s".format(**found[way][size]))
    for way, power in zip(WAYS, (problem.power, 1), strict=True):
        cells.append(in_words(*largest(found[way], power)))
    return f"| {' | '.join(cells)} |"


HEAD = """| problem | function | plain autograd | ours | largest in 16 GB, plain | ours |
| --- | --- | --- | --- | --- | --- |"""


def main() -> None:
    if serve(case, {"size": 2, "side": 16}):
        return
    names = [problem.work.__name__ for problem in PROBLEMS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--problems", default=",".join(names), help="some of them, separated by commas")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, help="write the results there too")
    arguments = parser.parse_args()
    wanted = arguments.problems.split(",")
    if not set(wanted) <= set(names):
        parser.error(f"--problems: choose from {', '.join(names)}")
    os.environ.update(GLIBC)
    rows, results = [HEAD], {}
    print(f"{'':24}{'size':>8}{'plain autograd':>22}{'ours':>22}")
    for problem in PROBLEMS:
        if problem.work.__name__ in wanted:
            sizes = problem.quick if arguments.quick else problem.sizes
            found = measure(problem, sizes, () if arguments.quick else problem.further, arguments.device)
            rows.append(row(problem, sizes, found))
            results[problem.work.__name__] = found
    print("\n".join(["", *rows, ""]))
    from tools import machine

    about = {**machine(), "device": arguments.device}
    print(
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, torch {about['versions']['torch']}"
    )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": about, "results": results}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
