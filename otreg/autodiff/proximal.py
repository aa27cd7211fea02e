"""Proximal steps of least squares: the data step of unfolded networks, with one more solve as its derivative."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd import Function

from otreg.autodiff.implicit import (
    checked_options,
    checked_parameters,
    checked_result,
    full_precision,
    normalised,
    refuse_transforms,
    refuse_unlisted,
    relinked,
    solve_and_report,
    vector_jacobian,
    widened,
)
from otreg.autodiff.krylov import ConjugateGradient, axes_of, inner
from otreg.errors import InputError


@overload
def proximal_least_squares(
    A: Callable[[Tensor], Tensor],
    A_adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    z: Tensor,
    gamma: float | Tensor,
    parameters: Sequence[Tensor] = (),
    *,
    dims: int | tuple[int, ...] | None = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    check_adjoint: bool = True,
    return_info: Literal[False] = False,
) -> Tensor: ...


@overload
def proximal_least_squares(
    A: Callable[[Tensor], Tensor],
    A_adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    z: Tensor,
    gamma: float | Tensor,
    parameters: Sequence[Tensor] = (),
    *,
    dims: int | tuple[int, ...] | None = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    check_adjoint: bool = True,
    return_info: Literal[True],
) -> ConjugateGradient: ...


def proximal_least_squares(
    A: Callable[[Tensor], Tensor],
    A_adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    z: Tensor,
    gamma: float | Tensor,
    parameters: Sequence[Tensor] = (),
    *,
    dims: int | tuple[int, ...] | None = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    check_adjoint: bool = True,
    return_info: bool = False,
) -> Tensor | ConjugateGradient:
    """``h = argmin_x |A x - y|² + |x - z|² / γ``, differentiably, in memory that does not grow with the iterations.

    ``(1 + γ AᴴA) (h - z) = γ Aᴴ (y - A z)``, by conjugate gradients. With g the gradient at h, the backward pass
    solves ``(AᴴA + 1/γ) u = g`` once. Then z gets ``u / γ``, y gets ``A u``, γ gets ``Re uᴴ(h - z) / γ²``, and each
    parameter θ the gradient of ``-Re <A_θ u, A_θ h - y>`` at fixed u and h.

    Parameters
    ----------
    A : callable
        ``x -> A x``, linear: from the shape and dtype of z to those of y; it must do the same each time. From real
        z to complex y it is linear over the real numbers, and ``A_adjoint`` gives back the real part.
    A_adjoint : callable
        ``y -> Aᴴ y``, its adjoint (the transpose where it is real). It is never differentiated.
    y : Tensor, any shape
        Data.
    z : Tensor, any shape
        The point to stay near, float32, float64, complex64 or complex128.
    gamma : float or Tensor, real
        γ, positive, no unit but that of ``|x|² / |A x|²``: one number, or one for each system (of the shape of z
        without the dimensions of one system). As γ grows, the data decide.
    parameters : sequence of Tensor
        Every tensor that A depends on and that needs a gradient: the very tensors that A uses, leaves or not.
        One that is missing is found, and refused.
    dims : int or tuple of int, optional
        The dimensions of z that make up one system; along the others lie systems of their own, which A must not
        mix. A system that is solved stays as it is while the others go on. A batch of images (B, C, H, W) has
        ``dims=(1, 2, 3)``. By default all of z is one system.
    tol : float, optional
        Largest relative residual of the equation above, where the size of the right-hand side is 1; so the error
        of h is at most ``tol`` times the size of ``γ Aᴴ(y - A z)``. The same in the backward pass. By default
        1e-5 in single and 1e-10 in double precision.
    max_iterations : int
        Cap on the products with ``AᴴA``, of the forward and of the backward pass each.
    check_adjoint : bool
        Whether to compare ``<A v, w>`` with ``<v, Aᴴ w>`` for one pair of v and w, at the price of two products
        with A and one with its adjoint: turn it off once it has passed.
    return_info : bool
        Give back how it went, too.

    Returns
    -------
    Tensor, or ConjugateGradient with ``return_info``
        h, of the shape of z, with its graph; with it ``residual``, ``iterations``, ``converged`` and ``stopped`` of
        each system.

    Raises
    ------
    InputError
        For shapes, dtypes or settings that do not fit, numbers that are not finite, γ that is not positive,
        ``A_adjoint`` that is not the adjoint of A, a tensor that A depends on and that is not listed, and under
        ``torch.func``.
    TypeError
        For arguments of another kind.

    Warns
    -----
    ConvergenceWarning
        As :func:`otreg.autodiff.conjugate_gradient` does.

    Notes
    -----
    Kept for the backward pass: h, y, z, γ and the parameters. Twice (and more often) differentiable, as the adjoint
    problem is this function again, with y = 0 and z = g. Gradients, autocast and errors of A behave as in
    :func:`otreg.autodiff.conjugate_gradient`. Random states are left alone.

    References
    ----------
    Hestenes & Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952; Parikh & Boyd, Proximal
    Algorithms, 2014, section 6.1; the implicit function theorem.
    """
    refuse_transforms("proximal_least_squares")
    z, y = widened(z), widened(y)
    checked_options("y", y, tol, max_iterations)
    tol, max_iterations = checked_options("z", z, tol, max_iterations)
    for name, given in (("A", A), ("A_adjoint", A_adjoint)):
        if not callable(given):
            raise TypeError(f"{name} must be a function, got {type(given).__name__}")
    axes = axes_of(z, dims)
    problem = _Problem(A, A_adjoint, y.detach(), axes, tol, max_iterations)
    listed = checked_parameters(parameters)
    with full_precision(z.device):
        if check_adjoint:
            _compare(problem, z)
        found = _solved(problem, y, z, _per_system(gamma, z, axes), listed, "proximal_least_squares")
    return found if return_info else found.solution


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Everything but the numbers; ``data`` shows what these look like."""

    operator: Callable[[Tensor], Tensor]
    adjoint_operator: Callable[[Tensor], Tensor]
    data: Tensor
    axes: tuple[int, ...]
    tol: float
    max_iterations: int

    def product(self, x: Tensor) -> Tensor:
        return checked_result(self.operator(x), self.data, "A(x)")

    def adjoint(self, residual: Tensor, like: Tensor) -> Tensor:
        with torch.no_grad():
            return checked_result(self.adjoint_operator(residual), like, "A_adjoint(y)")


def _per_system(gamma: float | Tensor, z: Tensor, axes: tuple[int, ...]) -> Tensor:
    """γ as a real tensor that broadcasts with z, its history kept."""
    given = (
        gamma if isinstance(gamma, Tensor) else torch.as_tensor(gamma, dtype=z.real.dtype, device=z.device)
    )
    if given.is_complex() or given.device != z.device:
        raise InputError(f"gamma must be real and on {z.device}, got {given.dtype} on {given.device}")
    own = tuple(size for axis, size in enumerate(z.shape) if axis not in axes)
    if given.dim() and given.shape != own:
        raise InputError(f"gamma must have shape () or {own}, got {tuple(given.shape)}")
    values = given.detach()
    if not bool((torch.isfinite(values) & (values > 0)).all()):
        raise InputError("gamma must be positive and finite")
    if given.dim():
        given = given.reshape([1 if axis in axes else size for axis, size in enumerate(z.shape)])
    return given.to(z.real.dtype)


def _compare(problem: _Problem, z: Tensor) -> None:
    """Raise InputError unless ``<A v, w> = <v, Aᴴ w>``, with w that has a part along A v: it weighs every part of v."""
    generator = torch.Generator("cpu").manual_seed(0)

    def random(like: Tensor) -> Tensor:
        found = torch.randn(like.shape, generator=generator, dtype=like.dtype, device="cpu").to(like.device)
        return found / torch.linalg.vector_norm(found).clamp_min(1.0)

    with torch.no_grad():
        v = random(z)
        image = problem.product(v)
        size = torch.linalg.vector_norm(image)
        w = random(image) + image / torch.where(size > 0, size, torch.ones_like(size))
        back = problem.adjoint(w, z)
        one, other = _dot(image, w), _dot(v, back)
        if not z.is_complex():
            one, other = one.real, other.real
        sizes = _dot(image, image).abs().sqrt() * 2 + _dot(v, v).abs().sqrt() * _dot(back, back).abs().sqrt()
        if not float((one - other).abs()) <= torch.finfo(z.dtype).eps ** 0.5 * float(sizes):
            raise InputError(
                f"A_adjoint is not the adjoint of A: <A v, w> is {one.item():.6g}, but <v, A_adjoint w> is "
                f"{other.item():.6g}, for v and w of length about 1"
            )


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner product in double precision."""
    wide = torch.complex128 if first.is_complex() else torch.float64
    return torch.linalg.vecdot(first.flatten().to(wide), second.flatten().to(wide))


def _solved(
    problem: _Problem, y: Tensor | None, z: Tensor, gamma: Tensor, parameters: tuple[Tensor, ...], name: str
) -> ConjugateGradient:
    """The minimiser, with a graph where one is needed; γ broadcasts with z, and no y stands for y = 0."""
    near, step = z.detach(), gamma.detach()
    right = near
    if y is not None:
        # what z already explains is left out: the tolerance is then one on the correction
        image = problem.product(near)
        if torch.is_grad_enabled():
            refuse_unlisted(image, parameters, "A")
        right = step * problem.adjoint((y - image).detach(), near)

    def normal(d: Tensor) -> Tensor:
        with torch.no_grad():
            return d + step * problem.adjoint(problem.product(d), d)

    found = solve_and_report(
        normal,
        right,
        dims=problem.axes,
        start=None,
        preconditioner=None,
        tol=problem.tol,
        max_iterations=problem.max_iterations,
        name=name,
    )
    solution = found.solution if y is None else near + found.solution
    if torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in (y, z, gamma, *parameters)
    ):
        solution = _Minimiser.apply(problem, solution, y, z, gamma, *parameters)
    return found._replace(solution=solution)


class _Minimiser(Function):
    """A minimiser found without a graph, as a function of y, z, γ and the parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        problem: _Problem,
        solution: Tensor,
        y: Tensor | None,
        z: Tensor,
        gamma: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        found = solution.clone()
        ctx.save_for_backward(found, y, z, gamma, *parameters)
        ctx.problem = problem
        return found

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        solution, y, z, gamma, *parameters = ctx.saved_tensors
        problem: _Problem = ctx.problem
        need_y, need_z, need_gamma, *need_parameters = ctx.needs_input_grad[2:]
        needed = [each for each, need in zip(parameters, need_parameters, strict=True) if need]
        cotangent, scale = normalised(cotangents[0])
        grad_y = grad_z = grad_gamma = None
        slopes: list[Tensor | None] = []
        with full_precision(cotangent.device):
            name = "the backward pass of proximal_least_squares"
            pulled = _solved(problem, None, cotangent, gamma, tuple(parameters), name).solution
            adjoint = gamma * pulled
            if needed:
                slopes, image = _slopes(problem, adjoint, solution, y, needed, scale)
                grad_y = image * scale if need_y else None
            elif need_y:
                grad_y = problem.product(adjoint) * scale
        if need_z:
            grad_z = pulled * scale
        if need_gamma:
            along = inner(pulled, solution - z, problem.axes)
            grad_gamma = (along / gamma).sum_to_size(gamma.shape) * scale
        grads = (slopes.pop(0) if need else None for need in need_parameters)
        return None, None, grad_y, grad_z, grad_gamma, *grads


def _slopes(
    problem: _Problem, u: Tensor, h: Tensor, y: Tensor | None, needed: Sequence[Tensor], scale: Tensor
) -> tuple[list[Tensor | None], Tensor]:
    """``scale`` times the gradients of ``-Re <A_θ u, A_θ h - y>`` at fixed u and h; and A u."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        cut = (u.detach().requires_grad_(again), h.detach().requires_grad_(again))
        images = [problem.product(each) for each in cut]
    # differentiated once more, the images are functions of u and h too; else they are at hand
    of_u, of_h = (problem.product(each) for each in (u, h)) if again else (each.detach() for each in images)
    residual = of_h if y is None else of_h - y
    slopes = vector_jacobian(images, needed, (-residual, -of_u), again, scale)
    return relinked(slopes, cut, (u, h)) if again else slopes, of_u
