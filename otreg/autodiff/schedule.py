"""Which states of a loop are kept for its backward pass, and how often the body is run for it.

A backward pass needs, step by step from the last to the first, the tensors that the body saved for its
derivative: the step's TAPE. Tapes are far larger than states, so a schedule keeps some states, the SNAPSHOTS,
and runs the body again from them. The forward pass itself tapes its last steps: their derivatives are asked for
first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb, isqrt
from typing import NamedTuple, Protocol

from otreg.errors import InputError


class Pass(NamedTuple):
    """One run over consecutive steps: where to take snapshots, and from which step on to keep the tapes."""

    snapshots: frozenset[int]
    tape_from: int


class Schedule(Protocol):
    """Decides what the forward pass keeps, and what each run for a step's tape keeps."""

    def forward(self, length: int) -> Pass:
        """For the pass over steps 0 to ``length - 1``; the first snapshot is the state before step 0."""

    def again(self, start: int, step: int, held: int) -> Pass:
        """For the pass from the snapshot at ``start`` to ``step``, which must be taped; ``held`` are in use."""

    def kept(self, positions: Iterable[int], step: int) -> list[int]:
        """Which of the snapshots are still worth their place when the tape of ``step`` is asked for."""

    def evaluations(self, length: int) -> int:
        """How often the body is run in all, forward and backward, for a loop of ``length`` steps."""


@dataclass(frozen=True)
class Every:
    """A snapshot every ``interval`` steps; the tapes of one interval at a time.

    The body is run once more, except in the last interval, which the forward pass tapes. Memory: ``length /
    interval`` states and ``interval`` tapes, least near ``interval = √length``.
    """

    interval: int

    def forward(self, length: int) -> Pass:
        starts = range(0, length, self.interval)
        return Pass(frozenset(starts), starts[-1])

    def again(self, start: int, step: int, held: int) -> Pass:
        return Pass(frozenset(), start)

    def kept(self, positions: Iterable[int], step: int) -> list[int]:
        return list(positions)

    def evaluations(self, length: int) -> int:
        return length + (length - 1) // self.interval * self.interval


@dataclass(frozen=True)
class Snapshots:
    """A budget of snapshots, used by the binomial schedule: the least runs of the body that it allows.

    At any time at most ``budget`` states (the first one among them) and the tape of a single step are kept. A
    loop of ``l`` steps is reversed with ``r l - β(s+1, r-1)`` steps run untaped and ``l`` taped ones, where
    ``β(s, r) = C(s+r, s)`` and ``r`` is the one whole number with ``β(s, r-1) < l ≤ β(s, r)``: no step is run
    untaped more than ``r`` times, and ``r`` grows as the ``s``-th root of ``l``.

    References
    ----------
    Griewank & Walther, Algorithm 799: Revolve, ACM Transactions on Mathematical Software 26 (2000), Theorem 1.
    """

    budget: int

    def __post_init__(self) -> None:
        if not _whole(self.budget) or self.budget < 1:
            raise InputError(f"Snapshots needs a whole number of at least 1, got {self.budget!r}")

    def forward(self, length: int) -> Pass:
        return Pass(self._further(0, length - 1, self.budget - 1) | {0}, length - 1)

    def again(self, start: int, step: int, held: int) -> Pass:
        return Pass(self._further(start, step, self.budget - held), step)

    def kept(self, positions: Iterable[int], step: int) -> list[int]:
        # steps are asked for in falling order: later states are of no use any more, and their places are free
        return [position for position in positions if position <= step]

    def evaluations(self, length: int) -> int:
        repeats = _repeats(length, self.budget)
        return repeats * length - _reach(self.budget + 1, repeats - 1) + length

    @staticmethod
    def _further(start: int, step: int, free: int) -> frozenset[int]:
        """Where to take ``free`` more snapshots on the way from the one at ``start`` to ``step``."""
        found = []
        while free > 0 and start < step:
            start += _first_stretch(step - start + 1, free + 1)
            found.append(start)
            free -= 1
        return frozenset(found)


def _reach(snapshots: int, repeats: int) -> int:
    """``β(s, r)``: the longest loop that is reversed with no step run untaped more than ``r`` times."""
    return comb(snapshots + repeats, snapshots) if repeats >= 0 else 0


def _repeats(length: int, snapshots: int) -> int:
    """``r`` with ``β(s, r-1) < length ≤ β(s, r)``."""
    high = 1
    while _reach(snapshots, high) < length:
        high *= 2
    low = -1  # β(s, -1) = 0 < length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _reach(snapshots, middle) >= length else (middle, high)
    return high


def _first_stretch(length: int, snapshots: int) -> int:
    """How far to run from the first of ``snapshots`` states before the second is taken, at least cost.

    Both parts must keep to the repeats of the whole: the first to ``r`` with all snapshots (its steps have been
    run once already, so ``β(s, r-1)`` at most), the second to ``r`` with one less.
    """
    repeats = _repeats(length, snapshots)
    return max(1, _reach(snapshots, repeats - 2), length - _reach(snapshots - 1, repeats))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def schedule_of(checkpoints: object, length: int, name: str = "checkpoints") -> Schedule | None:
    """The schedule that a user's argument stands for; None where tapes are not dropped ("all" and "none").

    Raises
    ------
    InputError
        If the argument, called ``name`` in the message, is none of those that :func:`scan` takes.
    """
    if checkpoints == "all" or checkpoints == "none":
        return None
    if checkpoints == "sqrt":
        return Every(isqrt(max(length, 1) - 1) + 1)
    if isinstance(checkpoints, Snapshots):
        return checkpoints
    if _whole(checkpoints) and checkpoints >= 1:  # type: ignore[operator]
        return Every(checkpoints)  # type: ignore[arg-type]
    raise InputError(
        f"{name} must be 'sqrt', 'all', 'none', a whole number of at least 1 or Snapshots(budget), got {checkpoints!r}"
    )


def body_evaluations(length: int, checkpoints: object = "sqrt") -> int:
    """How often :func:`scan` runs its body for one value and one gradient.

    Parameters
    ----------
    length : int
        Number of steps of the loop.
    checkpoints : {"sqrt", "all", "none"}, int or Snapshots
        As given to :func:`scan`.

    Returns
    -------
    int
        Forward and backward together, where the gradient is asked for once and reaches every step. "all" and
        "none" run the body ``length`` times, an interval ``k`` less than twice that, ``Snapshots(s)`` as the
        class says.
    """
    if not _whole(length) or length < 0:
        raise InputError(f"length must be a whole number of at least 0, got {length!r}")
    schedule = schedule_of(checkpoints, length)
    return length if schedule is None or not length else schedule.evaluations(length)
