"""Shapes made by formula, and smooth invertible maps known exactly: truth for tests and for ``data/``.

A phantom is a smooth image of the unit sphere (or of a part of it), so any number of vertices and any
tessellation of it can be had. The moving and the fixed mesh get different tessellations; the map tells where
a vertex belongs.
Nothing here imports otreg.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


# ---------- shapes: maps of unit directions (N, 3) to points (N, 3) in mm ----------
def ellipsoid(directions: Array, axes: ArrayLike = (30.0, 20.0, 15.0)) -> Array:
    """Ellipsoid with three different half axes."""
    return directions * np.asarray(axes, float)


def lobes(directions: Array) -> Array:
    """Relief, (N,), in about ±0.3, that leaves a shape no symmetry: else sliding along it would not show."""
    x, y, z = directions.T
    return 0.15 * np.sin(3 * x + 1) + 0.12 * np.cos(4 * y - 0.5) * z + 0.1 * np.sin(3 * z) * x + 0.08 * x * y


def bumpy_sphere(directions: Array, radius: float = 25.0) -> Array:
    """Sphere with smooth lobes."""
    return directions * (radius * (1.0 + lobes(directions)))[:, None]


def bean(directions: Array, length: float = 35.0, bend: float = 0.018) -> Array:
    """Ellipsoid with lobes, bent about the y axis, one end thicker than the other: like a kidney."""
    x, y, z = (directions * (length, 0.45 * length, 0.55 * length)).T
    taper = 1.0 + 0.25 * x / length + lobes(directions)
    y, z = y * taper * (1.0 + 0.15 * z / length), z * taper
    angle, radius = bend * x, 1.0 / bend + z
    return np.column_stack([radius * np.sin(angle), y, radius * np.cos(angle) - 1.0 / bend])


def tube(directions: Array, length: float = 60.0, radius: float = 7.0) -> Array:
    """Long rod with a thicker head and lobes, bent like a bow: like a long bone."""
    x, y, z = directions.T
    along = 0.75 * length * x
    head = np.exp(-(((along - 0.5 * length) / (0.3 * length)) ** 2))
    thick = radius * (1.0 + 0.6 * head + 2.0 * lobes(directions) * (0.4 + head))
    return np.column_stack([along, thick * y, thick * z + 0.15 * length * (1.0 - (along / length) ** 2)])


SHAPES: dict[str, Callable[[Array], Array]] = {
    "ellipsoid": ellipsoid,
    "bumpy_sphere": bumpy_sphere,
    "bean": bean,
    "tube": tube,
}


# ---------- tessellations ----------
def sphere_tessellation(count: int, seed: int = 0) -> tuple[Array, Integers]:
    """Spread ``count`` directions evenly over the unit sphere and triangulate them, outward normals.

    The seed turns the spiral and shakes its points by a fifth of their spacing, so that two seeds give two
    tessellations with nothing in common.
    """
    rng = np.random.default_rng(seed)
    k = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1.0 - 2.0 * k / count), np.pi * (1.0 + np.sqrt(5.0)) * k
    points = np.column_stack(
        [np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)]
    )
    points = points @ random_rotation(rng).T + 0.2 * np.sqrt(4.0 * np.pi / count) * rng.uniform(
        -1, 1, (count, 3)
    )
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    triangles = ConvexHull(points).simplices.astype(np.int64)
    corners = points[triangles]
    inward = np.einsum("td,td->t", np.cross(*np.moveaxis(np.diff(corners, axis=1), 1, 0)), corners[:, 0]) < 0
    triangles[inward] = triangles[inward, ::-1]
    return points, triangles


def keep_part(
    points: Array, triangles: Integers, keep: NDArray[np.bool_]
) -> tuple[Array, Integers, Integers]:
    """Cut a mesh: keep the triangles whose corners are all kept. Also returns each vertex's old index."""
    triangles = triangles[keep[triangles].all(axis=1)]
    old, new = np.unique(triangles, return_inverse=True)
    return points[old], new.reshape(-1, 3).astype(np.int64), old


def random_rotation(rng: np.random.Generator) -> Array:
    """Rotation matrix drawn uniformly: a random quaternion."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


# ---------- maps ----------
@dataclasses.dataclass(frozen=True)
class KnownMap:
    """A smooth invertible map of space: Gaussian bumps, then a twist about z, then a similarity.

    ``x -> s R T(x + Σ_k c_k exp(-|x - m_k|² / 2 w_k²)) + t`` where T turns by ``twist * z`` about
    the z axis.

    Parameters
    ----------
    centres, amplitudes : arrays, shape (K, 3)
        Where the bumps are, and how far they push, in mm.
    widths : array, shape (K,)
        Their standard deviations, in mm.
    twist : float
        Radians per mm.
    scale, rotation, shift
        The similarity.

    Raises
    ------
    ValueError
        Where the bumps' Lipschitz bound ``Σ |c_k| exp(-1/2) / w_k`` is not below 1: they might fold space.
    """

    centres: Array = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))
    amplitudes: Array = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))
    widths: Array = dataclasses.field(default_factory=lambda: np.zeros(0))
    twist: float = 0.0
    scale: float = 1.0
    rotation: Array = dataclasses.field(default_factory=lambda: np.eye(3))
    shift: Array = dataclasses.field(default_factory=lambda: np.zeros(3))

    def __post_init__(self) -> None:
        bound = float((np.linalg.norm(self.amplitudes, axis=1) / self.widths).sum() * np.exp(-0.5))
        if bound >= 1.0:
            raise ValueError(f"the bumps may fold space: Lipschitz bound {bound:.2f}")

    def _bumps(self, points: Array) -> tuple[Array, Array, Array]:
        offsets = points[:, None] - self.centres
        values = np.exp(-0.5 * (offsets**2).sum(-1) / self.widths**2)
        return values @ self.amplitudes, values, offsets

    def _turn(self, points: Array, sign: float) -> Array:
        angle = sign * self.twist * points[:, 2]
        cos, sin = np.cos(angle), np.sin(angle)
        x, y, z = points.T
        return np.column_stack([cos * x - sin * y, sin * x + cos * y, z])

    def __call__(self, points: ArrayLike) -> Array:
        """Map points, shape (N, 3)."""
        points = np.asarray(points, float)
        bent = self._turn(points + self._bumps(points)[0], 1.0)
        return self.scale * bent @ self.rotation.T + self.shift

    def inverse(self, points: ArrayLike, tolerance: float = 1e-12) -> Array:
        """Map points back: twist and similarity in closed form, the bumps by fixed point (a contraction)."""
        start = self._turn((np.asarray(points, float) - self.shift) @ self.rotation / self.scale, -1.0)
        found = start
        for _ in range(1000):
            previous, found = found, start - self._bumps(found)[0]
            if np.abs(found - previous).max(initial=0.0) < tolerance:
                break
        return found

    def jacobian(self, points: ArrayLike) -> Array:
        """Derivative at points, (N, 3, 3): entry ``[n, i, j]`` is that of coordinate i along axis j."""
        points = np.asarray(points, float)
        moved, values, offsets = self._bumps(points)
        slope = -values[..., None] * offsets / self.widths[:, None] ** 2
        bump = np.eye(3) + np.einsum("ki,nkj->nij", self.amplitudes, slope)
        bent = points + moved
        angle = self.twist * bent[:, 2]
        cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros(len(points)), np.ones(len(points))
        x, y, _ = bent.T
        rows = [
            [cos, -sin, -self.twist * (sin * x + cos * y)],
            [sin, cos, self.twist * (cos * x - sin * y)],
            [zero, zero, one],
        ]
        turn = np.moveaxis(np.array(rows), -1, 0)
        return self.scale * np.einsum("ij,njk,nkl->nil", self.rotation, turn, bump)


def random_map(
    points: Array,
    seed: int = 0,
    *,
    bumps: int = 6,
    strength: float = 0.5,
    twist: float = 0.3,
    similarity: bool = True,
) -> KnownMap:
    """Draw a map for a shape.

    Parameters
    ----------
    points : array, shape (N, 3)
        The shape; bumps are centred on its points, and lengths are relative to its bounding box.
    strength : float
        Lipschitz bound of the bumps, below 1.
    twist : float
        Radians from one end of the z axis to the other.
    similarity : bool
        Whether to add an arbitrary rotation, a scale in 0.85..1.15 and an offset of about three diameters.
    """
    rng = np.random.default_rng(seed)
    extent = np.ptp(points, axis=0)
    diameter = float(np.linalg.norm(extent))
    widths = rng.uniform(0.12, 0.25, bumps) * diameter
    push = rng.normal(size=(bumps, 3))
    push /= np.linalg.norm(push, axis=1, keepdims=True)
    amplitudes = push * (widths * strength * np.exp(0.5) / max(bumps, 1))[:, None]
    known = KnownMap(
        points[rng.integers(len(points), size=bumps)], amplitudes, widths, twist / float(extent[2])
    )
    if not similarity:
        return known
    return dataclasses.replace(
        known,
        scale=float(rng.uniform(0.85, 1.15)),
        rotation=random_rotation(rng),
        shift=3.0 * diameter * rng.uniform(-1, 1, 3),
    )


# ---------- pairs ----------
@dataclasses.dataclass(frozen=True)
class PhantomPair:
    """A moving and a fixed mesh of one shape, and the map between them.

    ``truth[i]`` is where vertex i of moving belongs; ``landmarks`` are (moving, fixed) points on them.
    """

    moving: tuple[Array, Integers]
    fixed: tuple[Array, Integers]
    truth: Array
    landmarks: tuple[Array, Array]
    map: KnownMap


def phantom_pair(
    shape: str = "bean",
    moving_count: int = 900,
    fixed_count: int = 1200,
    seed: int = 0,
    *,
    open_rim: bool = False,
    missing: float = 0.0,
    **map_options: Any,
) -> PhantomPair:
    """Make two tessellations of one shape, the second one carried by a known map.

    Parameters
    ----------
    shape : {"ellipsoid", "bumpy_sphere", "bean", "tube"}
    moving_count, fixed_count : int
        Vertices before any cut.
    open_rim : bool
        Cut both meshes along the same curve, ``y = 0.35`` on the sphere: two open caps.
    missing : float
        Share of the fixed mesh, by number of vertices, that is cut away along x: a partial target.
    map_options
        Handed to :func:`random_map`.
    """
    form = SHAPES[shape]
    (first, first_triangles), (second, second_triangles) = (
        sphere_tessellation(count, 100 * seed + k) for k, count in enumerate((moving_count, fixed_count))
    )
    if open_rim:
        first, first_triangles, _ = keep_part(first, first_triangles, first[:, 1] < 0.35)
        second, second_triangles, _ = keep_part(second, second_triangles, second[:, 1] < 0.35)
    if missing > 0.0:
        limit = np.quantile(second[:, 0], 1.0 - missing)
        second, second_triangles, _ = keep_part(second, second_triangles, second[:, 0] < limit)
    moving = form(first)
    known = random_map(moving, seed, **map_options)
    directions = sphere_tessellation(60, 100 * seed + 7)[0]
    if open_rim:
        directions = directions[directions[:, 1] < 0.3]
    chosen = form(directions[:20])
    return PhantomPair(
        (moving, first_triangles),
        (known(form(second)), second_triangles),
        known(moving),
        (chosen, known(chosen)),
        known,
    )
