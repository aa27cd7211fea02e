"""Points that stand for a shape: spread evenly over it, weighted by the area each one covers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from otreg.reductions import compiled
from otreg.surface import FloatArray, IntArray, Surface


@dataclasses.dataclass
class Samples:
    """Points (n, 3), their unit normals (n, 3; zero for clouds without) and weights (n,) that sum to one."""

    points: FloatArray
    normals: FloatArray
    weights: FloatArray

    def but_last(self, count: int) -> Samples:
        """All but the last ``count`` of them."""
        kept = slice(len(self.points) - count)
        return Samples(self.points[kept], self.normals[kept], self.weights[kept])

    def features(self, normal_weight: float) -> FloatArray:
        """Positions and weighted normals side by side, (n, 6): the space in which matches are made."""
        return np.concatenate([self.points, normal_weight * self.normals], axis=1)


EVENLY_SPACED = 20000
"""Most samples that are each put farthest from the others; more are taken from a grid, which is less even."""

FEW = 6000

CANDIDATES, FEWER, FEWEST = 20, 12, 4
"""For each of up to :data:`FEW` samples, of more, and of those from a grid: the areas that become weights want many."""


def farthest_points(points: FloatArray, count: int, seed: int = 0) -> IntArray:
    """Choose ``count`` of ``points`` (N, d), each the farthest from those before it (Gonzalez 1985)."""
    if count >= len(points):
        return np.arange(len(points))
    first = int(np.random.default_rng(seed).integers(len(points)))
    if compiled.is_available() and points.shape[1] <= compiled.most_dimensions():
        single = torch.from_numpy(np.asarray(points, dtype=np.float32))
        return np.asarray(compiled.farthest(single, count, first).numpy())
    return _farthest_in_blocks(np.asarray(points, dtype=np.float32), count, first)


def _farthest_in_blocks(points: Any, count: int, first: int) -> IntArray:
    """The same as the library does: a new point is looked at by those blocks of points alone that it may change."""
    size = 64
    blocks = -(-len(points) // size)
    # consecutive leaves of a tree are near; places beyond the last point never count
    order = np.full(blocks * size, len(points))
    order[: len(points)] = cKDTree(points, leafsize=size).indices
    filled = np.where(order < len(points), order, order[len(points) - 1])
    coordinates = np.ascontiguousarray(points[filled].T.reshape(-1, blocks, size))
    places = order.reshape(blocks, size)
    nearest = np.where(places < len(points), np.float32(np.inf), np.float32(-1.0))
    low, high = coordinates.min(axis=2), coordinates.max(axis=2)
    most = np.full(blocks, np.float32(np.inf))
    chosen = np.empty(count, np.int64)
    chosen[0] = first
    for k in range(1, count):
        point = points[chosen[k - 1]][:, None]
        off = np.maximum(np.maximum(low - point, point - high), 0.0)
        # rounding could place a point below its box
        near = np.flatnonzero((off * off).sum(axis=0) * np.float32(0.9999) < most)
        squared = np.zeros((len(near), size), np.float32)
        for axis in range(len(coordinates)):
            squared += (coordinates[axis, near] - point[axis]) ** 2
        nearest[near] = np.minimum(nearest[near], squared)
        most[near] = nearest[near].max(axis=1)
        # of equally far ones the first
        best = np.flatnonzero(most == most.max())
        chosen[k] = places[best][nearest[best] == most[best[0]]].min()
    return chosen


def thinned(points: FloatArray, count: int) -> IntArray:
    """Choose about ``count`` of ``points`` (N, d), at most one in each cell of a grid."""
    if count >= len(points):
        return np.arange(len(points))
    low, high = 1e-4, 2.0
    first = np.arange(len(points))
    for _ in range(30):
        cell = float(np.sqrt(low * high))
        _, first = np.unique(_cells(points, cell), return_index=True)
        if len(first) > 1.05 * count:
            low = cell
        elif len(first) < 0.95 * count:
            high = cell
        else:
            break
    return np.sort(first)


def _cells(points: FloatArray, size: float) -> IntArray:
    """One number for the cell of a grid that each point (N, d) lies in, (N,)."""
    places = np.floor(points / size).astype(np.int64)
    places -= places.min(axis=0)
    spans = [int(span) + 1 for span in places.max(axis=0)]
    if math.prod(spans) > np.iinfo(np.int64).max:
        # more cells than numbers
        return np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    return np.ravel_multi_index(tuple(places.T), spans)


def sample_shape(surface: Surface, count: int, seed: int) -> Samples:
    """Sample ``count`` points evenly over ``surface``, which is scaled to a diameter near one."""
    rng = np.random.default_rng(seed)
    exact = count <= EVENLY_SPACED
    if surface.has_triangles:
        candidates = CANDIDATES if count <= FEW else FEWER if exact else FEWEST
        triangles, barycentric = surface.sample_barycentric(candidates * count, rng)
        points = np.einsum("nk,nkd->nd", barycentric, surface.triangle_corners[triangles])
        normals = np.einsum("nk,nkd->nd", barycentric, surface.normals[surface.triangles[triangles]])
        mass = np.full(len(points), 1.0 / len(points))
    else:
        order = rng.permutation(len(surface))
        points, normals = surface.points[order], np.zeros_like(surface.points)
        mass = surface.weights[order] / surface.weights.sum()
    features = np.concatenate([points, 0.1 * normals], axis=1)
    # a few candidates suffice for even spacing
    chosen = farthest_points(features[: 4 * count], count, seed) if exact else thinned(features, count)
    owner = cKDTree(features[chosen]).query(features)[1]
    return Samples(
        points[chosen],
        unit(normals[chosen]),
        np.asarray(np.bincount(owner, mass, len(chosen)), dtype=np.float64),
    )


def deformed(samples: Samples, points: FloatArray, gradient: FloatArray) -> Samples:
    """Samples at new places; normals by the inverse transpose of the map's gradient, (3, 3) or (n, 3, 3)."""
    normals = samples.normals
    if normals.any():
        normals = unit(np.linalg.solve(np.swapaxes(gradient, -1, -2), normals[:, :, None])[:, :, 0])
    return Samples(points, normals, samples.weights)


def unit(vectors: Any) -> FloatArray:
    """Scale vectors (n, 3) to unit length; zero ones stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
