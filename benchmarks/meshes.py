"""What every tool of a benchmark gets the same: files, tessellations, a starting pose."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


class Mesh(NamedTuple):
    """Vertices (N, 3) and triangles (T, 3)."""

    points: Array
    triangles: Integers


class Similarity(NamedTuple):
    """``x -> scale * rotation @ x + shift``."""

    scale: float
    rotation: Array
    shift: Array

    def __call__(self, points: Array) -> Array:
        return self.scale * points @ self.rotation.T + self.shift


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Write a binary PLY file, or a legacy VTK file if the name ends so."""
    if path.suffix == ".vtk":
        import vtk

        writer = vtk.vtkPolyDataWriter()
        writer.SetFileName(str(path))
        writer.SetInputData(_polydata(mesh))
        writer.Write()
        return
    import trimesh

    trimesh.Trimesh(mesh.points, mesh.triangles, process=False).export(path)


def read_mesh(path: Path) -> Mesh:
    """Read a PLY file, vertices in the file's order."""
    import trimesh

    mesh = trimesh.load(path, process=False, maintain_order=True, force="mesh")
    return Mesh(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))


def shuffled(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """The same mesh with vertices and triangles in random order, so that no index tells anything."""
    order = rng.permutation(len(mesh.points))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return Mesh(mesh.points[order], place[mesh.triangles][rng.permutation(len(mesh.triangles))])


def remeshed(mesh: Mesh, keep: float = 0.6) -> Mesh:
    """The same surface on another tessellation: linear subdivision, then quadric decimation.

    Parameters
    ----------
    keep : float
        Share of the triangles (before subdivision) that remain, and so about that of the vertices.
    """
    import vtk

    finer = vtk.vtkLinearSubdivisionFilter()
    finer.SetInputData(_polydata(mesh))
    finer.SetNumberOfSubdivisions(1)
    finer.Update()
    return _decimated(finer.GetOutput(), keep / 4.0)


def resized(mesh: Mesh, vertices: int) -> Mesh:
    """The same surface with about so many vertices: its longest edges halved, or decimated.

    Subdividing everything and decimating that would leave slivers: on a flat patch all of them cost nothing.
    """
    while len(mesh.points) < vertices:
        mesh = _with_longest_edges_halved(mesh, vertices - len(mesh.points))
    return decimated(mesh, round(len(mesh.triangles) * vertices / len(mesh.points)))


def _with_longest_edges_halved(mesh: Mesh, count: int) -> Mesh:
    """Put a vertex in the middle of each of the ``count`` longest edges, and divide the triangles along them."""
    points, triangles = mesh
    sides = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]], axis=2)
    edges, side = np.unique(sides.reshape(-1, 2), axis=0, return_inverse=True)
    longest = np.argsort(-np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1), kind="stable")[
        :count
    ]
    middle = np.full(len(edges), -1)
    middle[longest] = len(points) + np.arange(len(longest))
    points = np.concatenate([points, points[edges[longest]].mean(axis=1)])
    middles = middle[side.reshape(-1, 3)]
    halved = middles >= 0
    # turned so that of one or two halved sides the first is the first, and of two the other is the second
    first = np.where(halved.sum(axis=1) == 2, (halved.argmin(axis=1) + 1) % 3, halved.argmax(axis=1))
    turn = (first[:, None] + np.arange(3)) % 3
    corners, middles = np.take_along_axis(triangles, turn, axis=1), np.take_along_axis(middles, turn, axis=1)
    (a, b, c), (ab, bc, ca), number = corners.T, middles.T, halved.sum(axis=1)
    # what two halved sides leave is a quadrangle: cut along its shorter diagonal
    long = np.linalg.norm(points[a] - points[bc], axis=1) > np.linalg.norm(points[ab] - points[c], axis=1)
    divided = (
        (number == 0, [(a, b, c)]),
        (number == 1, [(a, ab, c), (ab, b, c)]),
        ((number == 2) & long, [(ab, b, bc), (a, ab, c), (ab, bc, c)]),
        ((number == 2) & ~long, [(ab, b, bc), (a, ab, bc), (a, bc, c)]),
        (number == 3, [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]),
    )
    found = [np.stack(part, axis=1)[where] for where, parts in divided for part in parts]
    return Mesh(points, np.concatenate(found))


def decimated(mesh: Mesh, triangles: int) -> Mesh:
    """The same surface with at most about so many triangles."""
    if len(mesh.triangles) <= triangles:
        return mesh
    return _decimated(_polydata(mesh), triangles / len(mesh.triangles))


def used_part(triangles: Integers, count: int) -> tuple[NDArray[np.bool_], Integers]:
    """Which of ``count`` vertices a triangle uses (count,), and the triangles (T, 3) with those alone numbered."""
    used = np.zeros(count, bool)
    used[triangles] = True
    return used, (np.cumsum(used) - 1)[triangles]


def _polydata(mesh: Mesh) -> Any:
    """The mesh as VTK's object."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

    points, cells, surface = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(mesh.points), deep=1))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.ascontiguousarray(mesh.triangles).ravel(), deep=1))
    surface.SetPoints(points)
    surface.SetPolys(cells)
    return surface


def _decimated(surface: Any, keep: float) -> Mesh:
    """Quadric decimation of VTK's object to a share of its triangles."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    coarser = vtk.vtkQuadricDecimation()
    coarser.SetInputData(surface)
    coarser.SetTargetReduction(1.0 - keep)
    coarser.Update()
    out = coarser.GetOutput()
    triangles = vtk_to_numpy(out.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    return Mesh(vtk_to_numpy(out.GetPoints().GetData()).astype(np.float64), triangles.astype(np.int64))


def fit_similarity(source: Array, target: Array, *, scaled: bool = True) -> Similarity:
    """Least-squares rotation, shift and (if ``scaled``) size between corresponding points (Umeyama 1991)."""
    centre, goal = source.mean(axis=0), target.mean(axis=0)
    left, values, right = np.linalg.svd((target - goal).T @ (source - centre))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])  # never a reflection
    rotation = left @ np.diag(signs) @ right
    scale = float((values * signs).sum() / ((source - centre) ** 2).sum()) if scaled else 1.0
    return Similarity(scale, rotation, goal - scale * rotation @ centre)


def similarity_icp(source: Array, target: Array, *, samples: int = 3000, steps: int = 30) -> Similarity:
    """Iterated closest points from several poses: ``steps`` rigid ones, then ``steps`` with size.

    Starts: the centroids put together, and the four rotations that put the principal axes together. The pose
    whose root mean square distance, both ways added, is the least wins.
    """
    rng = np.random.default_rng(0)
    source, target = (
        points[rng.choice(len(points), min(samples, len(points)), replace=False)]
        for points in (source, target)
    )
    tree = cKDTree(target)
    centre, goal = source.mean(axis=0), target.mean(axis=0)
    axes, goal_axes = (np.linalg.svd(p - p.mean(axis=0), full_matrices=False)[2] for p in (source, target))
    rotations = [goal_axes.T @ np.diag(signs) @ axes for signs in itertools.product([1.0, -1.0], repeat=3)]
    best: tuple[float, Similarity] | None = None
    for rotation in [np.eye(3), *(r for r in rotations if np.linalg.det(r) > 0)]:
        pose = Similarity(1.0, rotation, goal - rotation @ centre)
        for scaled in (False, True):
            for _ in range(steps):
                pose = fit_similarity(source, target[tree.query(pose(source))[1]], scaled=scaled)
        moved = pose(source)
        there, back = tree.query(moved)[0], cKDTree(moved).query(target)[0]
        error = float(np.sqrt((there**2).mean()) + np.sqrt((back**2).mean()))
        if best is None or error < best[0]:
            best = (error, pose)
    assert best is not None
    return best[1]
