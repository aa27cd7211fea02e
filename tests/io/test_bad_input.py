"""Bad input: an InputError of one line that names the file; never half a shape, never another exception."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otreg import io
from otreg.errors import InputError
from otreg.surface import Surface
from tests.io.shapes import TETRAHEDRON, cloud, tetrahedron, with_data
from tests.io.test_meshes import put
from tests.support import shared_data

ALL = ["vtk", "vtp", "ply", "stl", "obj", "off", "gii", "gii.gz", "pial", "npy"]


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        io.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    refused(tmp_path / "none.vtk", "no such file; check the name")
    refused(tmp_path, "is a folder; name a file")
    for suffix in ALL:
        refused(put(tmp_path, f"a.{suffix}", ""), "the file is empty")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything"
)
def test_no_permission(tmp_path: Path) -> None:
    path = put(tmp_path, "a.vtk", "x")
    path.chmod(0)
    refused(path, "cannot be opened")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.vtk", b"hello, world", "known format|damaged"),
        ("a.ply", bytes(range(256)) * 3, "known format, or truncated; supported: .vtk"),
        ("a.stl", b"\x00" * 50, "truncated"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, "is a PNG picture, not a surface"),
        ("a.vtk", b"\x89HDF\r\n\x1a\n" + b"\x00" * 100, "HDF5 .perhaps a transform"),
        (
            "a.nii",
            b"\x5c\x01\x00\x00" + b"\x00" * 340 + b"n+1\x00" + b"\x00" * 100,
            "image volume, not a surface",
        ),
        (
            "a.nii.gz",
            gzip.compress(b"\x5c\x01\x00\x00" + b"\x00" * 340 + b"n+1\x00" + b"\x00" * 100, mtime=0),
            "image volume",
        ),
        ("a.nrrd", b"NRRD0004\ntype: short\n", "NRRD image"),
        ("a.dcm", b"\x00" * 128 + b"DICM" + b"\x00" * 100, "image volume"),
        ("a.vtp", b'<?xml version="1.0"?>\n<svg></svg>', "XML of an unknown kind"),
        ("a.gii.gz", gzip.compress(b"<GIFTI>" * 100, mtime=0)[:-12], "truncated or damaged gzip"),
        ("a.gii", b'<?xml version="1.0"?>\n<GIFTI><DataArray></GIFTI>', "truncated or damaged"),
        ("a.json", b'{"a": 1}', "landmarks or settings"),
    ],
)
def test_content_that_is_something_else(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    refused(put(tmp_path, name, content), message)


HEAD = "# vtk DataFile Version 3.0\nx\nASCII\nDATASET POLYDATA\n"


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.vtk", HEAD, "no points: the POINTS section is missing"),
        ("a.vtk", HEAD + "POINTS 0 float\n", "no points"),
        ("a.vtk", HEAD + "POINTS 3 float\n0 0 0 1 0 0 0 1\n", "9 numbers of coordinates promised, 8 found"),
        ("a.vtk", HEAD + "POINTS 2 float\n0 0 0 1 0 0 0 1\n", "6 coordinates promised, but there are 8"),
        ("a.vtk", HEAD + "POINTS 99999999999999 float\n0 0 0\n", "truncated or damaged"),
        ("a.vtk", HEAD + "POINTS 1 float\n0 zero 0\n", "3 numbers of coordinates promised, 1 found"),
        ("a.vtk", HEAD + "POINTS 1 quadruple\n0 0 0\n", "unknown type 'quadruple'"),
        (
            "a.vtk",
            HEAD + "POINTS 3 float\n0 0 0 1 0 0 0 1 0\nPOLYGONS 1 4\n3 0 1 3\n",
            r"outside 0\.\.2 \(first: 3\)",
        ),
        ("a.vtk", HEAD + "POINTS 3 float\n0 0 0 1 0 0 0 1 0\nPOLYGONS 2 4\n3 0 1 2\n", "2 polygons promised"),
        ("a.vtk", HEAD + "POINTS 3 float\n0 0 0 1 0 0 0 1 0\nRUBBISH 3\n", "no number and no VTK section"),
        (
            "a.vtk",
            HEAD + "POINTS 1 float\n0 0 0\nPOINT_DATA 1\nFIELD f 2\na 1 1 int\n4\n",
            "field arrays are missing",
        ),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex 1\n", "the PLY header has no end"),
        ("a.ply", "ply\nformat ascii 1.0\nelement face 1\nend_header\n", "no vertex element"),
        (
            "a.ply",
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty real x\nend_header\n",
            "header line 'property real",
        ),
        ("a.ply", "ply\nformat odd 1.0\nelement vertex 1\nend_header\n", "names no format"),
        (
            "a.ply",
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
            "lack x, y or z",
        ),
        ("a.obj", "v 0 0 0\nv 1 0\nf 1 2 3\n", "vertices: number 1 reads '1 0'"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2\n", "face number 0 cannot be read"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", r"outside 0\.\.2 \(first: 3\)"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "counts from 1"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 three\n", "face number 0 cannot be read"),
        ("a.obj", "g empty\nusemtl none\n", "no points: there are no vertices"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n", "3 points and 1 faces promised, 2 lines found"),
        ("a.off", "OFF\n", "counts are missing"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4 0 1 2\n", "face number 0 cannot be read"),
        (
            "a.stl",
            "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\n",
            "1 triangles begun, 0 complete",
        ),
    ],
)
def test_damaged_text(tmp_path: Path, name: str, text: str, message: str) -> None:
    refused(put(tmp_path, name, text), message)


@pytest.mark.parametrize("suffix", ["vtk", "vtp", "ply", "stl", "off", "gii", "gii.gz", "pial", "npy"])
def test_truncated_anywhere(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Cut at many places: refused, or (where only data behind the shape is lost) whole."""
    surface = cloud() if suffix == "npy" else with_data()
    io.write(surface, tmp_path / f"whole.{suffix}")
    content, whole = (tmp_path / f"whole.{suffix}").read_bytes(), io.read(tmp_path / f"whole.{suffix}")
    places = np.unique(np.linspace(1, len(content) - 1, 60 if suffix == "vtp" else 150).astype(int))
    for place in places.tolist():
        path = put(tmp_path, f"cut.{suffix}", content[:place])
        try:
            cut = io.read(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            continue
        if suffix == "vtk" and content[place:].lstrip().startswith(b"POLYGONS"):
            continue  # between two sections the format cannot tell a cut: points alone are a cloud
        np.testing.assert_array_equal(
            cut.triangles, whole.triangles, err_msg=f"cut at {place} of {len(content)}"
        )
        if suffix == "off":  # cut within the last number, or its trailing blank
            continue
        np.testing.assert_array_equal(cut.points, whole.points, err_msg=f"cut at {place} of {len(content)}")
    assert capfd.readouterr() == ("", "")  # VTK prints its complaints unless told not to


@pytest.mark.parametrize(
    "name",
    [
        "heart_cycle/patient1_EPICARDIAL_000.vtk",
        "femur_landmarks/VSD001_femur.vtk",
        "talus/KSBL_L_01_talus.ply",
        "mouse_skull/C57BL6_J.ply",
        "face_stl/01.stl",
        "cortex_fsaverage6/lh.pial",
        "messy/skull.vtp",
        "cerebellum/PIAL_SUIT.surf.gii",
        "cortex/pial_left.gii.gz",
    ],
)
def test_truncated_shared_data(tmp_path: Path, name: str) -> None:
    content = shared_data(name).read_bytes()
    for share in (0.05, 0.4, 0.8):
        refused(put(tmp_path, Path(name).name, content[: int(share * len(content))]), "truncated|damaged")


@settings(max_examples=150, deadline=None)
@example(suffix="csv", changes=[(0.5, 13)])  # a carriage return inside a line
@given(
    suffix=st.sampled_from(["vtk", "ply", "stl", "obj", "off", "gii", "pial", "npy", "csv"]),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
    ),
)
def test_flipped_bytes(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, changes: list[tuple[float, int]]
) -> None:
    """Whatever is damaged, the answer is a shape or an InputError."""
    folder = tmp_path_factory.mktemp("bytes")
    io.write(with_data(), folder / f"a.{suffix}")
    content = bytearray((folder / f"a.{suffix}").read_bytes())
    for place, value in changes:
        content[int(place * len(content))] = value
    path = put(folder, f"a.{suffix}", bytes(content))
    try:
        surface = io.read(path, repair=True)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert np.isfinite(surface.points).all()


# ---------- coordinates that are not finite ----------
def _with_bad_points() -> Surface:
    points = np.vstack([tetrahedron().points, [[0, 0, np.nan], [np.inf, 0, 0]]])
    triangles = np.vstack([TETRAHEDRON, [[0, 1, 4], [5, 2, 3]]])
    return Surface(points, triangles, {"id": np.arange(6), "v": points * 1.0})


@pytest.mark.parametrize("suffix", ["vtk", "vtp", "ply", "obj", "off", "gii", "pial"])
def test_nan_is_refused_or_repaired(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    io.write(_with_bad_points(), path)
    refused(path, r"2 of 6 points have NaN or infinite coordinates \(indices 4, 5\); .* repair")
    surface = io.read(path, repair=True)
    np.testing.assert_array_equal(surface.metadata["kept_points"], [0, 1, 2, 3])
    np.testing.assert_array_equal(surface.triangles, TETRAHEDRON)
    if "id" in surface.point_data:
        np.testing.assert_array_equal(surface.point_data["id"], [0, 1, 2, 3])


def test_repair_renumbers_triangles(tmp_path: Path) -> None:
    points = np.array([[np.nan, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    io.write(Surface(points, [[1, 2, 3], [0, 1, 2]]), tmp_path / "a.ply")
    surface = io.read(tmp_path / "a.ply", repair=True)
    np.testing.assert_array_equal(surface.triangles, [[0, 1, 2]])
    np.testing.assert_array_equal(surface.metadata["kept_points"], [1, 2, 3])


def test_nothing_left_to_repair(tmp_path: Path) -> None:
    io.write(Surface(np.full((3, 3), np.nan), [[0, 1, 2]]), tmp_path / "a.ply")
    with pytest.raises(InputError, match="3 of 3 points"):
        io.read(tmp_path / "a.ply", repair=True)


def test_nan_in_shared_data() -> None:
    path = shared_data("mouse_skull/MRL_MPJ.ply")
    refused(path, r"1 of 103526 points .* \(indices 25281\)")
    surface = io.read(path, repair=True)
    assert len(surface) == 103525 and len(surface.metadata["kept_points"]) == 103525


def test_stl_of_another_length(tmp_path: Path) -> None:
    io.write(tetrahedron(), tmp_path / "a.stl")
    content = (tmp_path / "a.stl").read_bytes()
    more = content[:80] + struct.pack("<I", 9) + content[84:]
    refused(put(tmp_path, "b.stl", more), "truncated: 9 triangles promised, 4 found")
    assert len(io.read(put(tmp_path, "c.stl", content + b"trailer")).triangles) == 4
    refused(put(tmp_path, "e.stl", content + bytes(50)), "4 triangles promised, 50 bytes follow them")
    solid = b"solid of a binary file".ljust(80) + content[80:]
    assert len(io.read(put(tmp_path, "d.stl", solid)).triangles) == 4
