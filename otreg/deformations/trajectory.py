"""The way of points under a map: from where they are (time 0) to where the map takes them (time 1).

A registration finds a map, and a flow's map has a way of its own: the integrated one. All other maps have none,
so theirs is chosen, and :func:`legs` says so:

* affine maps: the one-parameter group of the map, see :func:`otreg.deformations.linear_motion.steady_motion`;
* splines and their inverses, and kinds of map that are not known here: straight lines.

The stages of a composite follow one another, so that each moves the points in the space in which it was found:
neighbouring affine stages as one, identities left out, and each of the rest an equal share of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from otreg.deformations.affine import Affine
from otreg.deformations.base import Deformation, PointsT, working_array, working_tensor
from otreg.deformations.composite import Composite
from otreg.deformations.diffeomorphism import Diffeomorphism, InverseFlow
from otreg.deformations.inverse import InverseDeformation
from otreg.deformations.linear_motion import steady_motion
from otreg.deformations.spline import Spline
from otreg.errors import InputError
from otreg.flows.along import positions_along
from otreg.surface import FloatArray


class Leg(NamedTuple):
    """One part of the way.

    Attributes
    ----------
    name : str
        ``"rigid map"``, ``"affine map"``, ``"spline"``, ``"flow"``, ``"inverse flow"``, …
    kind : {"integrated", "interpolated"}
        Whether the map itself says where points are in between, or this is a choice.
    words : str
        How: ``"as a steady motion"``, ``"along straight lines"``, …
    start, end : float
        Of its share of the time.
    """

    name: str
    kind: Literal["integrated", "interpolated"]
    words: str
    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} {self.words}"


class _Part(NamedTuple):
    """Stages that are travelled in one go."""

    name: str
    kind: Literal["integrated", "interpolated"]
    words: str
    end: Callable[[Tensor], Tensor]
    between: Callable[[Tensor, Tensor, Sequence[float]], Tensor]
    """start (N, 3), end (N, 3), times strictly between 0 and 1 -> (T, N, 3)"""


def trajectory(transform: Deformation, points: PointsT, times: Any, *, skip_pose: bool = False) -> PointsT:
    """Positions of points on their way from themselves to their images.

    Parameters
    ----------
    transform : Deformation
    points : array or tensor, shape (N, 3)
        In the space of the moving shape, in the unit of the files. Points that are not finite stay so.
    times : array_like, shape (T,)
        From 0 to 1, in any order.
    skip_pose : bool, default False
        Leave out the way of the affine stages that come first: at time 0 the points are where these take them.
        For looking at the change of shape alone.

    Returns
    -------
    array or tensor, shape (T, N, 3)
        Of the kind, dtype and device of the points; without gradients. Exactly ``points`` at time 0 (but see
        ``skip_pose``) and exactly ``transform.map(points)`` at time 1.

    Raises
    ------
    InputError
        On points or times of another shape, or a time that is not from 0 to 1.
    NotInvertibleError
        Where the map has no value: see :class:`~otreg.deformations.InverseDeformation`.
    """
    moments = _checked_times(times)
    with torch.no_grad():
        if isinstance(points, Tensor):
            tensor, dtype = working_tensor(points.detach())
            return _positions(transform, tensor, moments, skip_pose).to(dtype)
        array, array_dtype = working_array(points)
        return _positions(transform, array, moments, skip_pose).numpy().astype(array_dtype, copy=False)


def legs(transform: Deformation, *, skip_pose: bool = False) -> list[Leg]:
    """Say of each part of the way from when to when it lasts, and whether it is integrated or interpolated.

    Parameters
    ----------
    transform, skip_pose
        See :func:`trajectory`.

    Returns
    -------
    list of Leg
        Empty where nothing moves.
    """
    parts = _moving_parts(transform, skip_pose)[1]
    count = len(parts)
    return [Leg(part.name, part.kind, part.words, k / count, (k + 1) / count) for k, part in enumerate(parts)]


def _checked_times(times: Any) -> FloatArray:
    try:
        moments = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("times must be numbers from 0 to 1") from error
    if moments.ndim != 1:
        raise InputError(f"times must have shape (T,), got {moments.shape}")
    wrong = ~((moments >= 0.0) & (moments <= 1.0))
    if wrong.any():
        raise InputError(f"times must be from 0 to 1, got {moments[wrong][0]:g}")
    return moments


def _positions(transform: Deformation, start: Tensor, times: FloatArray, skip_pose: bool) -> Tensor:
    pose, parts = _moving_parts(transform, skip_pose)
    here = start if pose is None else pose.end(start)
    found = here.new_empty((len(times), *here.shape))
    if not parts:
        found[:] = here
        return found
    # The last part that has begun; its end counts as the beginning of the next, but for the last one's.
    place = np.minimum((times * len(parts)).astype(int), len(parts) - 1)
    for number, part in enumerate(parts):
        there = part.end(here)
        chosen = np.flatnonzero(place == number)
        local = times[chosen] * len(parts) - number
        inside = chosen[(local > 0.0) & (local < 1.0)]
        if len(inside):
            shares = [float(time) for time in local[(local > 0.0) & (local < 1.0)]]
            found[torch.from_numpy(inside)] = part.between(here, there, shares)
        found[torch.from_numpy(chosen[local <= 0.0])] = here
        found[torch.from_numpy(chosen[local >= 1.0])] = there
        here = there
    return found


def _moving_parts(transform: Deformation, skip_pose: bool) -> tuple[_Part | None, list[_Part]]:
    """The pose that is skipped, if any, and the parts of the way; identities are no part of it."""
    stages = transform.stages if isinstance(transform, Composite) else (transform,)
    groups: list[list[Deformation]] = []
    for stage in stages:
        if groups and isinstance(stage, Affine) and isinstance(groups[-1][0], Affine):
            groups[-1].append(stage)
        else:
            groups.append([stage])
    pose: _Part | None = None
    if skip_pose and isinstance(groups[0][0], Affine):
        pose = _affine_part([stage for stage in groups.pop(0) if isinstance(stage, Affine)])
    parts = [
        _affine_part([stage for stage in group if isinstance(stage, Affine)])
        if isinstance(group[0], Affine)
        else _curved_part(group[0])
        for group in groups
    ]
    return pose, [part for part in parts if part is not None]


def _affine_part(stages: list[Affine]) -> _Part | None:
    """Affine stages as one motion; None for the identity."""
    whole = stages[0]
    for stage in stages[1:]:
        whole = stage.after(whole)
    matrix = whole.matrix.detach().cpu().numpy().astype(np.float64)
    translation = whole.translation.detach().cpu().numpy().astype(np.float64)
    if np.array_equal(matrix, np.eye(3)) and not translation.any():
        return None
    motion, words = steady_motion(matrix, translation)

    def end(points: Tensor) -> Tensor:  # stage by stage: to the last bit what the map does
        for stage in stages:
            points = stage._map(points)
        return points

    def between(start: Tensor, last: Tensor, times: Sequence[float]) -> Tensor:
        frames = []
        for time in times:
            turn, shift = (torch.from_numpy(np.ascontiguousarray(value)).to(start) for value in motion(time))
            frames.append(start @ turn.T + shift)
        return torch.stack(frames)

    return _Part(f"{whole.kind} map", "interpolated", words, end, between)


def _curved_part(stage: Deformation) -> _Part:
    if isinstance(stage, Diffeomorphism):
        return _Part("flow", "integrated", f"in {_steps(stage)}", stage._map, _along(stage))
    if isinstance(stage, InverseFlow):
        forward = _along(stage.original)

        def backwards(start: Tensor, last: Tensor, times: Sequence[float]) -> Tensor:
            # From the corrected solution forward: that is the flow's own way, whatever the way back loses.
            return forward(last, start, [1.0 - time for time in times])

        words = f"backwards in {_steps(stage.original)}"
        return _Part("inverse flow", "integrated", words, stage._map, backwards)
    name = type(stage).__name__
    if isinstance(stage, Spline):
        name = "spline"
    elif isinstance(stage, InverseDeformation):
        name = f"inverse of a {type(stage.original).__name__.lower()}"
    return _Part(name, "interpolated", "along straight lines", stage._map, _straight)


def _steps(flow: Diffeomorphism) -> str:
    count = flow.path().steps
    return f"{count} step{'s' * (count > 1)} of {flow.method}"


def _along(flow: Diffeomorphism) -> Callable[[Tensor, Tensor, Sequence[float]], Tensor]:
    def between(start: Tensor, last: Tensor, times: Sequence[float]) -> Tensor:
        return positions_along(start, flow.path().to(start), times)

    return between


def _straight(start: Tensor, last: Tensor, times: Sequence[float]) -> Tensor:
    return torch.stack([start + time * (last - start) for time in times])
