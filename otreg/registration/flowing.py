"""From splines to flows: the diffeomorphism whose control points go straight where a spline sends them."""

from __future__ import annotations

import torch

from otreg.deformations import Diffeomorphism, Spline
from otreg.reductions.mixed import MixedKernel

INTERVALS = 4
"""Intervals of time with constant momenta, each one midpoint step."""

METHOD = "midpoint"

RIDGE = 1e-3
"""Added to the kernel matrix of the control points, as a share of its diagonal: narrow kernels barely count in it."""

CORRECTIONS = 2
"""Times that the momenta of an interval are corrected by where they really lead."""

MOST_SOLVED = 1000
"""Control points up to which the momenta are solved for; the many of a fine spline move far less than its width."""


def lifted(spline: Spline) -> Diffeomorphism:
    """The flow of velocities in the span of a spline's kernel that carries its control points as the spline does.

    Control points z move along ``z + t u(z)``, u being the displacement of the spline. In each interval constant
    momenta p are those with ``K(q) p = u``, then corrected until q lands where it should. At time 0 the velocity is u
    everywhere; later it is the interpolation of u from the points that the control points have reached. So both maps
    agree on the control points, and nearly so around them, but a flow cannot fold: where the straight paths of a spline
    cross, those of the flow pass beside each other (interpolation of landmarks as in Joshi & Miller 2000, IEEE Trans.
    Image Process. 9, with the path given instead of optimised).

    Parameters
    ----------
    spline : Spline
        Of any kernel and unit. With more than :data:`MOST_SOLVED` control points its coefficients are the momenta.

    Returns
    -------
    Diffeomorphism
        With momenta (:data:`INTERVALS`, C, 3), or (1, C, 3) for many control points.
    """
    points, widths, amplitudes = spline.control_points.detach(), spline.widths, spline.amplitudes
    if len(points) > MOST_SOLVED:
        return Diffeomorphism(
            points, spline.coefficients.detach()[None], widths, spline.kernel, amplitudes, 1, METHOD
        )
    kernel = MixedKernel(spline.kernel, widths, amplitudes)
    displacement = spline.map(points) - points
    identity = torch.eye(len(points), dtype=points.dtype, device=points.device)
    here, momenta = points, []
    for interval in range(INTERVALS):
        goal = points + displacement * ((interval + 1) / INTERVALS)
        (matrix,) = kernel.sums(here, here, (0, identity))
        matrix.diagonal().mul_(1.0 + RIDGE)
        factor = torch.linalg.cholesky(matrix)
        best, least = torch.zeros_like(here), float("inf")
        step, landed = torch.zeros_like(here), here
        for _ in range(1 + CORRECTIONS):
            step = step + torch.cholesky_solve(goal - landed, factor)
            flow = Diffeomorphism(here, step[None], widths, spline.kernel, amplitudes, 1, METHOD)
            landed = flow.path().end[0]
            missed = float((goal - landed).norm())
            if missed < least:
                best, least, reached = step, missed, landed
        here = reached
        momenta.append(INTERVALS * best)
    return Diffeomorphism(points, torch.stack(momenta), widths, spline.kernel, amplitudes, INTERVALS, METHOD)
