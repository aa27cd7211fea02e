"""Which format a file is in, by its content first and its name second."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from otreg.errors import InputError

SURFACE_SUFFIXES = {
    ".vtk": "vtk",
    ".vtp": "vtp",
    ".ply": "ply",
    ".stl": "stl",
    ".obj": "obj",
    ".off": "off",
    ".gii": "gifti",
    ".gii.gz": "gifti",
    ".txt": "text",
    ".csv": "text",
    ".xyz": "text",
    ".pts": "text",
    ".particles": "text",
    ".npy": "npy",
    ".pial": "freesurfer",
    ".white": "freesurfer",
    ".inflated": "freesurfer",
    ".sphere": "freesurfer",
    ".orig": "freesurfer",
    ".smoothwm": "freesurfer",
    ".midthickness": "freesurfer",
    ".reg": "freesurfer",
}
"""Suffix -> format of the surfaces and point clouds that are read and written."""

LANDMARK_SUFFIXES = (".mrk.json", ".fcsv", ".csv", ".txt", ".pts", ".particles")
"""Suffixes of the landmark files that are written."""

_SPACE = re.compile(rb"SPACE\s*=\s*(RAS|LPS|tkRAS)\b")

_HEADS = (
    (b"\x89HDF\r\n\x1a\n", "HDF5 (perhaps a transform; use it with `otreg apply`)"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff\xe0", "a JPEG picture"),
    (b"NRRD", "an NRRD image"),
    (b"ObjectType = Image", "a MetaImage"),
    (b"PK\x03\x04", "a ZIP archive (unpack it)"),
    (b"%PDF", "a PDF document"),
)


def suffix_of(path: Path) -> str:
    """Suffix in lower case: ``.pial`` of ``lh.pial``, ``.vtk`` of ``a.vtk.gz``; double ones (``.gii.gz``,
    ``.mrk.json``) are kept."""
    name = path.name.lower()
    if name.endswith(".gii.gz"):
        return ".gii.gz"
    name = name.removesuffix(".gz")
    return ".mrk.json" if name.endswith(".mrk.json") else Path(name).suffix


def is_compressed(path: Path) -> bool:
    """Whether a file of this name is to be compressed, as any format may be (``a.vtk.gz``)."""
    return path.name.lower().endswith(".gz")


def supported_suffixes() -> tuple[str, ...]:
    """Suffixes that :func:`otreg.io.read` and :func:`otreg.io.write` know, in the order to list them."""
    return tuple(SURFACE_SUFFIXES)


def declared_frame(header: bytes | str) -> str | None:
    """Coordinate frame that a comment or title declares as 3D Slicer does (``SPACE=LPS``), else ``None``."""
    found = _SPACE.search(header.encode("utf-8", "replace") if isinstance(header, str) else header)
    return found.group(1).decode() if found else None


def frame_comment(frame: str | None, separator: str = " ") -> str:
    """Comment that declares a frame in a way that :func:`declared_frame` and 3D Slicer find again."""
    return "written by otreg" + (f"{separator}SPACE={frame}" if frame else "")


def sniff(data: bytes, path: Path) -> str:
    """Name the format of some content.

    Parameters
    ----------
    data : bytes
        The whole (decompressed) file.
    path : Path
        Its name; decides only where the content does not.

    Returns
    -------
    str
        One of ``vtk vtp ply stl obj off gifti text npy freesurfer`` (shapes), ``curv annot`` (values on
        points), ``slicer-json landmark-json fcsv`` (landmarks).

    Raises
    ------
    InputError
        For content of another kind; the message (without the path) names it where it is known.
    """
    head = data[:4096]
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, what in _HEADS:
        if head.startswith(magic):
            raise InputError(f"is {what}, not a surface; {_supported()}")
    if start.lower().startswith(b"# vtk datafile"):
        return "vtk"
    if start.startswith(b"<"):
        return _sniff_xml(head)
    if re.match(rb"ply\s", head):
        return "ply"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head[:3] in (b"\xff\xff\xfe", b"\xff\xff\xfd", b"\xff\xff\xff"):
        return "curv" if _is_curv(data) else "freesurfer"
    suffix = suffix_of(path)
    if suffix == ".annot":
        return "annot"
    if _is_volume(data):
        raise InputError(
            f"is an image volume, not a surface: extract a surface from it first; {_supported()}"
        )
    if len(data) >= 84 and len(data) == 84 + 50 * struct.unpack_from("<I", data, 80)[0]:
        return "stl"
    if start.startswith(b"solid") and re.search(rb"facet|endsolid", data[:100_000]):
        return "stl"
    if b"\x00" not in head:
        found = _sniff_text(head, start, SURFACE_SUFFIXES.get(suffix) == "text")
        if found:
            return found
    # A binary STL has no magic, so that a damaged one is known by its name alone.
    if suffix == ".stl":
        return "stl"
    raise InputError(f"the content is of no known format, or truncated; {_supported()}")


def _supported() -> str:
    return (
        "supported: "
        + ", ".join(s for s, f in SURFACE_SUFFIXES.items() if f != "freesurfer")
        + ", FreeSurfer"
    )


def _sniff_xml(head: bytes) -> str:
    if b"<GIFTI" in head:
        return "gifti"
    kind = re.search(rb"""<VTKFile[^>]*\btype\s*=\s*["'](\w+)["']""", head)
    if kind and kind.group(1) == b"PolyData":
        return "vtp"
    if kind:
        raise InputError(f"is a VTK {kind.group(1).decode()} file; convert it to PolyData (.vtp) first")
    raise InputError(f"is XML of an unknown kind, or truncated; {_supported()}")


def _sniff_text(head: bytes, start: bytes, table: bool) -> str | None:
    if re.match(rb"(ST)?C?N?4?n?OFF\b", start) or re.match(rb"#[^\n]*\n\s*(ST)?C?N?OFF\b", start):
        return "off"
    if start.startswith((b"{", b"[")):
        return "slicer-json" if b'"markups"' in head or b'"@schema"' in head else "landmark-json"
    if re.match(rb"#\s*Markups fiducial file", start):
        return "fcsv"
    # "v" then a number: a table may have a column called v, and then no number follows.
    if re.search(rb"^[ \t]*v[ \t]+[-+.\d]", head, re.MULTILINE):
        return "obj"
    if re.search(rb"^(mtllib|usemtl|g|o|s) ", head, re.MULTILINE):
        return "obj"
    # Text that holds numbers, and no control characters: a table of coordinates.
    if (table or re.search(rb"\d", head)) and not re.search(rb"[\x01-\x08\x0e-\x1f\x80-\x9f\xff]", head):
        return "text"
    return None


def _is_curv(data: bytes) -> bool:
    """Tell FreeSurfer's curvature files from its old quadrangle surfaces, which share a magic number."""
    if data[:3] != b"\xff\xff\xff" or len(data) < 15:
        return False
    count, _, values = struct.unpack_from(">3i", data, 3)
    return (
        values == 1 and count >= 0 and len(data) >= 15 and abs(len(data) - 15 - 4 * count) < 4 * max(count, 1)
    )


def _is_volume(data: bytes) -> bool:
    return data[344:348] in (b"n+1\x00", b"ni1\x00") or data[4:8] == b"n+2\x00" or data[128:132] == b"DICM"
