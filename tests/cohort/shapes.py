"""Small studies with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.cli.support import ROTATION, bean, write_landmarks, write_ply


def write_study(folder: Path, subjects: int = 3) -> Path:
    """A fixed bean, subjects that are affine images of it with their landmarks, and a manifest of all pairs.

    Few points and starts, because what is tested is what happens around a registration.
    """
    points, triangles = bean(2)
    write_ply(folder / "fixed.ply", points, triangles)
    write_landmarks(folder / "fixed.csv", points[::20])
    lines = ["name,moving,fixed,moving_landmarks,fixed_landmarks,points,starts"]
    generator = np.random.default_rng(3)
    for number in range(subjects):
        matrix = (np.eye(3) + 0.08 * generator.normal(size=(3, 3))) @ ROTATION
        moved = points @ matrix.T + 10.0 * number
        write_ply(folder / f"s{number}.ply", moved, triangles)
        write_landmarks(folder / f"s{number}.csv", moved[::20])
        lines.append(f"s{number},s{number}.ply,fixed.ply,s{number}.csv,fixed.csv,200,10")
    manifest = folder / "pairs.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest
