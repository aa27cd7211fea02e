"""Point data on its way into files: plain columns, numbers that formats know, names and labels as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

AXES = ("x", "y", "z")
LABEL_NAMES = "otreg_label_names"
"""Field data (VTK) or comment (PLY) with label names as JSON: these formats have no place for them."""


def split_columns(point_data: Mapping[str, NDArray[Any]]) -> list[tuple[str, NDArray[Any]]]:
    """Name and values of each component: ``v`` of shape (N, 3) gives ``v_x v_y v_z``, (N, k) ``v_0 …
    v_{k-1}``.

    Names that would be taken for coordinates are percent-encoded.
    """
    columns: list[tuple[str, NDArray[Any]]] = []
    for name, values in point_data.items():
        name = name or "data"
        if name in AXES:
            name = f"%{ord(name):02X}"
        flat = values.reshape(len(values), int(np.prod(values.shape[1:], dtype=int)))
        if values.ndim == 1:
            columns.append((name, values))
        elif flat.shape[1] == 3:
            columns += [(f"{name}_{axis}", flat[:, k]) for k, axis in enumerate(AXES)]
        else:
            columns += [(f"{name}_{k}", flat[:, k]) for k in range(flat.shape[1])]
    return columns


def join_columns(columns: Iterable[tuple[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Undo :func:`split_columns`: neighbours ``v_x v_y v_z`` or ``v_0 v_1 …`` become one array ``v``."""
    pairs = list(columns)
    joined: dict[str, NDArray[Any]] = {}
    place = 0
    while place < len(pairs):
        name, values = pairs[place]
        size = _run_length([n for n, _ in pairs[place:]])
        if size > 1:
            name = name[:-2]
            values = np.stack([v for _, v in pairs[place : place + size]], axis=1)
        if name.upper() in {f"%{ord(axis):02X}" for axis in AXES}:
            name = chr(int(name[1:], 16))
        joined[free_name(name, joined)] = values
        place += size
    return joined


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with ``_2``, ``_3`` … added while it is taken."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def _run_length(names: list[str]) -> int:
    """How many of the first names are the components of one array (1: a scalar)."""
    match = re.fullmatch(r"(.+)_(x|0)", names[0])
    if not match:
        return 1
    base, first = match.groups()
    if first == "x":
        return 3 if names[1:3] == [f"{base}_y", f"{base}_z"] else 1
    size = 1
    while size < len(names) and names[size] == f"{base}_{size}":
        size += 1
    return size


def encode_label_names(names: dict[str, dict[int, str]]) -> bytes:
    """JSON text of label names."""
    return json.dumps({key: {str(k): v for k, v in table.items()} for key, table in names.items()}).encode()


def decode_label_names(text: bytes | str) -> dict[str, dict[int, str]]:
    """Label names from their JSON text; none when it is damaged: names are no reason to refuse a file."""
    try:
        tables = json.loads(text)
        return {str(key): {int(k): str(v) for k, v in table.items()} for key, table in tables.items()}
    except (ValueError, AttributeError):
        return {}


def encode_name(name: str) -> str:
    """A name without blanks, percent-encoded as VTK does it."""
    return quote(name or "data", safe="()[]{}<>+-*/=.,:;!?@#$^&|~")


def plain_numbers(values: NDArray[Any]) -> NDArray[Any] | None:
    """Values in a type that formats know (bool -> uint8, half -> single); ``None`` if not real numbers."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        return values.astype(np.float32 if values.dtype.itemsize <= 4 else np.float64)
    return values.astype(values.dtype.newbyteorder("=")) if values.dtype.kind in "iu" else None
