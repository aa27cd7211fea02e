"""Time for memory: solvers and derivatives that do not store their loops."""

from otreg.autodiff.conjugate_gradient import ConjugateGradient, conjugate_gradient

__all__ = ["ConjugateGradient", "conjugate_gradient"]
