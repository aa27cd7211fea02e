"""Maps fitted to matches with their confidences: affine, and splines on control points."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from otreg.autodiff.krylov import solve
from otreg.deformations import Diffeomorphism, Spline
from otreg.flows.shooting import carry_with_jacobian
from otreg.reductions.near import near_pairs
from otreg.reductions.radial import wendland_profile
from otreg.reductions.sparse import SparseMatrix
from otreg.registration.matching import Match, meeting_normals
from otreg.registration.sampling import Samples, deformed, farthest_points, thinned
from otreg.registration.screening import InverseKernel
from otreg.registration.settings import CoarseLevel, FineLevel
from otreg.surface import FloatArray

BLUR_VARIANCE = 0.1
"""Share of blur² added to the variance of residuals: a match is no sharper."""

KERNEL_RIDGE = 1e-6

FINE_TOLERANCE = 5e-3
"""Relative residual of a fine fit: the next match, which starts from it, moves the targets by more."""

WARM = 3
"""Matches of a coarse spline before its variances move: the first ones are too wide to tell."""

COLUMNS_AT_ONCE = 100
"""Of a symmetric product that are computed together."""

LEAST_VARIANCE = 1e-4
"""Share of its first value below which no variance of a coarse spline falls."""


class Residuals:
    """Weights of the residuals of one match: full across the surface, ``tangential`` along it.

    ``A_i = n nᵀ + tangential (I - n nᵀ)``, where n is the mean of the two normals that meet; the identity where
    there is none. Residuals are expected to have the variance that they are seen to have, as in coherent point
    drift (Hirose 2021, Bayesian CPD), so that the data set the stiffness.
    """

    def __init__(
        self,
        current: Samples,
        match: Match,
        blur: float,
        tangential: float,
        blur_variance: float = BLUR_VARIANCE,
    ) -> None:
        self.mass = current.weights * match.confidence
        self.normals = meeting_normals(current, match)
        self.tangential = np.where(self.normals.any(axis=1), tangential, 1.0)
        offset = match.targets - current.points
        quadratic = (offset * self.apply(offset)).sum(axis=1) / (1.0 + 2.0 * self.tangential)
        # sums of products, and not NumPy's product of vectors: see _gradient
        total = max(float(self.mass.sum()), 1e-300)
        self.variance = float((self.mass * quadratic).sum()) / total
        self.variance += blur_variance * blur**2
        squared = (offset**2).sum(axis=1)
        self.distance = float(np.sqrt((self.mass * squared).sum() / total))

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

    start: Samples

    def update(self, residuals: Residuals, match: Match) -> None:
        """Fit the total displacement from the start of this level to a new match."""

    def spline(self) -> Spline:
        """The map fitted last."""

    def moved(self) -> FloatArray:
        """The starting points under the map fitted last, by the kernel that the fit has stored, (n, 3)."""

    def gradient(self) -> FloatArray:
        """Jacobian of the map fitted last at the starting points, likewise, (n, 3, 3)."""


class CoarseFit:
    """A spline of several Gaussian widths on a few hundred control points, whose variances the data set.

    The displacement is a sum of Gaussian processes ``u = Σ_w u_w`` with covariance ``v_w k_w``, and residuals r of
    ``x0 + u(x0)`` to the targets have precision ``N a_i w_i A_i / s²``: N independent residuals in all. Its mean given
    one match, in the span of the control points z, minimises ``Σ_i a_i w_i r_iᵀ A_i r_i + s²/N pᵀ K_zz p`` with
    ``u = K_xz p`` and ``K = Σ_w v_w k_w``. Solved exactly, in the basis ``K_xz L⁻ᵀ`` with ``K_zz = L Lᵀ``, where the
    energy is a plain sum of squares.

    After :data:`WARM` matches each one also moves the variances towards the maximum of their restricted likelihood,
    where ``Σ pᵀ k_w p = tr(k_w (K⁻¹ - K⁻¹ S K⁻¹))`` over the three axes, S being the covariance of u(z) given the
    match (Harville 1977, J. Am. Stat. Assoc. 72, eq. 5.1, by fixed point): a shape that bends only widely gets a stiff
    map, one with detail of its own a soft one.
    """

    def __init__(
        self,
        start: Samples,
        level: CoarseLevel,
        control_points: int,
        strain: float,
        independent_points: float,
    ) -> None:
        self.start, self.level, self.independent_points = start, level, independent_points
        self.control_points = start.points[farthest_points(start.points, control_points)]
        self._at_start = self._kernels(start.points).float()
        self._at_controls = self._kernels(self.control_points)
        self._first = (strain * np.asarray(level.widths)) ** 2
        self.variances = self._first.copy()
        """Of the displacement, at each width: those that the last fit used."""
        self._next, self._updates = self.variances, 0
        self.coefficients = np.zeros_like(self.control_points)
        self._displacement = np.zeros_like(start.points)

    def use(self, start: Samples) -> None:
        """Go on with other samples of the same shape, as they are at the start of this level."""
        self.start = start
        self._at_start = self._kernels(start.points).float()
        kernel = _weighted_sum(self._at_start, self.variances).double()
        self._displacement = (kernel @ torch.from_numpy(self.coefficients)).numpy()

    def _kernels(self, points: FloatArray) -> Tensor:
        """Those of every width between points (n, 3) and control points, (widths, n, c)."""
        squared = torch.from_numpy(cdist(points, self.control_points, "sqeuclidean"))
        return torch.stack([torch.exp(squared / (-2.0 * width**2)) for width in self.level.widths])

    def update(self, residuals: Residuals, match: Match) -> None:
        """Fit the total displacement from the start of this level to a new match."""
        self.variances = self._next
        energy = _weighted_sum(self._at_controls, self.variances)
        energy.diagonal().add_(KERNEL_RIDGE * float(self.variances.sum()))
        factor = torch.linalg.cholesky(energy)
        kernel = _weighted_sum(self._at_start, self.variances).double()
        # single precision is far below the spacing of the samples, and twice as quick
        basis = torch.linalg.solve_triangular(factor, kernel.T, upper=False).T.float().contiguous()
        count = basis.shape[1]
        wanted = residuals.mass[:, None] * residuals.apply(match.targets - self.start.points)
        right = (basis.T @ torch.from_numpy(wanted).float()).double()
        system = right.new_empty((3, count, 3, count))
        for row in range(3):
            for column in range(row + 1):
                entry = torch.from_numpy(residuals.mass * residuals.entry(row, column)).float()
                system[row, :, column] = _weighted_products(basis, entry)
                system[column, :, row] = system[row, :, column]
        matrix = system.reshape(3 * count, 3 * count)
        noise = residuals.variance / self.independent_points
        matrix.diagonal().add_(noise)
        cholesky = torch.linalg.cholesky(matrix)
        solution = torch.cholesky_solve(right.T.reshape(-1, 1), cholesky)
        coefficients = torch.linalg.solve_triangular(factor.T, solution.reshape(3, count).T, upper=True)
        self.coefficients = coefficients.numpy()
        self._displacement = (kernel @ coefficients).numpy()
        self._updates += 1
        if self._updates > WARM:
            inverse = torch.cholesky_inverse(cholesky).reshape(3, count, 3, count)
            spread = noise * (inverse[0, :, 0] + inverse[1, :, 1] + inverse[2, :, 2])
            self._next = self._likelier(coefficients, factor, spread)

    def _likelier(self, coefficients: Tensor, factor: Tensor, spread: Tensor) -> FloatArray:
        """Variances nearer to their maximum of the restricted likelihood; ``spread`` is S in the solver's basis."""
        inner = 3.0 * torch.eye(len(spread), dtype=spread.dtype, device=spread.device) - spread
        half = torch.linalg.solve_triangular(factor.T, inner, upper=True)
        expected = torch.linalg.solve_triangular(factor.T, half.T, upper=True)
        seen = coefficients @ coefficients.T
        ratios = [
            float((kernel * seen).sum()) / max(float((kernel * expected).sum()), 1e-300)
            for kernel in self._at_controls
        ]
        # the square root damps the fixed point, and a width once given up can come back
        steps = np.clip(np.sqrt(np.maximum(ratios, 0.0)), 0.1, 10.0)
        return np.maximum(self.variances * steps, LEAST_VARIANCE * self._first)

    def spline(self) -> Spline:
        """The map fitted last."""
        return Spline(
            self.control_points,
            self.coefficients,
            self.level.widths,
            amplitudes=tuple(self.variances.tolist()),
        )

    def moved(self) -> FloatArray:
        """The starting points under the map fitted last, (n, 3)."""
        return self.start.points + self._displacement

    def gradient(self) -> FloatArray:
        """Jacobian of the map fitted last at the starting points, (n, 3, 3)."""
        slopes = _weighted_sum(self._at_start, -self.variances / np.square(self.level.widths))
        return _gradient(slopes, self.start.points, self.control_points, self.coefficients)


def _weighted_products(basis: Tensor, weights: Tensor) -> Tensor:
    """``Bᵀ diag(w) B`` (c, c) of a basis (n, c): of the blocks that mirror each other, one is computed."""
    count = basis.shape[1]
    products = basis.new_empty(count, count)
    weighted = weights[:, None] * basis
    for block in torch.arange(count).split(COLUMNS_AT_ONCE):
        begin, end = int(block[0]), int(block[-1]) + 1
        products[begin:, begin:end] = basis[:, begin:].T @ weighted[:, begin:end]
        products[begin:end, end:] = products[end:, begin:end].T
    return products


def _weighted_sum(kernels: Tensor, weights: FloatArray) -> Tensor:
    """``Σ_w weights_w kernels_w`` of kernels (w, n, c), in one pass over them."""
    flat = torch.from_numpy(weights).to(kernels)[None] @ kernels.flatten(start_dim=1)
    return flat.reshape(kernels.shape[1:])


def _gradient(slopes: Any, points: FloatArray, controls: FloatArray, coefficients: FloatArray) -> FloatArray:
    """``I + Σ_c s_ic p_c (x_i - z_c)ᵀ``: Jacobian of a radial spline, one product for all; s is ``k'(r)/r`` (n, m)."""
    outer = (coefficients[:, :, None] * controls[:, None, :]).reshape(-1, 9)
    columns = np.concatenate([coefficients, outer], axis=1)
    # not by NumPy, whose threads wait for more work on the cores that others have been given
    sums = (
        (slopes @ torch.from_numpy(columns).to(slopes)).numpy()
        if isinstance(slopes, Tensor)
        else slopes @ columns
    )
    near = sums[:, :3, None] * points[:, None, :] - sums[:, 3:].reshape(-1, 3, 3)
    return np.asarray(np.eye(3) + near, dtype=np.float64)


class FineFit:
    """A spline of one compact kernel on up to thousands of control points: sparse, solved by conjugate gradients."""

    def __init__(self, start: Samples, area: float, level: FineLevel, most: int, stiffness: float) -> None:
        self.start, self.level, self.stiffness = start, level, stiffness
        count = int(np.clip(area / level.spacing**2, 100, most))
        self.control_points = start.points[thinned(start.points, count)]
        kernel, slopes = self._near(start.points)
        self._kernel, self._back = SparseMatrix(kernel), SparseMatrix(kernel.T)
        self._slopes = SparseMatrix(slopes)
        # coefficients that differ between neighbours hardly show in the displacement: seen through the inverse of the
        # energy all of them count alike, and a solve takes six to sixteen iterations instead of up to two hundred
        self._inverse = InverseKernel(
            self.control_points, lambda squared: wendland_profile(squared / level.width**2)
        )
        self._energy = SparseMatrix(self._near(self.control_points)[0])
        self.coefficients = np.zeros_like(self.control_points)

    def _near(self, points: FloatArray) -> tuple[Any, Any]:
        """The Wendland kernel φ between points and control points within reach, and φ'(r)/(r width²), sparse."""
        pairs = near_pairs(points, self.control_points, self.level.width)
        assert pairs is not None
        squared = torch.from_numpy(pairs.data / self.level.width**2)
        slopes = pairs.copy()
        # single precision halves what every product reads; the solution wants three digits
        pairs.data = wendland_profile(squared).numpy()
        # the profile is one of r²/width², hence the 2
        slopes.data = (wendland_profile(squared, 1) * (2.0 / self.level.width**2)).numpy()
        return pairs, slopes

    def update(self, residuals: Residuals, match: Match) -> None:
        """Fit the total displacement from the start of this level to a new match."""
        mass, penalty = residuals.mass[:, None], self.stiffness * residuals.variance
        right = self._back @ (mass * residuals.apply(match.targets - self.start.points))

        def product(given: Tensor) -> Tensor:
            p = given.numpy()
            pulled = mass * residuals.apply(self._kernel @ p)
            result: FloatArray = self._back @ pulled + penalty * (self._energy @ p)
            return torch.from_numpy(result.astype(np.float64))

        found = solve(
            product,
            torch.from_numpy(right.astype(np.float64)),
            start=torch.from_numpy(self.coefficients),
            preconditioner=lambda r: torch.from_numpy(self._inverse(r.numpy()).astype(np.float64)),
            tol=FINE_TOLERANCE,
            max_iterations=200,
        )
        self.coefficients = found.solution.numpy()

    def moved(self) -> FloatArray:
        """The starting points under the map fitted last, (n, 3)."""
        return self.start.points + self._kernel @ self.coefficients

    def gradient(self) -> FloatArray:
        """Jacobian of the map fitted last at the starting points, (n, 3, 3)."""
        return _gradient(self._slopes, self.start.points, self.control_points, self.coefficients)

    def spline(self) -> Spline:
        """The map fitted last."""
        return Spline(self.control_points, self.coefficients, self.level.width, "wendland")


def carried(transform: Any, samples: Samples) -> Samples:
    """Samples under a map, their normals by the inverse transpose of its Jacobian.

    A flow carries them in single precision, which is far below their spacing and takes half the time.
    """
    if isinstance(transform, Diffeomorphism):
        points = torch.from_numpy(samples.points).float()
        with torch.no_grad():
            found = carry_with_jacobian(points, transform.path().to(points))
        return deformed(samples, *(part.double().numpy() for part in found))
    if not samples.normals.any():
        return deformed(samples, transform.map(samples.points), np.eye(3))
    return deformed(samples, *transform.map_with_jacobian(samples.points))
