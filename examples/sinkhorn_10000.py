"""The gradient of 1000 Sinkhorn iterations between clouds of 10,000 points, which plain autograd cannot store.

    python examples/sinkhorn_10000.py [--quick] [--iterations 1000] [--points 10000]

Three ways to the gradient with respect to the positions x, each in a process of its own:

- plain autograd of the usual loop over dense arrays: its memory is measured at small sizes, and what it would take at
  full size follows from the slope. There it is refused;
- the same loop through `otreg.autodiff.scan`, its softmins streamed by `otreg.reductions`: the same derivative, through
  every iteration;
- the envelope theorem (`otreg.transport.solve`): at convergence the derivative does not pass through the iterations.

60 iterations are the default, not 1000, since every iteration costs about a second on two cores, its derivative
included: `--iterations 1000` takes about a quarter of an hour, and the last lines say what it costs here.
At this blur, 0.2 of the side of the cube, 60 iterations have converged, so the three gradients agree.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from helpers.processes import measured, serve
from torch import Tensor

from otreg.autodiff import body_evaluations, scan
from otreg.reductions import softmin
from otreg.transport import solve

BLUR = 0.2
"""Of the entropy, eps = blur²; the points lie in a cube of side 1."""

SMALL = (1000, 3000)
"""Numbers of points at which plain autograd is measured; the slope is that of the larger, whose arrays (36 MB) the C
library hands back to the system when they are freed, as it does those of full size."""

FEW, MORE = 4, 8
"""Numbers of iterations there."""

MEMORY = 16
"""Gigabytes of a usual machine: what would take more is refused."""


def clouds(points: int) -> tuple[Tensor, Tensor]:
    """Two clouds (N, 3) in the unit cube, one even, one denser towards a corner."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(points, 3, generator=generator) for _ in range(2))
    return x, y**1.5


def plain(x: Tensor, y: Tensor, iterations: int) -> Tensor:
    """The loop as everybody writes it: dense costs, and autograd stores some N×M arrays for every iteration."""
    eps, points = BLUR**2, len(x)
    weight = -torch.tensor(float(points)).log()
    cost = (x[:, None] - y[None]).square().sum(dim=2) / 2
    f = g = torch.zeros(points)
    for _ in range(iterations):
        f = -eps * torch.logsumexp((g[None] - cost) / eps + weight, dim=1)
        g = -eps * torch.logsumexp((f[:, None] - cost) / eps + weight, dim=0)
    return f.mean() + g.mean()


def scanned(x: Tensor, y: Tensor, iterations: int) -> Tensor:
    """The same loop: nothing of size N×M anywhere, and √iterations states are kept."""
    zero = torch.zeros(len(x), dtype=torch.float64)  # potentials are float64, whatever the points are
    weights = torch.full_like(zero, 1.0 / len(x))

    def step(potentials: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        f = softmin(x, y, potentials[1], weights, blur=BLUR).value
        return f, softmin(y, x, f, weights, blur=BLUR).value

    f, g = scan(step, (zero, zero), length=iterations, checkpoints="sqrt")
    return f.mean() + g.mean()


def enveloped(x: Tensor, y: Tensor, iterations: int) -> Tensor:
    """As many iterations as the solver needs, and one more pass over the pairs for the gradient."""
    return solve(x, y, blur=BLUR, tol=1e-6, max_iterations=iterations).value


WAYS = {"plain autograd": plain, "scan": scanned, "envelope theorem": enveloped}


def gradient(way: str, points: int, iterations: int) -> dict[str, Any]:
    """Value, and the gradient at every (N/100)th point, with all of its entries summed up in its norm."""
    x, y = clouds(points)
    value = WAYS[way](x.requires_grad_(), y, iterations)
    (slope,) = torch.autograd.grad(value, x)
    some = slope[:: max(points // 100, 1)].double()
    return {"value": float(value.detach()), "norm": float(slope.double().norm()), "some": some.tolist()}


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Relative distance of two gradients, at the points that are compared."""
    a, b = (torch.tensor(found["some"], dtype=torch.float64) for found in (one, other))
    return float((a - b).norm() / b.norm())


def line(way: str, points: int, iterations: int, found: dict[str, Any], note: str = "") -> None:
    seconds, megabytes = found["seconds"], found["megabytes"]
    print(f"{way:17} {points:6d} {iterations:6d} {seconds:9.1f} {megabytes:9.0f} {found['norm']:.4e}  {note}")


def main() -> None:
    if serve(gradient, {"way": "scan", "points": 50, "iterations": 2}):
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="1,500 points, unless said otherwise, and fewer measurements"
    )
    parser.add_argument("--points", type=int)
    parser.add_argument("--iterations", type=int, default=60)
    arguments = parser.parse_args()
    points = arguments.points or (1500 if arguments.quick else 10_000)
    iterations = arguments.iterations

    print("way               points  iter.   seconds        MB gradient")
    small = {}
    for count in SMALL[1:] if arguments.quick else SMALL:
        for repeats in (FEW, MORE):
            found = measured(__file__, way="plain autograd", points=count, iterations=repeats)
            small[count, repeats] = found
            line("plain autograd", count, repeats, found)
    reference = small[SMALL[1], MORE]
    same = measured(__file__, way="scan", points=SMALL[1], iterations=MORE)
    line("scan", SMALL[1], MORE, same, f"{apart(same, reference):.0e} from plain autograd")
    assert apart(same, reference) < 1e-4

    # the slope, in bytes for a pair of points and an iteration
    more, fewer = small[SMALL[1], MORE]["megabytes"], small[SMALL[1], FEW]["megabytes"]
    slope = (more - fewer) * 2**20 / ((MORE - FEW) * SMALL[1] ** 2)
    gigabytes = slope * points**2 * iterations / 2**30
    refused = "refused" if gigabytes > MEMORY else "not run"
    print(
        f"plain autograd at {points} points, {iterations} iterations: {refused}, it would take {gigabytes:.0f} GB "
        f"({slope:.1f} bytes a pair and iteration)"
    )

    ours = {}
    for way in ("scan", "envelope theorem"):
        ours[way] = measured(__file__, way=way, points=points, iterations=iterations)
        note = "" if way == "scan" else f"{apart(ours[way], ours['scan']):.0e} from scan"
        line(way, points, iterations, ours[way], note)
    assert apart(ours["envelope theorem"], ours["scan"]) < 1e-3
    assert abs(ours["envelope theorem"]["value"] / ours["scan"]["value"] - 1.0) < 1e-4

    runs = body_evaluations(iterations, "sqrt")
    print(f"scan ran its step {runs / iterations:.2f} times an iteration, derivatives not counted")
    if iterations < 1000:
        minutes = ours["scan"]["seconds"] / iterations * 1000 / 60
        print(
            f"1000 iterations at {points} points, from these slopes: scan {minutes:.1f} minutes, plain autograd "
            f"{slope * points**2 * 1000 / 2**30:.0f} GB"
        )


if __name__ == "__main__":
    main()
