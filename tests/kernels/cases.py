"""The kernels that the shared tests go through, each beside a dense formula written down once more."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from otreg.kernels import (
    ArcCosine,
    Cauchy,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplacian,
    Sum,
    Wendland,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel as a function of its parameters, and its matrix by plain autograd, exact where points differ."""

    name: str
    build: Callable[..., Kernel]
    parameters: tuple[float, ...]
    dense: Callable[..., Tensor]
    dimension: int = 2
    invariant: bool = True
    """Under translations."""

    def kernel(self) -> Kernel:
        """The kernel with plain numbers."""
        return self.build(*self.parameters)

    def tensors(self) -> tuple[Tensor, ...]:
        """Its parameters as tensors that gradients reach."""
        return tuple(torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in self.parameters)

    def clouds(self, count: int, other: int, seed: int = 0, channels: int = 2) -> tuple[Tensor, ...]:
        """Points x (count, D), y (other, D) and values v (other, channels), float64, without gradients."""
        generator = torch.Generator().manual_seed(seed)
        shapes = ((count, self.dimension), (other, self.dimension), (other, channels))
        return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)


def distance(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y[None]).square().sum(dim=2).sqrt()


def gaussian(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-(distance(x, y) ** 2) / (2 * width**2))


def laplacian(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-distance(x, y) / width)


def wendland(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    s = (distance(x, y) / width).clamp(max=1.0)
    return (1 - s) ** 6 * (35 * s**2 + 18 * s + 3) / 3


def arc_cosine(order: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def dense(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        inner = bias + weight * x @ y.T
        norms = ((bias + weight * (x**2).sum(1))[:, None] * (bias + weight * (y**2).sum(1))).sqrt()
        angle = torch.acos(inner / norms)
        rest = math.pi - angle
        cos, sin = angle.cos(), angle.sin()
        angular = (rest, sin + rest * cos, 3 * sin * cos + rest * (1 + 2 * cos**2))[order]
        return norms**order * angular / math.pi

    return dense


CASES = (
    Case("gaussian", Gaussian, (0.8,), gaussian),
    Case("laplacian", Laplacian, (0.8,), laplacian),
    Case("cauchy", Cauchy, (0.8,), lambda x, y, width: 1 / (1 + distance(x, y) ** 2 / width**2)),
    Case(
        "inverse_multiquadric",
        InverseMultiquadric,
        (0.8,),
        lambda x, y, width: (1 + distance(x, y) ** 2 / width**2) ** -0.5,
    ),
    Case("wendland", Wendland, (3.0,), wendland, dimension=3),
    Case(
        "scales",
        lambda wide, narrow, a, b: Gaussian.of_scales((wide, narrow), (a, b)),
        (2.0, 0.5, 1.5, 0.3),
        lambda x, y, wide, narrow, a, b: a * gaussian(x, y, wide) + b * gaussian(x, y, narrow),
    ),
    Case(
        "sum",
        lambda width, weight, bias, a, b: Sum((Laplacian(width), ArcCosine(1, weight, bias)), (a, b)),
        (0.7, 0.6, 0.4, 2.0, 0.5),
        lambda x, y, width, weight, bias, a, b: (
            a * laplacian(x, y, width) + b * arc_cosine(1)(x, y, weight, bias)
        ),
        invariant=False,
    ),
    *(
        Case(
            f"arc_cosine_{order}",
            lambda weight, bias, order=order: ArcCosine(order, weight, bias),
            (0.7, 0.5),
            arc_cosine(order),
            invariant=False,
        )
        for order in (0, 1, 2)
    ),
)
