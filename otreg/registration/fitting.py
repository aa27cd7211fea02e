"""Maps fitted to matches with their confidences: affine, and splines on control points."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from torch import Tensor

from otreg.deformations import Spline
from otreg.registration.matching import Match
from otreg.registration.sampling import Samples, farthest_points, thinned, unit
from otreg.registration.settings import CoarseLevel, FineLevel
from otreg.surface import FloatArray

BLUR_VARIANCE = 0.1
"""Share of blur² that the variance of a residual is never below: a match is no sharper."""

KERNEL_RIDGE = 1e-6


class Residuals:
    """Weights of the residuals of one match: full across the surface, ``tangential`` along it.

    ``A_i = n nᵀ + tangential (I - n nᵀ)``, where n is the mean of the two normals that meet; the identity where
    there is none. Residuals are expected to have the variance that they are seen to have, as in coherent point
    drift (Hirose 2021, Bayesian CPD), so that the data set the stiffness.
    """

    def __init__(self, current: Samples, match: Match, blur: float, tangential: float) -> None:
        self.mass = current.weights * match.confidence
        self.normals = unit(current.normals + unit(match.normals))
        oriented = (current.normals * match.normals).sum(axis=1) > 0
        self.normals[~oriented] = 0.0
        self.tangential = np.where(oriented, tangential, 1.0)
        offset = match.targets - current.points
        quadratic = (offset * self.apply(offset)).sum(axis=1) / (1.0 + 2.0 * self.tangential)
        self.variance = float(self.mass @ quadratic) / max(float(self.mass.sum()), 1e-300)
        self.variance += BLUR_VARIANCE * blur**2
        squared = (offset**2).sum(axis=1)
        self.distance = float(np.sqrt(self.mass @ squared / max(float(self.mass.sum()), 1e-300)))

    def apply(self, vectors: FloatArray) -> FloatArray:
        """``A_i v_i``, (n, 3)."""
        across = (self.normals * vectors).sum(axis=1, keepdims=True) * self.normals
        along = self.tangential[:, None]
        return along * vectors + (1.0 - along) * across

    def entry(self, row: int, column: int) -> FloatArray:
        """One entry of every ``A_i``, (n,)."""
        across = (1.0 - self.tangential) * self.normals[:, row] * self.normals[:, column]
        return across + self.tangential if row == column else across


def fit_affine(
    points: FloatArray, match: Match, residuals: Residuals, ridge: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Least squares y ≈ A x + t with the weights of the residuals, (3, 3) and (3,).

    ``ridge`` times their variance, times |A - I|², is added, so that flat shapes stay determined and what matches
    cannot tell yet waits until they can.
    """
    mass = residuals.mass / max(float(residuals.mass.sum()), 1e-300)
    centre = mass @ points
    basis = np.concatenate([points - centre, np.ones((len(points), 1))], axis=1)
    system = np.empty((3, 4, 3, 4))
    for row in range(3):
        for column in range(3):
            system[row, :, column] = basis.T @ ((mass * residuals.entry(row, column))[:, None] * basis)
    right = (mass[:, None] * residuals.apply(match.targets - points)).T @ basis
    penalty = np.tile([1.0, 1.0, 1.0, 0.0], 3) * ridge * residuals.variance
    change = np.linalg.solve(system.reshape(12, 12) + np.diag(penalty), right.ravel()).reshape(3, 4)
    matrix = np.eye(3) + change[:, :3]
    return matrix, centre + change[:, 3] - matrix @ centre


class SplineFit(Protocol):
    """A spline of the level's starting points, whose total displacement is fitted again to each match."""

    def update(self, residuals: Residuals, match: Match) -> None:
        """Fit the total displacement from the start of this level to a new match."""

    def spline(self) -> Spline:
        """The map fitted last."""


class CoarseFit:
    """A spline of several Gaussian widths on a few hundred control points.

    Minimises ``Σ_i a_i w_i r_iᵀ A_i r_i + stiffness · s² · pᵀ K_zz p`` with the residuals r of
    ``x0 + K_xz p`` to the targets and their variance s². Solved exactly, in the basis ``K_xz L⁻ᵀ`` with
    ``K_zz = L Lᵀ``, where the energy is a plain sum of squares.
    """

    def __init__(self, start: Samples, level: CoarseLevel, control_points: int, stiffness: float) -> None:
        self.start, self.level, self.stiffness = start, level, stiffness
        self.control_points = start.points[farthest_points(start.points, control_points)]
        energy = self._kernel(self.control_points)
        energy.diagonal().add_(KERNEL_RIDGE)
        self._factor = torch.linalg.cholesky(energy)
        basis = torch.linalg.solve_triangular(self._factor, self._kernel(start.points).T, upper=False).T
        # single precision is far below the spacing of the samples, and twice as quick
        self._basis = basis.float().contiguous()
        self.coefficients = np.zeros_like(self.control_points)

    def _kernel(self, points: FloatArray) -> Tensor:
        squared = torch.from_numpy(cdist(points, self.control_points, "sqeuclidean"))
        total = torch.zeros_like(squared)
        for width, amplitude in zip(self.level.widths, self.level.amplitudes, strict=True):
            total += amplitude * torch.exp(squared / (-2.0 * width**2))
        return total

    def update(self, residuals: Residuals, match: Match) -> None:
        """Fit the total displacement from the start of this level to a new match."""
        basis, count = self._basis, self._basis.shape[1]
        wanted = residuals.mass[:, None] * residuals.apply(match.targets - self.start.points)
        right = (basis.T @ torch.from_numpy(wanted).float()).double()
        system = torch.empty((3, count, 3, count), dtype=torch.float64)
        for row in range(3):
            for column in range(row + 1):
                entry = torch.from_numpy(residuals.mass * residuals.entry(row, column)).float()
                system[row, :, column] = basis.T @ (entry[:, None] * basis)
                system[column, :, row] = system[row, :, column]
        matrix = system.reshape(3 * count, 3 * count)
        matrix.diagonal().add_(self.stiffness * residuals.variance)
        solution = torch.cholesky_solve(right.T.reshape(-1, 1), torch.linalg.cholesky(matrix))
        coefficients = torch.linalg.solve_triangular(self._factor.T, solution.reshape(3, count).T, upper=True)
        self.coefficients = coefficients.numpy()

    def spline(self) -> Spline:
        """The map fitted last."""
        return Spline(
            self.control_points, self.coefficients, self.level.widths, amplitudes=self.level.amplitudes
        )


class FineFit:
    """A spline of one compact kernel on up to thousands of control points: sparse, solved by conjugate gradients."""

    def __init__(self, start: Samples, area: float, level: FineLevel, most: int, stiffness: float) -> None:
        self.start, self.level, self.stiffness = start, level, stiffness
        count = int(np.clip(area / level.spacing**2, 100, most))
        self.control_points = start.points[thinned(start.points, count)]
        self._kernel = self._near(start.points)
        self._energy = self._near(self.control_points)
        self._back = self._kernel.T.tocsr()
        self._squares = self._back.multiply(self._back).tocsr()
        self.coefficients = np.zeros_like(self.control_points)

    def _near(self, points: FloatArray) -> Any:
        """The Wendland kernel between points and control points within reach, sparse."""
        pairs = cKDTree(points).sparse_distance_matrix(
            cKDTree(self.control_points), self.level.width, output_type="coo_matrix"
        )
        r = pairs.data / self.level.width
        pairs.data = (1 - r) ** 6 * (35 * r * r + 18 * r + 3) / 3
        # single precision halves what every product reads; the solution wants three digits
        return pairs.tocsr().astype(np.float32)

    def update(self, residuals: Residuals, match: Match) -> None:
        """Fit the total displacement from the start of this level to a new match."""
        mass, penalty = residuals.mass[:, None], self.stiffness * residuals.variance
        right = self._back @ (mass * residuals.apply(match.targets - self.start.points))
        shape, size = right.shape, right.size

        def product(flat: FloatArray) -> FloatArray:
            p = flat.reshape(shape).astype(np.float32)
            pulled = (mass * residuals.apply(self._kernel @ p)).astype(np.float32)
            result: FloatArray = self._back @ pulled + penalty * (self._energy @ p)
            return result.ravel().astype(np.float64)

        diagonals = np.stack([residuals.mass * residuals.entry(k, k) for k in range(3)], axis=1)
        inverse = 1.0 / (self._squares @ diagonals + penalty)
        solution, _ = cg(
            LinearOperator((size, size), product, dtype=np.float64),
            right.ravel(),
            self.coefficients.ravel(),
            rtol=1e-3,
            maxiter=200,
            M=LinearOperator((size, size), lambda flat: (flat.reshape(shape) * inverse).ravel()),
        )
        self.coefficients = solution.reshape(shape)

    def spline(self) -> Spline:
        """The map fitted last."""
        return Spline(self.control_points, self.coefficients, self.level.width, "wendland")


def carried(transform: Any, samples: Samples) -> Samples:
    """Samples under a map, their normals by the inverse transpose of its Jacobian."""
    points, normals = transform.map(samples.points), samples.normals
    if normals.any():
        jacobian = transform.jacobian(samples.points)
        normals = unit(np.linalg.solve(np.swapaxes(jacobian, 1, 2), normals[:, :, None])[:, :, 0])
    return Samples(points, normals, samples.weights)
