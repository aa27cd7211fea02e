"""The end of a registration: move every point, measure, judge."""

from __future__ import annotations

import platform
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from otreg.deformations import Deformation
from otreg.deformations.domain import noted_bounds
from otreg.quality import evaluate, gate
from otreg.reductions import compiled
from otreg.registration.result import Registration
from otreg.surface import Landmarks, Surface
from otreg.together import together

VERSION = version("otreg")

SAMPLES_BEFORE, SAMPLES_AFTER = 3_000, 10_000
"""Points on each surface: mean distances are then good to about 2% before, where no more is asked, and to 1% after."""


def finish(
    moving: Surface,
    fixed: Surface,
    transform: Deformation,
    report: dict[str, Any],
    landmarks: tuple[Landmarks, Landmarks] | None,
    labels: str | None,
    seed: int,
) -> Registration:
    """Apply the map to every vertex, measure before and after, and pass or fail the result."""
    transform.moving_frame, transform.fixed_frame = moving.frame, fixed.frame
    transform.metadata.update(
        {
            "otreg": VERSION,
            "moving": str(moving.metadata.get("path", "")),
            "fixed": str(fixed.metadata.get("path", "")),
            "diameter": float(fixed.diameter),
            "moving_bounds": noted_bounds(moving.bounds),
            "fixed_bounds": noted_bounds(fixed.bounds),
        }
    )
    before, (moved, after) = together(
        partial(
            evaluate,
            moving,
            fixed,
            moving=moving,
            labels=labels,
            landmarks=landmarks,
            samples=SAMPLES_BEFORE,
            seed=seed,
        ),
        partial(_moved_and_measured, moving, fixed, transform, landmarks, labels, seed),
    )
    judged = [_of_the_part(quality) if report["partial"] else quality for quality in (after, before)]
    reasons = gate(judged[0], judged[1], diameter=fixed.diameter)
    warnings = [
        f"the stage {stage['stage']} brought held-back points no closer and was dropped"
        for stage in report["stages"]
        if not stage["kept"] and not stage.get("trial")
    ]
    if report["interrupted"]:
        warnings.append("stopped early: this is the best map so far")
    versions = {"otreg": VERSION, "torch": str(torch.__version__), "numpy": np.__version__}
    # results are the same to rounding, times are not
    versions["sums"] = "compiled" if compiled.is_available() else "torch"
    full = {
        "otreg": VERSION,
        "direction": "points of MOVING to FIXED",
        "versions": {**versions, "python": platform.python_version()},
        "inputs": {"moving": _describe(moving), "fixed": _describe(fixed)},
        **report,
        "quality": {"before": before, "after": after},
        "gate": {"passed": not reasons, "reasons": reasons},
        "passed": not reasons,
        "warnings": warnings,
    }
    return Registration(moved, transform, full, moving, fixed)


def _moved_and_measured(
    moving: Surface,
    fixed: Surface,
    transform: Deformation,
    landmarks: tuple[Landmarks, Landmarks] | None,
    labels: str | None,
    seed: int,
) -> tuple[Surface, dict[str, Any]]:
    moved = transform(moving)
    moved = moved.with_points(moved.points, displacement=moved.points - moving.points)
    pair = None if landmarks is None else (transform(landmarks[0]), landmarks[1])
    quality = evaluate(
        moved,
        fixed,
        moving=moving,
        labels=labels,
        landmarks=pair,
        transform=transform,
        samples=SAMPLES_AFTER,
        seed=seed,
    )
    return moved, quality


def _of_the_part(quality: dict[str, Any]) -> dict[str, Any]:
    """The same with the distance from the part to the whole: the other way, what is missing counts."""
    return {**quality, "assd": min(quality[way]["mean"] for way in ("moved_to_fixed", "fixed_to_moved"))}


def _describe(shape: Surface) -> dict[str, Any]:
    path = shape.metadata.get("path")
    return {
        "path": None if path is None else str(path),
        "points": len(shape),
        "triangles": len(shape.triangles),
        "diameter": shape.diameter,
        "frame": shape.frame,
    }
