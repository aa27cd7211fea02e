"""Overlap of labels: how well the parts that both surfaces name lie on one another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from otreg.errors import InputError
from otreg.surface import IntArray, Surface

_BACKGROUND_NAMES = {"unknown", "background", "???"}


def check_labels(moved: Surface, fixed: Surface, name: str) -> None:
    """Refuse labels that :func:`dice` could not compare, before anything is computed.

    Raises
    ------
    InputError
        If a surface lacks the point data, they are not whole numbers, or no label occurs on both.
    """
    _label_keys(moved, fixed, name)


def dice(moved: Surface, fixed: Surface, name: str) -> dict[str, Any]:
    """Dice overlap over the fixed vertices, each of which takes the label of its nearest moved vertex.

    See ``dice`` in :func:`otreg.quality.evaluate` for what comes back.
    """
    keys, common, background = _label_keys(moved, fixed, name)
    carried = keys[0][cKDTree(moved.points).query(fixed.points)[1]]
    scores = {}
    for text in common:
        first, second = carried == text, keys[1] == text
        scores[str(text)] = float(2 * (first & second).sum() / (first.sum() + second.sum()))
    counted = [
        score
        for text, score in scores.items()
        if text not in background and text.lower() not in _BACKGROUND_NAMES
    ]
    return {"mean": float(np.mean(counted)) if counted else None, "labels": scores}


def _label_keys(
    moved: Surface, fixed: Surface, name: str
) -> tuple[list[NDArray[np.str_]], list[str], set[str]]:
    """Label of each point of the two, as text; the labels on both; and those that mean background."""
    codes = [_label_codes(surface, name, role) for surface, role in ((moved, "moved"), (fixed, "fixed"))]
    tables = [surface.label_names.get(name) for surface in (moved, fixed)]
    named = all(tables)
    keys: list[NDArray[np.str_]] = []
    background = set(_BACKGROUND_NAMES)
    for values, table in zip(codes, tables, strict=True):
        present, inverse = np.unique(values, return_inverse=True)
        texts = [str(table.get(int(k), k)) if named and table else str(k) for k in present]
        background |= {text for text, value in zip(texts, present, strict=True) if value == 0}
        keys.append(np.array(texts, dtype=str)[inverse.reshape(-1)])
    common = sorted(
        set(keys[0]) & set(keys[1]),
        key=lambda text: (not text.isdigit(), text.zfill(12) if text.isdigit() else text),
    )
    if not common:
        shown = [", ".join(sorted(set(key))[:5]) for key in keys]
        raise InputError(
            f"labels {name!r} have nothing in common: {moved.called('moved')} has {shown[0]}; "
            f"{fixed.called('fixed')} has {shown[1]}"
        )
    return keys, common, background


def _label_codes(surface: Surface, name: str, role: str) -> IntArray:
    if name not in surface.point_data:
        known = ", ".join(sorted(surface.point_data)) or "none"
        raise InputError(f"{surface.called(role)}: no point data {name!r}; it has: {known}")
    values = np.squeeze(surface.point_data[name])
    if len(surface) == 1:
        values = values.reshape(1)
    whole = values.ndim == 1 and (
        values.dtype.kind in "iub"
        or (
            values.dtype.kind == "f" and bool(np.isfinite(values).all() and np.all(values == np.rint(values)))
        )
    )
    if not whole:
        raise InputError(
            f"{surface.called(role)}: point data {name!r} are not labels (one whole number a point)"
        )
    return values.astype(np.int64)
