"""The Sinkhorn divergence: a debiased transport cost, zero between equal shapes and positive otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from otreg.transport.front import solve
from otreg.transport.result import TransportResult


def sinkhorn_divergence(x: Any, y: Any, a: Any = None, b: Any = None, *, blur: float, **settings: Any) -> Any:
    """Debiased entropic transport cost between two weighted point clouds.

    ``S(a, b) = OT(a, b) - OT(a, a)/2 - OT(b, b)/2 + eps/2 (m_a - m_b)²``

    Parameters
    ----------
    x, y, a, b, blur, **settings
        As for :func:`otreg.transport.solve`, without ``debias``.

    Returns
    -------
    float or Tensor, shape ()
        Differentiable twice, with respect to positions and weights of both sides.
    """
    return solve(x, y, a, b, blur=blur, debias=True, **settings).value


class SinkhornDivergence(torch.nn.Module):
    """:func:`sinkhorn_divergence` with a memory, for registration loops.

    The first call is solved from scratch; later ones start from the potentials of the one before, and the
    self term of a shape that has not changed (points, weights, blur and reach) is not solved again.

    Parameters
    ----------
    blur : float
        In length units.
    **settings
        As for :func:`otreg.transport.solve`: ``reach``, ``tol``, ``max_iterations``, ``engine``,
        ``feature_weight``…

    Attributes
    ----------
    result : TransportResult or None
        The last result, without its graph.
    """

    def __init__(self, blur: float, **settings: Any) -> None:
        super().__init__()
        self.blur, self.settings = blur, settings
        self.result: TransportResult | None = None

    def forward(
        self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, **features: Any
    ) -> Any:
        """Divergence of (x, a) and (y, b); ``x_features`` and ``y_features`` may be given as keywords."""
        previous = self.result
        if previous is not None and (previous.problem.x.shape[0], previous.problem.y.shape[0]) != (
            len(x),
            len(y),
        ):
            previous = None
        found = solve(x, y, a, b, blur=self.blur, debias=True, init=previous, **features, **self.settings)
        self.result = dataclasses.replace(found, value=None, problem=found.solved.problem)
        return found.value

    def reset(self) -> None:
        """Forget the last result: the next call starts from scratch."""
        self.result = None
