"""The two shapes of a registration with their landmarks, read, brought into one frame and checked."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from otreg.errors import InputError
from otreg.frames import convert_frame
from otreg.io.formats import suffix_of
from otreg.io.landmarks import read_landmarks
from otreg.io.surfaces import check_writable, read, read_as_is
from otreg.overlap import check_labels
from otreg.surface import Landmarks, Surface

MOST_DROPPED = 0.1
"""Share of points that a repair drops at most; beyond it the file is broken, not blemished."""

Pair = tuple[Surface, Surface, tuple[Landmarks, Landmarks] | None]


def read_pair(
    moving: Path,
    fixed: Path,
    landmarks: tuple[Path, Path] | None,
    choices: Mapping[str, Any],
    *,
    surface: Callable[..., Surface] | None = None,
) -> Pair:
    """Read what a registration needs, and bring MOVING and its landmarks into FIXED's frame where asked to.

    Parameters
    ----------
    moving, fixed : Path
        Files of surfaces or point clouds.
    landmarks : (Path, Path), optional
        Files of corresponding landmarks on either.
    choices : mapping
        ``repair`` and ``convert_frames`` (bool), ``labels`` (name of point data, or None): see
        :data:`otreg.configuration.DEFAULTS`.
    surface : callable, optional
        Reads a surface as :func:`read_surface` does; one that remembers saves reading the same file many times.

    Returns
    -------
    (Surface, Surface, (Landmarks, Landmarks) or None)

    Raises
    ------
    InputError
        As the readers; for frames that differ and are not to be converted, a suffix of MOVING in which the moved shape
        could not be written, labels that cannot be compared, landmarks that do not correspond.
    """
    load = surface or read_surface
    moving_shape = load(moving, repair=choices["repair"])
    check_suffix(moving, moving_shape)
    fixed_shape = load(fixed, repair=choices["repair"])
    moving_frame, fixed_frame = moving_shape.frame, fixed_shape.frame
    if moving_frame and fixed_frame and moving_frame != fixed_frame:
        if not choices["convert_frames"]:
            raise InputError(
                f"{moving} is in {moving_frame} and {fixed} in {fixed_frame}: convert one (otreg convert) or "
                "pass --convert-frames"
            )
        try:
            moving_shape = convert_frame(moving_shape, fixed_frame)
        except InputError as error:
            raise InputError(f"{moving}: {error}") from None
        warnings.warn(
            f"{moving}: converted from {moving_frame} to {fixed_frame}; the map starts in {fixed_frame}",
            UserWarning,
            stacklevel=1,
        )
    if choices["labels"] is not None:
        check_labels(moving_shape, fixed_shape, choices["labels"])
    if landmarks is None:
        return moving_shape, fixed_shape, None
    shapes = (moving_shape, fixed_shape)
    pair = (read_landmarks(landmarks[0]), read_landmarks(landmarks[1]))
    if choices["convert_frames"]:
        pair = (
            _into_frame_of(shapes[0], pair[0], landmarks[0]),
            _into_frame_of(shapes[1], pair[1], landmarks[1]),
        )
    check_landmarks(landmarks, pair, shapes)
    return moving_shape, fixed_shape, pair


def read_surface(path: str | os.PathLike[str], *, repair: bool = False) -> Surface:
    """Read a surface or point cloud; where ``repair`` drops points that are not finite, say how many.

    Raises
    ------
    InputError
        As :func:`otreg.io.read`, and where more than a tenth of the points would be dropped.
    """
    surface = read(path, repair=repair)
    if "kept_points" in surface.metadata:
        total = len(read_as_is(path))
        dropped = total - len(surface)
        if dropped > MOST_DROPPED * total:
            raise InputError(
                f"{path}: {dropped} of {total} points have NaN or infinite coordinates, "
                "too many to drop; export it again"
            )
        text = f"{path}: dropped {dropped} of {total} points, whose coordinates are not finite"
        warnings.warn(text, UserWarning, stacklevel=1)
    return surface


def check_landmarks(
    paths: tuple[Path, Path], pair: tuple[Landmarks, Landmarks], shapes: tuple[Surface, Surface]
) -> None:
    """Refuse landmarks that do not correspond by count, or are in another frame than the shape they lie on."""
    if len(pair[0]) != len(pair[1]):
        raise InputError(
            f"{paths[0]} has {len(pair[0])} landmarks but {paths[1]} has {len(pair[1])}: they must correspond, "
            "row by row"
        )
    for path, points, shape in zip(paths, pair, shapes, strict=True):
        if points.frame and shape.frame and points.frame != shape.frame:
            raise InputError(
                f"{path} is in {points.frame} and its surface in {shape.frame}: convert one (otreg convert)"
            )


def check_suffix(path: Path, shape: Surface) -> None:
    """Refuse a suffix that says another format than the content has, where `moved.*` could not be written so."""
    try:
        check_writable(shape, Path(f"moved{suffix_of(path)}"))
    except InputError as error:
        reason = str(error).partition(": ")[2]
        form = shape.metadata["format"]
        raise InputError(
            f"{path}: its suffix does not fit: {reason}; the file is {form}, rename it so or otreg convert it"
        ) from None


def _into_frame_of(shape: Surface, points: Landmarks, path: Path) -> Landmarks:
    if points.frame is None or shape.frame is None:
        return points
    try:
        return convert_frame(points, shape.frame, c_ras=shape.metadata.get("c_ras"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
