"""How good a registration is: distances, label overlap, landmark error, folding; whether to trust it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otreg.errors import InputError, NotInvertibleError
from otreg.overlap import dice
from otreg.proximity import SurfaceIndex
from otreg.surface import FloatArray, Landmarks, Surface

MAX_FLIPPED = 0.001
"""Largest share of triangles that a good map may turn over: real meshes have slivers that any map turns."""
MAX_FOLDED = 0.001
"""Largest share of vertices where the map's Jacobian determinant may be 0 or less."""
MAX_ASSD = 0.05
"""Largest distance (ASSD) after a good registration, as a share of the fixed shape's diameter."""
CLOSE_ASSD = 0.01
"""Surfaces this close (share of the diameter) need not have come closer: they may have matched before."""
DEGENERATE_AREA = 1e-12
"""A triangle is degenerate when its area is below this share of the squared diameter of its surface."""
NEEDLE = 1e-3
"""Height over longest edge below which a triangle's normal says nothing about the map that turned it over."""

_MARGIN = 0.1  # of the diameter, on every side of the box
_GRID_POINTS = 2000
_MOST_INVERTED = 500
_MOST_VERTICES = 100_000  # vertices looked at for the largest distance; more are drawn from


class HasJacobian(Protocol):
    """A map with a Jacobian determinant, such as any :class:`otreg.deformations.Deformation`."""

    def jacobian_determinant(self, points: NDArray[Any]) -> Any:
        """Determinant of the full 3 × 3 Jacobian at points (N, 3): (N,)."""
        ...


def evaluate(
    moved: Surface,
    fixed: Surface,
    *,
    moving: Surface | None = None,
    labels: str | None = None,
    landmarks: tuple[Landmarks | ArrayLike, Landmarks | ArrayLike] | None = None,
    transform: HasJacobian | None = None,
    samples: int = 20_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how well a moved shape lies on the fixed one, and how regular the map was.

    Parameters
    ----------
    moved, fixed : Surface
        Meshes or point clouds, in the same space.
    moving : Surface, optional
        The shape before it was moved, vertex by vertex the same as ``moved``: needed for ``triangles`` and
        ``log_jacobian``.
    labels : str, optional
        Name of point data on both surfaces to compare by their Dice overlap. Labels are matched by name where
        both surfaces name them (``label_names``), so their codes may differ, and by value otherwise.
    landmarks : pair of Landmarks or array_like (L, 3), optional
        Moved landmarks and where they belong, row by row.
    transform : Deformation, optional
        The map from moving to fixed, for the statistics of its Jacobian determinant.
    samples : int, default 20000
        Points drawn uniformly by area on each surface; their mean distance is then good to about 1 %.
    seed : int, default 0
        Seed of the draw.

    Returns
    -------
    dict
        Plain numbers, ready for JSON, without NaN; lengths in the unit of the files.

        ``assd``
            Average symmetric surface distance: mean of the two directions' means.
        ``moved_to_fixed``, ``fixed_to_moved``
            ``mean``, ``rms``, ``p95`` of the exact distances from the drawn points to the other surface's
            triangles; ``max`` counts the vertices as well (Hausdorff distance of that direction).
        ``normal_angle_degrees``
            ``mean``, ``p95`` of the angle (0 to 180) between the normals at those pairs, both directions;
            None when one of the two is a point cloud.
        ``landmarks``
            ``count``, ``mean``, ``median``, ``p95``, ``max`` of the remaining distances, or None.
        ``dice``
            ``labels``: {name: 2|A∩B| / (|A|+|B|)} over the fixed vertices, each taking the label of the
            nearest moved vertex, for the labels that occur on both; ``mean``: over those but the background
            (value 0, or named unknown, background or ???), None if there is nothing else. None without
            ``labels``.
        ``triangles``
            ``count`` and the shares ``flipped`` (normal turned by more than 90°, once the best similarity
            from moving to moved is taken out) and ``degenerate``; ``needles``, of moving's triangles less than a
            thousandth as high as they are long, and ``needles_flipped``, which ``flipped`` leaves out: any bend of the
            map turns such a triangle over, and where it is thin enough rounding alone. None without ``moving``.
        ``log_jacobian``
            ``min``, ``mean``, ``std``, ``p01``, ``p99`` of log det J where det J > 0 (None if nowhere), at
            the vertices of moving, and ``folded``: the share where det J ≤ 0. None without both arguments.
        ``log_jacobian_around``
            The same on a regular grid over the box around moving, a tenth of its diameter larger on every side.
        ``inverse_error``
            ``mean``, ``max`` of the distance from φ⁻¹(φ(x)) to x, at up to 500 vertices of moving. None without both
            arguments, or where the map has no inverse.
        ``unit``
            None: files do not say.

    Raises
    ------
    InputError
        Empty surfaces, coordinates that are not finite, meshes without area; two known frames that differ;
        labels that a surface lacks or that have nothing in common; landmark lists of different lengths; a
        moving shape that is not the moved one's.
    """
    for surface, role in ((moved, "moved"), (fixed, "fixed")):
        _check_surface(surface, role)
    _check_frames(moved, fixed)
    if samples < 1:
        raise InputError(f"samples must be 1 or more, got {samples}")
    if moving is not None:
        _check_surface(moving, "moving")
        _check_same_mesh(moving, moved)
        begins = getattr(transform, "moving_frame", None)
        if begins and moving.frame and begins != moving.frame:
            raise InputError(
                f"{moving.called('moving')} is in {moving.frame} and the transform begins in {begins}: "
                "convert one (otreg convert)"
            )
    rng = np.random.default_rng(seed)
    forward, forward_angles = _one_way(moved, fixed, samples, rng)
    backward, backward_angles = _one_way(fixed, moved, samples, rng)
    angles = np.concatenate([forward_angles, backward_angles])
    log_jacobian = around = inverse_error = None
    if moving is not None and transform is not None:
        log_jacobian = _log_jacobian(moving.points, transform)
        around = _log_jacobian(_grid_around(moving), transform)
        inverse_error = _inverse_error(moving, transform)
    return {
        "assd": 0.5 * (forward["mean"] + backward["mean"]),
        "moved_to_fixed": forward,
        "fixed_to_moved": backward,
        "normal_angle_degrees": {"mean": float(angles.mean()), "p95": _percentile(angles, 95)}
        if len(angles)
        else None,
        "landmarks": None if landmarks is None else _landmark_errors(*landmarks),
        "dice": None if labels is None else dice(moved, fixed, labels),
        "triangles": None if moving is None or not moving.has_triangles else _triangles(moving, moved),
        "log_jacobian": log_jacobian,
        "log_jacobian_around": around,
        "inverse_error": inverse_error,
        "unit": None,
    }


def gate(
    quality: Mapping[str, Any], before: Mapping[str, Any] | None = None, *, diameter: float | None = None
) -> list[str]:
    """Reasons not to trust a registration; an empty list means that it passed.

    Parameters
    ----------
    quality : mapping
        What :func:`evaluate` said of the result.
    before : mapping, optional
        What it said of the shapes before the registration: the distance must have become smaller, unless it
        is below ``CLOSE_ASSD`` of the diameter.
    diameter : float, optional
        Diagonal of the fixed shape's bounding box (``fixed.diameter``), which the limits on distance refer
        to. Without it those limits are not checked.

    Returns
    -------
    list of str
        One clause each, with the measured value and the limit (``MAX_FLIPPED``, ``MAX_FOLDED``,
        ``MAX_ASSD``).
    """
    reasons = [
        f"{name} is not a finite number" for name, value in _numbers(quality) if not np.isfinite(value)
    ]
    triangles, jacobian = quality.get("triangles"), quality.get("log_jacobian")
    if triangles and triangles["flipped"] > MAX_FLIPPED:
        reasons.append(
            f"{triangles['flipped']:.2%} of the triangles are turned over (limit {MAX_FLIPPED:.1%})"
        )
    if jacobian and jacobian["folded"] > MAX_FOLDED:
        reasons.append(f"the map folds at {jacobian['folded']:.2%} of the vertices (limit {MAX_FOLDED:.1%})")
    around = quality.get("log_jacobian_around")
    if around and around["folded"] > MAX_FOLDED:
        reasons.append(
            f"the map folds at {around['folded']:.2%} of a grid around the shape (limit {MAX_FOLDED:.1%})"
        )
    assd = quality["assd"]
    if diameter is not None and assd > MAX_ASSD * diameter:
        reasons.append(
            f"the surfaces are {assd:.4g} apart on average, {assd / diameter:.1%} of the fixed shape's size"
            f" (limit {MAX_ASSD:.0%})"
        )
    close = diameter is not None and assd < CLOSE_ASSD * diameter
    if before is not None and not close and assd >= before["assd"]:
        reasons.append(f"the surfaces came no closer: {before['assd']:.4g} apart before, {assd:.4g} after")
    return reasons


def format_table(quality: Mapping[str, Any]) -> str:
    """Lay a quality dict out as a plain-text table for terminals.

    Parameters
    ----------
    quality : mapping
        What :func:`evaluate` returned.

    Returns
    -------
    str
        Lines without a final newline; parts that were not measured are left out.
    """
    unit = f" ({quality['unit']})" if quality.get("unit") else ""
    lines = [_row(f"distance{unit}", ["mean", "rms", "p95", "max"])]
    for key, title in (("moved_to_fixed", "  moved to fixed"), ("fixed_to_moved", "  fixed to moved")):
        lines.append(_row(title, [quality[key][name] for name in ("mean", "rms", "p95", "max")]))
    lines.append(_row("  both ways (ASSD)", [quality["assd"]]))
    if quality["normal_angle_degrees"]:
        angle = quality["normal_angle_degrees"]
        lines.append(_row("angle of normals (°)", [angle["mean"], "", angle["p95"]]))
    if quality["landmarks"]:
        errors = quality["landmarks"]
        lines.append(_row("", ["mean", "median", "p95", "max"]))
        values = [errors[name] for name in ("mean", "median", "p95", "max")]
        lines.append(_row(f"{errors['count']} landmarks{unit}", values))
    if quality["dice"]:
        lines.append(_row("overlap of labels (Dice)", ["-" if (v := quality["dice"]["mean"]) is None else v]))
        lines += [_row(f"  {name}", [value]) for name, value in quality["dice"]["labels"].items()]
    if quality["triangles"]:
        shares = quality["triangles"]
        lines.append(
            _row(f"{shares['count']} triangles", ["turned", "degenerate", "needles", "of which turned"])
        )
        names = ("flipped", "degenerate", "needles", "needles_flipped")
        lines.append(_row("  share", [f"{shares[name]:.3%}" for name in names]))
    if quality["log_jacobian"]:
        names = ("mean", "std", "min", "p99")
        values = [quality["log_jacobian"][name] for name in names]
        lines.append(_row("log det Jacobian", list(names)))
        lines.append(_row("  of the map", ["-" if value is None else value for value in values]))
        lines.append(_row("  folded share", [f"{quality['log_jacobian']['folded']:.3%}"]))
    return "\n".join(lines)


def _row(title: str, cells: list[Any]) -> str:
    shown = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
    return (title.ljust(26) + "".join(cell.rjust(11) for cell in shown)).rstrip()


def _check_surface(surface: Surface, role: str) -> None:
    name = surface.called(role)
    if len(surface) == 0:
        raise InputError(f"{name}: no points, so there is nothing to measure")
    bad = np.flatnonzero(~np.isfinite(surface.points).all(axis=1))
    if len(bad):
        raise InputError(f"{name}: point {bad[0]} is not finite: read it with repair=True")
    if surface.has_triangles and not surface.triangle_areas.sum() > 0:
        raise InputError(f"{name}: all triangles have no area: clean the mesh, or drop its triangles")
    if not surface.has_triangles and not surface.weights.sum() > 0:
        raise InputError(f"{name}: the weights of its points sum to zero")


def _check_frames(moved: Surface, fixed: Surface) -> None:
    if moved.frame and fixed.frame and moved.frame != fixed.frame:
        raise InputError(
            f"{moved.called('moved')} is in {moved.frame} and {fixed.called('fixed')} in {fixed.frame}: "
            "convert one (otreg convert)"
        )


def _check_same_mesh(moving: Surface, moved: Surface) -> None:
    if len(moving) != len(moved) or len(moving.triangles) != len(moved.triangles):
        first, second = moving.called("moving"), moved.called("moved")
        raise InputError(
            f"{first} ({len(moving)} points, {len(moving.triangles)} triangles) is not what became"
            f" {second} ({len(moved)} points, {len(moved.triangles)} triangles)"
        )


def _one_way(
    source: Surface, target: Surface, samples: int, rng: np.random.Generator
) -> tuple[dict[str, float], FloatArray]:
    """Distances from source to target, and the angles between the normals at the pairs (empty for clouds)."""
    points, normals = source.sample(samples, rng)
    index = SurfaceIndex(target)
    found = index.closest(points)
    vertices = source.points
    if source.has_triangles:
        used = np.zeros(len(source), bool)
        used[source.triangles] = True
        vertices = vertices[used]
    if len(vertices) > _MOST_VERTICES:
        vertices = vertices[rng.choice(len(vertices), _MOST_VERTICES, replace=False)]
    distances = found.distances
    farthest = index.farthest(vertices, float(distances.max()))
    angles = np.zeros(0)
    if source.has_triangles and target.has_triangles:
        other = target.triangle_normals[found.triangles]
        known = np.any(normals != 0, axis=1) & np.any(other != 0, axis=1)
        angles = _angles(normals[known], other[known])
    return {
        "mean": float(distances.mean()),
        "rms": float(np.sqrt(np.mean(distances**2))),
        "p95": _percentile(distances, 95),
        "max": float(farthest),
    }, angles


def _angles(first: FloatArray, second: FloatArray) -> FloatArray:
    """Angles between unit vectors in degrees, by the half-angle form, which is exact near 0 and 180."""
    return np.degrees(
        2 * np.arctan2(np.linalg.norm(first - second, axis=1), np.linalg.norm(first + second, axis=1))
    )


def _percentile(values: FloatArray, percent: float) -> float:
    return float(np.percentile(values, percent))


def _landmark_errors(moved: Landmarks | ArrayLike, fixed: Landmarks | ArrayLike) -> dict[str, float]:
    first, second = (
        item.points if isinstance(item, Landmarks) else Landmarks(np.asarray(item)).points
        for item in (moved, fixed)
    )
    if len(first) != len(second):
        raise InputError(
            f"{len(first)} moved landmarks but {len(second)} fixed ones: they must correspond by row"
        )
    if len(first) == 0:
        raise InputError("the landmark lists are empty")
    for points, role in ((first, "moved"), (second, "fixed")):
        bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if len(bad):
            raise InputError(f"{role} landmark {bad[0] + 1} is not finite")
    errors = np.linalg.norm(first - second, axis=1)
    return {
        "count": len(errors),
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "p95": _percentile(errors, 95),
        "max": float(errors.max()),
    }


def _triangles(moving: Surface, moved: Surface) -> dict[str, float]:
    rotation = _best_rotation(moving.points, moved.points)
    turned = np.einsum("td,td->t", moved.triangle_normals, moving.triangle_normals @ rotation.T) < 0
    needles = _needles(moving)
    smallest = DEGENERATE_AREA * moved.diameter**2
    return {
        "count": len(moved.triangles),
        "flipped": float(np.mean(turned & ~needles)),
        "degenerate": float(np.mean(moved.triangle_areas <= smallest)),
        "needles": float(np.mean(needles)),
        "needles_flipped": float(np.mean(turned & needles)),
    }


def _needles(surface: Surface) -> NDArray[np.bool_]:
    """Which triangles (T,) are less than :data:`NEEDLE` as high as they are long."""
    corners = surface.triangle_corners
    longest = ((corners - np.roll(corners, 1, axis=1)) ** 2).sum(axis=2).max(axis=1)
    return np.asarray(2.0 * surface.triangle_areas < NEEDLE * longest)


def _best_rotation(source: FloatArray, target: FloatArray) -> FloatArray:
    """Rotation of the similarity that best carries source to target (Umeyama 1991), reflections excluded."""
    first, second = source - source.mean(axis=0), target - target.mean(axis=0)
    left, _, right = np.linalg.svd(second.T @ first)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    return (left * signs) @ right


def _grid_around(surface: Surface) -> FloatArray:
    """About 2,000 points of a regular grid over the enlarged box around a surface, (G, 3)."""
    low, high = surface.bounds
    low, high = low - _MARGIN * surface.diameter, high + _MARGIN * surface.diameter
    spacing = float(np.prod(high - low) / _GRID_POINTS) ** (1.0 / 3.0)
    if not spacing > 0.0:
        return surface.points[:1]
    axes = [
        np.linspace(first, last, max(2, round(float(last - first) / spacing) + 1))
        for first, last in zip(low, high, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _inverse_error(moving: Surface, transform: Any) -> dict[str, float] | None:
    if not hasattr(transform, "inverse"):
        return None
    step = -(-len(moving) // _MOST_INVERTED)
    points = moving.points[::step]
    try:
        back = transform.inverse.map(transform.map(points))
    except NotInvertibleError:
        return None
    errors = np.linalg.norm(back - points, axis=1)
    return {"mean": float(errors.mean()), "max": float(errors.max())}


def _log_jacobian(points: FloatArray, transform: HasJacobian) -> dict[str, float | None]:
    determinant = np.asarray(transform.jacobian_determinant(points), dtype=np.float64)
    regular = determinant[(determinant > 0) & np.isfinite(determinant)]
    folded = float(1.0 - len(regular) / len(determinant))
    if not len(regular):
        return {"min": None, "mean": None, "std": None, "p01": None, "p99": None, "folded": folded}
    logarithm = np.log(regular)
    return {
        "min": float(logarithm.min()),
        "mean": float(logarithm.mean()),
        "std": float(logarithm.std()),
        "p01": _percentile(logarithm, 1),
        "p99": _percentile(logarithm, 99),
        "folded": folded,
    }


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a nested dict with their dotted names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value) if math.isfinite(value) else math.nan
