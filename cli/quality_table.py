"""The figures of :func:`otreg.quality.evaluate` as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .output import number, table

# what is printed, in this order: label and where it is in the dict; lengths come first
_LENGTHS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("distance, mean of both ways", ("assd",)),
    ("distance moved to fixed, mean", ("moved_to_fixed", "mean")),
    ("distance moved to fixed, 95%", ("moved_to_fixed", "p95")),
    ("distance moved to fixed, max", ("moved_to_fixed", "max")),
    ("distance fixed to moved, mean", ("fixed_to_moved", "mean")),
    ("distance fixed to moved, 95%", ("fixed_to_moved", "p95")),
    ("distance fixed to moved, max", ("fixed_to_moved", "max")),
    ("landmark error, mean", ("landmarks", "mean")),
    ("landmark error, median", ("landmarks", "median")),
    ("landmark error, 95%", ("landmarks", "p95")),
    ("error of the inverse, max", ("inverse_error", "max")),
)
_OTHERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("angle between normals, mean (degrees)", ("normal_angle_degrees", "mean")),
    ("Dice of labels, mean", ("dice", "mean")),
    ("triangles flipped (share)", ("triangles", "flipped")),
    ("triangles degenerate (share)", ("triangles", "degenerate")),
    ("needles flipped (share)", ("triangles", "needles_flipped")),
    ("log det J, smallest", ("log_jacobian", "min")),
    ("log det J, standard deviation", ("log_jacobian", "std")),
    ("folded, det J <= 0 (share)", ("log_jacobian", "folded")),
    ("folded around the shape (share)", ("log_jacobian_around", "folded")),
)


def quality_table(columns: Sequence[tuple[str, Mapping[str, Any] | None]], unit: str | None = None) -> str:
    """Lay out evaluations side by side; :func:`otreg.quality.format_table` tells more of a single one.

    Parameters
    ----------
    columns : sequence of (title, quality dict or None)
        For instance ``[("before", …), ("after", …)]``. A figure that no column has is left out.
    unit : str, optional
        Unit of lengths, shown in their rows. ``None``: whatever unit the files have.
    """
    rows = []
    for label, path in (*_LENGTHS, *_OTHERS):
        values = [_look_up(quality, path) for _, quality in columns]
        if all(value is None for value in values):
            continue
        suffix = f" ({unit})" if unit and (label, path) in _LENGTHS else ""
        rows.append([label + suffix, *map(number, values)])
    return table(rows, ["", *(title for title, _ in columns)])


def _look_up(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree
