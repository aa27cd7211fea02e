"""Coordinate frames: from RAS to LPS and back, and between FreeSurfer's tkRAS and scanner RAS.

RAS counts x to the patient's right, y to the front (anterior), z up (superior); LPS counts x to the left and
y to the back (posterior), so each is the other with x and y negated: a half turn about z, which keeps the
orientation of triangles. tkRAS is the frame of FreeSurfer's surface files: RAS with the origin in the middle
of the volume, ``RAS = tkRAS + c_ras``, where ``c_ras`` is written in the file (``metadata["c_ras"]``).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otreg.errors import InputError
from otreg.surface import FRAMES, Landmarks, Surface

_COLOUR_NAME = re.compile(r"colou?r|rgb", re.IGNORECASE)

_HALF_TURN = np.array([-1.0, -1.0, 1.0])


@overload
def convert_frame(shape: Surface, frame: str, *, c_ras: ArrayLike | None = None) -> Surface: ...


@overload
def convert_frame(shape: Landmarks, frame: str, *, c_ras: ArrayLike | None = None) -> Landmarks: ...


def convert_frame(
    shape: Surface | Landmarks, frame: str, *, c_ras: ArrayLike | None = None
) -> Surface | Landmarks:
    """Express a shape in another coordinate frame.

    Parameters
    ----------
    shape : Surface or Landmarks
        Must know its frame. A surface's landmarks are converted with it, if they know theirs.
    frame : {"RAS", "LPS", "tkRAS"}
        The frame wanted.
    c_ras : array_like, shape (3,), optional
        RAS position of tkRAS's origin, in file units. Needed only between tkRAS and the others, and taken
        from ``shape.metadata["c_ras"]`` when a surface carries it.

    Returns
    -------
    Surface or Landmarks
        The same kind, with that frame. Between RAS and LPS, point data that are vectors turn with the points:
        those of shape (N, 3) and a floating type whose name does not speak of colours (``color``, ``rgb``).
        All other data stay as they are.

    Raises
    ------
    InputError
        If the frame is unknown, the shape does not say which frame it is in, or c_ras is needed and missing.
    """
    if frame not in FRAMES:
        raise InputError(f"unknown frame {frame!r}: use one of {', '.join(FRAMES)}")
    if shape.frame is None:
        raise InputError(f"the shape does not say which frame it is in, so it cannot be converted to {frame}")
    if isinstance(shape, Surface) and c_ras is None:
        c_ras = shape.metadata.get("c_ras")
    points = shape.points
    if shape.frame != frame:
        points = _convert_points(points, shape.frame, frame, _offset(shape.frame, frame, c_ras))
    if isinstance(shape, Landmarks):
        return Landmarks(points, shape.names, frame)
    turned = _is_lps(shape.frame) != _is_lps(frame)
    data = {
        name: (values * _HALF_TURN).astype(values.dtype) if turned and is_vector(name, values) else values
        for name, values in shape.point_data.items()
    }
    landmarks = shape.landmarks
    if landmarks is not None and landmarks.frame is not None:
        landmarks = convert_frame(landmarks, frame, c_ras=c_ras)
    return dataclasses.replace(shape, points=points, point_data=data, frame=frame, landmarks=landmarks)


@overload
def scale_units(shape: Surface, factor: float) -> Surface: ...


@overload
def scale_units(shape: Landmarks, factor: float) -> Landmarks: ...


def scale_units(shape: Surface | Landmarks, factor: float) -> Surface | Landmarks:
    """Multiply all coordinates by a factor, for instance 1000 from metres to millimetres.

    Point data stay as they are, except ``displacement``, whose unit is known to be that of the points; a
    surface's landmarks and its ``c_ras`` are scaled with it.

    Raises
    ------
    InputError
        If the factor is not positive and finite (a negative one would mirror the shape).
    """
    if not (np.isfinite(factor) and factor > 0):
        raise InputError(f"the scale must be a positive number, not {factor:g}")
    if isinstance(shape, Landmarks):
        return shape.with_points(shape.points * factor)
    data = dict(shape.point_data)
    if "displacement" in data and np.issubdtype(data["displacement"].dtype, np.floating):
        data["displacement"] = data["displacement"] * factor
    metadata = dict(shape.metadata)
    if metadata.get("c_ras") is not None:
        metadata["c_ras"] = np.asarray(metadata["c_ras"], dtype=np.float64) * factor
    landmarks = None if shape.landmarks is None else scale_units(shape.landmarks, factor)
    return dataclasses.replace(
        shape, points=shape.points * factor, point_data=data, metadata=metadata, landmarks=landmarks
    )


def is_vector(name: str, values: NDArray[Any]) -> bool:
    """Whether point data turn with the points: floating, of shape (N, 3), and not colours by their name."""
    return (
        values.ndim == 2
        and values.shape[1] == 3
        and np.issubdtype(values.dtype, np.floating)
        and not _COLOUR_NAME.search(name)
    )


def _is_lps(frame: str) -> bool:
    return frame == "LPS"


def _offset(source: str, target: str, c_ras: ArrayLike | None) -> NDArray[np.float64]:
    """c_ras where the conversion needs it, else zeros."""
    if "tkRAS" not in (source, target):
        return np.zeros(3)
    if c_ras is None:
        raise InputError(
            f"from {source} to {target} the offset c_ras is needed, and the file does not have one: "
            "give it (otreg convert --c-ras)"
        )
    offset = np.asarray(c_ras, dtype=np.float64).ravel()
    if offset.shape != (3,) or not np.all(np.isfinite(offset)):
        raise InputError(f"c_ras must be three finite numbers, got {offset.tolist()}")
    return offset


def _convert_points(
    points: NDArray[np.float64], source: str, target: str, offset: NDArray[np.float64]
) -> NDArray[np.float64]:
    ras = points * _HALF_TURN if _is_lps(source) else points + offset if source == "tkRAS" else points
    return ras * _HALF_TURN if _is_lps(target) else ras - offset if target == "tkRAS" else ras
