"""PLY, ASCII and binary. Vertex properties beyond x, y, z are point data; nothing is merged or reordered."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.columns import (
    AXES,
    LABEL_NAMES,
    decode_label_names,
    encode_label_names,
    encode_name,
    join_columns,
    plain_numbers,
    split_columns,
)
from otreg.io.formats import declared_frame
from otreg.io.numbers import parse_numbers
from otreg.io.polygons import check_indices, fan, strip
from otreg.surface import IntArray, Surface

_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "int64": "i8",
    "uint64": "u8",
    "float32": "f4",
    "float64": "f8",
}
_NAMES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
}
_NAMES["f8"] = "double"
# Names that other programs know, as arrays of ours.
_GROUPS = {"normals": ("nx", "ny", "nz"), "colours": ("red", "green", "blue", "alpha")}


@dataclass
class _Element:
    """One element of the header: its properties are (name, type, type of the count when it is a list)."""

    name: str
    count: int
    properties: list[tuple[str, str, str | None]] = field(default_factory=list)


_List = tuple[IntArray, IntArray]  # all values one list after the other, and the sizes of the lists


def read_ply(data: bytes, path: Path) -> Surface:
    """Read a PLY file from its content."""
    end = re.search(rb"end_header[ \t]*\r?\n", data)
    if not end:
        raise InputError("truncated: the PLY header has no end; copy or export it again")
    header = data[: end.start()].decode("utf-8", "replace")
    order, elements = _parse_header(header)
    if "vertex" not in [e.name for e in elements]:
        raise InputError("no points: the header has no vertex element; export the file again")
    reader = _AsciiReader(data[end.end() :]) if order == "" else _BinaryReader(data, end.end(), order)
    scalars: dict[str, NDArray[Any]] = {}
    triangles, ignored = [np.zeros((0, 3), np.int64)], []
    for element in elements:
        if element.name not in ("vertex", "face", "tristrips"):
            ignored.append(f"element {element.name!r}")
            if not {"vertex", "face"} & {e.name for e in elements[elements.index(element) :]}:
                continue  # nothing of ours follows: no need to understand it
        plain, lists = reader.read(element)
        if element.name == "vertex":
            scalars = plain
            ignored += [f"vertex property {name!r}" for name in lists]
        elif element.name in ("face", "tristrips"):
            corners = lists.pop("vertex_indices", None) or lists.pop("vertex_index", None)
            ignored += [f"{element.name} property {name!r}" for name in (*plain, *lists)]
            if corners is not None:
                triangles.append(_triangles(element.name, *corners, scalars))
    if any(axis not in scalars for axis in AXES):
        raise InputError("no points: the vertices lack x, y or z; export the file again")
    points = np.stack([scalars.pop(axis) for axis in AXES], axis=1)
    point_data = _gather(scalars)
    names = re.search(rf"^comment {LABEL_NAMES} (.*)$", header, re.MULTILINE)
    labels = decode_label_names(names.group(1)) if names else {}
    return Surface(
        points,
        np.concatenate(triangles),
        point_data,
        declared_frame(header),
        {key: table for key, table in labels.items() if key in point_data},
        metadata={"ignored": ignored},
    )


def _parse_header(header: str) -> tuple[str, list[_Element]]:
    """Byte order (empty: ASCII) and elements."""
    order, elements = None, []
    for line in header.splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format":
            order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}.get(words[1])
        elif words[0] == "element":
            elements.append(_Element(words[1], int(words[2])))
            if elements[-1].count < 0:
                raise InputError(f"a negative number of {words[1]} elements; export the file again")
        elif words[0] == "property" and elements:
            types = words[2:4] if words[1] == "list" else words[1:2]
            unknown = [kind for kind in types if kind not in _TYPES]
            if unknown or len(words) < len(types) + 2:
                raise InputError(f"unreadable PLY header line {line.strip()!r}; export the file again")
            codes = [_TYPES[kind] for kind in types]
            elements[-1].properties.append((words[-1], codes[-1], codes[0] if len(codes) == 2 else None))
    if order is None:
        raise InputError("the PLY header names no format that is known; export the file again")
    return order, elements


class _BinaryReader:
    def __init__(self, data: bytes, place: int, order: str) -> None:
        self.data, self.place, self.order = data, place, order

    def read(self, element: _Element) -> tuple[dict[str, NDArray[Any]], dict[str, _List]]:
        """Scalar and list properties of the next element."""
        sizes = self._first_sizes(element)
        fields: list[tuple[Any, ...]] = []
        for number, (_, code, count) in enumerate(element.properties):
            if count is None:
                fields.append((f"p{number}", self.order + code))
            else:
                fields += [
                    (f"n{number}", self.order + count),
                    (f"p{number}", self.order + code, (sizes[number],)),
                ]
        row = np.dtype(fields)
        lists = [k for k, p in enumerate(element.properties) if p[2] is not None]
        fits = self.place + element.count * row.itemsize <= len(self.data)
        if fits:
            table = np.frombuffer(self.data, row, element.count, self.place)
            # All lists have the length of the first one, as in a mesh of triangles: the whole block is one
            # array.
            if all(np.all(table[f"n{k}"] == sizes[k]) for k in lists):
                self.place += element.count * row.itemsize
                return self._collect(element, table, sizes)
        elif not lists:
            found = (len(self.data) - self.place) // row.itemsize
            raise InputError(_promise(element, max(found, 0)))
        return self._read_rows(element)

    def _first_sizes(self, element: _Element) -> dict[int, int]:
        """Length of each list in the first row."""
        place, sizes = self.place, {}
        if not element.count:
            return {number: 0 for number in range(len(element.properties))}
        for number, (_, code, count) in enumerate(element.properties):
            if count is not None:
                kind = np.dtype(self.order + count)
                if place + kind.itemsize > len(self.data):
                    raise InputError(_promise(element, 0))
                sizes[number] = max(int(np.frombuffer(self.data, kind, 1, place)[0]), 0)
                place += kind.itemsize
            place += sizes.get(number, 1) * int(code[1])
        # A list longer than the file is damage; the row reader says so.
        return {number: min(size, len(self.data)) for number, size in sizes.items()}

    def _collect(
        self, element: _Element, table: NDArray[Any], sizes: dict[int, int]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, _List]]:
        plain: dict[str, NDArray[Any]] = {}
        lists: dict[str, _List] = {}
        for number, (name, code, count) in enumerate(element.properties):
            values = table[f"p{number}"].astype(code)
            if count is None:
                plain[name] = values
            else:
                lists[name] = (values.ravel().astype(np.int64), np.full(len(table), sizes[number]))
        return plain, lists

    def _read_rows(self, element: _Element) -> tuple[dict[str, NDArray[Any]], dict[str, _List]]:
        """Row by row, for lists of several lengths."""
        kinds = [
            (np.dtype(self.order + code), np.dtype(self.order + count) if count else None)
            for _, code, count in element.properties
        ]
        values: list[list[NDArray[Any]]] = [[] for _ in kinds]
        for row in range(element.count):
            for number, (kind, counter) in enumerate(kinds):
                size = 1
                try:
                    if counter is not None:
                        size = int(np.frombuffer(self.data, counter, 1, self.place)[0])
                        self.place += counter.itemsize
                    values[number].append(np.frombuffer(self.data, kind, max(size, 0), self.place))
                except ValueError:
                    raise InputError(_promise(element, row)) from None
                self.place += max(size, 0) * kind.itemsize
        plain, lists = {}, {}
        for number, (name, _, count) in enumerate(element.properties):
            joined = np.concatenate(values[number]) if values[number] else np.zeros(0)
            if count is None:
                plain[name] = joined
            else:
                lists[name] = (joined.astype(np.int64), np.array([len(v) for v in values[number]], np.int64))
        return plain, lists


class _AsciiReader:
    def __init__(self, text: bytes) -> None:
        self.numbers = parse_numbers(text)
        self.place = 0

    def read(self, element: _Element) -> tuple[dict[str, NDArray[Any]], dict[str, _List]]:
        """Scalar and list properties of the next element."""
        rest = self.numbers[self.place :]
        listed = [k for k, p in enumerate(element.properties) if p[2] is not None]
        width = len(element.properties)
        if listed and element.count and len(rest):
            return self._read_lists(element, rest, listed)
        if len(rest) < element.count * width:
            raise InputError(_promise(element, len(rest) // max(width, 1)))
        table = rest[: element.count * width].reshape(element.count, width)
        self.place += table.size
        columns = {p[0]: table[:, k].astype(p[1]) for k, p in enumerate(element.properties) if p[2] is None}
        empty = np.zeros(0, np.int64)
        return columns, {element.properties[k][0]: (empty, empty) for k in listed}

    def _read_lists(
        self, element: _Element, rest: NDArray[Any], listed: list[int]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, _List]]:
        # One list a row, all of the first one's length: one array, as in a mesh of triangles.
        if len(listed) == 1 and len(rest) > listed[0]:
            before, size = listed[0], max(int(rest[listed[0]]), 0)
            width = len(element.properties) + size
            if len(rest) >= element.count * width:
                table = rest[: element.count * width].reshape(element.count, width)
                if np.all(table[:, before] == size):
                    self.place += table.size
                    scalars = np.delete(table, np.s_[before : before + size + 1], axis=1).T
                    names = [p for p in element.properties if p[2] is None]
                    plain = {p[0]: column.astype(p[1]) for p, column in zip(names, scalars, strict=True)}
                    corners = table[:, before + 1 : before + size + 1].ravel().astype(np.int64)
                    return plain, {element.properties[before][0]: (corners, np.full(len(table), size))}
        values: list[list[Any]] = [[] for _ in element.properties]
        sizes: list[list[int]] = [[] for _ in element.properties]
        flat, place = rest.tolist(), 0
        for row in range(element.count):
            for number, (_, _, count) in enumerate(element.properties):
                size = 1
                if count is not None and place < len(flat):
                    size = max(int(flat[place]), 0)
                    place += 1
                if place + size > len(flat):
                    raise InputError(_promise(element, row))
                values[number] += flat[place : place + size]
                sizes[number].append(size)
                place += size
        self.place += place
        plain = {p[0]: np.array(values[k], p[1]) for k, p in enumerate(element.properties) if p[2] is None}
        return plain, {
            element.properties[k][0]: (np.array(values[k], np.int64), np.array(sizes[k], np.int64))
            for k in listed
        }


def _promise(element: _Element, found: int) -> str:
    return (
        f"truncated or damaged: {element.count} {element.name} elements promised, {found} found; "
        "copy or export it again"
    )


def _triangles(kind: str, corners: IntArray, sizes: IntArray, scalars: dict[str, NDArray[Any]]) -> IntArray:
    count = len(next(iter(scalars.values()), ()))
    if kind == "face":
        check_indices(corners, count)
        return fan(corners, sizes)
    check_indices(corners[corners != -1], count)  # -1 starts the next strip
    marked = np.insert(corners, np.cumsum(sizes), -1)  # each list ends a strip as well
    ends = np.flatnonzero(marked == -1)
    return strip(marked[marked != -1], np.diff(ends, prepend=-1) - 1)


def _gather(scalars: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Point data of properties: normals and colours under one name each, vectors rejoined, names decoded."""
    rest = dict(scalars)
    point_data = {}
    for name, members in _GROUPS.items():
        present = [m for m in members if m in rest]
        if len(present) >= 3:
            point_data[name] = np.stack([rest.pop(m) for m in present], axis=1)
    return {**point_data, **{unquote(k): v for k, v in join_columns(rest.items()).items()}}


def write_ply(surface: Surface, path: Path) -> list[str]:
    """Write little-endian binary PLY with double coordinates; vectors become ``name_x name_y name_z``."""
    warnings: list[str] = []
    columns: list[tuple[str, NDArray[Any]]] = [(axis, surface.points[:, k]) for k, axis in enumerate(AXES)]
    rest = {}
    for name, values in surface.point_data.items():
        plain = _ply_numbers(name, values, warnings)
        members = _GROUPS.get(name, ())
        if plain is not None and plain.ndim == 2 and 3 <= plain.shape[1] <= len(members):
            columns += [(members[k], plain[:, k]) for k in range(plain.shape[1])]
        elif plain is not None:
            rest[name] = plain
    columns += split_columns({encode_name(name): values for name, values in rest.items()})
    head = ["ply", "format binary_little_endian 1.0", "comment written by otreg"]
    if surface.frame:
        head.append(f"comment SPACE={surface.frame}")
    if surface.label_names:
        head.append(f"comment {LABEL_NAMES} {encode_label_names(surface.label_names).decode()}")
    head.append(f"element vertex {len(surface)}")
    head += [f"property {_NAMES[values.dtype.str[1:]]} {name}" for name, values in columns]
    if surface.has_triangles:
        head += [f"element face {len(surface.triangles)}", "property list uchar int vertex_indices"]
    table = np.zeros(len(surface), [(f"p{k}", "<" + v.dtype.str[1:]) for k, (_, v) in enumerate(columns)])
    for number, (_, values) in enumerate(columns):
        table[f"p{number}"] = values
    faces = np.zeros(len(surface.triangles), [("n", "u1"), ("corners", "<i4", (3,))])
    faces["n"], faces["corners"] = 3, surface.triangles
    path.write_bytes("\n".join([*head, "end_header\n"]).encode() + table.tobytes() + faces.tobytes())
    return warnings


def _ply_numbers(name: str, values: NDArray[Any], warnings: list[str]) -> NDArray[Any] | None:
    """Values in a type that PLY has: 64-bit integers as 32-bit ones where they fit, else as doubles."""
    plain = plain_numbers(values)
    if plain is None:
        warnings.append(f"point data {name!r} is not numeric and was left out")
    elif plain.dtype.itemsize == 8 and plain.dtype.kind in "iu":
        limits = np.iinfo(np.int32)
        if plain.size and (plain.min() < limits.min or plain.max() > limits.max):
            warnings.append(f"point data {name!r} was written as double: PLY has no 64-bit integers")
            return plain.astype(np.float64)
        return plain.astype(np.int32)
    return plain
