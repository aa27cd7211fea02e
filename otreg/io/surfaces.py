"""The front door: read and write surfaces and point clouds of every format, and values on points."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.columns import AXES
from otreg.io.files import atomic_path, compress, load_bytes
from otreg.io.formats import SURFACE_SUFFIXES, is_compressed, sniff, suffix_of, supported_suffixes
from otreg.io.freesurfer import read_annot, read_curv, read_freesurfer, write_freesurfer
from otreg.io.gifti import read_gifti, read_gifti_values, write_gifti
from otreg.io.obj import read_obj, read_off, write_obj, write_off
from otreg.io.ply import read_ply, write_ply
from otreg.io.stl import read_stl, write_stl
from otreg.io.tables import load_array, read_npy, read_table, read_text, write_npy, write_text
from otreg.io.vtk_legacy import read_vtk, write_vtk
from otreg.io.vtp import read_vtp, write_vtp
from otreg.surface import Surface

Reader = Callable[[bytes, Path], Surface]
Writer = Callable[[Surface, Path], list[str]]

_READERS: dict[str, Reader] = {
    "vtk": read_vtk,
    "vtp": read_vtp,
    "ply": read_ply,
    "stl": read_stl,
    "obj": read_obj,
    "off": read_off,
    "gifti": read_gifti,
    "freesurfer": read_freesurfer,
    "text": read_text,
    "npy": read_npy,
}
_WRITERS: dict[str, Writer] = {
    "vtk": write_vtk,
    "vtp": write_vtp,
    "ply": write_ply,
    "stl": write_stl,
    "obj": write_obj,
    "off": write_off,
    "gifti": write_gifti,
    "freesurfer": write_freesurfer,
    "text": write_text,
    "npy": write_npy,
}
_WITH_POINT_DATA = ("vtk", "vtp", "ply", "gifti", "text")
_TRIANGLES_ONLY = {"stl": "STL holds only", "freesurfer": "FreeSurfer surfaces need"}
_NOT_SHAPES = {
    "curv": "holds values on points, not a surface; read their surface and attach them to it",
    "annot": "holds labels of points, not a surface; read their surface and attach them to it",
    "slicer-json": "holds landmarks, not a surface; give it where landmarks are asked for",
    "landmark-json": "holds landmarks or settings, not a surface; give it where landmarks are asked for",
    "fcsv": "holds landmarks, not a surface; give it where landmarks are asked for",
}
# What parsers raise on damaged content. Faults of ours of other kinds stay visible.
_DAMAGE = (
    ValueError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    TypeError,
)


def read(path: str | os.PathLike[str], *, repair: bool = False) -> Surface:
    """Read a surface or point cloud.

    The format is recognised by content where that is possible, and by the suffix otherwise. No reader merges,
    reorders or drops points, except that of STL, which welds corners at exactly the same place.

    Parameters
    ----------
    path : str or path-like
        VTK legacy (.vtk), VTK XML (.vtp), PLY, STL, OBJ, OFF, GIFTI (.gii, .gii.gz), FreeSurfer surfaces,
        tables of coordinates (.txt, .csv, .xyz) or ``numpy.save``'s .npy. Any of them may be gzip-compressed.
    repair : bool, default False
        Drop points that are not finite, and the triangles that use them, instead of refusing the file.

    Returns
    -------
    Surface
        Polygons and strips are split into triangles. ``metadata`` has ``path``, ``format``, ``ignored`` (what
        the file holds beyond it), and, by format, ``c_ras``, ``weld_map``, ``merged_corners``. After a
        repair, ``kept_points`` gives the number in the file of each point, shape (N,).

    Raises
    ------
    InputError
        One line with the file, what is wrong and the cure: missing, empty, truncated, unknown or damaged
        file, no points, triangles out of range, coordinates that are not finite.
    """
    surface = read_as_is(path)
    bad: NDArray[np.bool_] = ~np.all(np.isfinite(surface.points), axis=1)
    if not bad.any():
        return surface
    if not repair or bad.all():
        first = ", ".join(str(k) for k in np.flatnonzero(bad)[:5]) + (", …" if bad.sum() > 5 else "")
        cure = "export it again" if bad.all() else "correct them, or read with repair=True to drop them"
        count = f"{int(bad.sum())} of {len(bad)} points"
        raise InputError(f"{path}: {count} have NaN or infinite coordinates (indices {first}); {cure}")
    return _keep_points(surface, ~bad)


def read_as_is(path: str | os.PathLike[str]) -> Surface:
    """Read like :func:`read`, but accept coordinates that are not finite, so that they can be reported."""
    source = Path(path)
    data = load_bytes(source)
    kind = "unknown"
    try:
        kind = sniff(data, source)
        if kind not in _READERS:
            raise InputError(_NOT_SHAPES[kind])
        surface = _READERS[kind](data, source)
        if not len(surface):
            raise InputError("no points: the file has a header but no coordinates; export it again")
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(
            f"{source}: truncated or damaged {kind} file ({reason}); copy or export it again"
        ) from error
    surface.metadata["path"] = str(source)
    surface.metadata["format"] = kind
    surface.metadata.setdefault("ignored", [])
    return surface


def _keep_points(surface: Surface, keep: NDArray[np.bool_]) -> Surface:
    """The surface with some points alone, and the triangles that use no other."""
    number = np.cumsum(keep) - 1
    triangles = surface.triangles[keep[surface.triangles].all(axis=1)]
    return replace(
        surface,
        points=surface.points[keep],
        triangles=number[triangles],
        point_data={name: values[keep] for name, values in surface.point_data.items()},
        metadata={**surface.metadata, "kept_points": np.flatnonzero(keep)},
    )


def write(surface: Surface, path: str | os.PathLike[str]) -> list[str]:
    """Write a surface or point cloud in the format of the suffix, whole or not at all.

    Parameters
    ----------
    surface : Surface
    path : str or path-like
        One of :func:`supported_suffixes`; no suffix, or a name like ``lh.pial``, is a FreeSurfer surface. Any
        of them with ``.gz`` added is compressed.
        VTK legacy is version 4.2, binary; PLY is little-endian binary; both keep double precision, as do
        .vtp, .obj, .off, tables and .npy. GIFTI, STL and FreeSurfer surfaces are single precision by their
        standards.

    Returns
    -------
    list of str
        What the format could not hold (point data in OBJ, for one), a line each.

    Raises
    ------
    InputError
        On an unknown suffix, a folder that is missing or cannot be written to, or a shape that the format
        cannot hold.
    """
    target = Path(path)
    kind = check_writable(surface, target)
    warnings = _dropped(surface, kind, suffix_of(target))
    with atomic_path(target) as temporary:
        try:
            warnings += _WRITERS[kind](surface, temporary)
        except InputError as error:
            raise InputError(f"{target}: {error}") from None
        if is_compressed(target):
            compress(temporary)
    return warnings


def check_writable(surface: Surface, path: str | os.PathLike[str]) -> str:
    """Refuse a surface that cannot be written under a name; to ask before long work, not after it.

    Returns
    -------
    str
        The format in which it would be written.

    Raises
    ------
    InputError
        On an unknown suffix, or a shape that the format cannot hold.
    """
    target = Path(path)
    kind = _format_to_write(target)
    if not len(surface):
        raise InputError(f"{target}: there are no points to write")
    if kind in _TRIANGLES_ONLY and not surface.has_triangles:
        raise InputError(
            f"{target}: {_TRIANGLES_ONLY[kind]} triangles and this is a point cloud; write .ply, .vtk or .xyz"
        )
    return kind


def _format_to_write(target: Path) -> str:
    suffix = suffix_of(target)
    kind = SURFACE_SUFFIXES.get(suffix)
    if kind is None and (not suffix or re.match(r"[lr]h\.", target.name)):
        kind = "freesurfer"
    if kind is None:
        known = ", ".join(supported_suffixes())
        raise InputError(f"{target}: cannot write the format {suffix!r}; use one of {known}")
    return kind


def _dropped(surface: Surface, kind: str, suffix: str) -> list[str]:
    """What a format has no place for, in words."""
    warnings = []
    if surface.point_data and (kind not in _WITH_POINT_DATA or suffix in (".xyz", ".pts", ".particles")):
        names = ", ".join(surface.point_data)
        warnings.append(
            f"{suffix or kind} holds no point data: {names} left out; write .vtk, .vtp or .ply to keep it"
        )
    if surface.has_triangles and kind in ("text", "npy"):
        warnings.append(f"{suffix} holds points alone: {len(surface.triangles)} triangles left out")
    if surface.frame and kind == "npy":
        warnings.append(f"{suffix} cannot say that the frame is {surface.frame}")
    return warnings


def read_point_data(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read values on points: GIFTI labels, metrics and shapes, FreeSurfer's ``.annot`` and ``lh.sulc``,
    tables.

    Parameters
    ----------
    path : str or path-like
        Also a surface, whose point data is returned; a table of one or more columns; or .npy of shape (N,) or
        (N, k).

    Returns
    -------
    dict of str to array
        Each of shape (N,) or (N, k). Use :func:`attach_point_data` to keep label names too.
    """
    return _values(path)[0]


def attach_point_data(surface: Surface, path: str | os.PathLike[str], name: str | None = None) -> Surface:
    """Return the surface with the values (and label names) of a file of :func:`read_point_data` added.

    Parameters
    ----------
    surface : Surface
    path : str or path-like
    name : str, optional
        What to call the values; the file must then hold one array. By default as the file calls them.

    Raises
    ------
    InputError
        If the file cannot be read, or has another number of values than the surface has points.
    """
    values, names = _values(path)
    if name is not None:
        if len(values) != 1:
            held = ", ".join(values)
            raise InputError(
                f"{path}: holds {len(values)} arrays ({held}), so one name does not fit; give none"
            )
        (array,) = values.values()
        values, names = {name: array}, dict.fromkeys([name], *names.values()) if names else {}
    for name, array in values.items():
        if len(array) != len(surface):
            count = f"{len(array)} values for {len(surface)} points"
            raise InputError(f"{path}: {name!r} has {count}; give the file that belongs to this surface")
    return replace(surface.with_data(values), label_names={**surface.label_names, **names})


def _values(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, dict[int, str]]]:
    """Values on points, and names of labels among them."""
    source = Path(path)
    data = load_bytes(source)
    # lh.sulc -> sulc, as FreeSurfer's users call it
    stem = re.sub(r"^[lr]h\.", "", source.name.removesuffix(".gz").removesuffix(".annot"))
    try:
        kind = sniff(data, source)
        if kind == "annot":
            labels, names = read_annot(data, source)
            return {stem: labels}, {stem: names}
        if kind == "curv":
            return {stem: read_curv(data)}, {}
        if kind == "gifti":
            values, label_names = read_gifti_values(data)
            if not values:
                raise InputError("holds no values on points")
            return values, label_names
        if kind == "npy":
            return {source.stem: _plain_array(data)}, {}
        if kind == "text":
            return _table_values(data, source), {}
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except _DAMAGE as error:
        raise InputError(
            f"{source}: truncated or damaged ({str(error)[:80]}); copy or export it again"
        ) from error
    surface = read_as_is(source)
    return dict(surface.point_data), dict(surface.label_names)


def _plain_array(data: bytes) -> NDArray[Any]:
    values = load_array(data)
    if values.ndim not in (1, 2) or values.dtype.kind not in "fiub":
        raise InputError(f"an array of shape (N,) or (N, k) is needed, got {values.shape} of {values.dtype}")
    return values


def _table_values(data: bytes, source: Path) -> dict[str, NDArray[Any]]:
    table = read_table(data)
    numeric = table.numeric
    if not numeric:
        raise InputError("holds no numbers")
    if table.header is None:
        arrays = [np.asarray(table.columns[k]) for k in numeric]
        return {source.stem: arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)}
    return {table.header[k]: np.asarray(table.columns[k]) for k in numeric if table.header[k] not in AXES}
