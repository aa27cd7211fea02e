"""What is looked at before a registration begins: shapes, sizes, frames, landmarks, device."""

from __future__ import annotations

import numpy as np
import torch

from otreg.errors import InputError
from otreg.surface import Landmarks, Surface

MAX_SIZE_RATIO = 50.0
"""Beyond this ratio of diameters the files are in different units, not of different sizes."""


def check_pair(
    moving: Surface, fixed: Surface, preset: str, landmarks: tuple[Landmarks, Landmarks] | None
) -> None:
    """Raise InputError, in one line, if the two shapes cannot be registered."""
    for shape, role in ((moving, "moving"), (fixed, "fixed")):
        name = shape.called(role)
        if len(shape) == 0:
            raise InputError(f"{name}: no points: nothing to register")
        bad = np.flatnonzero(~np.isfinite(shape.points).all(axis=1))
        if len(bad):
            raise InputError(f"{name}: {len(bad)} points are not finite (first index {bad[0]}): repair them")
        if np.abs(shape.points).max() > 1e12:
            raise InputError(f"{name}: coordinates beyond 1e12: check the file's unit")
        if len(np.unique(shape.points, axis=0)) < 4:
            raise InputError(f"{name}: all points are equal or fewer than 4 differ: nothing to register")
        if shape.has_triangles and not shape.triangle_areas.sum() > 1e-12 * shape.diameter**2:
            raise InputError(f"{name}: all triangles have no area: clean the mesh, or drop its triangles")
        if not shape.has_triangles and not shape.weights.sum() > 0:
            raise InputError(f"{name}: the weights of its points sum to zero")
    a, b = moving.called("moving"), fixed.called("fixed")
    if moving.frame and fixed.frame and moving.frame != fixed.frame:
        raise InputError(
            f"{a} is in {moving.frame} and {b} in {fixed.frame}: convert one "
            "(otreg register --convert-frames, or otreg convert)"
        )
    ratio = moving.diameter / fixed.diameter
    if not 1 / MAX_SIZE_RATIO <= ratio <= MAX_SIZE_RATIO:
        raise InputError(
            f"{a} is {ratio:.3g} times the size of {b}: the units differ (metres against millimetres?): "
            "bring both to one unit with otreg convert --scale"
        )
    if landmarks is not None and len(landmarks[0]) != len(landmarks[1]):
        raise InputError(
            f"{len(landmarks[0])} moving landmarks but {len(landmarks[1])} fixed ones: they must correspond"
        )


def check_device(device: str) -> str:
    """Resolve ``auto``, and refuse a device that is not there."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {device!r}: use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch sees no CUDA GPU here: use cpu or auto")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
