"""The errors and warnings a user can cause, so that a caller can tell them from faults of ours."""


class OtregError(Exception):
    """Base of every error that otreg raises on purpose."""


class InputError(OtregError, ValueError):
    """Bad input: a file, shape or setting that cannot be used.

    The message is one line that names what is wrong and what to do about it. The command line prints it as it
    stands and exits with code 2.
    """


class NotInvertibleError(OtregError, ArithmeticError):
    """A map folds at the points asked for, so it has no inverse there."""


class ReplayError(OtregError, RuntimeError):
    """A step of a loop did not do again what it did at first, so its derivative cannot be had by running it again."""


class IntegrationError(OtregError, ArithmeticError):
    """A flow left the finite numbers, or needed more steps than it was allowed."""


class ConvergenceWarning(UserWarning):
    """A solver stopped before it reached the accuracy asked for; the message says how far it came."""
