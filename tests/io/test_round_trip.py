"""What is written is read back: coordinates, order, point data, names and frames, where a format has them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otreg import io
from otreg.errors import InputError
from otreg.surface import Surface
from tests.io.shapes import cloud, tetrahedron, with_data

EXACT = ["vtk", "vtp", "ply", "obj", "off"]
SINGLE = ["stl", "gii", "gii.gz", "pial"]
CLOUDS = ["vtk", "vtp", "ply", "gii", "off", "obj", "txt", "csv", "xyz", "pts", "npy"]
WITH_DATA = ["vtk", "vtp", "ply", "gii", "gii.gz"]


@pytest.mark.parametrize("suffix", EXACT + SINGLE)
def test_mesh_keeps_points_triangles_and_their_order(tmp_path: Path, suffix: str) -> None:
    surface = tetrahedron()
    assert isinstance(io.write(surface, tmp_path / f"a.{suffix}"), list)
    again = io.read(tmp_path / f"a.{suffix}")
    assert again.metadata["path"] == str(tmp_path / f"a.{suffix}")
    if suffix == "stl":  # the order of points is that of the triangles
        order = np.array([0, 2, 1, 3])
        np.testing.assert_array_equal(again.points, surface.points[order].astype(np.float32))
        np.testing.assert_array_equal(order[again.triangles], surface.triangles)
        return
    expected = surface.points if suffix in EXACT else surface.points.astype(np.float32)
    np.testing.assert_array_equal(again.points, expected)
    np.testing.assert_array_equal(again.triangles, surface.triangles)


@pytest.mark.parametrize("suffix", ["vtk", "ply", "obj", "stl", "gii", "pial"])
def test_a_name_with_gz_is_compressed(tmp_path: Path, suffix: str) -> None:
    io.write(tetrahedron(), tmp_path / f"a.{suffix}.gz")
    io.write(tetrahedron(), tmp_path / f"a.{suffix}")
    plain = (tmp_path / f"a.{suffix}").read_bytes()
    packed = (tmp_path / f"a.{suffix}.gz").read_bytes()
    if suffix != "pial":  # it has the time of writing in it
        assert gzip.decompress(packed) == plain
    assert len(io.read(tmp_path / f"a.{suffix}.gz")) == 4
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    assert io.check_writable(tetrahedron(), "moved.stl") == "stl"
    with pytest.raises(InputError, match=r"moved\.dat: cannot write the format '\.dat'"):
        io.check_writable(tetrahedron(), "moved.dat")
    with pytest.raises(InputError, match="FreeSurfer surfaces need triangles"):
        io.check_writable(cloud(), "moved")


@pytest.mark.parametrize("suffix", CLOUDS)
def test_point_cloud(tmp_path: Path, suffix: str) -> None:
    surface = cloud()
    io.write(surface, tmp_path / f"a.{suffix}")
    again = io.read(tmp_path / f"a.{suffix}")
    assert not again.has_triangles
    np.testing.assert_allclose(again.points, surface.points, rtol=1e-7 if suffix == "gii" else 0)


@pytest.mark.parametrize("suffix", ["stl", "pial"])
def test_formats_of_triangles_refuse_a_cloud(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match=r"point cloud; write \.ply"):
        io.write(cloud(), tmp_path / f"a.{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", WITH_DATA)
def test_point_data_and_label_names(tmp_path: Path, suffix: str) -> None:
    surface = with_data()
    warnings = io.write(surface, tmp_path / f"a.{suffix}")
    assert ["Workbench" in w for w in warnings] == ([True] if suffix.startswith("gii") else [])
    again = io.read(tmp_path / f"a.{suffix}")
    assert set(again.point_data) == set(surface.point_data)
    for name, values in surface.point_data.items():
        read = again.point_data[name]
        assert read.shape == values.shape, name
        assert read.dtype.kind == values.dtype.kind or suffix.startswith("gii"), name
        np.testing.assert_allclose(read, values, rtol=1e-6 if suffix.startswith("gii") else 0, err_msg=name)
    assert again.label_names == surface.label_names


def test_point_data_of_tables(tmp_path: Path) -> None:
    surface = with_data(cloud(4))
    for suffix in ("txt", "csv"):
        warnings = io.write(surface, tmp_path / f"a.{suffix}")
        assert len(warnings) == 1 and "names of the labels" in warnings[0]
        again = io.read(tmp_path / f"a.{suffix}")
        for name, values in surface.point_data.items():
            np.testing.assert_allclose(again.point_data[name], values, rtol=1e-7, err_msg=name)
        assert again.point_data["displacement"].shape == (4, 3)


def test_labels_of_a_table_as_words(tmp_path: Path) -> None:
    surface = cloud(3).with_data({"region": np.array([0, 1, 0])})
    surface.label_names = {"region": {0: "left, upper", 1: "right"}}
    for suffix in ("txt", "csv"):
        assert io.write(surface, tmp_path / f"a.{suffix}") == []
        again = io.read(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(again.point_data["region"], [0, 1, 0])
        assert again.label_names == surface.label_names


@pytest.mark.parametrize("frame", ["RAS", "LPS", "tkRAS", None])
@pytest.mark.parametrize("suffix", [*EXACT, "stl", "gii", "txt", "csv"])
def test_frame(tmp_path: Path, suffix: str, frame: str | None) -> None:
    surface = Surface(tetrahedron().points, tetrahedron().triangles, frame=frame)
    warnings = io.write(surface, tmp_path / f"a.{suffix}")
    assert io.read(tmp_path / f"a.{suffix}").frame == frame
    assert any("RAS by other programs" in w for w in warnings) == (
        suffix == "gii" and frame in ("LPS", "tkRAS")
    )


@pytest.mark.parametrize("suffix", ["obj", "off", "stl", "xyz", "npy", "pial"])
def test_what_is_dropped_is_said(tmp_path: Path, suffix: str) -> None:
    warnings = io.write(with_data(), tmp_path / f"a.{suffix}")
    assert "thickness (mm)" in warnings[0] and "left out" in warnings[0]
    assert any("4 triangles" in w for w in warnings) == (suffix in ("xyz", "npy"))


def test_text_data_is_left_out_with_a_warning(tmp_path: Path) -> None:
    surface = tetrahedron().with_data(
        {"words": np.array(["a", "b", "c", "d"]), "flag": np.array([True, False] * 2)}
    )
    for suffix in WITH_DATA:
        assert any("'words'" in w for w in io.write(surface, tmp_path / f"a.{suffix}"))
        np.testing.assert_array_equal(io.read(tmp_path / f"a.{suffix}").point_data["flag"], [1, 0, 1, 0])


def test_integers_that_do_not_fit(tmp_path: Path) -> None:
    surface = tetrahedron().with_data({"big": np.array([2**40, 1, 2, 3])})
    for suffix, said in (("ply", "double"), ("gii", "single")):
        assert said in io.write(surface, tmp_path / f"a.{suffix}")[0]
        assert io.read(tmp_path / f"a.{suffix}").point_data["big"][0] == 2**40


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12), seed=st.integers(0, 10**6), suffix=st.sampled_from(["vtk", "ply", "vtp", "off"])
)
def test_any_mesh_survives(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, suffix: str
) -> None:
    """Also degenerate triangles, points that nothing uses, duplicates and extreme coordinates."""
    rng = np.random.default_rng(seed)
    points = rng.choice([0.0, -1.5, 1e-300, 1e300, rng.normal()], size=(count, 3))
    surface = Surface(points, rng.integers(0, count, size=(rng.integers(1, 6), 3)))
    path = tmp_path_factory.mktemp("any") / f"a.{suffix}"
    io.write(surface, path)
    again = io.read(path)
    np.testing.assert_array_equal(again.points, surface.points)
    np.testing.assert_array_equal(again.triangles, surface.triangles)


@pytest.mark.parametrize("name", ["points", "self", "x", "point_data"])
def test_names_that_mean_something_elsewhere(tmp_path: Path, name: str) -> None:
    surface = tetrahedron().with_data({name: np.arange(4.0)}).with_points(np.eye(4, 3), depth=np.ones(4))
    io.write(surface, tmp_path / "a.vtk")
    np.testing.assert_array_equal(io.read(tmp_path / "a.vtk").point_data[name], np.arange(4.0))


@settings(max_examples=30, deadline=None)
@given(
    name=st.text(min_size=1, max_size=12).filter(lambda n: n.strip() and n.isprintable()),
    width=st.integers(1, 4),
)
def test_any_name_survives(tmp_path_factory: pytest.TempPathFactory, name: str, width: int) -> None:
    values = np.arange(4.0 * width).reshape(4, width)
    surface = tetrahedron().with_data({name: values[:, 0] if width == 1 else values})
    folder = tmp_path_factory.mktemp("names")
    for suffix in ("vtk", "ply"):
        io.write(surface, folder / f"a.{suffix}")
        again = io.read(folder / f"a.{suffix}")
        assert list(again.point_data) == [name]
        np.testing.assert_array_equal(again.point_data[name], surface.point_data[name])


def test_a_newer_file_replaces_an_older_one_or_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "a.stl"
    io.write(tetrahedron(), path)
    before = path.read_bytes()
    with pytest.raises(InputError):
        io.write(cloud(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.stl"]


def test_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'\.docx'; use one of \.vtk, \.vtp, \.ply"):
        io.write(tetrahedron(), tmp_path / "a.docx")
    assert ".gii.gz" in io.supported_suffixes()


def test_write_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; create it"):
        io.write(tetrahedron(), tmp_path / "none" / "a.ply")
    with pytest.raises(InputError, match="is a folder"):
        (tmp_path / "b.ply").mkdir()
        io.write(tetrahedron(), tmp_path / "b.ply")
    with pytest.raises(InputError, match="no points to write"):
        io.write(Surface(np.zeros((0, 3))), tmp_path / "a.ply")


def test_atomic_path_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), io.atomic_path(tmp_path / "lh.pial") as temporary:
        assert temporary.name.endswith("lh.pial") and temporary.parent == tmp_path
        temporary.write_text("half")
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []
    with io.atomic_path(tmp_path / "a.gii.gz") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.gii.gz").read_text() == "whole"
