"""The conjugate gradients that everything else here calls: no graph, many systems at once, every stop explained."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from otreg.errors import InputError


class Stop(enum.IntEnum):
    """Why the iterations of a system ended."""

    CONVERGED = 0
    ITERATIONS = 1
    """The cap was met."""
    INDEFINITE = 2
    """A direction v with ``vᴴ A v ≤ 0``: A is not positive definite, or singular to rounding."""
    PRECONDITIONER = 3
    """A residual r with ``rᴴ M r ≤ 0``."""
    NOT_FINITE = 4
    """A or M gave numbers that are not finite."""
    ROUNDING = 5
    """The recurrence says converged, ``b - A x`` says otherwise, and starting again does not help."""


class ConjugateGradient(NamedTuple):
    """Solutions, and for each system how it went.

    Attributes
    ----------
    solution : Tensor
        Of the shape of b: the best iterate of each system.
    residual : Tensor, real
        ``|A x - b| / |b|`` of each system; its shape is that of b without the dimensions of one system.
    iterations : Tensor of int64
        Products with A until a system was solved or given up.
    converged : Tensor of bool
        ``residual <= tol``.
    stopped : Tensor of int64
        Members of :class:`Stop`.
    """

    solution: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    stopped: Tensor


def axes_of(right: Tensor, dims: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The dimensions of b that make up one unknown vector, none of them negative; all by default.

    Raises
    ------
    InputError
        If they are not dimensions of b, or none.
    """
    if dims is None:
        return tuple(range(right.dim()))
    given = (dims,) if isinstance(dims, int) else tuple(dims)
    if not given or any(not -right.dim() <= axis < right.dim() for axis in given):
        raise InputError(f"dims must name dimensions of b, of shape {tuple(right.shape)}, got {dims}")
    return tuple(sorted({axis % right.dim() for axis in given}))


def norm(v: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Length of each system's vector, with its dimensions kept at 1; of its own scale, so nothing underflows."""
    if not v.numel():
        return v.abs().sum(axes, keepdim=True) if axes else v.abs()
    largest = v.abs().amax(axes, keepdim=True)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    return largest * torch.linalg.vector_norm(v / largest, dim=axes or None, keepdim=True)


def inner(first: Tensor, second: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Real part of ``firstᴴ second`` of each system, with its dimensions kept at 1."""
    if first.is_complex():
        first, second = torch.view_as_real(first.resolve_conj()), torch.view_as_real(second.resolve_conj())
        return (first * second).sum((*axes, -1), keepdim=True)[..., 0]
    return (first * second).sum(axes, keepdim=True)


def solve(
    operator: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    dims: int | tuple[int, ...] | None = None,
    start: Tensor | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    tol: float = 1e-8,
    max_iterations: int = 1000,
) -> ConjugateGradient:
    """Solve ``A u = b`` without a graph.

    Parameters
    ----------
    operator : callable
        ``u -> A u``, linear, symmetric or Hermitian, positive semi-definite; b must lie in its range.
    right : Tensor, any shape, real or complex
        b. It is normalised first, so that its scale neither underflows nor matters.
    dims : int or tuple of int, optional
        Dimensions of b that make up one system; along the others lie systems of their own. All by default.
        What is solved stays as it is while the others go on.
    start : Tensor, optional
        First guess; zero by default.
    preconditioner : callable, optional
        ``r -> M r`` with M near ``A⁻¹``, symmetric (Hermitian) positive definite, cheap.
    tol : float
        Largest relative residual accepted, as the recurrence sees it.
    max_iterations : int

    Returns
    -------
    ConjugateGradient
        With residuals as the recurrence sees them.

    References
    ----------
    Hestenes & Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952.
    """
    if not tol > 0:
        raise InputError(f"tol must be a positive number, got {tol}")
    axes = axes_of(right, dims)
    with torch.no_grad():
        scale = norm(right, axes)
        something = scale > 0
        scale = torch.where(something, scale, torch.ones_like(scale))
        target = right / scale
        if start is None:
            solution, residual = torch.zeros_like(target), target
        else:
            solution = torch.where(something, start / scale, torch.zeros_like(target))
            residual = target - operator(solution)
        size = norm(residual, axes)
        active = size > tol
        stopped = torch.where(active | size.isnan(), int(Stop.ITERATIONS), int(Stop.CONVERGED))
        stopped = stopped.masked_fill(~size.isfinite(), int(Stop.NOT_FINITE))
        iterations = torch.zeros_like(stopped)
        # no number can be told where there is none to begin with
        best, best_size = torch.where(size.isfinite(), solution, torch.full_like(solution, torch.nan)), size
        direction, previous = torch.zeros_like(target), torch.ones_like(size)
        for count in range(max_iterations):
            if not bool(active.any()):
                break
            steered = residual if preconditioner is None else preconditioner(residual)
            slope = inner(residual, steered, axes)
            active = _halted(active, slope, Stop.PRECONDITIONER, stopped)
            direction = _plus(steered, slope / previous, direction) if count else steered
            if not bool(active.all()):
                direction = torch.where(active, direction, torch.zeros_like(direction))
            image = operator(direction)
            curvature = inner(direction, image, axes)
            active = _halted(active, curvature, Stop.INDEFINITE, stopped)
            step = torch.where(active, slope / curvature, torch.zeros_like(slope))
            solution, residual = _plus(solution, step, direction), _plus(residual, -step, image)
            previous, size = slope, torch.linalg.vector_norm(residual, dim=axes or None, keepdim=True)
            iterations += active
            better = active & (size < best_size)
            if bool(better.all()):
                best, best_size = solution, size
            else:
                best = torch.where(better, solution, best)
                best_size = torch.where(better, size, best_size)
            active = active & ~(size <= tol)
        stopped = torch.where(best_size <= tol, int(Stop.CONVERGED), stopped)
        figures = (each.squeeze(axes) if axes else each for each in (best_size, iterations, stopped))
        size, iterations, stopped = figures
        return ConjugateGradient(best * scale, size, iterations, size <= tol, stopped)


def _plus(first: Tensor, factor: Tensor, second: Tensor) -> Tensor:
    """``first + factor * second`` for real factors, read and written once."""
    return torch.addcmul(first, factor.to(first.dtype), second)


def _halted(active: Tensor, positive: Tensor, reason: Stop, stopped: Tensor) -> Tensor:
    """What stays active where a number must be positive; the reason of the others is written down."""
    finite = positive.isfinite()
    going = active & (positive > 0) & finite
    broken = active & ~going
    if bool(broken.any()):
        stopped[broken & finite] = int(reason)
        stopped[broken & ~finite] = int(Stop.NOT_FINITE)
    return going
