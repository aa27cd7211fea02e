"""Shapes, and a dense solver that is nothing but the textbook's loop."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform(count: int, dimension: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Points of the unit cube."""
    return torch.rand(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bent_sphere(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A closed surface of about unit diameter."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    return (0.29 * x * (1 + 0.2 * torch.sin(5 * x[:, :1]))).to(dtype)


def dense_solve(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, blur: float, rho_x: float, rho_y: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Value, by the primal formula, and plan: alternating updates on a dense cost, unrolled."""
    eps = blur**2
    cost = (x[:, None] - y[None]).square().sum(dim=2) / 2
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    damp_x, damp_y = 1 / (1 + eps / rho_x), 1 / (1 + eps / rho_y)
    for _ in range(steps):
        g = -damp_y * eps * (a.log()[:, None] + (f[:, None] - cost) / eps).logsumexp(dim=0)
        f = -damp_x * eps * (b.log()[None] + (g[None] - cost) / eps).logsumexp(dim=1)
    plan = a[:, None] * b[None] * ((f[:, None] + g[None] - cost) / eps).exp()
    value = (plan * cost).sum() + eps * divergence(plan, a[:, None] * b[None])
    if math.isfinite(rho_x):
        value = value + rho_x * divergence(plan.sum(dim=1), a)
    if math.isfinite(rho_y):
        value = value + rho_y * divergence(plan.sum(dim=0), b)
    return value, plan


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Kullback–Leibler divergence of positive measures of any mass."""
    return (p * (p / q).log() - p + q).sum()
