"""Maps fitted to matches with their confidences: affine, and splines on control points."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree

from otreg.registration.matching import Match
from otreg.registration.sampling import Samples, farthest_points, thinned, unit
from otreg.registration.settings import Level
from otreg.surface import FloatArray


def fit_affine(
    points: FloatArray, match: Match, weights: FloatArray, ridge: float = 1e-3
) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares y ≈ A x + t, with ``ridge`` · |A - I|² so that flat shapes stay determined."""
    mass = weights * match.confidence
    mass = mass / max(mass.sum(), 1e-300)
    centre, target = mass @ points, mass @ match.targets
    x, y = points - centre, match.targets - target
    cross = y.T @ (mass[:, None] * x) + ridge * np.eye(3)
    matrix = np.linalg.solve(x.T @ (mass[:, None] * x) + ridge * np.eye(3), cross.T).T
    return matrix, target - matrix @ centre


class SplineFit:
    """One spline level: displacement Σ_j k(x, z_j) p_j of the level's starting points, fitted again and again.

    Minimises ``Σ_i a_i w_i |x0_i + u(x0_i) - t_i|² + stiffness · s² · pᵀ K_zz p``, where s² is the weighted variance of
    the residual, as in coherent point drift (Hirose 2021, Bayesian CPD), so that the data set the stiffness.
    """

    def __init__(self, start: Samples, level: Level, control_points: int, stiffness: float) -> None:
        self.start, self.level, self.stiffness = start, level, stiffness
        if level.kernel == "gaussian":
            count = control_points if level.width < 0.2 else min(300, control_points)
            self.control_points = start.points[farthest_points(start.points, count)]
        else:
            count = min(int(0.7 / level.spacing**2), 6 * control_points)
            self.control_points = start.points[thinned(start.points, count)]
        self.kernel = self._kernel(start.points)
        self.energy = self._kernel(self.control_points)
        self.coefficients = np.zeros_like(self.control_points)
        self.residual = float("inf")

    def _kernel(self, points: FloatArray) -> Any:
        """Kernel between points and control points: a dense n × C array (C is bounded), or a sparse one."""
        if self.level.kernel == "gaussian":
            squared = (
                (points**2).sum(1)[:, None]
                + (self.control_points**2).sum(1)
                - 2 * points @ self.control_points.T
            )
            return np.exp(-np.maximum(squared, 0.0) / (2 * self.level.width**2))
        pairs = cKDTree(points).sparse_distance_matrix(
            cKDTree(self.control_points), self.level.width, output_type="coo_matrix"
        )
        r = pairs.data / self.level.width
        pairs.data = (1 - r) ** 6 * (35 * r * r + 18 * r + 3) / 3
        return pairs.tocsr()

    def update(self, current: Samples, match: Match, blur: float) -> None:
        """Fit the total displacement from the start of this level to a new match."""
        mass = current.weights * match.confidence
        squared = ((match.targets - current.points) ** 2).sum(axis=1) / 3
        variance = float(mass @ squared) / max(float(mass.sum()), 1e-300) + 0.1 * blur**2
        self.residual = float(np.sqrt(variance))
        right = self.kernel.T @ (mass[:, None] * (match.targets - self.start.points))
        if self.level.kernel == "gaussian":
            matrix = self.kernel.T @ (mass[:, None] * self.kernel) + self.stiffness * variance * self.energy
            matrix[np.diag_indices(len(matrix))] += 1e-9 * np.trace(matrix) / len(matrix)
            self.coefficients = linalg.solve(matrix, right, assume_a="pos")
            return
        system = self.kernel.T @ sparse.diags(mass) @ self.kernel + self.stiffness * variance * self.energy
        diagonal = system.diagonal() * (1 + 1e-9)
        system = (system + sparse.diags(1e-9 * diagonal)).tocsr()
        for axis in range(3):
            self.coefficients[:, axis], _ = cg(
                system,
                right[:, axis],
                self.coefficients[:, axis],
                rtol=1e-4,
                maxiter=300,
                M=sparse.diags(1 / diagonal),
            )

    def moved(self) -> Samples:
        """The starting samples under the current spline, with their normals turned by the cofactor rule."""
        points = self.start.points + self.kernel @ self.coefficients
        normals = self.start.normals
        if normals.any():
            normals = unit(np.linalg.solve(np.swapaxes(self._jacobian(), 1, 2), normals[:, :, None])[:, :, 0])
        return Samples(points, normals, self.start.weights)

    def _jacobian(self) -> FloatArray:
        """Jacobian (n, 3, 3) at the starting points; a slightly singular one is nudged to stay solvable."""
        x, z = self.start.points, self.control_points
        outer = (self.coefficients[:, :, None] * z[:, None, :]).reshape(len(z), 9)
        if self.level.kernel == "gaussian":
            slope = -self.kernel / self.level.width**2
        else:
            # (d/dr φ(r)) / r of the Wendland function, at the stored pairs
            slope = self.kernel.tocoo(copy=True)
            r = np.linalg.norm(x[slope.row] - z[slope.col], axis=1) / self.level.width
            slope.data = -(56 / 3) * (1 - np.minimum(r, 1)) ** 5 * (1 + 5 * r) / self.level.width**2
            slope = slope.tocsr()
        pulled = (slope @ self.coefficients)[:, :, None] * x[:, None, :]
        return np.eye(3) * (1 + 1e-9) + pulled - (slope @ outer).reshape(len(x), 3, 3)
