"""Systems ``(K + λI) α = v`` of a kernel matrix that is never stored: smoothing, interpolation, Gaussian processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from otreg.autodiff import ConjugateGradient, conjugate_gradient
from otreg.errors import InputError
from otreg.kernels.base import Kernel
from otreg.reductions.checks import as_points, as_tensor, as_values, finite

_BLOCK = 64  # points of one block on the diagonal: small against the N of a column


class KernelSystem:
    """``(K + λI) α = v`` with ``K_ij = k(x_i, x_j)``, solved in memory that grows as N.

    Conjugate gradients on streamed kernel sums, steered by the part of K that a few of its columns explain. The
    steering is made once, at construction, and serves every solve and every backward pass.

    Parameters
    ----------
    kernel : Kernel
        k; gradients reach its parameters that are tensors.
    points : array or Tensor, shape (N, D)
        x, float32 or float64, at least one.
    regularisation : float, or Tensor of shape () or (N,)
        λ, positive, in the unit of k: the variance of noise in a Gaussian process. One number, or one for each
        point. Gradients reach a tensor.
    rank : int
        Most columns of K, N-vectors of float64 each, that the preconditioner keeps; 0 for none. It takes fewer
        where they explain K up to λ, or where they explain so little (kernels much narrower than the cloud) that
        nothing is gained. 300 by default: 24 MB at 10,000 points.
    tol : float, optional
        Largest relative residual of each column; by default 1e-4 in single precision, whose sums are no better
        for usual λ, and 1e-10 in double.
    max_iterations : int
        Cap on the kernel sums of one solve, and of one backward pass.
    engine : {"auto", "fused", "keops", "blocks"}
        What runs the sums, as in :meth:`Kernel.sum`.

    Raises
    ------
    InputError
        On shapes that do not match, numbers that are not finite, λ that is not positive, other settings.

    Notes
    -----
    The preconditioner is the pivoted Cholesky factor L of K in float64 (Harbrecht, Peters & Schneider 2012, Appl.
    Numer. Math. 62), with ``LLᵀ + λI`` inverted through an orthogonal basis of L. It has no gradient and needs none.
    """

    def __init__(
        self,
        kernel: Kernel,
        points: Any,
        regularisation: float | Tensor,
        *,
        rank: int = 300,
        tol: float | None = None,
        max_iterations: int = 1000,
        engine: str = "auto",
    ) -> None:
        if not isinstance(kernel, Kernel):
            raise InputError(f"kernel must be a kernel such as Gaussian(5.0), got {type(kernel).__name__}")
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
            raise InputError(f"rank must be a whole number of at least 0, got {rank!r}")
        self.kernel, self.points = kernel, as_points(points, "points")
        self.regularisation = _regularisation(regularisation, self.points)
        self.tol = 1e-4 if tol is None and self.points.dtype == torch.float32 else tol
        self.max_iterations, self.engine = max_iterations, engine
        parameters = tuple(kernel.parameters().values())
        self._parameters = tuple(each for each in parameters if isinstance(each, Tensor))
        given = (points, regularisation, *parameters)
        self._numpy = not any(isinstance(each, Tensor) for each in given)
        with torch.no_grad():
            factor = pivoted_cholesky(kernel, self.points, self._noise().double(), rank)
            self._steering = _steering(factor, self._noise(), self.points.dtype)
        self.rank = factor.shape[1]
        """How many columns the preconditioner keeps."""

    def _noise(self) -> Tensor:
        """λ as a column without a graph, (1, 1) or (N, 1)."""
        return self.regularisation.detach().reshape(-1, 1)

    def product(self, values: Any) -> Any:
        """``(K + λI) v``: shape (N,) or (N, V), as :meth:`solve`."""
        values, numpy = self._values(values)
        flat = values if values.ndim == 2 else values[:, None]
        found = self._product(flat).reshape(values.shape)
        return found.numpy() if numpy else found

    def _product(self, values: Tensor) -> Tensor:
        total = self.kernel.sum(self.points, self.points, values, self.engine)
        return total + self.regularisation.reshape(-1, 1) * values

    def solve(self, values: Any, x0: Any = None) -> Any:
        """α: differentiable in values, points, λ and the parameters of the kernel.

        Parameters
        ----------
        values : array or Tensor, shape (N,) or (N, V)
            v, of the dtype of the points; each column is a system of its own.
        x0 : array or Tensor of the same shape, optional
            First guess, as α of a system nearby.

        Returns
        -------
        array or Tensor, shape (N,) or (N, V)
            A tensor if anything given, here or at construction, is one. Differentiable once less often than the
            kernel, by one more solve for each derivative: nothing of the iterations is stored.

        Warns
        -----
        ConvergenceWarning
            As :func:`otreg.autodiff.conjugate_gradient` does. Single precision resolves ``K α`` to about
            ``1e-7 N k(0)``: for smaller λ than some thousandth of that, take float64 points.
        """
        values, numpy = self._values(values)
        found = self._solved(values, x0).solution
        return found.numpy() if numpy else found

    def solve_with_info(self, values: Any, x0: Any = None) -> ConjugateGradient:
        """The same as :meth:`solve`, as tensors, with residual, iterations and convergence of each column."""
        return self._solved(self._values(values)[0], x0)

    def _values(self, values: Any) -> tuple[Tensor, bool]:
        numpy = self._numpy and not isinstance(values, Tensor)
        return as_values(values, self.points, "values", "points"), numpy

    def _solved(self, values: Tensor, x0: Any) -> ConjugateGradient:
        flat = values if values.ndim == 2 else values[:, None]
        if x0 is not None:
            x0 = as_tensor(x0, "x0")
            if x0.shape != values.shape:
                raise InputError(f"x0 must have shape {tuple(values.shape)}, got {tuple(x0.shape)}")
            x0 = x0.reshape(flat.shape)
        parameters = (self.points, self.regularisation, *self._parameters)
        found = conjugate_gradient(
            self._product,
            flat,
            x0,
            parameters,
            self._steering,
            dims=0,
            tol=self.tol,
            max_iterations=self.max_iterations,
            return_info=True,
        )
        if values.ndim == 2:
            return found
        return ConjugateGradient(found.solution[:, 0], *(each[0] for each in found[1:]))


def _regularisation(given: float | Tensor, points: Tensor) -> Tensor:
    """λ as a tensor of the kind of the points, its history kept."""
    found = given if isinstance(given, Tensor) else points.new_tensor(given)
    if found.shape not in ((), (len(points),)):
        raise InputError(f"regularisation must have shape () or ({len(points)},), got {tuple(found.shape)}")
    if not found.is_floating_point():
        raise InputError(f"regularisation must be a float, got {found.dtype}")
    finite(found.reshape(-1), "regularisation")
    if not bool((found.detach() > 0).all()):
        raise InputError(f"regularisation must be positive, got {float(found.detach().min()):.6g}")
    return found.to(points)


def pivoted_cholesky(kernel: Kernel, points: Tensor, noise: Tensor, rank: int) -> Tensor:
    """L, float64, shape (N, R) with R ≤ rank, for which ``K - LLᵀ`` is positive semi-definite and small.

    Each column removes the point that is explained worst, in units of the noise λ (1, 1) or (N, 1). It ends where
    what is left sums up to λ, so that the condition number is 2 at most, or where 64 columns explain less than a tenth
    of the other points: then none is worth its price, and none is returned.
    """
    x = points.detach().double()
    count = len(x)
    rank = min(rank, count)
    left = torch.cat([kernel._matrix(block, block).detach().diagonal() for block in x.split(_BLOCK)]).clone()
    weights = noise.reshape(-1).expand(count).reciprocal()
    # columns of the factor lie in memory one after the other
    factor = x.new_empty(rank, count)
    before, own = float((weights * left).sum()), 0.0
    for step in range(rank):
        unexplained = weights * left
        pivot = int(unexplained.argmax())
        total = float(unexplained.clamp_min(0.0).sum())
        if total <= 1.0 or float(left[pivot]) <= 0.0:
            return factor[:step].T
        if step and step % _BLOCK == 0:
            if total > 0.9 * (before - own):
                return factor[:0].T
            before, own = total, 0.0
        own += float(unexplained[pivot])
        row = kernel._matrix(x[pivot : pivot + 1], x).detach()[0]
        row = row - factor[:step, pivot] @ factor[:step]
        factor[step] = row / left[pivot].sqrt()
        left = left - factor[step].square()
        left[pivot] = 0.0
    return factor.T


def _steering(factor: Tensor, noise: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """``r -> (LLᵀ + Λ)⁻¹ r``, Λ being the diagonal of the noise."""
    scale = noise.double().rsqrt()
    if factor.shape[1] == 0:
        diagonal = noise.reciprocal()
        return lambda r: diagonal * r
    # Λ^-½ LLᵀ Λ^-½ = U S² Uᵀ: the inverse of that plus 1 is 1 - U S²/(1 + S²) Uᵀ, whose factors lie below 1
    basis, rest = torch.linalg.qr(scale * factor)
    turn, singular, _ = torch.linalg.svd(rest)
    basis = (basis @ turn).to(dtype)
    share = (singular.square() / (1.0 + singular.square()))[:, None].to(dtype)
    scale = scale.to(dtype)

    def apply(r: Tensor) -> Tensor:
        scaled = scale * r
        return scale * (scaled - basis @ (share * (basis.T @ scaled)))

    return apply
