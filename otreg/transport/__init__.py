"""Entropic optimal transport between weighted point clouds, on any number of points."""

from otreg.transport.divergence import solve
from otreg.transport.result import ConvergenceWarning, TransportResult

__all__ = ["ConvergenceWarning", "TransportResult", "solve"]
