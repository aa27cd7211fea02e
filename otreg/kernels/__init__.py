"""Kernels: how much one point moves, or resembles, another; summed over all pairs without ever storing them."""

from otreg.kernels.arc_cosine import ArcCosine
from otreg.kernels.base import Kernel
from otreg.kernels.radial import (
    RADIAL,
    Cauchy,
    Gaussian,
    InverseMultiquadric,
    Laplacian,
    Radial,
    Wendland,
)
from otreg.kernels.sums import Sum
from otreg.kernels.system import KernelSystem
from otreg.reductions.arc_cosine import relu_covariance

__all__ = [
    "RADIAL",
    "ArcCosine",
    "Cauchy",
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "KernelSystem",
    "Laplacian",
    "Radial",
    "Sum",
    "Wendland",
    "relu_covariance",
]
