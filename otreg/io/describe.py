"""What is in a file: counts, size, data, and every defect that a registration could stumble over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from otreg.errors import InputError
from otreg.io.files import load_bytes
from otreg.io.formats import sniff
from otreg.io.landmarks import is_landmark_file, read_landmarks
from otreg.io.surfaces import attach_point_data, read_as_is, read_point_data
from otreg.surface import IntArray, Surface

_MOST_LABELS = 256
"""Integers with more values than this are numbers, not labels: they are not counted one by one."""


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a file of a surface, point cloud, landmarks or values on points.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    dict
        Plain Python values, ready for JSON. Always ``path``, ``format`` and ``kind`` (``"mesh"``, ``"point
        cloud"``, ``"landmarks"`` or ``"point data"``). For shapes ``points``, ``triangles``, ``bounds`` ([[x,
        y, z] of the smallest, of the largest coordinates]), ``diameter`` (of the bounding box), ``frame``,
        ``area`` (``None`` for a cloud), ``point_data`` (name -> shape, dtype, minimum, maximum), ``labels``
        (name -> label -> count), ``components``, ``boundary_edges``, ``non_manifold_edges``,
        ``duplicate_points``, ``unreferenced_points``, ``degenerate_triangles`` (those five and ``components``
        ``None`` where they make no sense), ``nan_points``, ``ignored`` and, where known, ``c_ras`` and
        ``merged_corners``.

    Raises
    ------
    InputError
        As :func:`otreg.io.read`, except that coordinates may be NaN: they are counted.
    """
    source = Path(path)
    if is_landmark_file(source):
        return _describe_landmarks(source)
    kind = _kind(source)
    if kind in ("annot", "curv") or (kind == "gifti" and _without_points(source)):
        return _describe_values(source, kind)
    return describe_surface(read_as_is(source))


def _kind(source: Path) -> str:
    try:
        return sniff(load_bytes(source), source)
    except InputError:
        return "unknown"  # reading it says why


def _without_points(source: Path) -> bool:
    return b"NIFTI_INTENT_POINTSET" not in load_bytes(source)


def _describe_landmarks(source: Path) -> dict[str, Any]:
    landmarks = read_landmarks(source)
    cloud = Surface(landmarks.points)
    return {
        "path": str(source),
        "format": _kind(source),
        "kind": "landmarks",
        "points": len(landmarks),
        "bounds": cloud.bounds.tolist(),
        "diameter": cloud.diameter,
        "frame": landmarks.frame,
        "names": list(landmarks.names),
    }


def _describe_values(source: Path, kind: str) -> dict[str, Any]:
    values = read_point_data(source)
    count = len(next(iter(values.values())))
    same = {name: array for name, array in values.items() if len(array) == count}
    surface = Surface(np.zeros((count, 3)), point_data=same)
    try:
        surface = attach_point_data(surface, source)
    except InputError:
        pass  # arrays of several lengths: no names
    return {
        "path": str(source),
        "format": kind,
        "kind": "point data",
        "points": count,
        "point_data": _point_data(surface),
        "labels": label_counts(surface),
    }


def describe_surface(surface: Surface) -> dict[str, Any]:
    """The description of :func:`describe` for a surface in memory."""
    finite = np.isfinite(surface.points).all(axis=1)
    known = Surface(surface.points[finite])
    mesh = surface.has_triangles
    description: dict[str, Any] = {
        "path": surface.metadata.get("path"),
        "format": surface.metadata.get("format"),
        "kind": "mesh" if mesh else "point cloud",
        "points": len(surface),
        "triangles": len(surface.triangles),
        "bounds": known.bounds.tolist() if len(known) else None,
        "diameter": known.diameter if len(known) else None,
        "frame": surface.frame,
        "area": float(np.nansum(surface.triangle_areas)) if mesh else None,
        "point_data": _point_data(surface),
        "labels": label_counts(surface),
        "components": None,
        "boundary_edges": None,
        "non_manifold_edges": None,
        "duplicate_points": len(known) - len(np.unique(known.points, axis=0)),
        "unreferenced_points": None,
        "degenerate_triangles": None,
        "nan_points": int((~finite).sum()),
        "ignored": list(surface.metadata.get("ignored", [])),
    }
    if mesh:
        description.update(_mesh_defects(surface))
    if surface.metadata.get("c_ras") is not None:
        description["c_ras"] = np.asarray(surface.metadata["c_ras"]).tolist()
    if "merged_corners" in surface.metadata:
        description["merged_corners"] = int(surface.metadata["merged_corners"])
    return description


def _mesh_defects(surface: Surface) -> dict[str, int]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    triangles, count = surface.triangles, len(surface)
    counts = edge_counts(triangles)
    used = np.zeros(count, bool)
    used[triangles] = True
    ends = np.concatenate([triangles[:, :2], triangles[:, 1:]])
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    components = connected_components(graph, directed=False)[0] - int((~used).sum())
    with np.errstate(invalid="ignore"):
        degenerate = ~(surface.triangle_areas > 0)
    return {
        "components": int(components),
        "boundary_edges": int((counts == 1).sum()),
        "non_manifold_edges": int((counts > 2).sum()),
        "unreferenced_points": int((~used).sum()),
        "degenerate_triangles": int(degenerate.sum()),
    }


def edge_counts(triangles: IntArray) -> IntArray:
    """Number of triangles at each edge, (E,), edges of a repeated corner left out."""
    edges = np.sort(
        np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1
    )
    edges = edges[edges[:, 0] != edges[:, 1]]
    key = edges[:, 0] * (int(triangles.max(initial=0)) + 1) + edges[:, 1]
    return np.unique(key, return_counts=True)[1]


def _point_data(surface: Surface) -> dict[str, dict[str, Any]]:
    described = {}
    for name, values in surface.point_data.items():
        entry: dict[str, Any] = {"shape": list(values.shape), "dtype": str(values.dtype)}
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if finite.size and values.dtype.kind in "fiu":
            entry["minimum"], entry["maximum"] = finite.min().item(), finite.max().item()
        described[name] = entry
    return described


def label_counts(surface: Surface) -> dict[str, dict[str, int]]:
    """Points of each label, for data with names and integers of few values: name -> label -> count."""
    counted = {}
    for name, values in surface.point_data.items():
        names = surface.label_names.get(name)
        if values.ndim != 1 or values.dtype.kind not in "iub" or (names is None and values.dtype.kind == "b"):
            continue
        labels, counts = np.unique(values, return_counts=True)
        if names is None and len(labels) > _MOST_LABELS:
            continue
        entry: dict[str, int] = {}
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
            key = (names or {}).get(int(label), str(label))
            entry[key] = entry.get(key, 0) + count
        counted[name] = entry
    return counted
