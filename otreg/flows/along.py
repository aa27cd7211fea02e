"""Where passengers of a flow are on their way: positions at any times, not only at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.flows.fixed import integrate
from otreg.flows.shooting import Path


def positions_along(points: Tensor, path: Path, times: Sequence[float], *, memory: Any = "sqrt") -> Tensor:
    """Positions of passengers at several times of one journey.

    The steps are those of :func:`otreg.flows.carry`, and so is the end. Between two steps a passenger is on the
    cubic that has its positions and its velocities at both (Hermite; Hairer, Nørsett & Wanner, Solving Ordinary
    Differential Equations I, 2nd ed. 1993, section II.6), which is off by the fourth power of the step.

    Parameters
    ----------
    points : Tensor, shape (N, 3)
        At time 0, in the dtype and on the device of the path. Points that are not finite stay so.
    path : Path
        From :func:`otreg.flows.shoot` or :func:`otreg.flows.drift`.
    times : sequence of float, length T
        From 0 to 1, in any order.
    memory : default "sqrt"
        See :func:`otreg.flows.integrate`.

    Returns
    -------
    Tensor, shape (T, N, 3)
        Differentiable in the points and in the path.

    Raises
    ------
    InputError
        If a time is not a number from 0 to 1.
    """
    for time in times:
        if not (math.isfinite(time) and 0.0 <= time <= 1.0):
            raise InputError(f"times must be from 0 to 1, got {time!r}")
    steps = path.steps
    wanted: dict[int, list[int]] = {}  # step -> positions in ``times``
    for place, time in enumerate(times):
        wanted.setdefault(min(int(time * steps), steps - 1), []).append(place)
    found: list[Tensor] = [points] * len(times)
    each = steps // max(path.intervals, 1)
    here = points
    for step in range(max(wanted, default=-1) + 1):
        before, here = here, _one_step(here, path, step, step // each, memory)
        slopes: tuple[Tensor, Tensor] | None = None
        for place in wanted.get(step, []):
            share = times[place] * steps - step
            if share in (0.0, 1.0):
                found[place] = here if share else before
                continue
            if slopes is None:
                slopes = (
                    _velocity(before, path, 2 * step, step // each) / steps,
                    _velocity(here, path, 2 * step + 2, step // each) / steps,
                )
            found[place] = _cubic(share, before, here, *slopes)
    return torch.stack(found) if found else points.new_zeros((0, *points.shape))


def _velocity(points: Tensor, path: Path, index: int, interval: int) -> Tensor:
    centres, momenta = path.at(index, interval)
    return path.kernel.sums(points, centres, (0, momenta))[0]


def _one_step(points: Tensor, path: Path, step: int, interval: int, memory: Any) -> Tensor:
    def field(time: float, here: Tensor) -> Tensor:  # time in half steps: whole numbers, which are looked up
        return (0.5 / path.steps) * _velocity(here, path, round(time), interval)

    end: Tensor = integrate(
        field,
        points,
        start=2.0 * step,
        end=2.0 * step + 2.0,
        steps=1,
        method=path.method,
        memory=memory,
        finite=False,
    )
    return end


def _cubic(share: float, start: Tensor, end: Tensor, slope: Tensor, last_slope: Tensor) -> Tensor:
    """Hermite's cubic at a share of a step; slopes per step."""
    rest = 1.0 - share
    ends = (1.0 + 2.0 * share) * rest**2 * start + share**2 * (3.0 - 2.0 * share) * end
    return ends + share * rest * (rest * slope - share * last_slope)
