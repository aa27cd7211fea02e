"""Entropic optimal transport between weighted point clouds, on any number of points."""

from otreg.errors import ConvergenceWarning
from otreg.transport.divergence import SinkhornDivergence, sinkhorn_divergence
from otreg.transport.front import solve
from otreg.transport.result import TransportResult

__all__ = ["ConvergenceWarning", "SinkhornDivergence", "TransportResult", "sinkhorn_divergence", "solve"]
