"""Landmark files: 3D Slicer's .mrk.json and .fcsv, tables with or without names, and lists of ids in JSON."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from otreg.errors import InputError
from otreg.io.files import atomic_path, compress, load_bytes
from otreg.io.formats import LANDMARK_SUFFIXES, is_compressed, sniff, suffix_of
from otreg.io.tables import FRAMED_AXES, Table, read_table
from otreg.surface import Landmarks

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_NAME_COLUMNS = ("name", "label", "id", "landmark")
_OF_LANDMARKS = ("name", "landmark")
"""Headers that tables of landmarks alone have; a cloud may well have points with labels or ids."""


def is_landmark_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds landmarks rather than a shape.

    True for Slicer's markups, JSON landmarks, ``.particles`` and ``.pts``, and for tables of names and
    coordinates, whether the names are words or numbers. A table of coordinates alone is a point cloud (which
    :func:`read_landmarks` reads as well), and so is one whose labels repeat or follow the coordinates as
    numbers. False for a file that cannot be read: reading it says why.
    """
    source = Path(path)
    if suffix_of(source) in (".mrk.json", ".fcsv", ".particles", ".pts"):
        return source.is_file()
    try:
        data = load_bytes(source)
        kind = sniff(data, source)
        if kind == "text":
            return _names_points(read_table(data))
    except InputError:
        return False
    return kind in ("slicer-json", "landmark-json", "fcsv")


def read_landmarks(path: str | os.PathLike[str]) -> Landmarks:
    """Read landmarks.

    Parameters
    ----------
    path : str or path-like
        ``.mrk.json`` or ``.fcsv`` of 3D Slicer; a table (``.csv``, ``.txt``, ``.pts``, ``.particles``) with
        rows ``name,x,y,z`` or ``x,y,z``, header optional; or a JSON list of ``{"id": …, "coordinates": [x, y,
        z]}``.

    Returns
    -------
    Landmarks
        In the order of the file, in the frame that it declares (``None`` if none).

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind, or has undefined or non-finite points.
    """
    source = Path(path)
    data = load_bytes(source)
    try:
        kind = sniff(data, source)
        if kind == "slicer-json":
            landmarks = _read_slicer(json.loads(data))
        elif kind == "landmark-json":
            landmarks = _read_list(json.loads(data))
        elif kind == "fcsv":
            landmarks = _read_fcsv(data.decode("utf-8", "replace"))
        elif kind == "text":
            landmarks = _read_named_table(read_table(data))
        else:
            raise InputError(f"is a surface ({kind}), not landmarks; give {', '.join(LANDMARK_SUFFIXES)}")
        bad = np.flatnonzero(~np.isfinite(landmarks.points).all(axis=1))
        if len(bad):
            raise InputError(
                f"landmark {landmarks.names[bad[0]]!r} has no finite coordinates; place it or remove it"
            )
        if not len(landmarks):
            raise InputError("there are no landmarks in it")
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"{source}: truncated or damaged landmarks ({str(error)[:80]}); export it again"
        ) from None
    return landmarks


def _read_slicer(content: Any) -> Landmarks:
    points: list[list[float]] = []
    names: list[str] = []
    frames: set[str | None] = set()
    for markup in content["markups"]:
        controls = markup.get("controlPoints") or []
        if controls:
            frames.add(_slicer_frame(markup.get("coordinateSystem")))
        for control in controls:
            name = str(control.get("label") or control.get("id") or len(names) + 1)
            if (
                control.get("positionStatus", "defined") in ("undefined", "missing")
                or control.get("position") is None
            ):
                raise InputError(f"landmark {name!r} has no position; place it or remove it")
            points.append([float(v) for v in control["position"]])
            names.append(name)
    if len(frames) > 1:
        raise InputError("its markups are in different coordinate systems; export them one by one")
    return Landmarks(np.array(points), tuple(names), frames.pop() if frames else None)


def _slicer_frame(value: Any) -> str | None:
    """Slicer writes names, and 0 or 1 in older files."""
    known = {"RAS": "RAS", "LPS": "LPS", "0": "RAS", "1": "LPS"}
    if value is None:
        return None
    if str(value) not in known:
        raise InputError(f"the coordinate system {value!r} is unknown; use RAS or LPS")
    return known[str(value)]


def _read_list(content: Any) -> Landmarks:
    if isinstance(content, dict):
        content = content.get("landmarks", content.get("points"))
    if not isinstance(content, list) or not all(
        isinstance(row, dict) and "coordinates" in row for row in content
    ):
        raise InputError(
            'is JSON, but no landmarks: a list of {"id": …, "coordinates": [x, y, z]} is expected'
        )
    names = tuple(str(row.get("id", k + 1)) for k, row in enumerate(content))
    return Landmarks(np.array([[float(v) for v in row["coordinates"]] for row in content]), names)


def _read_fcsv(text: str) -> Landmarks:
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    frame = re.search(r"CoordinateSystem\s*=\s*(\w+)", header)
    columns = re.search(r"columns\s*=\s*(.+)", header)
    order = (
        columns.group(1).strip().split(",")
        if columns
        else "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label".split(",")
    )
    rows = [row for row in csv.reader(line for line in text.splitlines() if line and line[0] != "#") if row]
    x, label = order.index("x"), order.index("label") if "label" in order else 0
    names = tuple((row[label] if label < len(row) else "") or row[0] for row in rows)
    points = [[float(value) for value in row[x : x + 3]] for row in rows]
    return Landmarks(np.array(points), names, _slicer_frame(frame.group(1)) if frame else None)


def _name_column(table: Table) -> int | None:
    """Place of the names: a column called so, else a first column of words; ``None`` if there is none."""
    if table.header:
        lowered = [name.strip().lower() for name in table.header]
        return next((lowered.index(name) for name in _NAME_COLUMNS if name in lowered), None)
    return 0 if isinstance(table.columns[0], list) else None


def _names_points(table: Table) -> bool:
    """Whether a table is one of landmarks: each row has a name of its own, and coordinates."""
    place = _name_column(table)
    if place is None:
        return False
    names = table.columns[place]
    if len(set(names)) < len(names):
        return False
    header = [name.strip().lower() for name in table.header or ()]
    if any(all(axis in header for axis in axes) for axes in FRAMED_AXES):
        return True  # 3D Slicer's export, which adds columns such as "selected"
    if len([k for k in table.numeric if k != place]) != 3:
        return False
    return place == 0 or place not in table.numeric or header[place] in _OF_LANDMARKS


def _read_named_table(table: Table) -> Landmarks:
    place = _name_column(table)
    if place is None and table.header is None and len(table.columns) == 4:
        place = 0  # name,x,y,z with numbers for names
    if place in table.numeric and place is not None:
        table.columns[place] = [str(value) for value in np.asarray(table.columns[place]).tolist()]
    places, frame = table.coordinates()
    names = tuple(table.columns[place]) if place is not None else ()
    return Landmarks(
        np.stack([np.asarray(table.columns[k], np.float64) for k in places], axis=1), names, frame
    )


def write_landmarks(landmarks: Landmarks, path: str | os.PathLike[str]) -> list[str]:
    """Write landmarks in the format of the suffix.

    Parameters
    ----------
    landmarks : Landmarks
    path : str or path-like
        ``.mrk.json``, ``.fcsv``, ``.csv`` (with names) or ``.txt``, ``.pts``, ``.particles`` (coordinates
        alone).

    Returns
    -------
    list of str
        What the format could not hold.

    Raises
    ------
    InputError
        On another suffix, a frame that the format does not know, or a folder that cannot be written to.
    """
    target = Path(path)
    suffix, warnings = suffix_of(target), []
    if suffix not in LANDMARK_SUFFIXES:
        raise InputError(
            f"{target}: cannot write landmarks as {suffix or 'no suffix'}; use {', '.join(LANDMARK_SUFFIXES)}"
        )
    if suffix in (".mrk.json", ".fcsv"):
        if landmarks.frame not in ("RAS", "LPS", None):
            raise InputError(
                f"{target}: 3D Slicer knows RAS and LPS, not {landmarks.frame}; write .csv instead"
            )
        if landmarks.frame is None:
            default = "LPS" if suffix == ".mrk.json" else "RAS"
            warnings.append(f"the frame of the landmarks is unknown; 3D Slicer will take them as {default}")
        content = _slicer_text(landmarks) if suffix == ".mrk.json" else _fcsv_text(landmarks)
    else:
        rows = [[repr(v) for v in point] for point in landmarks.points.tolist()]
        content = f"# SPACE={landmarks.frame}\n" if landmarks.frame else ""
        if suffix == ".csv":
            lines = [
                ["name", "x", "y", "z"],
                *([n, *row] for n, row in zip(landmarks.names, rows, strict=True)),
            ]
            content += "".join(",".join(_quoted(word) for word in line) + "\n" for line in lines)
        else:
            content += "".join(" ".join(row) + "\n" for row in rows)
            if landmarks.names != tuple(str(k + 1) for k in range(len(landmarks))):
                warnings.append(f"{suffix} holds coordinates alone: the names of the landmarks were left out")
    with atomic_path(target) as temporary:
        temporary.write_text(content, encoding="utf-8")
        if is_compressed(target):
            compress(temporary)
    return warnings


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '""') + '"' if re.search(r'[",\n#]|^\s|\s$', word) else word


def _slicer_text(landmarks: Landmarks) -> str:
    controls = [
        {
            "id": str(k + 1),
            "label": name,
            "description": "",
            "associatedNodeID": "",
            "position": point,
            "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
        }
        for k, (name, point) in enumerate(zip(landmarks.names, landmarks.points.tolist(), strict=True))
    ]
    markup: dict[str, Any] = {"type": "Fiducial", "coordinateUnits": "mm", "controlPoints": controls}
    if landmarks.frame:
        markup["coordinateSystem"] = landmarks.frame
    return json.dumps({"@schema": _SCHEMA, "markups": [markup]}, indent=1) + "\n"


def _fcsv_text(landmarks: Landmarks) -> str:
    lines = ["# Markups fiducial file version = 4.11"]
    if landmarks.frame:
        lines.append(f"# CoordinateSystem = {landmarks.frame}")
    lines.append("# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID")
    for k, (name, point) in enumerate(zip(landmarks.names, landmarks.points.tolist(), strict=True)):
        x, y, z = (repr(v) for v in point)
        lines.append(f"{k + 1},{x},{y},{z},0,0,0,1,1,1,0,{_quoted(name)},,")
    return "\n".join(lines) + "\n"
