"""Write meshes with numpy alone, so that the data do not depend on the program they are meant to test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def write_vtk(
    path: Path,
    points: Array,
    triangles: Integers,
    point_data: Mapping[str, NDArray[np.generic]] | None = None,
) -> None:
    """Write a legacy VTK file: version 4.2, binary, float32 coordinates; point data become FIELD arrays."""
    count = len(points)
    parts = [
        f"# vtk DataFile Version 4.2\n{path.stem}\nBINARY\nDATASET POLYDATA\nPOINTS {count} float\n".encode()
    ]
    parts.append(points.astype(">f4").tobytes())
    cells = np.column_stack([np.full(len(triangles), 3), triangles]).astype(">i4")
    parts.append(f"\nPOLYGONS {len(cells)} {cells.size}\n".encode() + cells.tobytes())
    if point_data:
        parts.append(f"\nPOINT_DATA {count}\nFIELD FieldData {len(point_data)}\n".encode())
        for name, values in point_data.items():
            columns = 1 if values.ndim == 1 else values.shape[1]
            whole = np.issubdtype(values.dtype, np.integer)
            parts.append(f"{name} {columns} {count} {'int' if whole else 'float'}\n".encode())
            parts.append(values.astype(">i4" if whole else ">f4").tobytes() + b"\n")
    path.write_bytes(b"".join(parts))


def write_ply(path: Path, points: Array, triangles: Integers) -> None:
    """Write a binary little-endian PLY file with float32 coordinates."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(triangles)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.empty(len(triangles), dtype=[("count", "u1"), ("corners", "<i4", (3,))])
    faces["count"], faces["corners"] = 3, triangles
    path.write_bytes(header.encode() + points.astype("<f4").tobytes() + faces.tobytes())


def write_stl(path: Path, points: Array, triangles: Integers) -> None:
    """Write a binary STL file: a soup of triangles, float32."""
    corners = points[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    records = np.zeros(len(triangles), dtype=[("vectors", "<f4", (4, 3)), ("attribute", "<u2")])
    records["vectors"] = np.concatenate([normals[:, None], corners], axis=1)
    header = path.stem.encode().ljust(80, b" ")
    path.write_bytes(header + np.uint32(len(triangles)).tobytes() + records.tobytes())


def write_landmarks(path: Path, points: Array) -> None:
    """Write landmarks as CSV, ``name,x,y,z``, rounded to 1e-4 of the unit."""
    rows = [f"{k + 1},{x:.4f},{y:.4f},{z:.4f}" for k, (x, y, z) in enumerate(points)]
    path.write_text("\n".join(["name,x,y,z", *rows]) + "\n")
