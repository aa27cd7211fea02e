"""Numbers on points by name: what the files carry, and what can be computed from the shapes and the map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.proximity import closest_points
from otreg.surface import FloatArray, Surface
from otreg.visualize import colours
from otreg.visualize.colouring import Colouring

_MOST_LABELS = 256
_FEW = 40
"""Whole numbers with no more values than this are labels, even without names."""

Values = NDArray[Any]


class HasJacobian(Protocol):
    """The part of a deformation that colours need."""

    def jacobian_determinant(self, points: NDArray[Any]) -> Any:
        """Determinants (N,) at points (N, 3)."""


@dataclasses.dataclass(frozen=True)
class Computed:
    """A quantity that is computed: what it is called in legends, and whether it has a sign or a unit."""

    title: str
    meaning: str
    signed: bool
    length: int
    """Power of the unit of length: 1 for millimetres, -1 for curvature."""


COMPUTED = {
    "displacement": Computed("displacement", "how far each point went", False, 1),
    "deformation": Computed("deformation", "the same without the best rigid motion", False, 1),
    "distance": Computed("distance", "to the other surface", False, 1),
    "log_det": Computed("log det J", "local change of volume: above 0 growth, below shrinkage", True, 0),
    "curvature": Computed("mean curvature", "positive where the surface bulges outwards", True, -1),
}
"""Names that need not be in the files. Point data of the same name in a file goes before."""


def compute(
    name: str,
    shape: Surface,
    *,
    origin: Surface | None = None,
    other: Surface | None = None,
    transform: HasJacobian | None = None,
) -> FloatArray | None:
    """Values (N,) of a computed quantity on a shape, or None where what it needs is not known.

    Parameters
    ----------
    name : str
        One of :data:`COMPUTED`.
    shape : Surface
        The shape that carries the values.
    origin : Surface, optional
        The same vertices before the map, for ``displacement``, ``deformation`` and ``log_det``.
    other : Surface, optional
        The shape to measure the ``distance`` to.
    transform : optional
        The map, for ``log_det``.

    Returns
    -------
    array (N,) or None
        ``log_det`` is NaN where the determinant is not positive: there the map folds.
    """
    if name == "displacement" and origin is not None:
        return np.asarray(np.linalg.norm(shape.points - origin.points, axis=1))
    if name == "deformation" and origin is not None:
        return np.asarray(np.linalg.norm(shape.points - rigid_part(origin, shape), axis=1))
    if name == "distance" and other is not None:
        values = np.full(len(shape), np.nan)
        known = np.isfinite(shape.points).all(axis=1)
        values[known] = closest_points(shape.points[known], other).distances
        return values
    if name == "log_det" and transform is not None and origin is not None:
        determinants = np.asarray(transform.jacobian_determinant(origin.points), dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(determinants > 0, np.log(determinants), np.nan))
    if name == "curvature" and shape.has_triangles:
        return mean_curvature(shape)
    return None


def rigid_part(origin: Surface, shape: Surface) -> FloatArray:
    """Points of ``origin`` after the rotation and translation that best bring them to ``shape``, (N, 3).

    Weighted by area (Kabsch 1976; the sign as in Umeyama 1991, eq. 43).
    """
    known = np.isfinite(origin.points).all(axis=1) & np.isfinite(shape.points).all(axis=1)
    weights = np.where(known, np.nan_to_num(origin.weights), 0.0)
    weights = weights / weights.sum() if weights.sum() > 0 else known / max(known.sum(), 1)
    x, y = np.nan_to_num(origin.points), np.nan_to_num(shape.points)
    x_mean, y_mean = weights @ x, weights @ y
    left, _, right = np.linalg.svd(((x - x_mean) * weights[:, None]).T @ (y - y_mean))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right)) or 1.0])
    return np.asarray((origin.points - x_mean) @ (left * sign) @ right + y_mean)


def mean_curvature(shape: Surface) -> FloatArray:
    """Mean curvature (N,) at the vertices of a mesh, in 1 / unit of length; positive where it bulges outwards.

    The cotangent formula: ``2 H n = Δx``, with mixed areas (Meyer, Desbrun, Schröder and Barr 2003, eq. 8
    and figure 4). NaN at vertices of open borders, where it does not hold, and at vertices without triangles.
    """
    corners = shape.triangle_corners
    edges = [corners[:, (k + 2) % 3] - corners[:, (k + 1) % 3] for k in range(3)]  # opposite corner k
    doubled = np.linalg.norm(shape.triangle_cross, axis=1)
    usable = doubled > 1e-12 * max(float(np.median(doubled)) if len(doubled) else 0.0, 1e-300)
    safe = np.where(usable, doubled, 1.0)
    cotangents = [
        np.where(usable, -np.einsum("ij,ij->i", edges[(k + 1) % 3], edges[(k + 2) % 3]) / safe, 0.0)
        for k in range(3)
    ]
    laplacian = np.zeros((len(shape), 3))
    area = np.zeros(len(shape))
    obtuse = np.stack([cotangent < 0 for cotangent in cotangents])
    for k in range(3):
        ahead, behind = shape.triangles[:, (k + 1) % 3], shape.triangles[:, (k + 2) % 3]
        pull = cotangents[k][:, None] * edges[k]
        for axis in range(3):
            laplacian[:, axis] += np.bincount(ahead, pull[:, axis], len(shape))
            laplacian[:, axis] -= np.bincount(behind, pull[:, axis], len(shape))
        voronoi = (
            cotangents[(k + 1) % 3] * np.einsum("ij,ij->i", edges[(k + 1) % 3], edges[(k + 1) % 3])
            + cotangents[(k + 2) % 3] * np.einsum("ij,ij->i", edges[(k + 2) % 3], edges[(k + 2) % 3])
        ) / 8.0
        share = np.where(obtuse[k], 0.25 * doubled, np.where(obtuse.any(axis=0), 0.125 * doubled, voronoi))
        area += np.bincount(shape.triangles[:, k], np.where(usable, share, 0.0), len(shape))
    values = np.full(len(shape), np.nan)
    inside = (area > 0) & ~_on_border(shape)
    # laplacian sums cot (x_j - x_i); half of it over the area is Δx, which points inwards where it bulges.
    normal = np.einsum("ij,ij->i", laplacian, shape.normals)
    values[inside] = -normal[inside] / (4.0 * area[inside])
    return values


def _on_border(shape: Surface) -> NDArray[np.bool_]:
    """Which vertices lie on an edge that has one triangle only, (N,)."""
    edges = np.sort(np.concatenate([shape.triangles[:, [k, (k + 1) % 3]] for k in range(3)]), axis=1)
    keys, counts = np.unique(edges[:, 0] * len(shape) + edges[:, 1], return_counts=True)
    alone = keys[counts == 1]
    border = np.zeros(len(shape), bool)
    border[alone // len(shape)] = True
    border[alone % len(shape)] = True
    return border


def values_of(
    name: str, shapes: Sequence[Surface], computed: Callable[[int], FloatArray | None]
) -> tuple[list[Values | None], bool]:
    """Values (N,) or (N, d) of each shape by name, from its point data or else computed; and whether they
    are one of :data:`COMPUTED`.

    Raises
    ------
    InputError
        If no shape has them, with the names that there are.
    """
    found: list[Values | None] = [shape.point_data.get(name) for shape in shapes]
    own = any(values is not None for values in found)
    if name in COMPUTED and not own:
        made = [computed(place) for place in range(len(shapes))]
        if any(values is not None for values in made):
            return list(made), True
    if not own:
        there = ", ".join(sorted({key for shape in shapes for key in shape.point_data})) or "none"
        possible = ", ".join(COMPUTED)
        raise InputError(
            f"there is no point data {name!r} to colour by; there is: {there}; computed where it can be: "
            f"{possible}"
        )
    if any(values is not None and values.dtype.kind not in "iubf" for values in found):
        raise InputError(f"point data {name!r} are not numbers, so they cannot be coloured")
    return found, name == "displacement"  # which registrations write, so its unit is known


def colour_values(
    name: str,
    shapes: Sequence[Surface],
    values: Sequence[Values | None],
    *,
    computed: bool,
    unit: str,
    limits: tuple[float, float] | None = None,
) -> tuple[Colouring, list[Values | None]]:
    """Decide how values become colours; and the values as layers carry them: numbers (N,), or label numbers.

    Vectors become their lengths. Whole numbers with names or few values are labels, which are the same on two
    shapes where they are called the same.

    Parameters
    ----------
    name : str
    shapes : sequence of Surface
        For the names of labels.
    values : sequence of array (N,) or (N, d), or None
    computed : bool
        Whether they are one of :data:`COMPUTED`, whose sign and unit are known.
    unit : str
        Unit of length.
    limits : (low, high), optional
        Values at the ends of the colour map. Default: all values but 0.5 % at each end, from 0 or around 0
        where that is natural.

    Raises
    ------
    InputError
        On more labels than colours can tell apart, or limits in the wrong order.
    """
    if limits is not None and not (np.isfinite(limits).all() and limits[0] < limits[1]):
        raise InputError(f"limits must be two rising numbers, got {limits[0]:g} and {limits[1]:g}")
    flat = [
        None if v is None else v.reshape(-1) if v.size == len(s) else v.reshape(len(s), -1)
        for v, s in zip(values, shapes, strict=True)
    ]
    tables = [shape.label_names.get(name, {}) for shape in shapes]
    if not computed and all(v is None or (v.ndim == 1 and v.dtype.kind in "iub") for v in flat):
        present = np.unique(np.concatenate([v.astype(np.int64) for v in flat if v is not None]))
        if any(tables) or len(present) <= _FEW:
            if len(present) > _MOST_LABELS:
                raise InputError(
                    f"point data {name!r} has {len(present)} labels: more than colours can tell apart"
                )
            return _labels(name, flat, tables, present)
    vector = any(v is not None and v.ndim > 1 for v in flat)
    amounts = [None if v is None else _amount(v) for v in flat]
    known = np.concatenate([v[np.isfinite(v)] for v in amounts if v is not None])
    about = COMPUTED[name] if computed else Computed(name, "", _has_both_signs(known), 0)
    length_unit = unit if about.length == 1 else f"1/{unit}" if about.length == -1 and unit else ""
    if about.signed:
        high = float(np.percentile(np.abs(known), 99.0)) if len(known) else 1.0
        span = (-high, high) if high > 0 else (-1.0, 1.0)
    else:
        span = colours.colour_range(known, from_zero=vector or computed)
    signed = about.signed and (limits is None or limits[0] < 0 < limits[1])
    colouring = Colouring(about.title, "diverging" if signed else "sequential", limits or span, length_unit)
    return colouring, list(amounts)


def _has_both_signs(known: FloatArray) -> bool:
    """Whether 0 is a middle: a tenth of the values at least on either side."""
    return len(known) > 0 and min((known < 0).mean(), (known > 0).mean()) > 0.1


def _amount(values: Values) -> FloatArray:
    numbers = values.astype(np.float64)
    return numbers if numbers.ndim == 1 else np.asarray(np.linalg.norm(numbers, axis=1))


def _labels(
    name: str, flat: Sequence[Values | None], tables: Sequence[dict[int, str]], present: NDArray[np.int64]
) -> tuple[Colouring, list[Values | None]]:
    """Labels keep their colour on every surface: by name where they have one, else by value. 0 is none."""
    names = {int(code): next((t[int(code)] for t in tables if int(code) in t), str(code)) for code in present}
    shown = list(dict.fromkeys(names[int(code)] for code in present if code != 0))
    numbered: list[Values | None] = []
    for values, table in zip(flat, tables, strict=True):
        if values is None:
            numbered.append(None)
            continue
        codes, inverse = np.unique(values.astype(np.int64), return_inverse=True)
        places = [0 if code == 0 else 1 + _place(int(code), table, names, shown) for code in codes]
        numbered.append(np.array(places, dtype=np.int64)[inverse.reshape(-1)])
    colouring = Colouring(
        name,
        "categorical",
        codes=np.arange(1, len(shown) + 1),
        names=shown,
        label_colours=colours.categorical(len(shown)),
    )
    return colouring, numbered


def _place(code: int, table: dict[int, str], names: dict[int, str], shown: list[str]) -> int:
    own = table.get(code, names[code])
    return shown.index(own if own in shown else names[code])
