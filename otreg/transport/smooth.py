"""Newton steps for the smooth part of the potentials, which alternating updates are slowest to find.

An update passes information over a distance of about the blur only, so the widest modes of the error take
longest to decay. Polynomials of low degree describe them well: with bases X on x and Y on y, one Newton step
raises the dual over ``f + X s, g + Y t``. Its Hessian needs the plan only through its marginals and through
``P Y``, the plan-weighted mean of a few values, which comes out of the same pass as the softmin.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from otreg.transport.schedule import solve_small

LARGEST_STEP = 3.0
"""Largest change of f, in units of eps, that the quadratic model is trusted with."""


class SmoothModes:
    """Polynomials on both clouds, and the Newton step in their span, for balanced problems.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
    a, b : Tensor, shapes (N,) and (M,), float64
        Masses of equal total.
    """

    def __init__(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        centre = y.mean(dim=0, dtype=torch.float64)
        scale = (y.double() - centre).abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
        self.on_x = polynomials((x.double() - centre) / scale)
        self.on_y = polynomials((y.double() - centre) / scale)
        self.values = self.on_y.to(y.dtype)
        self._corner_x = self.on_x.T @ (a[:, None] * self.on_x)

    def step(self, mean: Tensor, columns: Tensor) -> Tensor:
        """Change of f, in units of eps, after an update that made the rows exact.

        Parameters
        ----------
        mean : Tensor, shape (N, K)
            Plan-weighted mean of ``values`` for each point of x.
        columns : Tensor, shape (M,)
            Column sums of the plan after that update. Those that are wanted would not do: the Hessian is
            nearly singular along the slow modes, and exact only if it is that of one plan.
        """
        moved = self.a[:, None] * mean.double()
        missing = self.on_y.T @ (self.b - columns)
        corner_y = self.on_y.T @ (columns[:, None] * self.on_y)
        mixed = self.on_x.T @ moved
        hessian = torch.cat(
            [torch.cat([self._corner_x, mixed], dim=1), torch.cat([mixed.T, corner_y], dim=1)]
        )
        # singular along the constants, and nearly so where the points lie on a curve or a plane
        ridge = hessian.diagonal().mean() * 1e-9
        hessian = hessian + ridge * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
        right = torch.cat([torch.zeros_like(missing), missing])
        change = self.on_x @ solve_small(hessian, right)[: self.on_x.shape[1]]
        change = change * (LARGEST_STEP / change.abs().amax().clamp_min(LARGEST_STEP))
        return torch.where(torch.isfinite(change), change, torch.zeros_like(change))


def polynomials(points: Tensor) -> Tensor:
    """Monomials of the coordinates: up to degree 3 in 3-D, 2 up to 8-D, 1 above; shape (N, K)."""
    dimension = points.shape[1]
    degree = 3 if dimension <= 3 else 2 if dimension <= 8 else 1
    columns = [torch.ones_like(points[:, 0])]
    for total in range(1, degree + 1):
        for axes in itertools.combinations_with_replacement(range(dimension), total):
            columns.append(points[:, axes].prod(dim=1))
    return torch.stack(columns, dim=1)
