"""Flows: integrators over any vector field."""

from otreg.flows.fixed import integrate

__all__ = ["integrate"]
