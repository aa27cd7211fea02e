"""Sums over all pairs of points, without ever storing the N×M array."""

from otreg.reductions.engines import ENGINES
from otreg.reductions.front import Softmin, SoftminPair, softmin, softmin_pair
from otreg.reductions.kernels import KERNELS, kernel_sum

__all__ = ["ENGINES", "KERNELS", "Softmin", "SoftminPair", "kernel_sum", "softmin", "softmin_pair"]
