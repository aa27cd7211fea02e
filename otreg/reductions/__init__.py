"""Sums over all pairs of points, without ever storing the N×M array."""

from otreg.reductions.engines import ENGINES
from otreg.reductions.front import Softmin, softmin
from otreg.reductions.kernels import KERNELS, kernel_sum

__all__ = ["ENGINES", "KERNELS", "Softmin", "kernel_sum", "softmin"]
