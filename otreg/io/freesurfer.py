"""FreeSurfer's binary surfaces (``lh.pial``), curvature files (``lh.sulc``) and annotations (``.annot``)."""

from __future__ import annotations

import struct
import tempfile
import warnings as python_warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.formats import declared_frame, frame_comment
from otreg.surface import Surface


def read_freesurfer(data: bytes, path: Path) -> Surface:
    """Read a FreeSurfer surface.

    Its coordinates are tkRAS. Where the file says how the volume lies, ``metadata["c_ras"]`` is the offset,
    shape (3,), with RAS = tkRAS + c_ras, and ``metadata["volume_info"]`` is what FreeSurfer's tools need to
    be written back.
    """
    from nibabel.freesurfer import read_geometry

    if data[:3] == b"\xff\xff\xfe":
        _check_size(data)
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # nibabel warns about a missing volume, which is common
        try:
            with _on_disk(data, path) as plain:
                points, triangles, info, stamp = read_geometry(plain, read_metadata=True, read_stamp=True)
        except OSError:
            raise InputError("truncated or damaged FreeSurfer surface; copy or export it again") from None
    metadata: dict[str, Any] = {}
    if info and "cras" in info:
        metadata["volume_info"] = dict(info)
        if str(info.get("valid", "")).split("#")[0].strip().startswith("1"):
            metadata["c_ras"] = np.asarray(info["cras"], np.float64)
    return Surface(points, triangles, frame=declared_frame(str(stamp)) or "tkRAS", metadata=metadata)


@contextmanager
def _on_disk(data: bytes, path: Path) -> Iterator[str]:
    """Name of a file with this content, for nibabel reads files alone: a copy where ``path`` is compressed."""
    if path.stat().st_size == len(data):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "plain"
        copy.write_bytes(data)
        yield str(copy)


def _check_size(data: bytes) -> None:
    """Refuse a triangle file that is shorter than its header promises."""
    # The creation stamp ends at the first newline; a second one follows it.
    place = data.find(b"\n", 3) + 1
    place += data[place : place + 1] == b"\n"
    if place <= 0 or len(data) < place + 8:
        raise InputError("truncated: the FreeSurfer header is not complete; copy or export it again")
    points, triangles = struct.unpack_from(">2i", data, place)
    if points < 0 or triangles < 0 or len(data) < place + 8 + 12 * (points + triangles):
        raise InputError(
            f"truncated: {points} points and {triangles} triangles promised, {len(data) - place - 8} bytes "
            "found; copy or export it again"
        )


def write_freesurfer(surface: Surface, path: Path) -> list[str]:
    """Write a FreeSurfer triangle surface (single precision), with the volume it was read with."""
    from nibabel.freesurfer import write_geometry

    info = _volume_info(surface)
    stamp = frame_comment(None if surface.frame == "tkRAS" else surface.frame)
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        write_geometry(str(path), surface.points, surface.triangles, create_stamp=stamp, volume_info=info)
    if surface.frame == "tkRAS":
        return []
    return [
        f"FreeSurfer takes coordinates as tkRAS, but these are {surface.frame or 'of an unknown frame'}; "
        "they were written unchanged"
    ]


def _volume_info(surface: Surface) -> dict[str, Any] | None:
    info, c_ras = surface.metadata.get("volume_info"), surface.metadata.get("c_ras")
    if info is not None:
        return dict(info)
    if c_ras is None:
        return None
    # FreeSurfer's conformed volume: 256 voxels of 1 mm, coronal slices.
    return {
        "head": np.array([2, 0, 20], np.int32),
        "valid": "1  # volume info valid",
        "filename": "unknown",
        "volume": np.array([256, 256, 256]),
        "voxelsize": np.ones(3),
        "xras": np.array([-1.0, 0.0, 0.0]),
        "yras": np.array([0.0, 0.0, -1.0]),
        "zras": np.array([0.0, 1.0, 0.0]),
        "cras": np.asarray(c_ras, np.float64),
    }


def read_curv(data: bytes) -> NDArray[np.float32]:
    """Values of a curvature file (``lh.sulc``, ``lh.thickness``), shape (N,)."""
    count, _, per_point = struct.unpack_from(">3i", data, 3)
    if per_point != 1 or len(data) < 15 + 4 * count:
        raise InputError(f"truncated: {count} values promised, {(len(data) - 15) // 4} found; copy it again")
    return np.frombuffer(data, ">f4", count, 15).astype(np.float32)


def read_annot(data: bytes, path: Path) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Labels of an annotation, shape (N,), -1 where there is none, and the names of those in its table."""
    from nibabel.freesurfer import read_annot as nibabel_read_annot

    try:
        with _on_disk(data, path) as plain:
            labels, _, names = nibabel_read_annot(plain)
    except (ValueError, IndexError, OSError, TypeError, MemoryError, UnicodeDecodeError):
        raise InputError("truncated or damaged FreeSurfer annotation; copy it again") from None
    table = {
        k: (name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name))
        for k, name in enumerate(names)
    }
    return labels.astype(np.int64), table
