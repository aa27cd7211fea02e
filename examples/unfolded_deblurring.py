"""A small unfolded network that learns to deblur, trained through its solver's loop and without it.

    python examples/unfolded_deblurring.py [--quick] [--picture CURVES.svg]

Pictures of discs are blurred (only where the blur sees the whole neighbourhood, so the operator is rectangular) and
noise is added. The network is half-quadratic splitting with a few stages. Each takes the picture that is nearest to
the data and to z, `h = argmin_x |A x - y|² + |x - z|²/γ`, with a learnt step size γ, and then lets a learnt denoiser of
a few convolutions make the next z. The width of the blur is learnt too, from a wrong start.

The data step is solved by conjugate gradients, and trained both ways, each in a process of its own: with the loop in
the graph (plain autograd), and by `otreg.autodiff.proximal_least_squares`, whose backward pass is one more solve. The
loss curves are the same to the stated tolerance.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from helpers.processes import measured, serve
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from otreg.autodiff import proximal_least_squares

RADIUS = 4
"""Of the blur kernel, in pixels: it has 2 · 4 + 1 of them in each direction."""

TRUE_WIDTH, FIRST_WIDTH = 1.6, 1.3
"""Sigma of the Gaussian blur, and what the network begins with, in pixels."""

NOISE = 0.01
ITERATIONS = 60
"""Of the unrolled loop: as many as the solver needs for TOLERANCE where γ is largest."""

TOLERANCE = 1e-6
"""Relative residual of the solver."""

AGREEMENT = 2e-3
"""Largest relative difference of the two loss curves, in float32, at any step of the training."""

WAYS = {"plain": "loop in the graph", "implicit": "one more solve"}


def kernel(width: Tensor) -> Tensor:
    """Gaussian of a width in pixels, as the weights of a convolution (1, 1, K, K) that sum to 1."""
    place = torch.arange(-RADIUS, RADIUS + 1.0)
    row = torch.exp(-place.square() / (2 * width.square()))
    row = row / row.sum()
    return (row[:, None] * row)[None, None]


class Deblurring(torch.nn.Module):
    """Half-quadratic splitting, unfolded: data step, denoiser, data step, …"""

    def __init__(self, stages: int, channels: int) -> None:
        super().__init__()
        self.width = torch.nn.Parameter(torch.tensor(FIRST_WIDTH))
        self.log_steps = torch.nn.Parameter(torch.linspace(1.0, 3.0, stages))
        sizes = (1, channels, channels, 1)
        self.denoiser = torch.nn.ModuleList(
            torch.nn.Conv2d(one, other, 3, padding=1) for one, other in pairwise(sizes)
        )

    def forward(self, y: Tensor, way: str) -> Tensor:
        """Pictures (B, 1, H, W) from blurred ones (B, 1, H - 2 R, W - 2 R)."""
        weights = kernel(self.width)

        def blur(x: Tensor) -> Tensor:
            return conv2d(x, weights)

        def adjoint(y: Tensor) -> Tensor:
            return conv_transpose2d(y, weights)

        z = torch.nn.functional.pad(y, 4 * [RADIUS], mode="replicate")
        for log_step in self.log_steps:
            gamma = log_step.exp()
            if way == "plain":
                h = unrolled(blur, adjoint, y, z, gamma)
            else:
                h = proximal_least_squares(
                    blur, adjoint, y, z, gamma, (weights,), dims=(1, 2, 3), tol=TOLERANCE, check_adjoint=False
                )
            z = h
            for layer in self.denoiser[:-1]:
                z = torch.relu(layer(z))
            z = h + self.denoiser[-1](z)
        return z


def unrolled(blur: Any, adjoint: Any, y: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
    """The data step as a loop of conjugate gradients that autograd stores."""
    u = torch.zeros_like(z)
    residual = gamma * adjoint(y - blur(z))
    direction, size = residual, product(residual, residual)
    for _ in range(ITERATIONS):
        image = direction + gamma * adjoint(blur(direction))
        step = size / product(direction, image)
        u = u + step * direction
        residual = residual - step * image
        before, size = size, product(residual, residual)
        if bool((size.detach() <= TOLERANCE**2).all()):
            break
        direction = residual + size / before * direction
    return z + u


def product(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of pictures, (B, 1, 1, 1); not quite zero, so that a solved one does not divide by it."""
    return (one * other).sum(dim=(1, 2, 3), keepdim=True) + 1e-30


def pictures(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Three discs in each picture (B, 1, size, size), and the same blurred and noisy (B, 1, size - 2 R, …)."""
    axis = (torch.arange(size) + 0.5) / size
    clean = torch.zeros(count, size, size)
    for _ in range(3):
        place = torch.rand(count, 2, 1, 1, generator=generator)
        radius = 0.05 + 0.2 * torch.rand(count, 1, 1, generator=generator)
        brightness = torch.rand(count, 1, 1, generator=generator)
        distance = ((axis[:, None] - place[:, 0]).square() + (axis - place[:, 1]).square()).sqrt()
        clean = clean + brightness * (distance < radius)
    clean = clean[:, None]
    blurred = conv2d(clean, kernel(torch.tensor(TRUE_WIDTH)))
    return clean, blurred + NOISE * torch.randn(blurred.shape, generator=generator)


def train(way: str, steps: int, count: int, size: int, stages: int, channels: int) -> dict[str, Any]:
    """Losses of all steps, and what was learnt."""
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    network = Deblurring(stages, channels)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        clean, blurred = pictures(count, size, generator)
        # the blurred margin outside what was seen is not asked for
        inside = (..., slice(RADIUS, -RADIUS), slice(RADIUS, -RADIUS))
        loss = (network(blurred, way) - clean)[inside].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    learnt = {"width": float(network.width.detach()), "steps": network.log_steps.detach().exp().tolist()}
    return {"losses": losses, **learnt}


def curves(found: dict[str, list[float]]) -> str:
    """Loss curves as an SVG picture, on a logarithmic scale; the second dashed, since it lies on the first."""
    everything = [torch.tensor(losses).log10() for losses in found.values()]
    low, high = (float(f(torch.cat(everything))) for f in (torch.min, torch.max))
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="480" height="320" font-family="sans-serif" font-size="12">',
        '<rect width="480" height="320" fill="white"/>',
        '<path d="M60 20V270H460" fill="none" stroke="black"/>',
        '<text x="240" y="300">training step</text>',
        f'<text x="8" y="28">{10**high:.1e}</text><text x="8" y="272">{10**low:.1e}</text>',
    ]
    styles = (("#c44e52", "3", "none"), ("#1f3b73", "1.5", "6 5"))
    for number, (name, values, style) in enumerate(zip(found, everything, styles, strict=True)):
        x = torch.linspace(60.0, 460.0, len(values))
        y = 270.0 - 245.0 * (values - low) / max(high - low, 1e-12)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
        look = f'stroke="{style[0]}" stroke-width="{style[1]}" stroke-dasharray="{style[2]}"'
        parts.append(f'<polyline points="{points}" fill="none" {look}/>')
        height = 40 + 20 * number
        parts.append(f'<path d="M320 {height}h30" {look}/><text x="360" y="{height + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    if serve(train, {"way": "implicit", "steps": 1, "count": 2, "size": 16, "stages": 1, "channels": 2}):
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller pictures and fewer steps")
    parser.add_argument("--picture", type=Path, help="where to write the loss curves, as SVG")
    arguments = parser.parse_args()
    quick = arguments.quick
    sizes = (4, 40, 2, 8) if quick else (8, 80, 3, 16)
    setting = dict(zip(("count", "size", "stages", "channels"), sizes, strict=True))
    steps = 4 if quick else 24
    print(f"{setting}, {steps} training steps")
    print("data step           first loss  last loss  width    MB  seconds a step")
    found = {}
    for way, name in WAYS.items():
        result = measured(__file__, way=way, steps=steps, **setting)
        found[way] = result
        losses = result["losses"]
        print(
            f"{name:18} {losses[0]:11.3e} {losses[-1]:10.3e} {result['width']:6.3f} {result['megabytes']:5.0f} "
            f"{result['seconds'] / steps:8.2f}"
        )
    pairs = zip(found["implicit"]["losses"], found["plain"]["losses"], strict=True)
    difference = max(abs(one / other - 1.0) for one, other in pairs)
    print(f"loss curves differ by at most {difference:.0e} of the loss (tolerance {AGREEMENT:.0e})")
    memory, seconds = (found["plain"][what] / found["implicit"][what] for what in ("megabytes", "seconds"))
    print(f"{memory:.1f} times less memory, {seconds:.2f} times as fast")
    assert difference < AGREEMENT
    assert memory > 1.0
    if arguments.picture:
        named = {WAYS[way]: result["losses"] for way, result in found.items()}
        arguments.picture.write_text(curves(named), encoding="utf-8")
        print(f"curves: {arguments.picture}")


if __name__ == "__main__":
    main()
