"""Shapes and momenta spaces as arrays and plain values, for archives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from otreg.cohort.momenta import MomentaSpace
from otreg.surface import Surface

_DATA = "data_"

Arrays = dict[str, NDArray[Any]]


def pack_shape(shape: Surface) -> tuple[Arrays, dict[str, Any]]:
    """Points, triangles and point data of a shape; its frame and the names of its labels."""
    arrays: Arrays = {"points": shape.points, "triangles": shape.triangles}
    arrays.update({f"{_DATA}{name}": values for name, values in shape.point_data.items()})
    names = {name: {str(k): text for k, text in table.items()} for name, table in shape.label_names.items()}
    return arrays, {"frame": shape.frame, "label_names": names}


def unpack_shape(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any], **metadata: str) -> Surface:
    """The shape that :func:`pack_shape` was given; keywords are its metadata."""
    data = {name.removeprefix(_DATA): values for name, values in arrays.items() if name.startswith(_DATA)}
    names = {
        name: {int(code): text for code, text in table.items()}
        for name, table in about["label_names"].items()
    }
    return Surface(
        arrays["points"], arrays["triangles"], data, about["frame"], names, metadata=dict(metadata)
    )


def pack_space(space: MomentaSpace) -> tuple[Arrays, dict[str, Any]]:
    """Control points of a space; its widths, amplitudes and steps."""
    about = {"widths": list(space.widths), "amplitudes": list(space.amplitudes), "steps": space.steps}
    return {"control_points": space.control_points}, about


def unpack_space(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> MomentaSpace:
    """The space that :func:`pack_space` was given."""
    widths, amplitudes = tuple(about["widths"]), tuple(about["amplitudes"])
    return MomentaSpace(arrays["control_points"], widths, amplitudes, about["steps"])


def pack(space: MomentaSpace, shape: Surface) -> tuple[Arrays, dict[str, Any]]:
    """Both together."""
    (first, one), (second, other) = pack_space(space), pack_shape(shape)
    return {**first, **second}, {**one, **other}
