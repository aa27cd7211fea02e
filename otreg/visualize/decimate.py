"""Fewer triangles for browsers: some of a mesh's own vertices, so that what they carry goes with them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from otreg.errors import InputError
from otreg.surface import FloatArray, IntArray, Surface

MOST_TRIANGLES = 60_000
"""Triangles of a layer, at most, that a page holds: more make it slow to load and to turn."""
MOST_POINTS = 60_000
"""Points of a cloud, at most, that a page holds."""

_COARSE = 4
"""Collapsing edges takes 12 s for a million triangles, clustering half a second; so a mesh of more than this
many times the budget is clustered down to about that first, where clusters are far smaller than what is left."""


class Thinned(NamedTuple):
    """Part of a mesh.

    Attributes
    ----------
    vertices : int array (n,)
        Rows of the mesh's vertices that are left, rising.
    triangles : int array (t, 3)
        Of these: rows of ``vertices``.
    """

    vertices: IntArray
    triangles: IntArray


def decimate(points: FloatArray, triangles: IntArray, budget: int = MOST_TRIANGLES) -> Thinned:
    """Choose vertices of a mesh, and triangles between them that show the same surface.

    Edges are collapsed where that changes the surface least (quadric error, Garland and Heckbert 1997, in VTK);
    each vertex that results is then put on the mesh's nearest own vertex, so that values and motion are those of
    the mesh and nothing is interpolated. Meshes far above the budget are clustered first (Lindstrom 2000).

    Parameters
    ----------
    points : array (N, 3)
        Triangles with corners that are not finite are left out.
    triangles : int array (T, 3)
    budget : int, default 60,000
        Triangles to be left, at most. A mesh with no more keeps all of them, and all its vertices.

    Returns
    -------
    Thinned

    Raises
    ------
    InputError
        If the budget is below 4.
    """
    if budget < 4:
        raise InputError(f"budget must be 4 triangles or more, got {budget}")
    if len(triangles) <= budget:
        return Thinned(np.arange(len(points)), triangles)
    faces = triangles[np.isfinite(points[triangles]).all(axis=(1, 2))]
    if len(faces) > 2 * _COARSE * budget:
        faces = _clustered(points, faces, _COARSE * budget)
    if len(faces) > budget:
        faces = _collapsed(points, faces, budget)
    vertices, inverse = np.unique(faces, return_inverse=True)
    return Thinned(vertices.astype(np.int64), inverse.reshape(-1, 3).astype(np.int64))


def thin_points(points: FloatArray, budget: int = MOST_POINTS) -> IntArray:
    """Choose rows of a cloud (N, 3), at most ``budget`` of them, in even steps through its order; (n,)."""
    if len(points) <= budget:
        return np.arange(len(points))
    return np.linspace(0, len(points) - 1, budget).round().astype(np.int64)


def decimate_surface(shape: Surface, budget: int = MOST_TRIANGLES) -> tuple[Surface, IntArray]:
    """A mesh or cloud with fewer triangles or points, and the rows (n,) of the vertices that it kept."""
    if shape.has_triangles:
        vertices, triangles = decimate(shape.points, shape.triangles, budget)
    else:
        vertices, triangles = thin_points(shape.points, min(budget, MOST_POINTS)), shape.triangles
    return at_vertices(shape, vertices, triangles), vertices


def at_vertices(shape: Surface, vertices: IntArray, triangles: IntArray) -> Surface:
    """The part of a surface that some of its vertices and triangles between them make."""
    data = {name: values[vertices] for name, values in shape.point_data.items()}
    return dataclasses.replace(shape, points=shape.points[vertices], triangles=triangles, point_data=data)


def _clustered(points: FloatArray, faces: IntArray, target: int) -> IntArray:
    """Triangles between the mesh's own vertices, one for each cell of a grid; about ``target`` of them."""
    from vtkmodules.vtkFiltersCore import vtkQuadricClustering

    used = points[np.unique(faces)]
    extent = used.max(axis=0) - used.min(axis=0)
    corners = points[faces]
    area = 0.5 * np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    # A surface of area A meets about 1.5 A / h² cells of size h, and has two triangles for each of its vertices.
    size = max(float(np.sqrt(3.0 * area.sum() / target)), 1e-9 * float(extent.max()), 1e-300)
    cluster = vtkQuadricClustering()
    cluster.UseInputPointsOn()
    cluster.AutoAdjustNumberOfDivisionsOff()
    cluster.SetNumberOfDivisions(*(int(np.clip(np.ceil(side / size), 1, 2000)) for side in extent))
    return _between_own_vertices(cluster, points, faces)


def _collapsed(points: FloatArray, faces: IntArray, budget: int) -> IntArray:
    from vtkmodules.vtkFiltersCore import vtkQuadricDecimation

    collapse = vtkQuadricDecimation()
    collapse.SetTargetReduction(1.0 - budget / len(faces))
    left = _between_own_vertices(collapse, points, faces)
    if len(left) > budget:  # flat or tangled meshes are given up on too early
        return left[np.linspace(0, len(left) - 1, budget).round().astype(np.int64)]
    return left


def _between_own_vertices(algorithm: object, points: FloatArray, faces: IntArray) -> IntArray:
    """What a VTK filter makes of triangles, each vertex replaced by the nearest of those that it was given."""
    from typing import Any

    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

    used, inverse = np.unique(faces, return_inverse=True)
    own = points[used]
    vertices, cells, data = vtkPoints(), vtkCellArray(), vtkPolyData()
    vertices.SetData(numpy_to_vtk(np.ascontiguousarray(own - own.mean(axis=0)), deep=1))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.ascontiguousarray(inverse, np.int64).reshape(-1), deep=1))
    data.SetPoints(vertices)
    data.SetPolys(cells)
    run: Any = algorithm
    run.SetInputData(data)
    run.Update()
    found = run.GetOutput()
    if found.GetNumberOfPolys() == 0:
        return np.zeros((0, 3), np.int64)
    places = vtk_to_numpy(found.GetPoints().GetData()).astype(np.float64) + own.mean(axis=0)
    nearest = cKDTree(own).query(places)[1]
    left = used[nearest][vtk_to_numpy(found.GetPolys().GetConnectivityArray()).reshape(-1, 3)]
    proper = (left[:, 0] != left[:, 1]) & (left[:, 1] != left[:, 2]) & (left[:, 2] != left[:, 0])
    return np.asarray(left[proper], dtype=np.int64)
