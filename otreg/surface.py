"""Surfaces, point clouds and landmarks: the shapes that everything else works on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otreg.errors import InputError

FRAMES = ("RAS", "LPS", "tkRAS")
"""Coordinate frames that a file can declare. ``None`` stands for a file that says nothing."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def _points_array(points: ArrayLike, what: str) -> FloatArray:
    array = np.array(points, dtype=np.float64, order="C")
    if array.size == 0:
        array = array.reshape(0, 3)
    if array.ndim != 2 or array.shape[1] != 3:
        raise InputError(f"{what} must have shape (N, 3), got {array.shape}")
    return array


@dataclasses.dataclass(eq=False)
class Landmarks:
    """Named points that correspond, by order, to those of another shape.

    Parameters
    ----------
    points : array_like, shape (L, 3)
        Coordinates, in the unit of the file.
    names : sequence of str, length L, optional
        Defaults to ``"1"``, ``"2"``, …
    frame : {"RAS", "LPS", "tkRAS"}, optional
        Coordinate frame; ``None`` when the file does not say.
    """

    points: FloatArray
    names: tuple[str, ...] = ()
    frame: str | None = None

    def __post_init__(self) -> None:
        self.points = _points_array(self.points, "landmarks")
        self.names = tuple(str(name) for name in self.names) or tuple(
            str(k + 1) for k in range(len(self.points))
        )
        if len(self.names) != len(self.points):
            raise InputError(f"{len(self.points)} landmarks but {len(self.names)} names")

    def __len__(self) -> int:
        return len(self.points)

    def with_points(self, points: ArrayLike) -> Landmarks:
        """Return the same landmarks, names and frame at other coordinates."""
        return Landmarks(np.asarray(points), self.names, self.frame)


@dataclasses.dataclass(eq=False)
class Surface:
    """A triangle mesh, or a point cloud when it has no triangles.

    Arrays are copied and treated as read-only afterwards: derived quantities are computed once and kept. Use
    :meth:`with_points` for the same mesh at other positions.

    Parameters
    ----------
    points : array_like, shape (N, 3)
        Vertex coordinates in the unit of the file (millimetres for medical files), stored as float64.
    triangles : array_like of int, shape (T, 3), optional
        Vertex indices, counter-clockwise seen from outside. Empty for a point cloud.
    point_data : mapping of str to array, optional
        Values on points, each of shape (N,) or (N, k), any dtype.
    frame : {"RAS", "LPS", "tkRAS"}, optional
        Coordinate frame; ``None`` when the file does not say.
    label_names : mapping, optional
        For point data that are labels: data name -> {label value: label name}.
    landmarks : Landmarks, optional
    metadata : mapping, optional
        What a reader learnt that has no other place (source path, format, ``c_ras``, weld map…).

    Raises
    ------
    InputError
        On wrong shapes, indices out of range, point data of another length, or an unknown frame.
        Non-finite coordinates are allowed here, so that they can be reported by index and repaired.
    """

    points: FloatArray
    triangles: IntArray = dataclasses.field(default_factory=lambda: np.zeros((0, 3), np.int64))
    point_data: dict[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    frame: str | None = None
    label_names: dict[str, dict[int, str]] = dataclasses.field(default_factory=dict)
    landmarks: Landmarks | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.points = _points_array(self.points, "points")
        triangles = np.array(self.triangles, dtype=np.int64, order="C")
        self.triangles = triangles.reshape(0, 3) if triangles.size == 0 else triangles
        if self.triangles.ndim != 2 or self.triangles.shape[1] != 3:
            raise InputError(f"triangles must have shape (T, 3), got {self.triangles.shape}")
        if len(self.triangles) and (self.triangles.min() < 0 or self.triangles.max() >= len(self.points)):
            raise InputError(f"triangles name vertices outside 0..{len(self.points) - 1}")
        if self.frame is not None and self.frame not in FRAMES:
            raise InputError(f"unknown frame {self.frame!r}: use one of {', '.join(FRAMES)} or None")
        self.point_data = {name: np.asarray(values) for name, values in self.point_data.items()}
        for name, values in self.point_data.items():
            if values.ndim == 0 or len(values) != len(self.points):
                raise InputError(
                    f"point data {name!r} has shape {values.shape} for {len(self.points)} points"
                )
        self.points.setflags(write=False)
        self.triangles.setflags(write=False)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        what = f"{len(self.triangles)} triangles" if self.has_triangles else "point cloud"
        return f"Surface({len(self.points)} points, {what}, frame={self.frame})"

    def called(self, role: str) -> str:
        """How a message names this surface: by its file, or "the … surface" where it came from none."""
        return str(self.metadata.get("path", f"the {role} surface"))

    @property
    def has_triangles(self) -> bool:
        """Whether this is a mesh, as opposed to a point cloud."""
        return len(self.triangles) > 0

    @cached_property
    def triangle_corners(self) -> FloatArray:
        """Corner coordinates, shape (T, 3, 3)."""
        return self.points[self.triangles]

    @cached_property
    def triangle_cross(self) -> FloatArray:
        """Cross product of two edges of each triangle, (T, 3): its normal times twice its area."""
        corners = self.triangle_corners
        return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])

    @cached_property
    def triangle_areas(self) -> FloatArray:
        """Area of each triangle, (T,), in squared length units."""
        return 0.5 * np.linalg.norm(self.triangle_cross, axis=1)

    @cached_property
    def triangle_normals(self) -> FloatArray:
        """Unit normal of each triangle, (T, 3); zero for a degenerate one."""
        return _unit(self.triangle_cross)

    @cached_property
    def triangle_centres(self) -> FloatArray:
        """Centroid of each triangle, (T, 3)."""
        return self.triangle_corners.mean(axis=1)

    @cached_property
    def weights(self) -> FloatArray:
        """Mass of each point, (N,).

        A mesh gives each vertex a third of the area of its triangles; a vertex that no triangle uses weighs 0.
        A point cloud uses its point data ``weights`` if it carries some, else 1/N.
        """
        if not self.has_triangles:
            given = self.point_data.get("weights")
            if given is not None and given.ndim == 1 and np.all(np.isfinite(given)) and given.min() >= 0:
                return given.astype(np.float64)
            return np.full(len(self), 1.0 / max(len(self), 1))
        share = np.repeat(self.triangle_areas / 3.0, 3)
        return np.asarray(np.bincount(self.triangles.ravel(), share, len(self)), dtype=np.float64)

    @cached_property
    def normals(self) -> FloatArray:
        """Unit vertex normals, (N, 3): the area-weighted mean of the triangles' normals; zero where undefined."""
        total = np.zeros_like(self.points)
        for corner in range(3):
            for axis in range(3):
                total[:, axis] += np.bincount(
                    self.triangles[:, corner], weights=self.triangle_cross[:, axis], minlength=len(self)
                )
        return _unit(total)

    @cached_property
    def bounds(self) -> FloatArray:
        """Smallest and largest finite coordinates, (2, 3)."""
        return np.stack([np.nanmin(self.points, axis=0), np.nanmax(self.points, axis=0)])

    @cached_property
    def diameter(self) -> float:
        """Diagonal of the bounding box: the length that relative scales refer to."""
        return float(np.linalg.norm(self.bounds[1] - self.bounds[0]))

    def with_points(self, points: ArrayLike, /, **point_data: ArrayLike) -> Surface:
        """Return this mesh at other positions, with its data; keywords add or replace point data."""
        data = {**self.point_data, **{name: np.asarray(values) for name, values in point_data.items()}}
        return dataclasses.replace(self, points=np.asarray(points), point_data=data)

    def with_data(self, point_data: Mapping[str, ArrayLike]) -> Surface:
        """Return this mesh with some point data added or replaced."""
        return self.with_points(self.points, **point_data)

    def sample(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly by area.

        Parameters
        ----------
        count : int
            How many points.
        rng : numpy.random.Generator
            Source of randomness; the caller seeds it.

        Returns
        -------
        points, normals : arrays, shape (count, 3)
            For a point cloud: points drawn by their weights, with zero normals.
        """
        if not self.has_triangles:
            weights = self.weights / self.weights.sum()
            return self.points[rng.choice(len(self), count, p=weights)], np.zeros((count, 3))
        triangles, barycentric = self.sample_barycentric(count, rng)
        points = np.einsum("nk,nkd->nd", barycentric, self.triangle_corners[triangles])
        return points, self.triangle_normals[triangles]

    def sample_barycentric(self, count: int, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
        """Draw ``count`` triangles by area with uniform barycentric coordinates in each: (count,), (count, 3)."""
        share = np.cumsum(self.triangle_areas)
        triangles = np.searchsorted(share, rng.random(count) * share[-1], side="right")
        triangles = np.minimum(triangles, len(share) - 1)
        root, second = np.sqrt(rng.random(count)), rng.random(count)
        barycentric = np.stack([1.0 - root, root * (1.0 - second), root * second], axis=1)
        return triangles.astype(np.int64), barycentric


def _unit(vectors: FloatArray) -> FloatArray:
    """Scale vectors to unit length, leaving (near) zero ones at zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
