"""How far residuals along the surface can be trusted: as far as neighbours agree on them."""

from __future__ import annotations

import numpy as np

from otreg.reductions.near import near_pairs
from otreg.registration.matching import Match, meeting_normals
from otreg.registration.sampling import Samples

NEIGHBOURHOOD = 0.05
"""Width of the Gaussian that says who is a neighbour, a share of FIXED's diameter."""

FULL_TRUST = 0.078
"""Coherence from which residuals along the surface count fully."""

LEAST = 0.003
MOST_POINTS = 1500
MEMORY = 0.72


def coherence(current: Samples, match: Match) -> float:
    """Share of the residuals' energy along the surface that neighbours have in common, 0 to 1.

    ``Σ_i m_i t_i · t̄_i / Σ_i m_i |t_i|²``, where t are the residuals without their part along the normal and t̄_i is
    their mean over the neighbours of i, itself left out: for independent residuals its expectation is zero, whatever
    their size; for a shift common to whole patches it is near one.
    """
    step = -(-len(current.points) // MOST_POINTS)
    points, mass = current.points[::step], (current.weights * match.confidence)[::step]
    normals = meeting_normals(current, match)[::step]
    along = match.targets[::step] - points
    along = along - (along * normals).sum(axis=1, keepdims=True) * normals
    near = near_pairs(points, points, 2.5 * NEIGHBOURHOOD)
    assert near is not None
    near.data = np.exp(near.data * (-0.5 / NEIGHBOURHOOD**2))
    # all that are near, less the point itself; of one that is alone nothing is left but rounding
    total = near @ mass - mass
    least = 1e-9 * mass + 1e-300
    mean = (near @ (mass[:, None] * along) - mass[:, None] * along) / np.maximum(total, least)[:, None]
    energy = float(mass @ (along**2).sum(axis=1))
    return max(float(mass @ (along * mean).sum(axis=1)) / max(energy, 1e-300), 0.0)


class Trust:
    """Weight of residuals along the surface, from :data:`LEAST` to ``most``, over the matches of one spline.

    Where a shape has no features, partners along it are as good as any others, and a plan's mean holds each point
    back where it is; smoothness then places it better. Such residuals are noise, and do not agree between
    neighbours. Where features or the amount of surface do guide the match, whole patches want to move together.
    The weight grows with the square of the coherence, itself a running mean with a memory of :data:`MEMORY`.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.coherence: float | None = None

    def after(self, current: Samples, match: Match) -> float:
        """Take one more match in, and return the weight."""
        found = coherence(current, match)
        before = found if self.coherence is None else self.coherence
        self.coherence = MEMORY * before + (1.0 - MEMORY) * found
        return max(self.most * min((self.coherence / FULL_TRUST) ** 2, 1.0), LEAST)
