"""VTK legacy files (``# vtk DataFile Version 1.0`` to ``5.1``), ASCII and binary.

Our own parser, because VTK's reader pads a truncated file with whatever was in memory and says nothing. The
layout is that of the "VTK File Formats" chapter of the VTK User's Guide. Polygonal data is read, and the
triangles, polygons and strips of unstructured grids.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.columns import (
    LABEL_NAMES,
    decode_label_names,
    encode_label_names,
    encode_name,
    free_name,
    plain_numbers,
)
from otreg.io.formats import declared_frame, frame_comment
from otreg.io.numbers import parse_all
from otreg.io.polygons import join_cells
from otreg.surface import IntArray, Surface

_TYPES = {
    "bit": "u1",
    "unsigned_char": "u1",
    "char": "i1",
    "signed_char": "i1",
    "unsigned_short": "u2",
    "short": "i2",
    "unsigned_int": "u4",
    "int": "i4",
    "unsigned_long": "u8",
    "long": "i8",
    "vtkidtype": "i4",  # written as int whatever the size in memory
    "vtktypeint64": "i8",
    "vtktypeuint64": "u8",
    "float": "f4",
    "double": "f8",
}
_NAMES = {
    "u1": "unsigned_char",
    "i1": "char",
    "u2": "unsigned_short",
    "i2": "short",
    "u4": "unsigned_int",
    "i4": "int",
    "u8": "vtktypeuint64",
    "i8": "vtktypeint64",
    "f4": "float",
    "f8": "double",
}
_WORDS = (
    "POINTS VERTICES LINES POLYGONS TRIANGLE_STRIPS CELLS CELL_TYPES OFFSETS CONNECTIVITY POINT_DATA "
    "CELL_DATA SCALARS COLOR_SCALARS LOOKUP_TABLE VECTORS NORMALS TEXTURE_COORDINATES TENSORS TENSORS6 FIELD "
    "METADATA GLOBAL_IDS PEDIGREE_IDS"
).split()
# Where ASCII numbers end: at a line that starts with a keyword, or at the header of a field array.
_BOUNDARY = re.compile(
    rb"^[ \t]*(?:(?:%s)\b|\S+[ \t]+\d+[ \t]+\d+[ \t]+(?:%s|string|utf8_string|variant)[ \t]*\r?$)"
    % ("|".join(_WORDS).encode(), "|".join(_TYPES).encode()),
    re.MULTILINE | re.IGNORECASE,
)


class _Cursor:
    """A place in the file, from which lines and blocks of numbers are taken."""

    def __init__(self, data: bytes, binary: bool, place: int) -> None:
        self.data, self.binary, self.place = data, binary, place

    def line(self) -> list[str]:
        """Words of the next line that is not blank; empty at the end of the file."""
        while self.place < len(self.data):
            end = self.data.find(b"\n", self.place)
            end = len(self.data) if end < 0 else end
            words = self.data[self.place : end].split()
            self.place = end + 1
            if words:
                return [word.decode("utf-8", "replace") for word in words]
        return []

    def skip_metadata(self) -> None:
        """Pass a METADATA section, which ends at a blank line."""
        end = re.compile(rb"\n[ \t]*\r?\n").search(self.data, self.place - 1)
        self.place = end.end() if end else len(self.data)

    def numbers(self, count: int, kind: str, what: str) -> NDArray[Any]:
        """Take ``count`` numbers of a VTK type, refusing a file that has fewer."""
        code = _TYPES.get(kind.lower())
        if code is None:
            raise InputError(f"{what} are of the unknown type {kind!r}; export the file again")
        if count < 0:
            raise InputError(f"{what}: a negative count; the file is damaged, export it again")
        if self.binary:
            size = (count + 7) // 8 if kind.lower() == "bit" else count * int(code[1])
            block = self.data[self.place : self.place + size]
            _expect(len(block), size, what, "bytes")
            self.place += size
            if kind.lower() == "bit":
                return np.unpackbits(np.frombuffer(block, "u1"))[:count]
            return np.frombuffer(block, ">" + code).astype(code)
        boundary = _BOUNDARY.search(self.data, self.place)
        end = boundary.start() if boundary else len(self.data)
        block = self.data[self.place : end]
        values, whole = parse_all(block, np.float64 if code[0] == "f" else np.int64)
        _expect(len(values), count, what, "numbers")
        if len(values) > count:
            raise InputError(
                f"{count} {what} promised, but there are {len(values)}; correct the file's header"
            )
        if not whole:
            raise InputError(
                f"damaged: after the {what} comes text that is no number and no VTK section; export it again"
            )
        self.place = end
        return values if code == "f8" else values.astype(code)

    def skip_strings(self, count: int) -> None:
        """Pass an array of strings: lines in ASCII, length-prefixed in binary."""
        if not self.binary:
            boundary = _BOUNDARY.search(self.data, self.place)
            self.place = boundary.start() if boundary else len(self.data)
            return
        for _ in range(count):
            if self.place >= len(self.data):
                raise InputError("truncated within an array of strings; copy or export it again")
            # The two high bits of the first byte say how many bytes hold the length.
            wide = (8, 4, 2, 1)[self.data[self.place] >> 6]
            length = int.from_bytes(self.data[self.place : self.place + wide], "big") & (
                (1 << (8 * wide - 2)) - 1
            )
            self.place += wide + length


def _expect(found: int, promised: int, what: str, unit: str) -> None:
    if found < promised:
        counts = f"{promised} {unit} of {what} promised, {found} found"
        raise InputError(f"truncated or damaged: {counts}; copy or export it again")


class _Contents:
    """What the sections of a file have given so far."""

    def __init__(self) -> None:
        self.points: NDArray[Any] | None = None
        self.polygons: list[tuple[IntArray, IntArray]] = []
        self.strips: list[tuple[IntArray, IntArray]] = []
        self.cells: tuple[IntArray, IntArray] | None = None
        self.cell_types: NDArray[Any] | None = None
        self.point_data: dict[str, NDArray[Any]] = {}
        self.label_names: dict[str, dict[int, str]] = {}
        self.ignored: list[str] = []


def read_vtk(data: bytes, path: Path) -> Surface:
    """Read a VTK legacy file from its content."""
    lines = data.split(b"\n", 3)
    if len(lines) < 4 or lines[2].strip().upper() not in (b"ASCII", b"BINARY"):
        raise InputError("truncated: the VTK header is not complete; copy or export it again")
    version = re.search(rb"Version\s+(\d+)", lines[0], re.IGNORECASE)
    offsets_style = bool(version) and int(version.group(1)) >= 5 if version else False
    cursor = _Cursor(data, lines[2].strip().upper() == b"BINARY", sum(len(line) + 1 for line in lines[:3]))
    contents = _Contents()
    target: tuple[str, int] = ("field", 0)
    while words := cursor.line():
        key = words[0].upper()
        if key == "DATASET":
            _check_dataset(words)
        elif key == "POINTS":
            count = int(words[1])
            contents.points = cursor.numbers(3 * count, words[2], "coordinates").reshape(count, 3)
        elif key in ("VERTICES", "LINES", "POLYGONS", "TRIANGLE_STRIPS", "CELLS"):
            _keep_cells(contents, key, _read_cells(cursor, words, offsets_style))
        elif key == "CELL_TYPES":
            contents.cell_types = cursor.numbers(int(words[1]), "int", "cell types")
        elif key in ("POINT_DATA", "CELL_DATA"):
            target = (key.split("_")[0].lower(), int(words[1]))
        elif key == "METADATA":
            cursor.skip_metadata()
        elif key in _WORDS:
            _read_attribute(cursor, key, words, target, contents)
        else:
            section = " ".join(words)[:40]
            raise InputError(
                f"unreadable near byte {cursor.place}: {section!r} is no VTK section; export it again"
            )
    return _surface(contents, declared_frame(lines[1]))


def _check_dataset(words: list[str]) -> None:
    kind = words[1].upper() if len(words) > 1 else "nothing"
    if kind not in ("POLYDATA", "UNSTRUCTURED_GRID"):
        raise InputError(f"holds {kind}, not a surface: extract a surface (POLYDATA) from it first")


def _read_cells(cursor: _Cursor, words: list[str], offsets_style: bool) -> tuple[IntArray, IntArray]:
    """Corners and sizes of the cells of a section."""
    what = f"{words[0].lower()} indices"
    count, size = int(words[1]), int(words[2])
    if offsets_style:
        if count == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        offsets = cursor.numbers(count, _expect_array(cursor, "OFFSETS"), what).astype(np.int64)
        corners = cursor.numbers(size, _expect_array(cursor, "CONNECTIVITY"), what).astype(np.int64)
        sizes = np.diff(offsets)
        if offsets[0] != 0 or offsets[-1] != size or (sizes < 0).any():
            raise InputError(
                f"{words[0].lower()}: the offsets do not fit; the file is damaged, export it again"
            )
        return corners, sizes
    flat = cursor.numbers(size, "int", what).astype(np.int64)
    if count and size % count == 0 and np.all(flat[:: size // count] == size // count - 1):
        return flat.reshape(count, -1)[:, 1:].ravel(), np.full(count, size // count - 1)
    if count > size:
        raise InputError(
            f"{words[0].lower()}: {count} cells in {size} numbers; the file is damaged, export it again"
        )
    starts, sizes, place = np.zeros(count, np.int64), np.zeros(count, np.int64), 0
    for cell in range(count):
        if place >= size:
            raise InputError(f"truncated: {count} {words[0].lower()} promised, {cell} found; export it again")
        starts[cell], sizes[cell] = place, flat[place]
        place += 1 + max(int(flat[place]), 0)
    if place != size:
        raise InputError(
            f"{words[0].lower()}: sizes do not add up to {size}; the file is damaged, export it again"
        )
    return np.delete(flat, starts), sizes


def _expect_array(cursor: _Cursor, name: str) -> str:
    words = cursor.line()
    if len(words) < 2 or words[0].upper() != name:
        raise InputError(f"truncated or damaged: {name} expected; copy or export it again")
    return words[1]


def _keep_cells(contents: _Contents, key: str, cells: tuple[IntArray, IntArray]) -> None:
    if key == "POLYGONS":
        contents.polygons.append(cells)
    elif key == "TRIANGLE_STRIPS":
        contents.strips.append(cells)
    elif key == "CELLS":
        contents.cells = cells
    elif key == "LINES" and len(cells[1]):
        contents.ignored.append("lines")


def _read_attribute(
    cursor: _Cursor, key: str, words: list[str], target: tuple[str, int], contents: _Contents
) -> None:
    """Read one array (or a FIELD of arrays) and keep it if it belongs to points."""
    owner, count = target
    if key == "FIELD":
        arrays = int(words[2])
        while arrays > 0:
            words = cursor.line()
            if words and words[0].upper() == "METADATA":
                cursor.skip_metadata()
                continue
            if len(words) < 4:
                raise InputError("truncated: field arrays are missing; copy or export the file again")
            name, size, tuples, kind = unquote(words[0]), int(words[1]), int(words[2]), words[3]
            arrays -= 1
            if kind.lower() not in _TYPES:
                cursor.skip_strings(size * tuples)
                contents.ignored.append(f"text array {name!r}")
                continue
            values = cursor.numbers(size * tuples, kind, f"values of {name!r}")
            _keep_array(contents, owner, name, values.reshape(tuples, size))
        return
    if key == "LOOKUP_TABLE":
        # 4 unsigned bytes a colour in binary, 4 fractions in ASCII
        cursor.numbers(
            4 * int(words[2]), "unsigned_char" if cursor.binary else "float", "colours of a lookup table"
        )
        return
    name = unquote(words[1])
    kind = words[2] if len(words) > 2 else "float"
    if key == "SCALARS":
        components = int(words[3]) if len(words) > 3 else 1
        place = cursor.place
        if (cursor.line() or [""])[0].upper() != "LOOKUP_TABLE":
            cursor.place = place
    elif key == "COLOR_SCALARS":
        components, kind = int(words[2]), "unsigned_char" if cursor.binary else "float"
    elif key == "TEXTURE_COORDINATES":
        components, kind = int(words[2]), words[3]
    else:
        components = {"TENSORS": 9, "TENSORS6": 6, "VECTORS": 3, "NORMALS": 3}.get(key, 1)
    values = cursor.numbers(components * count, kind, f"values of {name!r}")
    _keep_array(contents, owner, name, values.reshape(count, components))


def _keep_array(contents: _Contents, owner: str, name: str, values: NDArray[Any]) -> None:
    if owner == "point":
        contents.point_data[free_name(name, contents.point_data)] = (
            values[:, 0] if values.shape[1] == 1 else values
        )
    elif owner == "cell":
        contents.ignored.append(f"cell data {name!r}")
    elif name == LABEL_NAMES:
        contents.label_names = decode_label_names(values.astype(np.uint8).tobytes())


def _surface(contents: _Contents, frame: str | None) -> Surface:
    if contents.points is None:
        raise InputError("no points: the POINTS section is missing; export the file again")
    if contents.cells is not None:
        _sort_cells(contents)
    triangles = join_cells(contents.polygons, contents.strips, len(contents.points))
    data, ignored = contents.point_data, contents.ignored
    kept = {name: values for name, values in data.items() if len(values) == len(contents.points)}
    ignored += [f"point data {name!r} of another length" for name in data if name not in kept]
    names = {key: table for key, table in contents.label_names.items() if key in kept}
    return Surface(contents.points, triangles, kept, frame, names, metadata={"ignored": ignored})


def _sort_cells(contents: _Contents) -> None:
    """Turn the cells of an unstructured grid into polygons and strips, refusing volume cells."""
    assert contents.cells is not None
    (corners, sizes), types = contents.cells, contents.cell_types
    if types is None or len(types) != len(sizes):
        raise InputError("truncated or damaged: the cell types are missing; copy or export it again")
    # VTK cell types: 1-2 vertices, 3-4 lines, 5 triangle, 6 strip, 7 polygon, 9 quadrangle
    if not np.isin(types, (1, 2, 3, 4, 5, 6, 7, 9)).all():
        raise InputError("is a volume mesh or has curved cells: extract its surface first")
    if np.isin(types, (3, 4)).any():
        contents.ignored.append("lines")
    owner = np.repeat(types, sizes)
    flat = np.isin(types, (5, 7, 9))
    contents.polygons.append((corners[np.isin(owner, (5, 7, 9))], sizes[flat]))
    contents.strips.append((corners[owner == 6], sizes[types == 6]))


def write_vtk(surface: Surface, path: Path) -> list[str]:
    """Write version 4.2, binary, coordinates in double; a point cloud gets one vertex cell a point."""
    count = len(surface)
    parts: list[bytes] = []
    put: Callable[[bytes], None] = parts.append
    put(f"# vtk DataFile Version 4.2\n{frame_comment(surface.frame)}\nBINARY\nDATASET POLYDATA\n".encode())
    if surface.label_names:
        text = encode_label_names(surface.label_names)
        put(f"FIELD FieldData 1\n{LABEL_NAMES} 1 {len(text)} unsigned_char\n".encode() + text + b"\n")
    put(f"POINTS {count} double\n".encode() + surface.points.astype(">f8").tobytes() + b"\n")
    if surface.has_triangles:
        cells, word = surface.triangles, "POLYGONS"
    else:
        cells, word = np.arange(count)[:, None], "VERTICES"
    width = cells.shape[1]
    table = np.concatenate([np.full((len(cells), 1), width), cells], axis=1).astype(">i4")
    put(f"{word} {len(cells)} {table.size}\n".encode() + table.tobytes() + b"\n")
    warnings = _put_point_data(surface, put)
    path.write_bytes(b"".join(parts))
    return warnings


def _put_point_data(surface: Surface, put: Callable[[bytes], None]) -> list[str]:
    warnings, arrays = [], []
    for name, values in surface.point_data.items():
        plain = plain_numbers(values)
        if plain is None:
            warnings.append(f"point data {name!r} is not numeric and was left out")
            continue
        flat = plain.reshape(len(plain), int(np.prod(plain.shape[1:], dtype=int)))
        code = flat.dtype.str[1:]
        head = f"{encode_name(name)} {flat.shape[1]} {len(flat)} {_NAMES[code]}\n"
        arrays.append(head.encode() + flat.astype(flat.dtype.newbyteorder(">")).tobytes() + b"\n")
    if arrays:
        put(f"POINT_DATA {len(surface)}\nFIELD FieldData {len(arrays)}\n".encode() + b"".join(arrays))
    return warnings
