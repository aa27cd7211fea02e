"""What implicit derivatives have in common: checked operators, solves that report, listed parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from otreg.autodiff.closures import nodes_behind
from otreg.autodiff.krylov import ConjugateGradient, Stop, axes_of, norm, solve
from otreg.autodiff.surroundings import functional
from otreg.errors import ConvergenceWarning, InputError

Operator = Callable[[Tensor], Tensor]

TOLERANCES = {
    torch.float32: 1e-5,
    torch.complex64: 1e-5,
    torch.float64: 1e-10,
    torch.complex128: 1e-10,
}
"""Relative residual asked for by default: what is left of each precision by a condition number of about 100 (1e5)."""

_RESTARTS = 5

_MEANING = {
    Stop.ITERATIONS: "max_iterations were done",
    Stop.INDEFINITE: "A is not positive definite, or singular to rounding (a direction v with vᴴAv ≤ 0 was met)",
    Stop.PRECONDITIONER: "M is not positive definite (a residual r with rᴴMr ≤ 0 was met)",
    Stop.NOT_FINITE: "A or M gave numbers that are not finite",
    Stop.ROUNDING: "rounding lets it come no further (raise tol, or use double precision)",
}


def checked_options(name: str, tensor: Tensor, tol: float | None, max_iterations: int) -> tuple[float, int]:
    """Tolerance and cap, defaults filled in, for unknowns like ``tensor``, the argument ``name``."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in TOLERANCES:
        wanted = "float32, float64, complex64 or complex128"
        raise InputError(f"{name} must be {wanted}, got {tensor.dtype}: convert it")
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{name} must be finite")
    tol = TOLERANCES[tensor.dtype] if tol is None else tol
    if not tol > 0:
        raise InputError(f"tol must be a positive number, got {tol}")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int) or max_iterations < 0:
        raise InputError(f"max_iterations must be a whole number of at least 0, got {max_iterations!r}")
    return float(tol), max_iterations


def checked_parameters(parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The parameters as a tuple of tensors; a single tensor would be taken for a sequence of its rows."""
    if isinstance(parameters, Tensor):
        raise TypeError("parameters must be a sequence of Tensors, got a Tensor: write (theta,)")
    listed = tuple(parameters)
    for each in listed:
        if not isinstance(each, Tensor):
            raise TypeError(f"parameters must be Tensors, got {type(each).__name__}")
    return listed


def checked_result(found: Any, like: Tensor, name: str) -> Tensor:
    """What an operator returned (or was given), if it has the shape, dtype and device of ``like``."""
    if not isinstance(found, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(found).__name__}")
    for what in ("shape", "dtype", "device"):
        wanted, came = getattr(like, what), getattr(found, what)
        if wanted != came:
            wanted, came = (tuple(each) if what == "shape" else each for each in (wanted, came))
            raise InputError(f"{name} must have {what} {wanted}, got {came}")
    return found


def refuse_transforms(name: str) -> None:
    """Raise InputError under torch.func: operators close over tensors that its transforms cannot see."""
    if functional():
        raise InputError(
            f"{name} cannot run under torch.func transforms or forward-mode differentiation: use "
            "torch.autograd, and give many systems at once (see dims) instead of vmap"
        )


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Without autocast: in half precision no residual gets below one percent."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield


def widened(tensor: Tensor) -> Tensor:
    """The tensor, in single precision where autocast has made it half precision."""
    half = isinstance(tensor, Tensor) and tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half and torch.is_autocast_enabled(tensor.device.type) else tensor


def refuse_unlisted(image: Tensor, listed: Sequence[Tensor], name: str) -> None:
    """Raise InputError if a result depends on a leaf that requires a gradient and is not behind ``listed``."""
    if not image.requires_grad:
        return
    for node in nodes_behind(image, (each for each in listed if each.requires_grad)):
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            raise InputError(
                f"{name} depends on a tensor of shape {tuple(leaf.shape)} that requires a gradient: put it into "
                "parameters (or what was made of it, where that is what the function uses), or detach it"
            )


def solve_and_report(
    operator: Operator,
    right: Tensor,
    *,
    dims: tuple[int, ...] | None,
    start: Tensor | None,
    preconditioner: Operator | None,
    tol: float,
    max_iterations: int,
    name: str,
    last: Callable[[Tensor], Tensor] | None = None,
) -> ConjugateGradient:
    """:func:`otreg.autodiff.krylov.solve`, with true residuals, and a warning where they are above ``tol``.

    The recurrence drifts away from ``b - A x``. Where the latter has not arrived, it starts again from there, as
    long as that halves it. ``last`` takes the place of A in the first product with a solution.
    """
    axes = axes_of(right, dims)
    scale = norm(right, axes)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    iterations: Tensor | int = 0
    left, before = max_iterations, None
    for attempt in range(_RESTARTS):
        found = solve(
            operator,
            right,
            dims=axes if right.dim() else None,
            start=start,
            preconditioner=preconditioner,
            tol=tol,
            max_iterations=left,
        )
        image = operator(found.solution) if attempt or last is None else last(found.solution)
        residual = norm((right - image) / scale, axes)
        residual = residual.squeeze(axes) if axes else residual
        iterations = iterations + found.iterations
        left -= int(found.iterations.max()) if found.iterations.numel() else 0
        late = found.converged & ~(residual <= tol)
        if before is not None:
            late = late & (residual < 0.5 * before)
        if left <= 0 or not bool(late.any()):
            break
        start, before = found.solution, residual
    converged = residual <= tol
    stopped = torch.where(found.converged & ~converged, int(Stop.ROUNDING), found.stopped)
    stopped = torch.where(converged, int(Stop.CONVERGED), stopped)
    assert isinstance(iterations, Tensor)
    found = ConjugateGradient(found.solution, residual, iterations, converged, stopped)
    if not bool(converged.all()):
        warnings.warn(_report(found, name, tol), ConvergenceWarning, stacklevel=4)
    return found


def _report(found: ConjugateGradient, name: str, tol: float) -> str:
    failed = ~found.converged
    reasons = "; ".join(_MEANING[Stop(k)] for k in found.stopped[failed].unique().tolist())
    which = "" if failed.dim() == 0 else f" in {int(failed.sum())} of {failed.numel()} systems"
    reached, most = float(found.residual[failed].max()), int(found.iterations[failed].max())
    return (
        f"{name} stopped after {most} iterations at a relative residual of {reached:.2g}{which}, "
        f"above tol={tol:g}: {reasons}"
    )


def ungraphed(operator: Operator) -> Operator:
    """The same, run without a graph."""

    def product(v: Tensor) -> Tensor:
        with torch.no_grad():
            return operator(v)

    return product


def normalised(cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """A cotangent of largest entry 1, and its scale: products of tiny numbers would be 0."""
    largest = cotangent.detach().abs().max() if cotangent.numel() else cotangent.detach().abs().sum()
    scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    return cotangent / scale, scale


def vector_jacobian(
    images: Sequence[Tensor],
    needed: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    again: bool,
    scale: Tensor | None,
) -> list[Tensor | None]:
    """``scale`` times the gradients of ``Σ <cotangent, image>``; ``again``: to be differentiated once more."""
    kept = [(image, each) for image, each in zip(images, cotangents, strict=True) if image.requires_grad]
    if not kept:
        return [None] * len(needed)
    images, cotangents = zip(*kept, strict=True)
    # retained: the function may use a tensor whose history others need, too
    found = torch.autograd.grad(
        images, needed, cotangents, retain_graph=True, create_graph=again, allow_unused=True
    )
    return [each if each is None or scale is None else each * scale for each in found]


def relinked(
    outputs: Sequence[Tensor | None], cut: Sequence[Tensor], true: Sequence[Tensor]
) -> list[Tensor | None]:
    """Outputs computed from leaves ``cut`` as functions of the tensors ``true`` that the leaves stand for.

    A solution depends on the parameters itself. A derivative at a fixed solution must not follow that path, so it
    is taken at a leaf; the derivative of that derivative must.
    """
    places = [k for k, each in enumerate(outputs) if each is not None and each.requires_grad]
    found = list(outputs)
    if places:
        given = [each for each in outputs if each is not None and each.requires_grad]
        linked = _Relinked.apply(tuple(cut), len(given), *given, *true)
        for place, each in zip(places, linked, strict=True):
            found[place] = each
    return found


class _Relinked(Function):
    @staticmethod
    def forward(ctx: Any, cut: tuple[Tensor, ...], count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        # neither the outputs nor what they stand for lead back here: no cycle
        ctx.cut, ctx.count, ctx.tensors = cut, count, tensors
        ctx.set_materialize_grads(False)
        return tuple(each.clone() for each in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        outputs, true = ctx.tensors[: ctx.count], ctx.tensors[ctx.count :]
        again = torch.is_grad_enabled()
        pairs = [(one, other) for one, other in zip(outputs, cotangents, strict=True) if other is not None]
        slopes: list[Tensor | None] = [None] * len(true)
        if pairs and any(ctx.needs_input_grad[2 + ctx.count :]):
            images, weights = zip(*pairs, strict=True)
            slopes = vector_jacobian(images, ctx.cut, weights, again, None)
            slopes = relinked(slopes, ctx.cut, true) if again else slopes
        return None, None, *cotangents, *slopes
