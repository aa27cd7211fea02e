"""Wavefront OBJ and OFF: plain text geometry, vertices exactly as the file lists them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.formats import declared_frame, frame_comment
from otreg.io.numbers import parse_numbers
from otreg.io.polygons import check_indices, fan
from otreg.surface import IntArray, Surface

_IGNORED = {b"vt": "texture coordinates (vt)", b"vn": "normals (vn)", b"l": "lines", b"usemtl": "materials"}


def read_obj(data: bytes, path: Path) -> Surface:
    """Read a Wavefront OBJ file from its content.

    The vertices are the ``v`` lines in their order. Texture coordinates and normals belong to corners of
    triangles in this format, so that following them would split vertices: they are ignored and named in
    ``metadata["ignored"]``. Colours after the coordinates become the point data ``colours``.
    """
    if b"\\" in data:
        data = re.sub(rb"\\\r?\n", b" ", data)
    words, rests = _statements(data)
    rows = _numbers_by_line(rests.get(b"v", []), "vertices")
    if rows.shape[1] not in (3, 4, 6, 7):
        raise InputError(
            f"the vertices have {rows.shape[1]} numbers, not x y z; the file is truncated or damaged"
        )
    corners, sizes = _obj_corners(rests.get(b"f", []), words)
    check_indices(corners, len(rows))
    colours = {"colours": rows[:, -3:]} if rows.shape[1] >= 6 else {}
    ignored = [what for word, what in _IGNORED.items() if word in rests]
    frame = declared_frame(b"\n".join(re.findall(rb"#[^\n]*SPACE[^\n]*", data)))
    return Surface(rows[:, :3], fan(corners, sizes), colours, frame, metadata={"ignored": ignored})


def _statements(data: bytes) -> tuple[list[bytes], dict[bytes, list[bytes]]]:
    """First word of every line in order, and what follows it, by word; comments are left out."""
    lines = data.replace(b"\r", b"\n").split(b"\n")
    if b"#" in data:
        lines = [line.split(b"#", 1)[0] if b"#" in line else line for line in lines]
    pairs = [parts for parts in (line.split(None, 1) for line in lines) if len(parts) == 2]
    rests: dict[bytes, list[bytes]] = {}
    for word, rest in pairs:
        rests.setdefault(word, []).append(rest)
    return [word for word, _ in pairs], rests


def _numbers_by_line(lines: list[bytes], what: str) -> NDArray[np.float64]:
    """One row of numbers a line, (L, k), refusing lines of several lengths."""
    if not lines:
        raise InputError(f"no points: there are no {what}; export the file again")
    widths = [len(line.split()) for line in lines]
    width = widths[0]
    numbers = parse_numbers(b"\n".join(lines))
    if widths.count(width) != len(lines) or len(numbers) != width * len(lines):
        number = next(
            (k for k, line in enumerate(lines) if len(parse_numbers(line)) != width), len(lines) - 1
        )
        raise InputError(
            f"{what}: number {number} reads {lines[number].decode('latin-1').strip()[:40]!r}; "
            "the file is truncated or damaged, export it again"
        )
    return numbers.reshape(len(lines), width)


def _obj_corners(faces: list[bytes], words: list[bytes]) -> tuple[IntArray, IntArray]:
    """Zero-based corners of all faces, and their number per face; ``words`` starts each line of the file."""
    if not faces:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    text = b"\n".join(faces)
    if b"/" in text:
        text = re.sub(rb"/[^ \t\n]*", b"", text)  # keep the vertex of vertex/texture/normal
    sizes = np.array([len(face.split()) for face in faces], np.int64)
    corners = parse_numbers(text, np.int64)
    if len(corners) != sizes.sum() or (sizes < 3).any():
        unread = int(np.searchsorted(np.cumsum(sizes), len(corners), side="right"))
        number = int(np.flatnonzero(sizes < 3)[0]) if (sizes < 3).any() else unread
        raise InputError(
            f"face number {number} cannot be read; the file is truncated or damaged, export it again"
        )
    if (corners == 0).any():
        raise InputError("a face names vertex 0, but OBJ counts from 1; export the file again")
    if (corners < 0).any():
        # Negative indices count back from the vertices listed before the face.
        kinds = np.array([word == b"v" for word in words if word in (b"v", b"f")])
        before = np.repeat(np.cumsum(kinds)[~kinds], sizes)
        return np.where(corners < 0, corners + before, corners - 1), sizes
    return corners - 1, sizes


def write_obj(surface: Surface, path: Path) -> list[str]:
    """Write vertices and triangles, with as many digits as double precision needs."""
    lines = [f"# {frame_comment(surface.frame)}"]
    lines += [f"v {x!r} {y!r} {z!r}" for x, y, z in surface.points.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (surface.triangles + 1).tolist()]
    path.write_text("\n".join(lines) + "\n")
    return []


def read_off(data: bytes, path: Path) -> Surface:
    """Read an OFF file (also COFF, NOFF, STOFF); values after the coordinates are ignored."""
    comments = b"\n".join(re.findall(rb"#.*", data))
    text = re.sub(rb"#[^\n]*", b"", data)
    head = re.match(rb"\s*((?:ST)?C?N?4?n?OFF)\b[ \t]*(BINARY)?", text)
    if not head:
        raise InputError("the OFF header is damaged; export the file again")
    if head.group(2) or b"4" in head.group(1) or b"n" in head.group(1):
        raise InputError("is binary or four-dimensional OFF; export it as plain ASCII OFF")
    lines = [line for line in text[head.end() :].replace(b"\r", b"\n").split(b"\n") if line.strip()]
    counts = parse_numbers(lines[0], np.int64) if lines else np.zeros(0, np.int64)
    if len(counts) < 2 or counts.min() < 0:
        raise InputError("truncated or damaged: the OFF counts are missing; copy or export it again")
    points, faces = int(counts[0]), int(counts[1])
    if len(lines) - 1 < points + faces:
        raise InputError(
            f"truncated: {points} points and {faces} faces promised, {len(lines) - 1} lines found; "
            "copy or export it again"
        )
    rows = _numbers_by_line(lines[1 : 1 + points], "vertices")
    corners, sizes = _off_corners(lines[1 + points : 1 + points + faces])
    check_indices(corners, points)
    ignored = ["values after the coordinates"] if rows.shape[1] > 3 else []
    if rows.shape[1] < 3:
        raise InputError("the vertices lack coordinates; the file is damaged, export it again")
    return Surface(
        rows[:, :3], fan(corners, sizes), frame=declared_frame(comments), metadata={"ignored": ignored}
    )


def _off_corners(lines: list[bytes]) -> tuple[IntArray, IntArray]:
    """Corners and sizes of faces: each line gives a number, as many corners, and perhaps a colour."""
    if not lines:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    numbers = parse_numbers(b"\n".join(lines))
    if (
        len(numbers) == 4 * len(lines)
        and np.all(numbers[::4] == 3)
        and all(len(x.split()) == 4 for x in lines)
    ):
        return numbers.reshape(-1, 4)[:, 1:].ravel().astype(np.int64), np.full(len(lines), 3)
    corners, sizes = [], []
    for number, line in enumerate(lines):
        row = parse_numbers(line).astype(np.int64)
        size = int(row[0]) if len(row) else -1
        if size < 1 or len(row) < size + 1:
            raise InputError(f"face number {number} cannot be read; the file is truncated or damaged")
        corners.append(row[1 : size + 1])
        sizes.append(size)
    return np.concatenate(corners), np.array(sizes, np.int64)


def write_off(surface: Surface, path: Path) -> list[str]:
    """Write vertices and triangles, with as many digits as double precision needs."""
    lines = ["OFF", f"# {frame_comment(surface.frame)}", f"{len(surface)} {len(surface.triangles)} 0"]
    lines += [f"{x!r} {y!r} {z!r}" for x, y, z in surface.points.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in surface.triangles.tolist()]
    path.write_text("\n".join(lines) + "\n")
    return []
