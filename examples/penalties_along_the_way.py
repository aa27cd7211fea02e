"""Penalties on the activations of every layer, with and without their graphs waiting for the backward pass.

    python examples/penalties_along_the_way.py [--quick]

A small network removes noise from pictures that the script makes. Activations above a bound are penalised in every
layer, by a robust function whose graph holds several arrays of the size of the activation. Trained five ways, from
the same start and on the same pictures, each in a process of its own:

- without penalties;
- `loss + Σ penalty(h)`, plain autograd, and by `otreg.autodiff.eager_penalty`;
- with a factor for each picture that only the end knows, its own share in the loss: plain autograd, and eagerly with
  `scale_gradient`.

The losses of plain and eager training are the same; the memory is not. Nor is the time: the operations are, but what is
freed early goes back to the system, which has to map it anew for the next penalty.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import Any

import torch
from helpers.processes import measured, serve
from torch import Tensor
from torch.nn.functional import softplus

from otreg.autodiff import eager_penalty

BOUND = 1.0
"""Of the activations, which have no unit."""

WEIGHT = 0.05
LEARNING_RATE = 0.02
WAYS = ("no penalty", "plain", "eager", "plain, by picture", "eager, by picture")
TOLERANCE = 1e-4
"""Largest relative difference of the losses, in float32, after all steps."""


def excess(h: Tensor) -> Tensor:
    """Penalty (B,) on activations (B, C, H, W) beyond the bound: means of ``log(1 + softplus(4 (|h| - bound))²)``."""
    over = softplus(4.0 * (h.abs() - BOUND))
    return torch.log1p(over.square()).flatten(1).mean(dim=1)


class Denoiser(torch.nn.Module):
    """Convolutions with sines between them; a penalty on what each gives."""

    def __init__(self, layers: int, channels: int) -> None:
        super().__init__()
        sizes = [1, *[channels] * (layers - 1), 1]
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))

    def forward(self, noisy: Tensor, way: str, factor: Any) -> tuple[Tensor, Tensor]:
        """Clean pictures, and the sum of penalties (B,)."""
        h, total = noisy, torch.zeros(len(noisy))
        for layer in self.layers[:-1]:
            h = layer(h)
            if way.startswith("plain"):
                total = total + WEIGHT * excess(h)
            elif way == "eager":
                h, value = eager_penalty(h, excess, WEIGHT)
                total = total + value
            elif way == "eager, by picture":
                h, value = eager_penalty(h, excess, WEIGHT, scale_gradient=factor)
                total = total + value
            h = torch.sin(h)
        return noisy - self.layers[-1](h), total


def pictures(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Discs of random place, radius and brightness, without and with noise: (B, 1, size, size) each."""
    place = torch.rand(count, 2, 1, 1, generator=generator)
    radius = 0.1 + 0.2 * torch.rand(count, 1, 1, generator=generator)
    brightness = 0.5 + torch.rand(count, 1, 1, generator=generator)
    axis = (torch.arange(size) + 0.5) / size
    distance = ((axis[:, None] - place[:, 0]).square() + (axis - place[:, 1]).square()).sqrt()
    clean = (brightness * (distance < radius))[:, None]
    return clean, clean + 0.3 * torch.randn(clean.shape, generator=generator)


def train(way: str, steps: int, count: int, size: int, layers: int, channels: int) -> dict[str, Any]:
    """Losses of all steps, and the gradient's norm at the last."""
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    network = Denoiser(layers, channels)
    optimiser = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9)
    losses = []
    for _ in range(steps):
        clean, noisy = pictures(count, size, generator)
        known: dict[str, Tensor] = {}
        found, penalties = network(noisy, way, lambda known=known: known["factor"] / count)
        errors = (found - clean).square().flatten(1).mean(dim=1)
        # a picture that is done badly is to care for that first
        known["factor"] = (errors.mean() / errors).detach()
        if way.endswith("by picture"):
            factor = known["factor"]
            # eagerly, the values have no gradient: this sum is for the record alone
            loss = errors.mean() + (factor * penalties).mean()
        else:
            loss = errors.mean() + penalties.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    return {"losses": losses, "gradient": float(gradient.norm())}


def main() -> None:
    if serve(train, {"way": "eager", "steps": 1, "count": 2, "size": 8, "layers": 3, "channels": 4}):
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer pictures, layers, channels and steps")
    quick = parser.parse_args().quick
    count, size, layers, channels = (16, 64, 6, 12) if quick else (64, 96, 8, 16)
    steps = 2 if quick else 3
    activation = count * channels * size * size * 4 / 2**20
    print(
        f"{count} pictures of {size}x{size}, {layers} layers of {channels} channels: {activation:.0f} MB a layer"
    )
    print("way                  first loss  last loss  gradient       MB  seconds a step")
    found = {}
    for way in WAYS:
        result = measured(
            __file__, way=way, steps=steps, count=count, size=size, layers=layers, channels=channels
        )
        found[way] = result
        losses = result["losses"]
        print(
            f"{way:20} {losses[0]:10.6f} {losses[-1]:10.6f} {result['gradient']:9.5f} "
            f"{result['megabytes']:8.0f} {result['seconds'] / steps:8.2f}"
        )
    for one, other in (("eager", "plain"), ("eager, by picture", "plain, by picture")):
        ours, theirs = found[one], found[other]
        difference = max(abs(a / b - 1.0) for a, b in zip(ours["losses"], theirs["losses"], strict=True))
        saved = theirs["megabytes"] - ours["megabytes"]
        print(f"{one}: losses differ by {difference:.0e} of themselves, {saved:.0f} MB less")
        assert difference < TOLERANCE
        assert abs(ours["gradient"] / theirs["gradient"] - 1.0) < 100 * TOLERANCE
        assert ours["megabytes"] < theirs["megabytes"]


if __name__ == "__main__":
    main()
