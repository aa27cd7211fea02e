"""STL, ASCII and binary: a soup of triangles, welded into a mesh."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from otreg.errors import InputError
from otreg.io.formats import declared_frame, frame_comment
from otreg.io.numbers import parse_numbers
from otreg.surface import FloatArray, IntArray, Surface

_FACET = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(data: bytes, path: Path) -> Surface:
    """Read an STL file from its content.

    Corners at exactly the same coordinates become one vertex, in order of first appearance.
    ``metadata["weld_map"]`` gives the vertex of each corner of the file, shape (3 T,), and
    ``metadata["merged_corners"]`` how many corners were merged away.
    """
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else None
    binary = count is not None and len(data) == 84 + 50 * count
    if not binary and data.lstrip().startswith(b"solid"):
        corners, header = _read_ascii(data), data[:200].splitlines()[0]
    else:
        if count is None or len(data) < 84 + 50 * count:
            found = max((len(data) - 84) // 50, 0)
            raise InputError(
                f"truncated: {count or 0} triangles promised, {found} found; copy or export it again"
            )
        # Some exporters add a few bytes; more than a triangle's worth, and the count is not one of triangles.
        surplus = len(data) - 84 - 50 * count
        if surplus >= 50:
            raise InputError(
                f"damaged, or no STL: {count} triangles promised, {surplus} bytes follow them; export it again"
            )
        corners = np.frombuffer(data, _FACET, count, 84)["corners"].reshape(-1, 3).astype(np.float64)
        header = data[:80]
    points, weld_map = weld(corners)
    return Surface(
        points,
        weld_map.reshape(-1, 3),
        frame=declared_frame(header),
        metadata={"weld_map": weld_map, "merged_corners": len(corners) - len(points)},
    )


def _read_ascii(data: bytes) -> FloatArray:
    lines = re.findall(rb"^[ \t]*vertex[ \t]+([^\r\n]*)", data, re.MULTILINE | re.IGNORECASE)
    facets = len(re.findall(rb"^[ \t]*facet\b", data, re.MULTILINE | re.IGNORECASE))
    numbers = parse_numbers(b"\n".join(lines))
    ended = re.search(rb"endsolid[^\r\n]*\s*$", data, re.IGNORECASE)
    if not ended or len(lines) != 3 * facets or len(numbers) != 3 * len(lines):
        complete = len(numbers) // 9
        raise InputError(
            f"truncated or damaged: {facets} triangles begun, {complete} complete; export it again"
        )
    return numbers.reshape(-1, 3)


def weld(corners: FloatArray) -> tuple[FloatArray, IntArray]:
    """Merge points at exactly the same coordinates, in order of first appearance.

    Parameters
    ----------
    corners : array, shape (C, 3)

    Returns
    -------
    points : array, shape (N, 3)
    weld_map : array of int, shape (C,)
        ``points[weld_map]`` gives ``corners`` back.
    """
    if not len(corners):
        return np.zeros((0, 3)), np.zeros(0, np.int64)
    # Rank per axis, and pair by pair: cheaper than sorting rows, and the products cannot overflow.
    place = np.zeros(len(corners), np.int64)
    for axis in range(3):
        values, rank = np.unique(corners[:, axis], return_inverse=True)
        _, place = np.unique(place * len(values) + rank.ravel(), return_inverse=True)
        place = place.ravel()
    _, first = np.unique(place, return_index=True)
    order = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(len(first))
    return corners[first[order]], number[place]


def write_stl(surface: Surface, path: Path) -> list[str]:
    """Write binary STL: single precision corners of each triangle, nothing else."""
    facets = np.zeros(len(surface.triangles), _FACET)
    facets["normal"], facets["corners"] = surface.triangle_normals, surface.triangle_corners
    header = frame_comment(surface.frame).encode().ljust(80)[:80]
    path.write_bytes(header + struct.pack("<I", len(facets)) + facets.tobytes())
    warnings = []
    used = len(np.unique(surface.triangles))
    if used < len(surface):
        warnings.append(
            f"STL cannot hold {len(surface) - used} points that no triangle uses; they were left out"
        )
    written = surface.points.astype(np.float32)
    merged = len(written) - len(weld(written.astype(np.float64))[0])
    if merged:
        warnings.append(f"{merged} points at the same place as another will be one when the STL is read")
    return warnings
