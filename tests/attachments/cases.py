"""Small shapes, and one example of every kind of attachment, for the tests that all of them must pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otreg import Surface
from otreg.attachments import MMD, Attachment, Combined, Current, LandmarkDistance, Transport, Varifold

Mesh = tuple[Tensor, Tensor]


def octahedron() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Six vertices, eight triangles that face outwards."""
    points = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    triangles = [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    return points, np.array(triangles)


def sphere(rounds: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """An octahedron, each triangle cut into four so many times, blown up to the unit sphere."""
    points, triangles = octahedron()
    for _ in range(rounds):
        edges = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        unique, place = np.unique(edges, axis=0, return_inverse=True)
        middle = len(points) + place.reshape(-1, 3)
        a, b, c = triangles.T
        ab, bc, ca = middle.T
        points = np.concatenate([points, points[unique].mean(axis=1)])
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        parts = ([a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca])
        triangles = np.concatenate([np.stack(part, axis=1) for part in parts])
    return points, triangles


def organ(rounds: int, seed: int) -> Mesh:
    """A bent ellipsoid about 20 mm across, off centre, float64."""
    points, triangles = sphere(rounds)
    phase = np.random.default_rng(seed).uniform(0, 6, size=(3, 3))
    bent = points + 0.15 * np.sin(2 * points @ np.ones((3, 3)) + phase.sum(axis=0)) * points[:, ::-1]
    moved = 10.0 * bent * [1.0, 0.8, 0.6] + [3.0, -20.0, 7.0]
    return torch.from_numpy(moved), torch.from_numpy(triangles)


def plate(rounds: int = 12) -> Mesh:
    """A flat square of 24 mm, in the plane z = 1."""
    ticks = np.linspace(-12.0, 12.0, rounds + 1)
    points = np.stack([*(grid.ravel() for grid in np.meshgrid(ticks, ticks)), np.ones((rounds + 1) ** 2)], 1)
    corner = (np.arange(rounds)[:, None] * (rounds + 1) + np.arange(rounds)).ravel()
    first = np.stack([corner, corner + 1, corner + rounds + 1], axis=1)
    second = np.stack([corner + 1, corner + rounds + 2, corner + rounds + 1], axis=1)
    return torch.from_numpy(points), torch.from_numpy(np.concatenate([first, second]))


def rotation(seed: int) -> Tensor:
    """A random rotation, float64."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return torch.from_numpy(q)


@dataclasses.dataclass(frozen=True)
class Case:
    """How to build an attachment of a kind, and what is true of it.

    ``build`` takes the fixed shape; all have scales of a few millimetres. ``flip`` says what turning all
    triangles over does to the value: nothing, or something.
    """

    build: Callable[[Any], Attachment]
    clouds: bool = False
    sees_flip: bool = False
    needs_order: bool = False
    twice: bool = True
    quadratic: bool = True


def _points_of(fixed: Any) -> Any:
    return fixed[0] if isinstance(fixed, tuple) else getattr(fixed, "points", fixed)


def _combined(fixed: Any) -> Attachment:
    return Combined([(0.5, Varifold(fixed, 5.0)), (0.25, Current(fixed, 4.0)), (0.25, MMD(fixed, 6.0))])


CASES: dict[str, Case] = {
    "current": Case(lambda fixed: Current(fixed, 6.0), sees_flip=True),
    "current, cauchy": Case(
        lambda fixed: Current(fixed, 6.0, kernel="cauchy"), sees_flip=True, quadratic=False
    ),
    "varifold": Case(lambda fixed: Varifold(fixed, 6.0)),
    "varifold, cauchy": Case(lambda fixed: Varifold(fixed, 6.0, kernel="cauchy"), quadratic=False),
    "varifold, linear": Case(
        lambda fixed: Varifold(fixed, 6.0, oriented=True, orientation="linear"), sees_flip=True
    ),
    "varifold, exponential": Case(lambda fixed: Varifold(fixed, 6.0, oriented=True), sees_flip=True),
    "mmd": Case(lambda fixed: MMD(fixed, 6.0), clouds=True),
    "mmd, laplacian": Case(
        lambda fixed: MMD(fixed, 6.0, kernel="laplacian"), clouds=True, twice=False, quadratic=False
    ),
    "transport": Case(lambda fixed: Transport(fixed, 3.0, tol=1e-12), clouds=True),
    "transport, reach": Case(
        lambda fixed: Transport(fixed, 3.0, 9.0, tol=1e-12), clouds=True, quadratic=False
    ),
    "transport, normals": Case(
        lambda fixed: Transport(fixed, 3.0, normal_weight=3.0, tol=1e-12), sees_flip=True
    ),
    "landmarks": Case(lambda fixed: LandmarkDistance(_points_of(fixed)), clouds=True, needs_order=True),
    "combined": Case(_combined, sees_flip=True),
}


def flipped(triangles: Tensor) -> Tensor:
    """The same triangles, seen from the other side."""
    return triangles[:, [0, 2, 1]]


def as_surface(mesh: Mesh) -> Surface:
    """The mesh as a Surface."""
    return Surface(mesh[0].numpy(), mesh[1].numpy())
