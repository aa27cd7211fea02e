"""Time for memory: solvers and derivatives that do not store their loops."""

from otreg.autodiff.blockwise import blockwise
from otreg.autodiff.checkpoint import scan
from otreg.autodiff.conjugate_gradient import ConjugateGradient, conjugate_gradient
from otreg.autodiff.schedule import Snapshots, body_evaluations

__all__ = ["ConjugateGradient", "Snapshots", "blockwise", "body_evaluations", "conjugate_gradient", "scan"]
