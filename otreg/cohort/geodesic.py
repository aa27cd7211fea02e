"""One geodesic for one subject: initial momenta whose flow carries the template's points where they belong."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from otreg.cohort.momenta import METHOD, MomentaSpace
from otreg.errors import IntegrationError
from otreg.flows.shooting import carry, shoot
from otreg.surface import FloatArray

STIFFNESS = 3e-4
"""Weight of ``|p|²`` beside the mean squared residual, both in squared units of length. The same for all subjects:
a weight that followed the residual of each would shrink their momenta unequally, and with them the variances."""

_OUTLIER = 4.0
"""Residuals beyond this many robust standard deviations begin to count less (Cauchy)."""

_MEDIAN_LENGTH = 1.538
"""Median length of a vector of three independent Gaussians of variance 1."""

_RIDGE = 1e-10
"""Added to the preconditioner, as a share of its mean diagonal."""

_COARSE_POINTS = 500
"""Points of the first stage, which finds the way from afar at a fraction of the price."""

_COARSE_STEPS, _FINE_STEPS = 25, 100
"""Most steps of L-BFGS in the two stages. Within fifteen the misfit is as small as it gets, but what it hardly
determines, and the energy does, takes the rest: a tenth of the momenta, that would be noise in the statistics."""

_HISTORY = 50

_TOLERANCE = 1e-6
"""Change of the objective in one step, as a share of the misfit without any flow, that ends a stage."""


@dataclasses.dataclass(frozen=True, eq=False)
class GeodesicFit:
    """What :func:`fit_geodesic` found.

    Attributes
    ----------
    momenta : array, shape (C, 3)
    residuals : array, shape (N, 3)
        ``y - φ_p(x)`` at the points that were fitted, in the unit of the files.
    rms : float
        Root of the weighted mean of their squares.
    before : float
        The same without any flow, ``y - x``.
    norm : float
        ``|p|``, the length of the geodesic.
    outlying : float
        Share of the points (by weight) that count less than half.
    """

    momenta: FloatArray
    residuals: FloatArray
    rms: float
    before: float
    norm: float
    outlying: float

    @property
    def explained(self) -> float:
        """Share of the squared displacement that the one geodesic explains; 1 where there was none."""
        return 1.0 - (self.rms / self.before) ** 2 if self.before > 0.0 else 1.0


def fit_geodesic(
    space: MomentaSpace,
    points: FloatArray,
    targets: FloatArray,
    weights: FloatArray,
    *,
    start: FloatArray | None = None,
    stiffness: float = STIFFNESS,
) -> GeodesicFit:
    """Find momenta p that minimise ``Σ_i w_i ρ_i |φ_p(x_i) - y_i|² + γ pᵀ K p``, ``Σ_i w_i = 1``.

    Parameters
    ----------
    space : MomentaSpace
    points, targets : array, shape (N, 3)
        x on the template and y on the subject, in the template's pose.
    weights : array, shape (N,)
        w, not negative; scaled here to the sum 1.
    start : array, shape (C, 3), optional
        Momenta that are near the solution. Default: those that are best where flows are straight, brought near on
        a few hundred points.
    stiffness : float, default 3e-4
        γ. A smaller one leaves less of the targets, and more of what they do not determine to the solver: on talus
        bones three times less lowers the residual by a sixth and lengthens the geodesics by a quarter.

    Returns
    -------
    GeodesicFit

    Notes
    -----
    Flows that start along ``K p`` are ``x + K(x, z) p`` to first order, so ``A = K_zx W K_xz + γ K`` is the Hessian
    at p = 0. L-BFGS runs in the coordinates ``Lᵀ p``, ``A = L Lᵀ``, in which that is the identity. A first
    stage on a few hundred points comes near, a second one on all of them starts there. ρ, set between the two, are
    Cauchy weights at four robust standard deviations of the residuals: points that a registration left on
    another fold do not bend the geodesic. Points should come in an order whose beginnings are spread over the
    shape, as :func:`otreg.registration.sampling.farthest_points` gives them.
    """
    kernel = space.kernel
    z, x, y = (torch.from_numpy(np.array(array)) for array in (space.control_points, points, targets))
    mass = torch.from_numpy(np.asarray(weights, dtype=np.float64) / np.sum(weights))
    identity = torch.eye(len(z), dtype=z.dtype, device=z.device)
    with torch.no_grad():
        at_points = kernel.sums(x, z, (0, identity))[0]
        at_controls = kernel.sums(z, z, (0, identity))[0]

    robust = torch.ones_like(mass)
    first = None if start is None else torch.from_numpy(np.array(start, dtype=np.float64))
    momenta, residuals = torch.zeros_like(z), y - x
    stages = [(len(x), _FINE_STEPS)]
    if first is None:
        stages.insert(0, (min(_COARSE_POINTS, len(x)), _COARSE_STEPS))
    else:
        with torch.no_grad():
            robust = _robust(y - _carried(space, z, first, x))
    for count, steps in stages:
        few = slice(count)
        weight = (mass * robust)[few] / (mass * robust)[few].sum()
        system = at_points[few].T @ (weight[:, None] * at_points[few]) + stiffness * at_controls
        system.diagonal().add_(_RIDGE * float(system.diagonal().mean()))
        factor = torch.linalg.cholesky(system)
        if first is None:
            right = at_points[few].T @ (weight[:, None] * (y - x)[few])
            first = torch.cholesky_solve(right, factor)
        problem = _Problem(space, z, x[few], y[few], weight, at_controls, stiffness, factor)
        first = momenta = problem.minimised(first, steps)
        with torch.no_grad():
            residuals = y - _carried(space, z, momenta, x)
        if count < len(x):
            robust = _robust(residuals)
    squares = (mass * residuals.square().sum(dim=1)).sum()
    before = (mass * (y - x).square().sum(dim=1)).sum()
    energy = (momenta * (at_controls @ momenta)).sum()
    return GeodesicFit(
        momenta.numpy(),
        residuals.numpy(),
        float(squares.sqrt()),
        float(before.sqrt()),
        float(energy.clamp_min(0.0).sqrt()),
        float(mass[robust < 0.5].sum()),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Problem:
    """The misfit of one stage, minimised in the coordinates ``Lᵀ p``."""

    space: MomentaSpace
    control_points: Tensor
    points: Tensor
    targets: Tensor
    weights: Tensor
    metric: Tensor
    stiffness: float
    factor: Tensor

    def value(self, momenta: Tensor) -> Tensor:
        misfit = (
            (_carried(self.space, self.control_points, momenta, self.points) - self.targets)
            .square()
            .sum(dim=1)
        )
        energy = (momenta * (self.metric @ momenta)).sum()
        return (self.weights * misfit).sum() + self.stiffness * energy

    def minimised(self, start: Tensor, steps: int) -> Tensor:
        """Momenta after at most ``steps`` steps of L-BFGS."""
        coordinates = (self.factor.T @ start).requires_grad_()
        scale = float((self.weights * (self.targets - self.points).square().sum(dim=1)).sum())
        best, least, taken = coordinates.detach().clone(), float("inf"), 0

        def momenta() -> Tensor:
            return torch.linalg.solve_triangular(self.factor.T, coordinates, upper=True)

        def closure() -> Tensor:
            nonlocal best, least, taken
            taken += 1
            coordinates.grad = None
            with torch.enable_grad():
                value = self.value(momenta())
            value.backward()
            found = value.detach()
            if float(found) < least:
                best, least = coordinates.detach().clone(), float(found)
            return found

        while taken < 2 * steps:
            optimiser = torch.optim.LBFGS(
                [coordinates],
                max_iter=steps,
                max_eval=2 * steps - taken,
                tolerance_grad=0.0,
                tolerance_change=_TOLERANCE * scale,
                history_size=min(steps, _HISTORY),
                line_search_fn="strong_wolfe",
            )
            try:
                optimiser.step(closure)
                break
            except IntegrationError:
                # A step so long that its flow left the finite numbers. A new search begins with a short one.
                if least == float("inf"):
                    raise
                with torch.no_grad():
                    coordinates.copy_(best)
        return momenta().detach()


def _robust(residuals: Tensor) -> Tensor:
    """Cauchy weights of residuals (N, 3), (N,)."""
    length = residuals.norm(dim=1)
    scale = float(length.median()) / _MEDIAN_LENGTH
    return 1.0 / (1.0 + (length / max(_OUTLIER * scale, 1e-12)).square())


def _carried(space: MomentaSpace, control_points: Tensor, momenta: Tensor, points: Tensor) -> Tensor:
    """Points under the flow. They are a few thousand: what all steps keep is small, and doing steps twice is not."""
    path = shoot(control_points, momenta, space.kernel, steps=space.steps, method=METHOD, memory="all")
    return carry(points, path, memory="all")
