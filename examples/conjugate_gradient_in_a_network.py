"""A reconstruction network with conjugate gradients inside, trained through their loop and without it.

    python examples/conjugate_gradient_in_a_network.py [--quick]

As in magnetic resonance imaging: several coils see a picture, each through a sensitivity of its own, and of each
coil's Fourier transform only some rows are measured, with noise. The network is unrolled: a denoiser of a few
convolutions makes z from x, then data consistency is restored by solving

    (Eᴴ E + λ) x = Eᴴ y + λ z

by conjugate gradients, E being the measurement and λ learnt. Pictures and measurements are made by the script. The
system is solved with the loop in the graph (plain autograd), and by `otreg.autodiff.conjugate_gradient`, whose
backward pass is one more solve: each in a process of its own, at growing caps on the iterations. Both start from zero.
Where the cap is too low for convergence, the two derivatives are of different things and the losses drift apart; where
it is not, they are the same to the stated tolerance.
"""

from __future__ import annotations

import argparse
import warnings
from itertools import pairwise
from typing import Any

import torch
from helpers.processes import measured, serve
from torch import Tensor

from otreg.autodiff import conjugate_gradient
from otreg.errors import ConvergenceWarning

COILS = 4
NOISE = 0.01
AGREEMENT = 1e-3
"""Largest relative difference of the two loss curves, in float32, where the solver was left to converge."""

WAYS = {"plain": "loop in the graph", "implicit": "one more solve"}


class Measurement:
    """E: coils' sensitivities, Fourier transform, rows that were measured. Pictures (B, H, W), data (B, C, H, W)."""

    def __init__(self, size: int) -> None:
        axis = torch.linspace(-1.0, 1.0, size)
        angles = 2 * torch.pi * torch.arange(COILS) / COILS
        x, y = (
            axis[None, :, None] - angles.cos()[:, None, None],
            axis[None, None] - angles.sin()[:, None, None],
        )
        self.coils = torch.polar(torch.exp(-(x.square() + y.square()) / 2), torch.atan2(y, x + 3.0))
        # every third row, and all of the lowest frequencies
        frequency = torch.fft.fftfreq(size).abs()
        self.rows = ((torch.arange(size) % 3 == 0) | (frequency < 0.06)).float()[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        return self.rows * torch.fft.fft2(self.coils * x[:, None], norm="ortho")

    def adjoint(self, y: Tensor) -> Tensor:
        return (self.coils.conj() * torch.fft.ifft2(self.rows * y, norm="ortho")).sum(dim=1)


class Reconstruction(torch.nn.Module):
    """Denoiser, data consistency, denoiser, …, with the same denoiser and λ in every stage."""

    def __init__(self, stages: int, channels: int, iterations: int) -> None:
        super().__init__()
        self.stages, self.iterations = stages, iterations
        self.log_lambda = torch.nn.Parameter(torch.tensor(-4.0))
        self.denoiser = torch.nn.ModuleList(
            torch.nn.Conv2d(one, other, 3, padding=1) for one, other in pairwise((2, channels, channels, 2))
        )

    def forward(self, y: Tensor, measurement: Measurement, way: str, tol: float) -> Tensor:
        """Pictures (B, H, W), complex, from data (B, C, H, W)."""
        weight = self.log_lambda.exp()

        def normal(x: Tensor) -> Tensor:
            return measurement.adjoint(measurement(x)) + weight * x

        back = measurement.adjoint(y)
        x = back
        for _ in range(self.stages):
            z = torch.view_as_real(x).movedim(-1, 1)
            for layer in self.denoiser[:-1]:
                z = torch.relu(layer(z))
            z = torch.view_as_complex(self.denoiser[-1](z).movedim(1, -1).contiguous()) + x
            right = back + weight * z
            if way == "plain":
                x = unrolled(normal, right, self.iterations)
            else:
                x = conjugate_gradient(
                    normal, right, None, (weight,), dims=(1, 2), tol=tol, max_iterations=self.iterations
                )
        return x


def unrolled(normal: Any, right: Tensor, iterations: int) -> Tensor:
    """Conjugate gradients as a loop that autograd stores."""
    x, residual = torch.zeros_like(right), right
    direction, size = residual, product(residual, residual)
    for _ in range(iterations):
        image = normal(direction)
        step = size / product(direction, image)
        x = x + step * direction
        residual = residual - step * image
        before, size = size, product(residual, residual)
        direction = residual + size / before * direction
    return x


def product(one: Tensor, other: Tensor) -> Tensor:
    """Real inner products of pictures, (B, 1, 1); not quite zero, so that a solved one does not divide by it."""
    return (one.conj() * other).real.sum(dim=(1, 2), keepdim=True) + 1e-30


def pictures(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Four discs in each picture (B, size, size), with a phase that changes across it."""
    axis = torch.linspace(-1.0, 1.0, size)
    total = torch.zeros(count, size, size)
    for _ in range(4):
        place = torch.rand(count, 2, 1, 1, generator=generator) - 0.5
        radius = 0.1 + 0.3 * torch.rand(count, 1, 1, generator=generator)
        distance = ((axis[:, None] - place[:, 0]).square() + (axis - place[:, 1]).square()).sqrt()
        total = total + torch.rand(count, 1, 1, generator=generator) * (distance < radius)
    return torch.polar(total, axis[:, None] * torch.rand(count, 1, 1, generator=generator))


def train(way: str, iterations: int, steps: int, count: int, size: int, stages: int, channels: int) -> Any:
    """Losses of all steps, and the λ that was learnt."""
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    network, measurement = Reconstruction(stages, channels, iterations), Measurement(size)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    with warnings.catch_warnings():
        # the cap on iterations is what is compared here
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(steps):
            clean = pictures(count, size, generator)
            noise = torch.randn(count, COILS, size, size, dtype=torch.complex64, generator=generator)
            y = measurement(clean) + NOISE * measurement.rows * noise
            loss = (network(y, measurement, way, 1e-6) - clean).abs().square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    return {"losses": losses, "lambda": float(network.log_lambda.detach().exp())}


def main() -> None:
    small = {"iterations": 2, "steps": 1, "count": 1, "size": 16, "stages": 1, "channels": 2}
    if serve(train, {"way": "implicit", **small}):
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller pictures and fewer steps")
    quick = parser.parse_args().quick
    sizes = (2, 48, 2, 8) if quick else (4, 128, 3, 16)
    setting = dict(zip(("count", "size", "stages", "channels"), sizes, strict=True))
    steps = 2 if quick else 6
    print(f"{setting}, {COILS} coils, {steps} training steps")
    print("iterations  data consistency    first loss  last loss   lambda    MB  seconds a step")
    for iterations in (10, 60) if quick else (10, 20, 40, 80):
        found = {}
        for way, name in WAYS.items():
            result = measured(__file__, way=way, iterations=iterations, steps=steps, **setting)
            found[way] = result
            losses = result["losses"]
            print(
                f"{iterations:10d}  {name:18} {losses[0]:11.3e} {losses[-1]:10.3e} {result['lambda']:8.5f} "
                f"{result['megabytes']:5.0f} {result['seconds'] / steps:8.2f}"
            )
    pairs = zip(found["implicit"]["losses"], found["plain"]["losses"], strict=True)
    difference = max(abs(one / other - 1.0) for one, other in pairs)
    memory = found["plain"]["megabytes"] / found["implicit"]["megabytes"]
    print(
        f"at {iterations} iterations: loss curves differ by at most {difference:.0e} of the loss (tolerance "
        f"{AGREEMENT:.0e}), {memory:.1f} times less memory"
    )
    assert difference < AGREEMENT
    assert memory > 1.0


if __name__ == "__main__":
    main()
