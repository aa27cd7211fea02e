"""The errors and warnings a user can cause, so that a caller can tell them from faults of ours."""

from __future__ import annotations

from collections.abc import Sequence


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


class ManifestError(InputError):
    """A manifest that cannot be run, with everything that is wrong with it.

    Parameters
    ----------
    source : str
        The manifest, as the user named it.
    problems : sequence of str
        One line each, in the order of its rows.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'' if len(self.problems) == 1 else 's'}"
        super().__init__(f"{source}: {count}, nothing was run; the first: {self.problems[0]}")
