"""Sums over all pairs of points, without ever storing the N×M array."""

from otreg.reductions.front import Softmin, softmin

__all__ = ["Softmin", "softmin"]
