"""Run one of the other tools in a process of its own: ``peer.py NAME FOLDER``.

Reads FOLDER/moving.ply and FOLDER/fixed.ply, writes FOLDER/moved.ply with the vertices of moving, in
their order. The tools that expect a pose close to right start from the similarity ICP's.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
from meshes import Array, Mesh, decimated, read_mesh, similarity_icp, used_part, write_mesh
from scipy.spatial.distance import cdist

CPD_POINTS = 2000
"""Points of each cloud that pycpd gets: it stores and solves dense matrices of them."""

DEFORMETRICA_TRIANGLES = 4000
"""Triangles of each mesh that Deformetrica fits: its torch kernels store every pair of them, several times."""

DEFORMETRICA_WIDTH, DEFORMETRICA_VARIFOLD_WIDTH = 0.15, 0.05
"""Its two widths, which have no default, as shares of the fixed shape's box diagonal."""


def similarity(moving: Mesh, fixed: Mesh, folder: Path) -> Array:
    """Iterated closest points with size, from several poses."""
    return similarity_icp(moving.points, fixed.points)(moving.points)


def meshmonk(moving: Mesh, fixed: Mesh, folder: Path) -> Array:
    """MeshMonk's pyramid with its published settings."""
    import meshmonk as program
    import trimesh

    start = similarity(moving, fixed, folder)
    result = program.pyramid_register(
        floating=trimesh.Trimesh(start, moving.triangles, process=False),
        target=trimesh.Trimesh(fixed.points, fixed.triangles, process=False),
        num_iterations=90,
        num_pyramid_layers=3,
    )
    return np.asarray(result.aligned_vertices, np.float64)


def pycpd(moving: Mesh, fixed: Mesh, folder: Path) -> Array:
    """Coherent point drift with its defaults (alpha = beta = 2) on random vertices, centred and of unit variance.

    The other vertices follow by the kernel that it moves its own with (Myronenko & Song 2010, equation 21).
    """
    from pycpd import DeformableRegistration

    rng = np.random.default_rng(0)
    start = similarity(moving, fixed, folder)
    centre, scale = fixed.points.mean(axis=0), fixed.points.std()
    source, target = ((points - centre) / scale for points in (start, fixed.points))
    chosen, goal = (
        points[rng.choice(len(points), min(CPD_POINTS, len(points)), replace=False)]
        for points in (source, target)
    )
    registration = DeformableRegistration(X=goal, Y=chosen)
    registration.register()
    kernel = np.exp(-cdist(source, chosen, "sqeuclidean") / (2.0 * registration.beta**2))
    moved: Array = centre + scale * (source + kernel @ registration.W)
    return moved


def nricp(moving: Mesh, fixed: Mesh, folder: Path) -> Array:
    """trimesh's optimal-step non-rigid ICP (Amberg et al. 2007) with its defaults."""
    import trimesh

    start = similarity(moving, fixed, folder)
    used, triangles = used_part(moving.triangles, len(start))
    part = trimesh.Trimesh(start[used], triangles, process=False)
    target = trimesh.Trimesh(fixed.points, fixed.triangles, process=False)
    moved = start.copy()
    moved[used] = trimesh.registration.nricp_amberg(part, target)
    return moved


def deformetrica(moving: Mesh, fixed: Mesh, folder: Path) -> Array:
    """Deformetrica's registration, varifold attachment, torch kernels, gradient ascent with its defaults.

    It is fitted on decimated meshes; the flow that it finds carries all vertices. Its SciPy optimiser fails with
    today's SciPy, and its window, which it loads at once, needs Qt: an empty module stands for that.
    """
    sys.modules["deformetrica.gui"] = types.ModuleType("deformetrica.gui")
    import torch
    from deformetrica import Deformetrica

    start = similarity(moving, fixed, folder)
    size = float(np.linalg.norm(fixed.points.max(axis=0) - fixed.points.min(axis=0)))
    for name, mesh in (("template", Mesh(start, moving.triangles)), ("target", fixed)):
        write_mesh(folder / f"{name}.vtk", decimated(mesh, DEFORMETRICA_TRIANGLES))
    shape = {
        "deformable_object_type": "SurfaceMesh",
        "attachment_type": "Varifold",
        "kernel_type": "torch",
        "kernel_width": DEFORMETRICA_VARIFOLD_WIDTH * size,
        "noise_std": -1,  # chosen by it: a tenth of what the residual is at first
    }
    program = Deformetrica(output_dir=str(folder / "deformetrica"), verbosity="WARNING")
    model = program.estimate_registration(
        {"shape": {**shape, "filename": str(folder / "template.vtk")}},
        {
            "dataset_filenames": [[{"shape": str(folder / "target.vtk")}]],
            "visit_ages": [[]],
            "subject_ids": ["subject"],
        },
        model_options={
            "deformation_kernel_type": "torch",
            "deformation_kernel_width": DEFORMETRICA_WIDTH * size,
        },
        estimator_options={"optimization_method_type": "GradientAscent"},
        write_output=False,
    )
    logging.shutdown()
    return carried_by(model, torch.from_numpy(start).float())


def carried_by(model: Any, points: Any) -> Array:
    """Where Deformetrica's flow takes points (N, 3), a float32 tensor."""
    import torch

    flow = model.exponential
    flow.set_initial_template_points({"landmark_points": points})
    flow.set_initial_control_points(torch.from_numpy(model.get_control_points()).float())
    flow.set_initial_momenta(torch.from_numpy(model.get_momenta()[0]).float())
    flow.move_data_to_(points.device)
    flow.update()
    with torch.no_grad():
        found: Array = flow.get_template_points()["landmark_points"].double().numpy()
    return found


PEERS = {
    "icp": similarity,
    "meshmonk": meshmonk,
    "pycpd": pycpd,
    "nricp": nricp,
    "deformetrica": deformetrica,
}

NEEDS = {
    "meshmonk": ("meshmonk",),
    "pycpd": ("pycpd",),
    "nricp": ("rtree",),  # with which trimesh finds closest points on triangles
    "deformetrica": ("deformetrica", "sklearn", "psutil"),
}
"""Packages that a peer needs besides those that otreg does."""


def missing(name: str) -> list[str]:
    """Packages that a peer needs and that are not installed here."""
    return [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    moving = read_mesh(folder / "moving.ply")
    moved = PEERS[name](moving, read_mesh(folder / "fixed.ply"), folder)
    write_mesh(folder / "moved.ply", Mesh(moved, moving.triangles))


if __name__ == "__main__":
    main()
