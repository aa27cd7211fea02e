"""GIFTI: surfaces, and labels, metrics and vectors on their points."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.columns import free_name, plain_numbers
from otreg.io.polygons import check_indices
from otreg.surface import Surface

_POINTSET, _TRIANGLE = "NIFTI_INTENT_POINTSET", "NIFTI_INTENT_TRIANGLE"
_FRAME, _LABELS, _WHOLE = "otreg_frame", "otreg_label_names", "otreg_integer"


def read_gifti(data: bytes, path: Path) -> Surface:
    """Read a GIFTI surface from its content.

    The frame is RAS, except for FreeSurfer's files in tkRAS, which say so by an unknown data space together
    with the offset of the volume (``VolGeomC_R`` …): then ``metadata["c_ras"]`` holds it.
    """
    image = _parse(data)
    pointsets = _of_intent(image, _POINTSET)
    if not pointsets:
        raise InputError(
            "holds values on points but no coordinates: give the surface (.surf.gii) that they belong to, "
            "and attach them to it"
        )
    points = np.asarray(pointsets[0].data)
    triangles = [np.asarray(array.data) for array in _of_intent(image, _TRIANGLE)]
    if points.ndim != 2 or points.shape[1] != 3 or any(t.ndim != 2 or t.shape[1] != 3 for t in triangles):
        raise InputError("the points or triangles have the wrong shape; export the file again")
    if triangles:
        check_indices(triangles[0].ravel(), len(points))
    point_data, label_names = values_on_points(image)
    kept = {name: values for name, values in point_data.items() if len(values) == len(points)}
    ignored = [f"data array {name!r} of another length" for name in point_data if name not in kept]
    ignored += ["further point sets"] if len(pointsets) > 1 else []
    frame, c_ras = _frame(image, pointsets[0])
    metadata: dict[str, Any] = {"ignored": ignored}
    if c_ras is not None:
        metadata["c_ras"] = c_ras
    return Surface(
        points,
        triangles[0] if triangles else np.zeros((0, 3), np.int64),
        kept,
        frame,
        {name: table for name, table in label_names.items() if name in kept},
        metadata=metadata,
    )


def _parse(data: bytes) -> Any:
    from nibabel.gifti import GiftiImage

    try:
        return GiftiImage.from_bytes(data)
    except ExpatError as error:
        raise InputError(f"truncated or damaged GIFTI ({error}); copy or export it again") from None


def _of_intent(image: Any, intent: str) -> list[Any]:
    return image.get_arrays_from_intent(intent)


def _frame(image: Any, pointset: Any) -> tuple[str | None, NDArray[np.float64] | None]:
    meta = {**dict(image.meta), **dict(pointset.meta)}
    if _FRAME in meta:
        known = meta[_FRAME] if meta[_FRAME] in ("RAS", "LPS", "tkRAS") else None
    else:
        known = "RAS"
    try:
        c_ras = np.array([float(meta[f"VolGeomC_{axis}"]) for axis in "RAS"])
    except (KeyError, ValueError):
        return known, None
    space = pointset.coordsys.dataspace if pointset.coordsys else 0
    if _FRAME not in meta and int(space) == 0 and np.any(c_ras != 0):
        known = "tkRAS"
    return known, c_ras


def read_gifti_values(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, dict[int, str]]]:
    """Values on points of a label, shape or functional file, and the names of its labels."""
    return values_on_points(_parse(data))


def values_on_points(image: Any) -> tuple[dict[str, NDArray[Any]], dict[str, dict[int, str]]]:
    """All data arrays that are neither points nor triangles, under their names."""
    from nibabel.nifti1 import intent_codes

    values: dict[str, NDArray[Any]] = {}
    names: dict[str, dict[int, str]] = {}
    table = {int(label.key): str(label.label or label.key) for label in image.labeltable.labels}
    for array in image.darrays:
        intent = intent_codes.niistring[array.intent]
        if intent in (_POINTSET, _TRIANGLE):
            continue
        meta = dict(array.meta)
        # FreeSurfer names an array after the file that it came from.
        name = re.sub(
            r"^[lr]h\.", "", (meta.get("Name") or "data").replace("\\", "/").rstrip("/").split("/")[-1]
        )
        name = free_name(name, values)
        data = np.array(array.data)
        if meta.get(_WHOLE) and np.all(np.isfinite(data)):
            data = data.astype(
                np.dtype(meta[_WHOLE]) if meta[_WHOLE] in ("int64", "uint32", "uint64") else np.int64
            )
        values[name] = data
        if intent == "NIFTI_INTENT_LABEL":
            values[name] = data.astype(np.int64)
            names[name] = _own_labels(meta) or dict(table)
    return values, names


def _own_labels(meta: dict[str, str]) -> dict[int, str]:
    try:
        return {int(key): str(label) for key, label in json.loads(meta[_LABELS]).items()}
    except (KeyError, ValueError, AttributeError):
        return {}


def write_gifti(surface: Surface, path: Path) -> list[str]:
    """Write points and triangles in single precision and each point data as a data array of its own."""
    from nibabel import gifti

    warnings: list[str] = []
    image = gifti.GiftiImage(meta=gifti.GiftiMetaData({_FRAME: surface.frame or "unknown"}))
    # NIfTI's codes: 0 unknown, 1 scanner
    space = 1 if surface.frame == "RAS" else 0
    meta = {"Name": "points"}
    if surface.metadata.get("c_ras") is not None:
        meta.update(
            {f"VolGeomC_{a}": repr(float(v)) for a, v in zip("RAS", surface.metadata["c_ras"], strict=True)}
        )
    coordinates = gifti.GiftiCoordSystem(space, space, np.eye(4))
    _add(image, surface.points.astype(np.float32), _POINTSET, meta, coordinates)
    if surface.has_triangles:
        _add(image, surface.triangles.astype(np.int32), _TRIANGLE, {"Name": "triangles"})
    if surface.frame in ("LPS", "tkRAS"):
        warnings.append(
            f"GIFTI is read as RAS by other programs, but the coordinates are {surface.frame}; unchanged"
        )
    image.labeltable = _label_table(surface, warnings)
    for name, values in surface.point_data.items():
        plain = plain_numbers(values)
        if plain is None or plain.ndim > 2:
            warnings.append(f"point data {name!r} is not a numeric scalar or vector and was left out")
            continue
        _add_values(image, name, plain, surface.label_names.get(name), warnings)
    extra = len(image.darrays) - 1 - surface.has_triangles
    if extra:
        warnings.append(
            f"Connectome Workbench refuses a GIFTI surface that holds point data as well ({extra} arrays): "
            "for it, write a copy without point data"
        )
    path.write_bytes(image.to_bytes())
    return warnings


def _add(
    image: Any, values: NDArray[Any], intent: str, meta: dict[str, str], coordinates: Any = None
) -> None:
    from nibabel import gifti

    array = gifti.GiftiDataArray(
        np.ascontiguousarray(values),
        intent=intent,
        datatype={"f4": "NIFTI_TYPE_FLOAT32", "i4": "NIFTI_TYPE_INT32", "u1": "NIFTI_TYPE_UINT8"}[
            values.dtype.str[1:]
        ],
        encoding="GIFTI_ENCODING_B64GZ",
        coordsys=coordinates,
        meta=gifti.GiftiMetaData(meta),
    )
    image.add_gifti_data_array(array)


def _add_values(
    image: Any, name: str, values: NDArray[Any], labels: dict[int, str] | None, warnings: list[str]
) -> None:
    """Add point data as the data array that the standard has for it: only 32-bit numbers and bytes exist."""
    meta = {"Name": name}
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    intent = "NIFTI_INTENT_VECTOR" if values.ndim == 2 and values.shape[1] == 3 else "NIFTI_INTENT_SHAPE"
    if values.dtype.kind in "iu" and values.dtype != np.uint8:
        limits = np.iinfo(np.int32)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            warnings.append(
                f"point data {name!r} has integers beyond 32 bits and was written in single precision"
            )
            values = values.astype(np.float32)
        else:
            meta[_WHOLE] = values.dtype.name
            values = values.astype(np.int32)
    elif values.dtype.kind == "f":
        values = values.astype(np.float32)
    if labels is not None and values.ndim == 1 and values.dtype.kind in "iu":
        intent, values = "NIFTI_INTENT_LABEL", values.astype(np.int32)
        meta[_LABELS] = json.dumps({str(k): v for k, v in labels.items()})
    _add(image, values, intent, meta)


def _label_table(surface: Surface, warnings: list[str]) -> Any:
    """One table for the whole file, as the standard has it; arrays keep their own names in their metadata."""
    from nibabel import gifti

    table = gifti.GiftiLabelTable()
    names: dict[int, str] = {}
    for labels in surface.label_names.values():
        for key, name in labels.items():
            if names.setdefault(key, name) != name:
                warnings.append(f"label {key} has several names; other programs will show {names[key]!r}")
    for place, (key, name) in enumerate(sorted(names.items())):
        # Hues a golden angle apart: any number of labels stay distinct.
        hue = (place * 0.618034) % 1.0
        red, green, blue = (0.5 + 0.5 * float(np.cos(2 * np.pi * (hue - shift / 3))) for shift in range(3))
        label = gifti.GiftiLabel(key=int(key), red=red, green=green, blue=blue, alpha=1.0)
        label.label = name  # type: ignore[attr-defined]  # nibabel sets it so too
        table.labels.append(label)
    return table
