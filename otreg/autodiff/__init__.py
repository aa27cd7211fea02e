"""Time for memory: solvers and derivatives that do not store their loops."""

from otreg.autodiff.checkpoint import scan
from otreg.autodiff.conjugate_gradient import ConjugateGradient, conjugate_gradient
from otreg.autodiff.eager import eager_penalty
from otreg.autodiff.schedule import Snapshots, body_evaluations

__all__ = [
    "ConjugateGradient",
    "Snapshots",
    "body_evaluations",
    "conjugate_gradient",
    "eager_penalty",
    "scan",
]
