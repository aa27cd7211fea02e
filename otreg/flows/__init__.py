"""Flows: integrators over any vector field, geodesic shooting."""

from otreg.autodiff import Snapshots
from otreg.flows.adaptive import adaptive_times, integrate_adaptive
from otreg.flows.along import positions_along
from otreg.flows.fixed import integrate
from otreg.flows.shooting import Path, carry, carry_with_jacobian, drift, hamiltonian, shoot

__all__ = [
    "Path",
    "Snapshots",
    "adaptive_times",
    "carry",
    "carry_with_jacobian",
    "drift",
    "hamiltonian",
    "integrate",
    "integrate_adaptive",
    "positions_along",
    "shoot",
]
