"""A reconstruction network that solves a linear system in each of its layers, trained through the loop and without it.

    python examples/conjugate_gradient_in_a_network.py [--quick]

Magnetic resonance images from several coils, of which every frequency but a few rows is missing. As in MoDL (Aggarwal,
Mani & Jacob, "MoDL: model-based deep learning architecture for inverse problems", IEEE Transactions on Medical Imaging
2019), a denoiser of a few convolutions and a data step alternate: the image near the data y and the denoised z,

    (AᴴA + λ) x = Aᴴy + λ z,        A x = rows of the Fourier transform of (coil maps · x)

solved by conjugate gradients. λ and the coil maps, which are known roughly, are trained with the denoiser, so A itself
needs a gradient. Both ways are measured in processes of their own: the loop in the graph (plain autograd), and
`otreg.autodiff.conjugate_gradient`, whose backward pass is one more solve.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from helpers.processes import measured, serve
from torch import Tensor

from otreg.autodiff import conjugate_gradient

TOLERANCE = 1e-5
"""Relative residual of the solver."""

ITERATIONS = 100
"""Cap of the unrolled loop; it ends earlier, at TOLERANCE."""

FIRST_WEIGHT = 0.05
"""λ at the start; AᴴA has eigenvalues between 0 and 1."""

NOISE = 0.01
AGREEMENT = 2e-3
"""Largest relative difference of the two loss curves, in float32, at any step of the training."""

WAYS = {"plain": "loop in the graph", "ours": "one more solve"}


class Reconstruction(torch.nn.Module):
    """Data step, denoiser, data step, …, with the same weights in each stage."""

    def __init__(self, maps: Tensor, stages: int, channels: int) -> None:
        super().__init__()
        self.maps = torch.nn.Parameter(maps)
        self.log_weight = torch.nn.Parameter(torch.tensor(math.log(FIRST_WEIGHT)))
        self.stages = stages
        sizes = (2, channels, channels, 2)  # real and imaginary parts
        self.denoiser = torch.nn.ModuleList(
            torch.nn.Conv2d(one, other, 3, padding=1) for one, other in pairwise(sizes)
        )

    def forward(self, y: Tensor, mask: Tensor, way: str) -> Tensor:
        """Images (B, H, W) from the Fourier rows (B, coils, H, W) of what each coil sees."""
        weight, maps = self.log_weight.exp(), self.maps

        def normal(x: Tensor) -> Tensor:
            return adjoint(forward(x, maps, mask), maps, mask) + weight * x

        seen = adjoint(y, maps, mask)
        x, right = torch.zeros_like(seen), seen
        for stage in range(self.stages):
            if stage:
                right = seen + weight * self.denoised(x)
            if way == "plain":
                x = unrolled(normal, right)
            else:
                x = conjugate_gradient(normal, right, None, (weight, maps), dims=(1, 2), tol=TOLERANCE)
        return x

    def denoised(self, x: Tensor) -> Tensor:
        h = torch.view_as_real(x).movedim(-1, 1)
        for layer in self.denoiser[:-1]:
            h = torch.relu(layer(h))
        h = self.denoiser[-1](h)
        return x + torch.view_as_complex(h.movedim(1, -1).contiguous())


def forward(x: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
    """What the coils (C, H, W) see of images (B, H, W), in the rows of their Fourier transforms that are measured."""
    return mask * torch.fft.fft2(maps * x[:, None], norm="ortho")


def adjoint(y: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
    return (maps.conj() * torch.fft.ifft2(mask * y, norm="ortho")).sum(dim=1)


def unrolled(normal: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Conjugate gradients as everybody writes them: autograd stores every iteration."""
    x, residual = torch.zeros_like(right), right
    direction, size = residual, product(residual, residual)
    enough = TOLERANCE**2 * size.detach()
    for _ in range(ITERATIONS):
        image = normal(direction)
        step = size / product(direction, image)
        x = x + step * direction
        residual = residual - step * image
        before, size = size, product(residual, residual)
        if bool((size.detach() <= enough).all()):
            break
        direction = residual + size / before * direction
    return x


def product(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of images, (B, 1, 1); not quite zero, so that a solved one does not divide by it."""
    return (one.conj() * other).real.sum(dim=(1, 2), keepdim=True) + 1e-30


def scans(count: int, side: int, coils: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Images (B, side, side), data (B, coils, side, side), rows that are measured (side, 1), and rough coil maps."""
    axis = (torch.arange(side) + 0.5) / side
    images = torch.zeros(count, side, side)
    for _ in range(4):
        place = 0.3 + 0.4 * torch.rand(count, 2, 1, 1, generator=generator)
        radii = 0.05 + 0.2 * torch.rand(count, 2, 1, 1, generator=generator)
        u, v = (axis[:, None] - place[:, 0]) / radii[:, 0], (axis - place[:, 1]) / radii[:, 1]
        brightness = 0.2 + torch.rand(count, 1, 1, generator=generator)
        images = images + brightness * (u.square() + v.square() < 1.0)
    truth = torch.polar(images, axis.expand(count, side, side))  # a phase that changes slowly

    angle = 2.0 * math.pi * torch.arange(coils)[:, None, None] / coils
    distance = (axis[:, None] - 0.5 - 0.6 * angle.cos()).square() + (axis - 0.5 - 0.6 * angle.sin()).square()
    maps = torch.polar(torch.exp(-distance / 0.3), angle.expand_as(distance))
    maps = maps / maps.abs().square().sum(dim=0).sqrt()

    rows = torch.rand(side, generator=generator) < 0.3
    rows[: side // 16 + 1] = rows[-(side // 16) :] = True  # low frequencies: first and last
    mask = rows.float()[:, None]
    parts = torch.randn(2, count, coils, side, side, generator=generator)
    y = forward(truth, maps, mask) + NOISE * mask * torch.complex(*parts)
    rough = maps * (1.0 + 0.1 * torch.randn(coils, 1, 1, generator=generator))
    return truth, y, mask, rough


def train(
    way: str, steps: int, count: int, side: int, coils: int, stages: int, channels: int
) -> dict[str, Any]:
    """Losses of all steps, and what was learnt."""
    torch.manual_seed(1)
    truth, y, mask, rough = scans(count, side, coils, torch.Generator().manual_seed(2))
    network = Reconstruction(rough, stages, channels)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        loss = (network(y, mask, way) - truth).abs().square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return {"losses": losses, "weight": float(network.log_weight.detach().exp())}


def main() -> None:
    small = {"way": "ours", "steps": 1, "count": 2, "side": 16, "coils": 2, "stages": 2, "channels": 2}
    if serve(train, small):
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller images and fewer steps")
    quick = parser.parse_args().quick
    sizes = (2, 48, 4, 2, 8) if quick else (4, 128, 8, 3, 16)
    setting = dict(zip(("count", "side", "coils", "stages", "channels"), sizes, strict=True))
    steps = 3 if quick else 8
    print(f"{setting}, {steps} training steps")
    print("data step           first loss  last loss      λ     MB  seconds a step")
    found = {}
    for way, name in WAYS.items():
        result = measured(__file__, way=way, steps=steps, **setting)
        found[way] = result
        losses = result["losses"]
        print(
            f"{name:18} {losses[0]:11.3e} {losses[-1]:10.3e} {result['weight']:6.4f} "
            f"{result['megabytes']:6.0f} {result['seconds'] / steps:8.2f}"
        )
    pairs = zip(found["ours"]["losses"], found["plain"]["losses"], strict=True)
    difference = max(abs(one / other - 1.0) for one, other in pairs)
    print(f"loss curves differ by at most {difference:.0e} of the loss (tolerance {AGREEMENT:.0e})")
    memory, seconds = (found["plain"][what] / found["ours"][what] for what in ("megabytes", "seconds"))
    print(f"{memory:.1f} times less memory, {seconds:.2f} times as fast")
    assert difference < AGREEMENT
    assert memory > 1.0


if __name__ == "__main__":
    main()
