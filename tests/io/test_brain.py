"""GIFTI and FreeSurfer: surfaces, labels, metrics, frames; against nibabel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from otreg import io
from otreg.errors import InputError
from otreg.surface import Surface
from tests.io.shapes import TETRAHEDRON, tetrahedron, with_data
from tests.support import shared_data

VOLUME = {
    "head": np.array([2, 0, 20], np.int32),
    "valid": "1  # volume info valid",
    "filename": "../mri/orig.mgz",
    "volume": np.array([256, 256, 256]),
    "voxelsize": np.ones(3),
    "xras": np.array([-1.0, 0.0, 0.0]),
    "yras": np.array([0.0, 0.0, -1.0]),
    "zras": np.array([0.0, 1.0, 0.0]),
    "cras": np.array([1.5, -20.25, 3.0]),
}


# ---------- FreeSurfer ----------
@pytest.mark.parametrize("name", ["cortex/fsa5_lh", "cortex/fsa5_lh.obj", "cortex_fsaverage6/lh.pial"])
def test_freesurfer_by_content(name: str) -> None:
    surface = io.read(shared_data(name))
    points, triangles = nib.freesurfer.read_geometry(shared_data(name))
    assert surface.metadata["format"] == "freesurfer" and surface.frame == "tkRAS"
    np.testing.assert_array_equal(surface.points, points)
    np.testing.assert_array_equal(surface.triangles, triangles)
    assert "c_ras" not in surface.metadata  # their volume is marked as invalid


@pytest.mark.parametrize("name", ["lh.pial", "rh.sphere.reg", "surface", "lh.anything"])
def test_freesurfer_keeps_the_volume(tmp_path: Path, name: str) -> None:
    nib.freesurfer.write_geometry(tmp_path / "in", tetrahedron().points, TETRAHEDRON, volume_info=VOLUME)
    surface = io.read(tmp_path / "in")
    np.testing.assert_array_equal(surface.metadata["c_ras"], VOLUME["cras"])
    assert io.write(surface, tmp_path / name) == []
    points, triangles, info = nib.freesurfer.read_geometry(tmp_path / name, read_metadata=True)
    np.testing.assert_array_equal(points, tetrahedron().points.astype(np.float32))
    np.testing.assert_array_equal(triangles, TETRAHEDRON)
    for key, value in VOLUME.items():
        np.testing.assert_array_equal(info[key], value, err_msg=key)


def test_c_ras_of_a_gifti_reaches_freesurfer(tmp_path: Path) -> None:
    surface = Surface(
        tetrahedron().points, TETRAHEDRON, frame="tkRAS", metadata={"c_ras": np.array([1.0, 2, 3])}
    )
    io.write(surface, tmp_path / "a.gii")
    again = io.read(tmp_path / "a.gii")
    assert again.frame == "tkRAS"
    io.write(again, tmp_path / "lh.white")
    np.testing.assert_array_equal(io.read(tmp_path / "lh.white").metadata["c_ras"], [1, 2, 3])


def test_freesurfer_says_when_the_frame_is_another(tmp_path: Path) -> None:
    surface = Surface(tetrahedron().points, TETRAHEDRON, frame="RAS")
    assert "tkRAS, but these are RAS" in io.write(surface, tmp_path / "lh.pial")[0]
    assert io.read(tmp_path / "lh.pial").frame == "RAS"
    assert "unknown frame" in io.write(tetrahedron(), tmp_path / "lh.pial")[0]


def test_curvature_and_annotation(tmp_path: Path) -> None:
    sulc = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
    nib.freesurfer.write_morph_data(tmp_path / "lh.sulc", sulc)
    colours = np.array([[10, 20, 30, 0, 0], [40, 50, 60, 0, 0]])
    colours[:, 4] = colours[:, 0] + colours[:, 1] * 2**8 + colours[:, 2] * 2**16
    labels = np.array([0, 1, 1, -1])
    nib.freesurfer.write_annot(
        tmp_path / "lh.parts.annot", labels, colours, ["front", "back"], fill_ctab=False
    )
    np.testing.assert_array_equal(io.read_point_data(tmp_path / "lh.sulc")["sulc"], sulc)
    surface = io.attach_point_data(
        io.attach_point_data(tetrahedron(), tmp_path / "lh.sulc"), tmp_path / "lh.parts.annot"
    )
    np.testing.assert_array_equal(surface.point_data["parts"], labels)
    assert surface.label_names == {"parts": {0: "front", 1: "back"}}
    for name, what in (("lh.sulc", "values on points"), ("lh.parts.annot", "labels of points")):
        with pytest.raises(InputError, match=f"{what}, not a surface; read their surface"):
            io.read(tmp_path / name)


def test_shared_annotation_and_depth_belong_to_the_surface() -> None:
    surface = io.read(shared_data("cortex/pial_left.gii.gz"))
    surface = io.attach_point_data(surface, shared_data("cortex/sulc_left.gii.gz"))
    surface = io.attach_point_data(surface, shared_data("cortex/fsa5_lh_aparc.annot"))
    assert set(surface.point_data) == {"sulc", "fsa5_lh_aparc"}
    assert "bankssts" in surface.label_names["fsa5_lh_aparc"].values()
    with pytest.raises(InputError, match="32492 values for 10242 points; give the file"):
        io.attach_point_data(surface, shared_data("cortex/Desikan.32k.L.label.gii"))


# ---------- GIFTI ----------
@pytest.mark.parametrize("suffix", ["gii", "surf.gii", "gii.gz"])
def test_nibabel_reads_our_gifti(tmp_path: Path, suffix: str) -> None:
    surface = with_data()
    io.write(surface, tmp_path / f"a.{suffix}")
    image = nib.load(tmp_path / f"a.{suffix}")
    points, triangles = image.agg_data(("pointset", "triangle"))
    np.testing.assert_array_equal(points, surface.points.astype(np.float32))
    np.testing.assert_array_equal(triangles, surface.triangles)
    assert [d.meta["Name"] for d in image.darrays[2:]] == list(surface.point_data)
    np.testing.assert_array_equal(image.agg_data("label"), surface.point_data["Cartilage Region"])
    assert image.labeltable.get_labels_as_dict() == surface.label_names["Cartilage Region"]
    np.testing.assert_allclose(image.agg_data("vector"), surface.point_data["displacement"], rtol=1e-6)


def test_the_same_surface_gives_the_same_bytes(tmp_path: Path) -> None:
    for suffix in ("gii.gz", "vtk", "ply"):
        for name in "ab":
            io.write(with_data(), tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_label_arrays_with_different_names(tmp_path: Path) -> None:
    surface = tetrahedron().with_data({"one": np.array([0, 1, 0, 1]), "two": np.array([1, 1, 0, 0])})
    surface.label_names = {"one": {0: "a", 1: "b"}, "two": {0: "a", 1: "c"}}
    assert "label 1 has several names" in io.write(surface, tmp_path / "a.gii")[0]
    assert io.read(tmp_path / "a.gii").label_names == surface.label_names


def test_shared_label_file_against_nibabel() -> None:
    path = shared_data("cerebellum/Buckner_7Networks.label.gii")
    surface = io.attach_point_data(io.read(shared_data("cerebellum/PIAL_SUIT.surf.gii")), path)
    image = nib.load(path)
    np.testing.assert_array_equal(surface.point_data["col_01"], image.agg_data())
    assert surface.label_names["col_01"] == image.labeltable.get_labels_as_dict()
    with pytest.raises(InputError, match="no coordinates: give the surface"):
        io.read(path)


def test_values_are_attached_under_a_name_of_choice(tmp_path: Path) -> None:
    labelled = with_data()
    io.write(labelled, tmp_path / "labels.vtk")
    with pytest.raises(InputError, match=r"labels\.vtk: holds 6 arrays"):
        io.attach_point_data(tetrahedron(), tmp_path / "labels.vtk", "region")
    one = tetrahedron().with_data({"Cartilage Region": labelled.point_data["Cartilage Region"]})
    one.label_names = labelled.label_names
    io.write(one, tmp_path / "one.vtk")
    found = io.attach_point_data(tetrahedron(), tmp_path / "one.vtk", "region")
    assert list(found.point_data) == ["region"]
    np.testing.assert_array_equal(found.point_data["region"], labelled.point_data["Cartilage Region"])
    assert found.label_names == {"region": labelled.label_names["Cartilage Region"]}


def _gifti(meta: dict[str, str], space: int, **arrays: np.ndarray) -> bytes:
    image = nib.gifti.GiftiImage()
    coordinates = nib.gifti.GiftiCoordSystem(space, space, np.eye(4))
    meta_data = nib.gifti.GiftiMetaData(meta)
    points = arrays.get("points", tetrahedron().points.astype(np.float32))
    triangles = arrays.get("triangles", TETRAHEDRON.astype(np.int32))
    for values, intent in ((points, "NIFTI_INTENT_POINTSET"), (triangles, "NIFTI_INTENT_TRIANGLE")):
        image.add_gifti_data_array(
            nib.gifti.GiftiDataArray(values, intent=intent, coordsys=coordinates, meta=meta_data)
        )
    return image.to_bytes()


@pytest.mark.parametrize(
    "meta, space, frame",
    [
        ({}, 0, "RAS"),
        ({}, 1, "RAS"),
        ({}, 3, "RAS"),
        ({"VolGeomC_R": "0", "VolGeomC_A": "0", "VolGeomC_S": "0"}, 0, "RAS"),
        ({"VolGeomC_R": "1", "VolGeomC_A": "-2", "VolGeomC_S": "3"}, 0, "tkRAS"),
        ({"VolGeomC_R": "1", "VolGeomC_A": "-2", "VolGeomC_S": "3"}, 1, "RAS"),
    ],
)
def test_frame_of_gifti(tmp_path: Path, meta: dict[str, str], space: int, frame: str) -> None:
    (tmp_path / "a.gii").write_bytes(_gifti(meta, space))
    surface = io.read(tmp_path / "a.gii")
    assert surface.frame == frame
    if frame == "tkRAS":
        np.testing.assert_array_equal(surface.metadata["c_ras"], [1, -2, 3])


def test_gifti_with_bad_indices(tmp_path: Path) -> None:
    (tmp_path / "a.gii").write_bytes(_gifti({}, 0, triangles=np.array([[0, 1, 4]], np.int32)))
    with pytest.raises(InputError, match=r"a\.gii: 1 triangle corners name points outside 0\.\.3"):
        io.read(tmp_path / "a.gii")
