"""Run one of the other tools in a process of its own: ``peer.py NAME FOLDER``.

Reads FOLDER/moving.ply and FOLDER/fixed.ply, writes FOLDER/moved.ply with the vertices of moving, in
their order. The tools that expect a pose close to right start from the similarity ICP's.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
from meshes import Array, Mesh, read_mesh, similarity_icp, write_mesh


def similarity(moving: Mesh, fixed: Mesh) -> Array:
    """Iterated closest points with size, from several poses."""
    return similarity_icp(moving.points, fixed.points)(moving.points)


def meshmonk(moving: Mesh, fixed: Mesh) -> Array:
    """MeshMonk's pyramid with its published settings."""
    import meshmonk as program
    import trimesh

    start = similarity(moving, fixed)
    result = program.pyramid_register(
        floating=trimesh.Trimesh(start, moving.triangles, process=False),
        target=trimesh.Trimesh(fixed.points, fixed.triangles, process=False),
        num_iterations=90,
        num_pyramid_layers=3,
    )
    return np.asarray(result.aligned_vertices, np.float64)


PEERS = {"icp": similarity, "meshmonk": meshmonk}


def available(name: str) -> bool:
    """Whether a peer can run here."""
    return name == "icp" or (name in PEERS and importlib.util.find_spec(name) is not None)


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    moving = read_mesh(folder / "moving.ply")
    moved = PEERS[name](moving, read_mesh(folder / "fixed.ply"))
    write_mesh(folder / "moved.ply", Mesh(moved, moving.triangles))


if __name__ == "__main__":
    main()
