"""Errors against truth, the same for every tool: each gets where the vertices of moving were put."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from meshes import Array, Integers, Mesh, fit_similarity
from scipy.spatial import cKDTree

import otreg
from otreg.errors import NotInvertibleError


class Truth(Protocol):
    """What is known about a pair."""

    @property
    def unit(self) -> str:
        """What the number is."""

    def error(self, before: Array, after: Array) -> float:
        """Error of a registration that put the moving vertices ``before`` at ``after``, both (N, 3)."""


@dataclasses.dataclass(frozen=True)
class VertexTruth:
    """Where every vertex of moving belongs, (N, 3): mean distance from there."""

    positions: Array
    unit: str = "vertex mm"

    def error(self, before: Array, after: Array) -> float:
        if len(after) != len(self.positions):
            raise ValueError(f"{len(after)} moved vertices, but the truth knows {len(self.positions)}")
        return float(np.linalg.norm(after - self.positions, axis=1).mean())


@dataclasses.dataclass(frozen=True)
class LandmarkTruth:
    """Corresponding points: mean distance after moving (target registration error).

    A landmark is carried by the displacement of its three nearest vertices, weighted by 1/distance, since not
    every tool can move points that are not vertices.
    """

    moving: Array
    fixed: Array
    unit: str = "TRE mm"

    def error(self, before: Array, after: Array) -> float:
        distance, near = cKDTree(before).query(self.moving, 3)
        weights = 1.0 / np.maximum(distance, 1e-9)
        weights /= weights.sum(axis=1, keepdims=True)
        moved = self.moving + np.einsum("lk,lkd->ld", weights, (after - before)[near])
        return float(np.linalg.norm(moved - self.fixed, axis=1).mean())


@dataclasses.dataclass(frozen=True)
class LabelTruth:
    """Labels on both: mean Dice after each fixed vertex took the label of the nearest moved vertex."""

    moving: Integers
    fixed: Integers
    fixed_points: Array
    names: Sequence[int]
    unit: str = "Dice"

    def error(self, before: Array, after: Array) -> float:
        given = self.moving[cKDTree(after).query(self.fixed_points)[1]]
        overlaps = []
        for name in self.names:
            ours, theirs = given == name, self.fixed == name
            overlaps.append(2.0 * (ours & theirs).sum() / max(ours.sum() + theirs.sum(), 1))
        return float(np.mean(overlaps))


def vertex_distance(moved: Array, fixed: Array) -> float:
    """Mean distance to the nearest vertex, both ways: shown for comparison; it says little about truth."""
    return float(0.5 * (cKDTree(fixed).query(moved)[0].mean() + cKDTree(moved).query(fixed)[0].mean()))


def surface_distance(moved: Mesh, fixed: Mesh) -> float:
    """Mean distance of points drawn by area on one surface to the triangles of the other, both ways."""
    first, second = (otreg.Surface(mesh.points, mesh.triangles) for mesh in (moved, fixed))
    return float(otreg.quality.evaluate(first, second, samples=10_000)["assd"])


def inverse_error(transform: Path, moving: Mesh, fixed: Mesh) -> float | None:
    """Largest ``|phi^-1(phi(x)) - x|`` at 1,000 vertices of moving, as a share of fixed's box diagonal.

    None where the inverse says that there is none.
    """
    phi = otreg.load_transform(transform)
    points = moving.points[:: -(-len(moving.points) // 1000)]
    try:
        back = phi.inverse(phi(points))
    except NotInvertibleError:
        return None
    size = np.linalg.norm(fixed.points.max(axis=0) - fixed.points.min(axis=0))
    return float(np.linalg.norm(back - points, axis=1).max() / size)


def turned_share(mesh: Mesh, after: Array) -> float:
    """Share of triangles that point away from where the best rotation of moving would point them."""
    if not len(mesh.triangles):
        return 0.0

    def normals(points: Array) -> Array:
        corners = points[mesh.triangles]
        return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])

    rotation = fit_similarity(mesh.points, after).rotation
    return float(((normals(mesh.points) @ rotation.T * normals(after)).sum(axis=1) < 0.0).mean())
