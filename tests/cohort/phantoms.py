"""Cohorts with known momenta: a bean, and what geodesics of a few widths make of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from otreg.cohort.momenta import MomentaSpace
from otreg.io import write
from otreg.registration.sampling import farthest_points
from otreg.surface import Surface
from tests.phantoms import bean, sphere_tessellation

Array = NDArray[np.float64]


def bean_surface(count: int = 600, seed: int = 0) -> Surface:
    """A bean about 80 mm long, without symmetry."""
    directions, triangles = sphere_tessellation(count, seed)
    return Surface(bean(directions), triangles)


def bean_space(
    shape: Surface, control_points: int = 30, widths: Sequence[float] = (0.3, 0.15)
) -> MomentaSpace:
    """Momenta on a bean."""
    chosen = farthest_points(shape.points, control_points)
    return MomentaSpace(shape.points[chosen], tuple(width * shape.diameter for width in widths))


def random_momenta(space: MomentaSpace, count: int, length: float, seed: int) -> Array:
    """Momenta (count, C, 3) whose velocities are draws from the kernel, each of norm ``length``."""
    rng = np.random.default_rng(seed)
    matrix = dense_kernel(space)
    factor = np.linalg.cholesky(matrix + 1e-6 * np.eye(len(matrix)))
    noise = rng.normal(size=(count, len(matrix), 3))
    found = np.linalg.solve(factor.T, noise.transpose(1, 0, 2).reshape(len(matrix), -1))
    momenta = found.reshape(len(matrix), count, 3).transpose(1, 0, 2)
    norms = np.sqrt(np.einsum("ncd,ce,ned->n", momenta, matrix, momenta))
    return np.asarray(length * momenta / norms[:, None, None])


def momenta_across(space: MomentaSpace, shape: Surface, length: float) -> Array:
    """Momenta (C, 3) along the normals of a shape, of norm ``length``.

    Of all geodesics that reach a surface, wherever its points go, the shortest has such momenta. So the middle of
    the surfaces that it reaches in both directions is the shape itself, and not only that of their points.
    """
    nearest = ((space.control_points[:, None] - shape.points[None]) ** 2).sum(-1).argmin(axis=1)
    smooth = np.sin(space.control_points @ [0.09, 0.05, -0.07] + 0.5)
    momenta = smooth[:, None] * shape.normals[nearest]
    return np.asarray(length * momenta / space.norms(momenta))


def dense_kernel(space: MomentaSpace) -> Array:
    """The kernel matrix of the control points, written out."""
    z = space.control_points
    squares = ((z[:, None] - z[None]) ** 2).sum(-1)
    parts = zip(space.widths, space.amplitudes, strict=True)
    return np.asarray(sum(a * np.exp(-squares / (2.0 * w**2)) for w, a in parts))


def shot(space: MomentaSpace, momenta: Array, shape: Surface) -> Surface:
    """A shape under the geodesic of momenta (C, 3)."""
    with torch.no_grad():
        return shape.with_points(space.flow(momenta).map(shape.points))


def write_cohort(folder: Path, shapes: dict[str, Surface]) -> Path:
    """Files of the shapes and the manifest that lists them."""
    rows = []
    for name, shape in shapes.items():
        write(shape, folder / f"{name}.vtk")
        rows.append({"subject": name, "surface": f"{name}.vtk"})
    path = folder / "subjects.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["subject", "surface"])
        writer.writeheader()
        writer.writerows(rows)
    return path
