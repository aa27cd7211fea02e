"""Flows: integrators over any vector field, geodesic shooting."""

from otreg.flows.fixed import integrate
from otreg.flows.shooting import Path, carry, carry_with_jacobian, drift, hamiltonian, shoot

__all__ = ["Path", "carry", "carry_with_jacobian", "drift", "hamiltonian", "integrate", "shoot"]
