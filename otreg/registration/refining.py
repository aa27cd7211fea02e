"""A flow fitted to the attachment itself, by its gradient: geodesic shooting, L-BFGS on the momenta."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from otreg.attachments import MMD, Attachment, Varifold
from otreg.deformations import Diffeomorphism
from otreg.registration.pose import subset
from otreg.registration.sampling import Samples, farthest_points
from otreg.surface import FloatArray, IntArray

WIDTHS = (0.16, 0.08, 0.04)
"""Of the kernel of the velocity; each half of the one before."""

SURFELS = 1000
CONTROL_POINTS = 250
STEPS = 3
ENERGY_WEIGHT = 0.03
"""Of the energy of the flow beside the attachment, both in squared lengths: with less, a flow follows the noise between
two samplings, which on real shapes is most of the misfit that matches leave."""

SCALE = 1e-3
"""Unit of the momenta for the optimiser: its first step is of this order."""


def surfels(samples: Samples) -> tuple[FloatArray, IntArray]:
    """One small equilateral triangle for each sample, of its area and normal: corners (3 n, 3), triangles (n, 3)."""
    normals = samples.normals
    helper = np.where(np.abs(normals[:, :1]) < 0.7, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(normals, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(normals, first)
    # the area of an equilateral triangle whose corners are at distance r is 3√3/4 r²
    radius = np.sqrt(samples.weights * 4.0 / (3.0 * np.sqrt(3.0)))[:, None]
    corners = [
        samples.points + radius * (np.cos(angle) * first + np.sin(angle) * second)
        for angle in (0.0, 2.0 * np.pi / 3.0, 4.0 * np.pi / 3.0)
    ]
    return np.stack(corners, axis=1).reshape(-1, 3), np.arange(3 * len(normals)).reshape(-1, 3)


def refined(
    moving: Samples, fixed: Samples, area: float, iterations: int, told: Callable[[float], None]
) -> Diffeomorphism:
    """The geodesic flow that brings ``moving`` closer to ``fixed`` by the gradient of a varifold distance.

    Minimises ``A(φ_p(moving)) + λ H(p)`` over the momenta p at control points, from p = 0: A is the unoriented varifold
    attachment between surfels (points alone: the kernel mean discrepancy), H the energy of the flow. Gradients pass
    through the integrator (:func:`otreg.flows.shoot`) exactly; L-BFGS (Byrd et al. 1995, SIAM J. Sci.
    Comput. 16, with Moré and Thuente's line search).

    Parameters
    ----------
    moving, fixed : Samples
        In units of FIXED's diameter; landmarks (weight 0) must be gone.
    area : float
        Of FIXED, in those units: total area of the surfels.
    iterations : int
        Most iterations of L-BFGS.
    told : callable
        Told the root of the attachment after each evaluation.

    Returns
    -------
    Diffeomorphism
        By geodesic shooting; of momenta zero where nothing got better.
    """
    few, target = subset(moving, SURFELS), subset(fixed, 2 * SURFELS)
    oriented = bool(few.normals.any()) and bool(target.normals.any())
    attachment: Attachment
    if oriented:
        scaled = [Samples(part.points, part.normals, part.weights * area) for part in (few, target)]
        (points, triangles), there = surfels(scaled[0]), surfels(scaled[1])
        attachment = Varifold(there)
        moved_triangles = torch.from_numpy(triangles)
    else:
        points, moved_triangles = few.points, None
        attachment = MMD(target.points)
    start = torch.from_numpy(points)
    controls = torch.from_numpy(few.points[farthest_points(few.points, CONTROL_POINTS)])

    def flow(momenta: Tensor) -> Diffeomorphism:
        return Diffeomorphism(controls, SCALE * momenta, WIDTHS, steps=STEPS, method="midpoint", memory="all")

    best, least = np.zeros(controls.numel()), float("inf")

    def value_and_gradient(numbers: FloatArray) -> tuple[float, FloatArray]:
        nonlocal best, least
        unknown = torch.from_numpy(numbers).reshape(controls.shape).requires_grad_()
        current = flow(unknown)
        misfit = attachment(current.map(start).float(), moved_triangles).double()
        loss = (misfit + ENERGY_WEIGHT * current.energy()) / SCALE**2
        (gradient,) = torch.autograd.grad(loss, unknown)
        value = float(loss.detach())
        if value < least:
            best, least = numbers.copy(), value
        told(float(misfit.detach().clamp_min(0.0).sqrt()))
        return value, gradient.numpy().ravel()

    # SciPy's: torch.optim loads torch's compiler first, which takes three seconds
    from scipy.optimize import minimize

    with torch.enable_grad():
        minimize(
            value_and_gradient,
            best,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "maxfun": iterations + 4, "maxcor": 6},
        )
    return flow(torch.from_numpy(best).reshape(controls.shape))
