"""How far apart two surfaces still are under a map: what a softer map could gain."""

from __future__ import annotations

import contextlib

import numpy as np

from otreg.deformations import Deformation
from otreg.errors import NotInvertibleError
from otreg.proximity import nearly_distances
from otreg.registration.sampling import Samples
from otreg.surface import FloatArray, Surface


class Gap:
    """Mean distance both ways between a moved and a fixed surface, at points that no match has seen.

    From points to surfaces, and not from points to points: it falls to zero where one lies on the other.

    Parameters
    ----------
    moving, fixed : Surface
        In units of FIXED's diameter, MOVING unmoved. The distance to a cloud would be that to its points, so it is
        left out.
    moving_samples, fixed_samples : Samples
        Points on them.
    partial : bool
        One shape is a part of the other: only the side that lies nearer to the other counts.
    """

    def __init__(
        self, moving: Surface, fixed: Surface, moving_samples: Samples, fixed_samples: Samples, partial: bool
    ) -> None:
        self.surfaces, self.samples, self.partial = (moving, fixed), (moving_samples, fixed_samples), partial

    def under(self, transform: Deformation, length: float, centre: FloatArray) -> float | None:
        """The gap under a map in the unit of the files; None between clouds.

        FIXED's points are taken back by the inverse, and their distances from MOVING multiplied by the growth of the
        map there, so that no vertex needs to be moved.
        """
        (moving, fixed), (x, y) = self.surfaces, self.samples
        means = []
        if fixed.has_triangles:
            there = (np.asarray(transform.map(x.points * length + centre)) - centre) / length
            means.append(float(np.average(nearly_distances(there, fixed), weights=x.weights)))
        if moving.has_triangles:
            # a map that folds says how far it is from one side
            with contextlib.suppress(NotInvertibleError):
                back = np.asarray(transform.inverse.map(y.points * length + centre))
                growth = np.cbrt(np.abs(np.asarray(transform.jacobian_determinant(back))))
                distances = growth * nearly_distances((back - centre) / length, moving)
                means.append(float(np.average(distances, weights=y.weights)))
        if not means:
            return None
        return min(means) if self.partial else sum(means) / len(means)
