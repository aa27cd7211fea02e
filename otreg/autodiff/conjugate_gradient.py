"""Linear systems inside a graph: conjugate gradients whose backward pass is one more solve, not a loop unrolled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd import Function

from otreg.autodiff.implicit import (
    Operator,
    checked_options,
    checked_parameters,
    checked_result,
    full_precision,
    normalised,
    refuse_transforms,
    refuse_unlisted,
    relinked,
    solve_and_report,
    ungraphed,
    vector_jacobian,
    widened,
)
from otreg.autodiff.krylov import ConjugateGradient, axes_of
from otreg.errors import InputError


@overload
def conjugate_gradient(
    A: Any,
    b: Tensor,
    x0: Tensor | None = None,
    parameters: Sequence[Tensor] = (),
    M: Any = None,
    *,
    dims: int | tuple[int, ...] | None = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    return_info: Literal[False] = False,
) -> Tensor: ...


@overload
def conjugate_gradient(
    A: Any,
    b: Tensor,
    x0: Tensor | None = None,
    parameters: Sequence[Tensor] = (),
    M: Any = None,
    *,
    dims: int | tuple[int, ...] | None = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    return_info: Literal[True],
) -> ConjugateGradient: ...


def conjugate_gradient(
    A: Any,
    b: Tensor,
    x0: Tensor | None = None,
    parameters: Sequence[Tensor] = (),
    M: Any = None,
    *,
    dims: int | tuple[int, ...] | None = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    return_info: bool = False,
) -> Tensor | ConjugateGradient:
    """Solve ``A x = b``, differentiably, in memory that does not grow with the iterations.

    With g the gradient at x, the backward pass solves ``A u = g`` once, and gives ``u`` to b and
    ``-uᴴ (∂A/∂θ) x`` to each parameter θ, by one vector-Jacobian product.

    Parameters
    ----------
    A : callable, Tensor, or anything with ``@`` (a LazyTensor of KeOps, ...)
        Symmetric or Hermitian positive definite. A function ``v -> A v`` gets tensors of the shape of b, and
        must do the same each time. A tensor is a matrix (n, n) or a batch of them (..., n, n), and gets its
        gradient without being listed.
    b : Tensor
        Right-hand sides, float32, float64, complex64 or complex128, of any scale.

        - For a function: any shape, one system unless ``dims`` says otherwise.
        - For a tensor, as :func:`torch.linalg.solve` takes it: (n,), (..., n) with exactly the batch of A, or
          columns (..., n, k) whose batch broadcasts with that of A.
        - For anything else with ``@``: (n,), or columns (..., n, k).
    x0 : Tensor of the shape of b, optional
        First guess; zero by default. It gets no gradient: the solution does not depend on it.
    parameters : sequence of Tensor
        Every tensor that A depends on and that needs a gradient: the very tensors that A uses, leaves or not.
        One that is missing is found, and refused. A function that needs no derivative can run under
        ``torch.no_grad``.
    M : callable, Tensor, or anything with ``@``, optional
        Preconditioner: ``r -> M r`` with M near ``A⁻¹``, symmetric (Hermitian) positive definite. Without effect on
        gradients.
    dims : int or tuple of int, optional
        For a function: the dimensions of b that make up one system. Along the others lie systems of their own,
        each with its own steps; a system that is solved stays as it is while the others go on. Images
        (B, C, H, W) that are solved one by one have ``dims=(1, 2, 3)``. By default all of b is one system.
    tol : float, optional
        Largest relative residual ``|A x - b| / |b|``, for the backward pass too; by default 1e-5 in single
        and 1e-10 in double precision.
    max_iterations : int
        Cap on the products with A, of the forward and of the backward pass each.
    return_info : bool
        Give back how it went, too.

    Returns
    -------
    Tensor, or ConjugateGradient with ``return_info``
        x, of the shape of b (broadcast with the batch of A), with its graph; with it ``residual``,
        ``iterations``, ``converged`` and ``stopped`` of each system.

    Raises
    ------
    InputError
        For shapes, dtypes or settings that do not fit, b that is not finite, a tensor A that is not symmetric
        (Hermitian), a tensor that A depends on and that is not listed, and under ``torch.func``.
    TypeError
        For arguments of another kind.

    Warns
    -----
    ConvergenceWarning
        Where the residual, computed from ``b - A x`` at the end, is above ``tol``: the cap was met, A or M is
        not positive definite, or rounding lets it come no further. The message says which, and the residual
        reached; x is the best iterate. The backward pass warns in the same way.

    Notes
    -----
    Kept for the backward pass: x and the parameters. Twice (and more often) differentiable, as the adjoint solve
    is this function again. Without gradients (``torch.no_grad``, or nothing that requires one) nothing is kept.
    Autocast is switched off inside, in both passes, and half-precision b that comes from it is widened: no
    system is solved in half precision. Errors of A and M come with their own traceback. Scaling a cotangent up
    or down scales the gradient, even where its square would underflow.

    References
    ----------
    Hestenes & Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952.
    """
    refuse_transforms("conjugate_gradient")
    b = widened(b)
    tol, max_iterations = checked_options("b", b, tol, max_iterations)
    listed = checked_parameters(parameters)
    axes: tuple[int, ...]
    if isinstance(A, Tensor):
        listed = (*(each for each in listed if each is not A), A)
        if dims is not None:
            raise InputError(
                "dims are for functions: the systems of a tensor A follow from the shapes of A and b"
            )
        b, vectors = _fitted(A, b)
        axes = (b.dim() - 1,) if vectors else (b.dim() - 2,)
    elif hasattr(A, "__matmul__"):
        if dims is not None:
            raise InputError("dims are for functions: with @, the systems are the columns of b")
        if b.dim() == 0:
            raise InputError("b must have shape (n,) or (..., n, k), got ()")
        vectors, axes = b.dim() == 1, ((b.dim() - 2,) if b.dim() > 1 else (0,))
    else:
        vectors, axes = False, axes_of(b, dims)
    if x0 is not None:
        x0 = checked_result(x0, b, "x0").detach()
    system = _System(
        _operator(A, "A", vectors),
        None if M is None else _operator(M, "M", vectors),
        axes,
        tol,
        max_iterations,
    )
    with full_precision(b.device):
        found = _solved(system, b, x0, listed, "conjugate_gradient")
    return found if return_info else found.solution


@dataclasses.dataclass(frozen=True)
class _System:
    """Everything but the numbers."""

    product: Operator
    preconditioner: Operator | None
    axes: tuple[int, ...]
    tol: float
    max_iterations: int


def _solved(
    system: _System, b: Tensor, x0: Tensor | None, parameters: tuple[Tensor, ...], name: str
) -> ConjugateGradient:
    """The solution, with a graph where one is needed."""

    def last(solution: Tensor) -> Tensor:
        # the residual costs this product anyway: its graph tells what A depends on
        if not torch.is_grad_enabled():
            return system.product(solution)
        image = system.product(solution)
        refuse_unlisted(image, parameters, "A")
        return image.detach()

    right = b.detach()
    found = solve_and_report(
        ungraphed(system.product),
        right,
        dims=system.axes,
        start=x0,
        preconditioner=None if system.preconditioner is None else ungraphed(system.preconditioner),
        tol=system.tol,
        max_iterations=system.max_iterations,
        name=name,
        last=last,
    )
    if torch.is_grad_enabled() and any(each.requires_grad for each in (b, *parameters)):
        return found._replace(solution=_Solution.apply(system, found.solution, b, *parameters))
    return found


class _Solution(Function):
    """A solution found without a graph, as a function of b and the parameters."""

    @staticmethod
    def forward(ctx: Any, system: _System, solution: Tensor, b: Tensor, *parameters: Tensor) -> Tensor:
        found = solution.clone()
        ctx.save_for_backward(found, *parameters)
        ctx.system = system
        return found

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        solution, *parameters = ctx.saved_tensors
        system, again = ctx.system, torch.is_grad_enabled()
        cotangent, scale = normalised(cotangents[0])
        with full_precision(cotangent.device):
            adjoint = _solved(
                system, cotangent, None, tuple(parameters), "the backward pass of conjugate_gradient"
            ).solution
            needed = [each for each, need in zip(parameters, ctx.needs_input_grad[3:], strict=True) if need]
            slopes: list[Tensor | None] = []
            if needed:
                with torch.enable_grad():
                    cut = solution.detach().requires_grad_(again)
                    image = system.product(cut)
                slopes = vector_jacobian((image,), needed, (-adjoint,), again, scale)
                slopes = relinked(slopes, (cut,), (solution,)) if again else slopes
        grad_b = adjoint * scale if ctx.needs_input_grad[2] else None
        return None, None, grad_b, *(slopes.pop(0) if need else None for need in ctx.needs_input_grad[3:])


def _operator(given: Any, name: str, vectors: bool) -> Operator:
    """``v -> given v``, checked; ``vectors``: v (..., n) is to be a column."""
    if isinstance(given, Tensor) or hasattr(given, "__matmul__"):
        as_column = vectors and isinstance(given, Tensor)

        def multiplied(v: Tensor) -> Tensor:
            found = (given @ v[..., None])[..., 0] if as_column else given @ v
            if isinstance(found, Tensor) and vectors and found.shape == (*v.shape, 1):
                found = found[..., 0]  # some give back a column for a vector
            return checked_result(found, v, f"{name} @ v")

        return multiplied
    if not callable(given):
        raise TypeError(f"{name} must be a function, a Tensor or have '@', got {type(given).__name__}")
    return lambda v: checked_result(given(v), v, f"{name}(v)")


def _fitted(A: Tensor, b: Tensor) -> tuple[Tensor, bool]:
    """b, broadcast with the batch of a tensor A, and whether it holds vectors instead of columns."""
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        raise InputError(f"A must have shape (n, n) or (..., n, n), got {tuple(A.shape)}")
    if A.dtype != b.dtype or A.device != b.device:
        raise InputError(
            f"A is {A.dtype} on {A.device} but b is {b.dtype} on {b.device}: convert one of them"
        )
    detached = A.detach()
    rough = torch.finfo(A.dtype).eps ** 0.5
    if A.numel() and not bool((detached - detached.mH).abs().max() <= rough * detached.abs().max()):
        raise InputError("A must be symmetric (Hermitian), and finite: it is not its own transpose")
    size = A.shape[-1]
    wanted = f"b must have shape {(*A.shape[:-1],)} or (..., {size}, k), got {tuple(b.shape)}"
    vectors = b.dim() == 1 or b.shape == A.shape[:-1]
    if b.dim() == 0:
        raise InputError(wanted)
    batch, own = (b.shape[:-1], b.shape[-1:]) if vectors else (b.shape[:-2], b.shape[-2:])
    try:
        batch = torch.broadcast_shapes(A.shape[:-2], batch)
    except RuntimeError:
        raise InputError(wanted) from None
    if own[0] != size:
        raise InputError(wanted)
    return b.expand(*batch, *own), vectors
