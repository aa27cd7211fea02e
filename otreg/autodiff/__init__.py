"""Time for memory: solvers and derivatives that do not store their loops."""

from otreg.autodiff.blockwise import blockwise
from otreg.autodiff.checkpoint import scan
from otreg.autodiff.conjugate_gradient import conjugate_gradient
from otreg.autodiff.eager import eager_penalty
from otreg.autodiff.krylov import ConjugateGradient, Stop
from otreg.autodiff.proximal import proximal_least_squares
from otreg.autodiff.schedule import Snapshots, body_evaluations

__all__ = [
    "ConjugateGradient",
    "Snapshots",
    "Stop",
    "blockwise",
    "body_evaluations",
    "conjugate_gradient",
    "eager_penalty",
    "proximal_least_squares",
    "scan",
]
