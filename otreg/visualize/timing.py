"""When an animation shows which moment of the motion."""

from __future__ import annotations

import dataclasses

import numpy as np

from otreg.errors import InputError

FRAMES = 48
FRAMES_PER_SECOND = 24.0
HOLD = 0.8
"""Seconds for which the first and the last picture stay, so that they can be looked at."""
_MOST_FRAMES = 10_000
_FASTEST = 120.0


@dataclasses.dataclass(frozen=True)
class Timing:
    """Moments of the motion, from 0 to 1, and for how long each is shown.

    Attributes
    ----------
    moments : list of float
        Of the frames that have to be drawn, from 0 to 1, evenly spread.
    shown : list of int
        Positions in ``moments``, in the order in which they are shown: with a way back, most come twice.
    seconds : list of float
        How long each of ``shown`` stays; the ends longer.
    frames_per_second : float
        Of what moves.
    """

    moments: list[float]
    shown: list[int]
    seconds: list[float]
    frames_per_second: float

    @property
    def repeats(self) -> list[int]:
        """How often each of ``shown`` is repeated in a film, whose frames all last equally long."""
        return [max(round(time * self.frames_per_second), 1) for time in self.seconds]


def timing(
    frames: int | None = None,
    seconds: float | None = None,
    fps: float | None = None,
    *,
    bounce: bool = False,
    hold: float = HOLD,
) -> Timing:
    """Plan an animation.

    Parameters
    ----------
    frames : int, optional
        Pictures from the beginning to the end of the motion, at least 2. Default: 48, or what ``seconds`` and
        ``fps`` make together.
    seconds : float, optional
        How long the motion takes, one way, without the stay at its ends.
    fps : float, optional
        Frames a second. Default: 24, or what ``frames`` and ``seconds`` make together. Any two of the three may be
        given.
    bounce : bool, default False
        Back to the beginning in the same way, so that a loop has no jump.
    hold : float, default 0.8
        Seconds that the first and the last picture stay in addition.

    Raises
    ------
    InputError
        On values that are out of bounds, or all three of ``frames``, ``seconds`` and ``fps``.
    """
    if frames is not None and seconds is not None and fps is not None:
        raise InputError("frames, seconds and fps are given: the third follows from any two of them")
    for name, value in (("seconds", seconds), ("fps", fps)):
        if value is not None and not (np.isfinite(value) and value > 0.0):
            raise InputError(f"{name} must be a positive number, got {value!r}")
    if not (np.isfinite(hold) and hold >= 0.0):
        raise InputError(f"hold must not be negative, got {hold!r}")
    if frames is None:
        rate = FRAMES_PER_SECOND if fps is None else fps
        frames = FRAMES if seconds is None else max(round(min(seconds * rate, 1e9)), 2)
    elif isinstance(frames, bool) or not isinstance(frames, int) or frames < 2:
        raise InputError(f"frames must be a whole number of at least 2, got {frames!r}")
    if frames > _MOST_FRAMES:
        raise InputError(f"that makes {frames} frames, and {_MOST_FRAMES} are the most: ask for fewer")
    rate = fps if fps is not None else (FRAMES_PER_SECOND if seconds is None else frames / seconds)
    if rate > _FASTEST:
        raise InputError(f"that makes {rate:g} frames a second, and {_FASTEST:g} are the most")
    shown = [*range(frames), *(range(frames - 2, 0, -1) if bounce else ())]
    stay = [1.0 / rate + (hold if place in (0, frames - 1) else 0.0) for place in shown]
    return Timing([float(time) for time in np.linspace(0.0, 1.0, frames)], shown, stay, rate)
