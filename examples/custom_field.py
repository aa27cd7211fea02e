"""Follow a vector field of one's own, with gradients, and choose what the backward pass keeps in memory.

    python examples/custom_field.py [--quick]

The field twists a bone about its long axis. The twist is recovered from where the points went, by gradients through
the flow: in closed form, a point at height h turns by rate · h.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor

import otreg
from otreg.flows import Snapshots, integrate, integrate_adaptive

DATA = Path(__file__).parents[1] / "data"
RATE = 0.04
"""The twist to be found, in radians per millimetre along the bone."""


class Twist(torch.nn.Module):
    """``v(t, x) = rate · h(x) · axis × (x - centre)``, with the height ``h = <axis, x - centre>``."""

    def __init__(self, centre: Tensor, axis: Tensor) -> None:
        super().__init__()
        self.centre, self.axis = centre, axis
        self.rate = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, time: float, x: Tensor) -> Tensor:
        arm = x - self.centre
        height = arm @ self.axis
        return self.rate * height[:, None] * torch.linalg.cross(self.axis.expand_as(arm), arm)

    def exactly(self, x: Tensor, rate: float) -> Tensor:
        """Where the flow takes x: Rodrigues' formula for a turn by rate · height."""
        arm = x - self.centre
        height = (arm @ self.axis)[:, None]
        along = height * self.axis
        across = torch.linalg.cross(self.axis.expand_as(arm), arm)
        turn = rate * height
        return self.centre + along + (arm - along) * torch.cos(turn) + across * torch.sin(turn)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer points and steps")
    quick = parser.parse_args().quick
    bone = otreg.read(DATA / "metacarpal_1.vtk")
    x = torch.from_numpy(bone.points[:: 10 if quick else 1].copy())
    middle = x.mean(dim=0)
    axis = torch.linalg.svd(x - middle, full_matrices=False)[2][0]
    field, steps = Twist(middle, axis), 16 if quick else 64
    goal = field.exactly(x, RATE)
    print(f"{len(x)} points twisted by {math.degrees(RATE):.2f} degrees a millimetre, {steps} steps")

    # The gradient is the same whatever is kept for it: less memory costs time.
    gradients = []
    kept = {
        "all": "all that autograd saves",
        "sqrt": "states every √steps steps",
        4: "states every 4 steps",
        Snapshots(3): "3 states at a time",
    }
    for memory, what in kept.items():
        start = time.perf_counter()
        loss = mean_square(integrate(field, x, steps=steps, memory=memory), goal)
        (gradient,) = torch.autograd.grad(loss, field.rate)
        gradients.append(float(gradient))
        print(f"gradient {gradients[-1]:.6f} mm² per rad/mm in {time.perf_counter() - start:.2f} s, {what}")
    assert max(gradients) - min(gradients) < 1e-9 * abs(gradients[0])

    optimiser = torch.optim.LBFGS(field.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = mean_square(integrate(field, x, steps=steps), goal)
        loss.backward()
        return loss

    optimiser.step(closure)
    found = field.rate.item()
    print(f"twist found: {math.degrees(found):.4f} degrees a millimetre")
    assert abs(found - RATE) < 1e-5

    # Steps as long as a tolerance allows, and back again: an end before the start follows the field backwards.
    with torch.no_grad():
        there = integrate_adaptive(field, x, rtol=1e-8)
        off = float((there - field.exactly(x, found)).norm(dim=1).max())
        back = integrate_adaptive(field, there, start=1.0, end=0.0, rtol=1e-8)
        home = float((back - x).norm(dim=1).max())
    print(f"adaptive steps: {off:.0e} mm from the closed form, {home:.0e} mm off after the way back")
    assert off < 1e-4 and home < 1e-4


def mean_square(moved: Tensor, goal: Tensor) -> Tensor:
    """Mean squared distance between corresponding points (N, 3)."""
    return (moved - goal).square().sum(dim=1).mean()


if __name__ == "__main__":
    main()
