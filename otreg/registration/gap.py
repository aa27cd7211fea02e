"""How far apart two surfaces still are under flows: what softer ones could gain."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from otreg.deformations import Diffeomorphism
from otreg.deformations.diffeomorphism import InverseFlow
from otreg.errors import NotInvertibleError
from otreg.proximity import SurfaceIndex
from otreg.registration.sampling import Samples
from otreg.surface import FloatArray, Surface

INVERSE_TOLERANCE = 1e-5
"""How far points taken back may be from where they belong, a share of the diameter: gaps that matter are wider."""


class Gap:
    """Mean distance both ways between two surfaces that flow towards one another, at points that no match has seen.

    From points to surfaces, and not from points to points: it falls to zero where one lies on the other.

    Parameters
    ----------
    moving, fixed : Surface
        Before the flows, in units of FIXED's diameter. The distance to a cloud would be that to its points, so it is
        left out.
    partial : bool
        One shape is a part of the other: only the side that lies nearer to the other counts.
    """

    def __init__(self, moving: Surface, fixed: Surface, partial: bool) -> None:
        self.moving, self.fixed = (
            SurfaceIndex(shape) if shape.has_triangles else None for shape in (moving, fixed)
        )
        self.partial = partial

    def under(
        self,
        x: Samples,
        y: Samples,
        there: Sequence[Diffeomorphism],
        back: Sequence[Diffeomorphism] = (),
    ) -> float | None:
        """The gap under flows; None between clouds.

        Parameters
        ----------
        x, y : Samples
            Of MOVING and of FIXED, after the flows.
        there, back : sequence of Diffeomorphism
            What has moved MOVING, and FIXED. Points of one shape are taken back along the flows of the other, and their
            distances multiplied by the growth there, so that no vertex needs to be moved.
        """
        means = []
        for samples, surface, flows in ((x, self.fixed, back), (y, self.moving, there)):
            # flows that cannot be undone say how far it is from one side
            with contextlib.suppress(NotInvertibleError):
                if surface is not None:
                    means.append(_mean_distance(samples, surface, flows))
        if not means:
            return None
        return min(means) if self.partial else sum(means) / len(means)


def _mean_distance(samples: Samples, surface: SurfaceIndex, flows: Sequence[Diffeomorphism]) -> float:
    points = torch.tensor(samples.points)
    growth = torch.ones(len(points), dtype=torch.float64)
    with torch.no_grad():
        for flow in reversed(flows):
            points = InverseFlow(flow, tolerance=INVERSE_TOLERANCE).map(points)
            growth = growth * flow.jacobian_determinant(points).abs()
    distances: FloatArray = np.cbrt(growth.numpy()) * surface.closest(points.numpy()).distances
    return float(np.average(distances, weights=samples.weights))
