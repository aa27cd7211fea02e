"""Colours of points by the values that they carry, and what a legend has to say about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.surface import FloatArray, Surface
from otreg.visualize import colours

_MOST_LABELS = 256


@dataclasses.dataclass(frozen=True)
class Paint:
    """Colours of the points of some surfaces, and what a legend must say about them."""

    title: str
    bytes: list[NDArray[np.uint8] | None]
    limits: tuple[float, float] | None
    names: list[str]
    label_colours: FloatArray
    length: bool = False


def paint_points(surfaces: Sequence[Surface], name: str) -> Paint:
    """Colours of all surfaces by one point data, None for those that lack it."""
    found = [shape.point_data.get(name) for shape in surfaces]
    known = [values for values in found if values is not None]
    if not known:
        names = ", ".join(sorted({key for shape in surfaces for key in shape.point_data})) or "none"
        raise InputError(f"there is no point data {name!r} to colour by; there is: {names}")
    if any(values.dtype.kind not in "iubf" for values in known):
        raise InputError(f"point data {name!r} are not numbers, so they cannot be coloured")
    tables = [shape.label_names.get(name, {}) for shape in surfaces]
    flat = [None if values is None else np.squeeze(values) for values in found]
    flat = [
        v if v is None else v.reshape(-1) if v.size == len(s) else v
        for v, s in zip(flat, surfaces, strict=True)
    ]
    if all(v is None or (v.ndim == 1 and v.dtype.kind in "iub") for v in flat):
        present = np.unique(np.concatenate([v.astype(np.int64) for v in flat if v is not None]))
        if any(tables) or len(present) <= 40:
            if len(present) > _MOST_LABELS:
                raise InputError(
                    f"point data {name!r} has {len(present)} labels: more than colours can tell apart"
                )
            return _by_label(name, flat, tables, present)
    amounts = [None if v is None else _amount(v) for v in flat]
    vector = any(v is not None and v.ndim > 1 for v in flat)
    everything = np.concatenate([v for v in amounts if v is not None])
    limits = colours.colour_range(everything, from_zero=vector)
    painted = [None if v is None else colours.apply_map(v, limits) for v in amounts]
    return Paint(name, painted, limits, [], np.zeros((0, 3)), length=name == "displacement")


def _amount(values: NDArray[np.generic]) -> FloatArray:
    numbers = values.astype(np.float64)
    return numbers if numbers.ndim == 1 else np.linalg.norm(numbers.reshape(len(numbers), -1), axis=1)


def _by_label(
    name: str,
    flat: Sequence[NDArray[np.generic] | None],
    tables: Sequence[dict[int, str]],
    present: NDArray[np.int64],
) -> Paint:
    """Labels keep their colour on every surface: by name where they have one, else by value."""
    names = {int(code): next((t[int(code)] for t in tables if int(code) in t), str(code)) for code in present}
    shown = list(dict.fromkeys(names[int(code)] for code in present if code != 0))
    palette = colours.categorical(len(shown))
    painted: list[NDArray[np.uint8] | None] = []
    for values, table in zip(flat, tables, strict=True):
        if values is None:
            painted.append(None)
            continue
        codes, inverse = np.unique(values.astype(np.int64), return_inverse=True)
        rows = np.array(
            [
                colours.UNKNOWN if code == 0 else palette[_row(int(code), table, names, shown)]
                for code in codes
            ]
        )
        painted.append(np.rint(255 * rows[inverse.reshape(-1)]).astype(np.uint8))
    return Paint(name, painted, None, shown, palette)


def _row(code: int, table: dict[int, str], names: dict[int, str], shown: list[str]) -> int:
    own = table.get(code, names[code])
    return shown.index(own if own in shown else names[code])
