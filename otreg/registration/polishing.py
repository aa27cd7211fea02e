"""The end of a rigid or similarity registration: samples slide over the other surface itself, not over its samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from otreg.proximity import SurfaceIndex
from otreg.registration.pose import Pose, subset
from otreg.registration.sampling import Samples, unit
from otreg.surface import FloatArray, IntArray, Surface

MOST_STEPS = 40

ENOUGH = 1e-9
"""Change of the pose, as a share of the diameter, that ends the search."""

ALONG = 1e-3
"""Weight of residuals along the surface, relative to those across it: it holds spheres and planes still."""

LEAST = 0.1
"""Of the median distance: below, nearer points count no more than this."""

GAIN = 1e-3
"""Share by which a step must lower the mean distance to be of use; :data:`PATIENCE` useless ones end the search."""

PATIENCE = 3

SAMPLES = 1500
"""Of each shape, at most: their distances are exact, so that a few decide six numbers."""

FEWER = 0.75
"""Share of the other side's mean distance below which a side of a partial match is the part."""


class Pairs(NamedTuple):
    """Points of MOVING where a pose brings them, their partners on FIXED, normals there (n, 3), and masses (n,)."""

    points: FloatArray
    targets: FloatArray
    normals: FloatArray
    masses: FloatArray

    @property
    def distances(self) -> FloatArray:
        """Between partners, (n,)."""
        return np.asarray(np.linalg.norm(self.targets - self.points, axis=1), dtype=np.float64)

    @property
    def mean(self) -> float:
        """Mean distance, by mass."""
        return float(self.masses @ self.distances) / float(self.masses.sum())


class Polished(NamedTuple):
    """A pose, and the mean distance to the other surface without and with it."""

    pose: Pose
    before: float
    after: float


class Polisher:
    """Pose of least distance between samples of each shape and the surface of the other.

    Parameters
    ----------
    moving, fixed : Surface
        In one unit of length, near 1.
    moving_samples, fixed_samples : Samples
        Points on them.
    partial : bool
        One shape is a part of the other: only the side that lies nearer to the other counts.
    """

    def __init__(
        self, moving: Surface, fixed: Surface, moving_samples: Samples, fixed_samples: Samples, partial: bool
    ) -> None:
        self.surfaces = moving, fixed
        self.indices = SurfaceIndex(moving), SurfaceIndex(fixed)
        self.samples = subset(moving_samples, SAMPLES), subset(fixed_samples, SAMPLES)
        self.partial = partial

    def polished(self, pose: Pose, scaled: bool) -> Polished:
        """Gauss-Newton steps on the distances to tangent planes (Chen & Medioni 1992), weighed to lower their mean.

        Both sides are matched (the inverse of a similarity carries FIXED's samples to MOVING's surface), so that
        the scale does not shrink. Weights are reciprocal to the distances, so that what is minimised is their mean and
        not that of their squares: a small part that differs pulls little at the rest.
        """
        pairs = self.pairs(pose)
        before = least = pairs.mean
        best, useless = pose, 0
        for _ in range(MOST_STEPS):
            step = _step(pairs, scaled)
            pose = _composed(step, pose)
            pairs = self.pairs(pose)
            found = pairs.mean
            useless = 0 if found < (1.0 - GAIN) * least else useless + 1
            if found < least:
                best, least = pose, found
            growth, turn, shift = step
            change = max(abs(growth - 1.0), float(np.abs(turn - np.eye(3)).max()), float(np.abs(shift).max()))
            if useless == PATIENCE or change < ENOUGH:
                break
        return Polished(best, before, least)

    def pairs(self, pose: Pose) -> Pairs:
        """Partners of the samples of both sides under a pose; of the nearer side alone, if one is a part."""
        scale, rotation, translation = pose
        moving, fixed = self.samples
        there = scale * moving.points @ rotation.T + translation
        onto = self.indices[1].closest(there)
        back = (fixed.points - translation) @ rotation / scale
        under = self.indices[0].closest(back)
        origin = scale * under.points @ rotation.T + translation
        sides = [
            Pairs(there, onto.points, _normals(self.surfaces[1], onto.triangles), moving.weights),
            Pairs(
                origin,
                fixed.points,
                _normals(self.surfaces[0], under.triangles) @ rotation.T,
                fixed.weights,
            ),
        ]
        nearer, farther = sorted(sides, key=lambda side: side.mean)
        if self.partial and nearer.mean < FEWER * farther.mean:
            return nearer
        return Pairs(*(np.concatenate(both) for both in zip(*sides, strict=True)))


def _normals(surface: Surface, triangles: IntArray) -> FloatArray:
    """Unit normals of triangles (n, 3); zero for clouds and degenerate ones."""
    if not surface.has_triangles:
        return np.zeros((len(triangles), 3))
    corners = surface.points[surface.triangles[triangles]]
    return unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))


def _step(pairs: Pairs, scaled: bool) -> Pose:
    """Small similarity that brings points nearer to the planes through their targets, about their mean."""
    points, targets, normals, masses = pairs
    distances = pairs.distances
    weights = masses / (distances + LEAST * float(np.median(distances)) + 1e-15)
    share = weights / weights.sum()
    centre = share @ points
    offset = points - centre
    count = len(points)
    # columns: rotation vector, translation, growth
    derivative = np.zeros((count, 3, 7))
    for axis in range(3):
        derivative[:, :, axis] = np.cross(np.eye(3)[axis], offset)
        derivative[:, axis, 3 + axis] = 1.0
    derivative[:, :, 6] = offset
    derivative = derivative[:, :, : 7 if scaled else 6]
    along = np.where(normals.any(axis=1), ALONG, 1.0)[:, None]
    across = (normals[:, :, None] * derivative).sum(axis=1)
    weighted = along[:, :, None] * derivative + ((1.0 - along) * normals)[:, :, None] * across[:, None, :]
    system = np.einsum("n,nij,nik->jk", share, derivative, weighted, optimize=True)
    right = np.einsum("n,nij,ni->j", share, weighted, targets - points, optimize=True)
    found = np.linalg.lstsq(system, right, rcond=1e-12)[0]
    turn = Rotation.from_rotvec(found[:3]).as_matrix()
    growth = float(np.exp(np.clip(found[6], -0.2, 0.2))) if scaled else 1.0
    return growth, turn, centre + found[3:6] - growth * turn @ centre


def _composed(second: Pose, first: Pose) -> Pose:
    """The second pose after the first."""
    scale, rotation, translation = second
    return (
        scale * first[0],
        rotation @ first[1],
        scale * rotation @ first[2] + translation,
    )
