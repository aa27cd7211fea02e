"""Conjugate gradients for symmetric positive (semi-)definite operators known by their products."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from otreg.errors import InputError


class ConjugateGradient(NamedTuple):
    """What :func:`conjugate_gradient` gives back.

    ``residual`` is ``|A u - b| / |b|``, as the recurrence sees it.
    """

    solution: Tensor
    residual: float
    iterations: int
    converged: bool


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    start: Tensor | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    tol: float = 1e-8,
    max_iterations: int = 1000,
) -> ConjugateGradient:
    """Solve ``A u = b`` without a graph.

    Parameters
    ----------
    operator : callable
        ``u -> A u``, linear, symmetric, positive semi-definite; b must lie in its range.
    right : Tensor, any shape
        b. It is normalised first, so that its scale neither underflows nor matters.
    start : Tensor, optional
        First guess; zero by default.
    preconditioner : callable, optional
        ``r -> M⁻¹ r``, symmetric positive definite, cheap.
    tol : float
        Largest relative residual accepted.
    max_iterations : int

    Returns
    -------
    ConjugateGradient
        Stops early, unconverged, where rounding (or an operator that is not positive) leaves no direction to
        go on.

    References
    ----------
    Hestenes & Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952.
    """
    if not tol > 0:
        raise InputError(f"tol must be a positive number, got {tol}")
    with torch.no_grad():
        scale = right.abs().max() if right.numel() else right.new_zeros(())
        if not bool(scale > 0):
            return ConjugateGradient(torch.zeros_like(right), 0.0, 0, True)
        # by the largest entry first: the norm of tiny numbers would underflow
        scale = scale * (right / scale).norm()
        target = right / scale
        solution = torch.zeros_like(right) if start is None else start / scale
        residual = target - operator(solution) if start is not None else target.clone()
        direction = torch.zeros_like(right)
        previous, size, iterations = None, float(residual.norm()), 0
        best, best_size = solution.clone(), size
        while size > tol and iterations < max_iterations:
            steered = residual if preconditioner is None else preconditioner(residual)
            slope = torch.sum(residual * steered)
            direction = steered + (0.0 if previous is None else slope / previous) * direction
            image = operator(direction)
            curvature = torch.sum(direction * image)
            if not bool(curvature > 0) or not bool(slope > 0):
                break
            step = slope / curvature
            solution = solution + step * direction
            residual = residual - step * image
            previous, size, iterations = slope, float(residual.norm()), iterations + 1
            if size < best_size:
                best, best_size = solution, size
        return ConjugateGradient(best * scale, best_size, iterations, best_size <= tol)
