"""VTK, PLY, STL, OBJ and OFF against files written by hand and against other programs' readers."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from otreg import io
from otreg.errors import InputError
from otreg.io.polygons import fan, strip
from otreg.io.stl import weld
from tests.io.shapes import TETRAHEDRON, cloud, tetrahedron, with_data
from tests.support import shared_data

SQUARE = "0 0 0 1 0 0 1 1 0 0 1 0\n"


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---------- VTK ----------
def vtk_arrays(path: Path, reader_name: str = "vtkPolyDataReader") -> tuple[np.ndarray, np.ndarray, dict]:
    """Points, triangles and point data, read by VTK."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    reader = getattr(vtk, reader_name)()
    reader.SetFileName(str(path))
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputConnection(reader.GetOutputPort())
    triangles.PassVertsOff()
    triangles.PassLinesOff()
    triangles.Update()
    output, source = triangles.GetOutput(), reader.GetOutput().GetPointData()
    data = {
        source.GetArrayName(k): vtk_to_numpy(source.GetArray(k)) for k in range(source.GetNumberOfArrays())
    }
    corners = output.GetPolys().GetConnectivityArray() if output.GetNumberOfPolys() else None
    cells = vtk_to_numpy(corners).reshape(-1, 3) if corners else np.zeros((0, 3), int)
    return vtk_to_numpy(output.GetPoints().GetData()), cells, data


@pytest.mark.parametrize(
    "name",
    [
        "heart_cycle/patient1_RV_ENDOCARDIAL_000.vtk",
        "deep_brain/hippo1.vtk",
        "cortex/fsa5_lh.vtk",
        "messy/avf.vtk",
        "knee_femur/1_RIGHT_femur_Nov_02_2021.vtk",
        "left_atrium/LA_01_groomed.vtk",
        "messy/fetal_cortex.vtk",
        "femur_landmarks/VSD001_femur.vtk",
        "lung_vessels/copd1_source.vtk",
    ],
)
def test_same_as_vtk_reads(name: str) -> None:
    """Versions 1.0 to 5.1, ASCII and binary, polygons, strips and vertex cells."""
    path = shared_data(name)
    surface = io.read(path)
    points, triangles, data = vtk_arrays(path)
    np.testing.assert_array_equal(surface.points.astype(points.dtype), points)
    repeated = (triangles == np.roll(triangles, 1, axis=1)).any(
        axis=1
    )  # joints of strips, which we leave out
    expected = triangles[~repeated]
    # The same triangles turned the same way; VTK starts some at another corner.
    np.testing.assert_array_equal(_rotated(surface.triangles), _rotated(expected))
    assert set(surface.point_data) == set(data)
    for key, values in data.items():
        np.testing.assert_array_equal(surface.point_data[key].astype(values.dtype), values)


def _rotated(triangles: np.ndarray) -> np.ndarray:
    """Triangles with the smallest corner first."""
    start = np.argmin(triangles, axis=1)[:, None]
    return np.take_along_axis(triangles, (np.arange(3) + start) % 3, axis=1)


@pytest.mark.parametrize("suffix, reader", [("vtk", "vtkPolyDataReader"), ("vtp", "vtkXMLPolyDataReader")])
def test_vtk_reads_what_we_write(tmp_path: Path, suffix: str, reader: str) -> None:
    surface = with_data()
    io.write(surface, tmp_path / f"a.{suffix}")
    points, triangles, data = vtk_arrays(tmp_path / f"a.{suffix}", reader)
    np.testing.assert_array_equal(points, surface.points)
    assert points.dtype == np.float64
    np.testing.assert_array_equal(triangles, surface.triangles)
    for name, values in surface.point_data.items():
        np.testing.assert_array_equal(data[name], values)
    if suffix == "vtk":
        assert (tmp_path / "a.vtk").read_bytes().startswith(b"# vtk DataFile Version 4.2\n")


@pytest.mark.parametrize("version, binary", [(42, False), (42, True), (51, False), (51, True)])
def test_we_read_what_vtk_writes(tmp_path: Path, version: int, binary: bool) -> None:
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    sphere = vtk.vtkSphereSource()
    sphere.Update()
    polydata = sphere.GetOutput()
    polydata.GetPointData().RemoveArray("Normals")
    expected = {}
    rng = np.random.default_rng(0)
    for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        expected[f"a {code}"] = (rng.random((polydata.GetNumberOfPoints(), 3)) * 100).astype(code)
        array = numpy_to_vtk(expected[f"a {code}"], deep=True)
        array.SetName(f"a {code}")
        polydata.GetPointData().AddArray(array)
    words = vtk.vtkStringArray()
    words.SetName("words")
    for k in range(polydata.GetNumberOfPoints()):
        words.InsertNextValue(f"word {k}" * (1 + 30 * (k % 3)))
    polydata.GetPointData().AddArray(words)
    polydata.GetPointData().SetActiveScalars("a i4")
    polydata.GetPointData().SetActiveVectors("a f8")
    writer = vtk.vtkPolyDataWriter()
    writer.SetFileName(str(tmp_path / "a.vtk"))
    writer.SetInputData(polydata)
    writer.SetFileVersion(version)
    (writer.SetFileTypeToBinary if binary else writer.SetFileTypeToASCII)()
    writer.SetHeader("3D Slicer output. SPACE=LPS")
    writer.Write()
    surface = io.read(tmp_path / "a.vtk")
    assert surface.frame == "LPS"
    assert (
        len(surface) == polydata.GetNumberOfPoints() and len(surface.triangles) == polydata.GetNumberOfPolys()
    )
    assert set(surface.point_data) == set(expected)
    for name, values in expected.items():
        assert surface.point_data[name].dtype == values.dtype, name
        np.testing.assert_allclose(surface.point_data[name], values, rtol=1e-6 if binary else 1e-5)
    assert any("words" in what for what in surface.metadata["ignored"])


def test_vtk_odds_and_ends(tmp_path: Path) -> None:
    text = (
        "# vtk DataFile Version 3.0\nby hand, SPACE=RAS\nascii\nDATASET POLYDATA\n"
        "FIELD FieldData 1\nnote 1 1 int\n7\n"
        f"POINTS 4 float\n{SQUARE}METADATA\nINFORMATION 0\n\nLINES 1 3\n2 0 1\nPOLYGONS 1 5\n4 0 1 2 3\n"
        "CELL_DATA 1\nSCALARS patch int\nLOOKUP_TABLE default\n5\n"
        "POINT_DATA 4\nSCALARS height float\nLOOKUP_TABLE mine\n1 2 3 nan\nLOOKUP_TABLE mine 1\n0 0 1 1\n"
        "COLOR_SCALARS paint 3\n0 0 1 0 1 0 1 0 0 1 1 1\nTEXTURE_COORDINATES uv 2 float\n0 0 1 0 1 1 0 1\n"
    )
    surface = io.read(put(tmp_path, "a.vtk", text))
    np.testing.assert_array_equal(surface.triangles, [[0, 1, 2], [0, 2, 3]])
    np.testing.assert_array_equal(surface.point_data["height"], [1, 2, 3, np.nan])
    assert surface.point_data["paint"].shape == (4, 3) and surface.point_data["uv"].shape == (4, 2)
    assert surface.metadata["ignored"] == ["lines", "cell data 'patch'"]
    assert surface.frame == "RAS"
    # compressed, and under a name that lies
    again = io.read(put(tmp_path, "b.obj", gzip.compress(text.encode())))
    assert again.metadata["format"] == "vtk" and len(again.triangles) == 2


def test_vtk_unstructured_grid(tmp_path: Path) -> None:
    head = "# vtk DataFile Version 2.0\ngrid\nASCII\nDATASET UNSTRUCTURED_GRID\nPOINTS 4 double\n" + SQUARE
    cells = "CELLS 3 14\n3 0 1 2\n4 0 1 2 3\n4 0 1 3 2\nCELL_TYPES 3\n5\n9\n6\n"
    surface = io.read(put(tmp_path, "a.vtk", head + cells))
    np.testing.assert_array_equal(surface.triangles, [[0, 1, 2], [0, 1, 2], [0, 2, 3], [0, 1, 3], [3, 1, 2]])
    with pytest.raises(InputError, match="volume mesh"):
        io.read(put(tmp_path, "b.vtk", head + "CELLS 1 5\n4 0 1 2 3\nCELL_TYPES 1\n10\n"))
    with pytest.raises(InputError, match="holds STRUCTURED_POINTS, not a surface"):
        io.read(put(tmp_path, "c.vtk", head.replace("UNSTRUCTURED_GRID", "STRUCTURED_POINTS")))


def test_vtp_of_slicer_and_several_pieces(tmp_path: Path) -> None:
    piece = (
        '<Piece NumberOfPoints="3" NumberOfVerts="0" NumberOfLines="0" '
        'NumberOfStrips="0" NumberOfPolys="1"><Points>'
        '<DataArray type="Float64" NumberOfComponents="3" format="ascii">0 0 0 1 0 0 0 1 0</DataArray>'
        "</Points><Polys>"
        '<DataArray type="Int64" Name="connectivity" format="ascii">0 1 2</DataArray>'
        '<DataArray type="Int64" Name="offsets" format="ascii">3</DataArray></Polys></Piece>'
    )
    text = (
        f'<?xml version="1.0"?>\n'
        f'<VTKFile type="PolyData" version="1.0"><PolyData>{piece * 2}</PolyData></VTKFile>\n'
    )
    surface = io.read(put(tmp_path, "a.vtp", text))
    assert len(surface) == 6
    np.testing.assert_array_equal(surface.triangles, [[0, 1, 2], [3, 4, 5]])
    assert len(io.read(put(tmp_path, "b.vtp", gzip.compress(text.encode())))) == 6
    with pytest.raises(InputError, match="outside"):
        io.read(put(tmp_path, "c.vtp", text.replace("0 1 2<", "0 1 9<")))
    with pytest.raises(InputError, match="is a VTK ImageData file"):
        io.read(put(tmp_path, "d.vtp", text.replace('"PolyData"', '"ImageData"')))


# ---------- PLY ----------
def test_trimesh_reads_our_ply_in_the_same_order(tmp_path: Path) -> None:
    surface = with_data()
    io.write(surface, tmp_path / "moved.ply")
    mesh = trimesh.load(tmp_path / "moved.ply", process=False, maintain_order=True, force="mesh")
    np.testing.assert_array_equal(mesh.vertices, surface.points)
    np.testing.assert_array_equal(mesh.faces, surface.triangles)


def test_we_read_trimesh_ply(tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(subdivisions=2)
    mesh.visual.vertex_colors = np.arange(4 * len(mesh.vertices)).reshape(-1, 4) % 256
    for encoding in ("ascii", "binary_little_endian"):
        (tmp_path / "a.ply").write_bytes(mesh.export(file_type="ply", encoding=encoding, vertex_normal=True))
        surface = io.read(tmp_path / "a.ply")
        np.testing.assert_allclose(surface.points, mesh.vertices, atol=1e-6)
        np.testing.assert_array_equal(surface.triangles, mesh.faces)
        np.testing.assert_array_equal(surface.point_data["colours"], mesh.visual.vertex_colors)
        np.testing.assert_allclose(surface.point_data["normals"], mesh.vertex_normals, atol=1e-6)


@pytest.mark.parametrize("order", ["ascii", "<", ">"])
def test_ply_of_mixed_polygons_and_other_elements(tmp_path: Path, order: str) -> None:
    """A quadrangle, a triangle and a strip, with elements of others between and behind."""
    kind = {"ascii": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    head = (
        f"ply\nformat {kind} 1.0\ncomment SPACE=LPS\nelement vertex 4\nproperty float x\nproperty double y\n"
        "property float z\nproperty uchar red\nproperty uchar green\n"
        "property uchar blue\nproperty short speed_x\n"
        "property short speed_y\nproperty short speed_z\nelement camera 1\nproperty int focus\n"
        "element face 2\nproperty list uchar int vertex_index\nproperty int patch\n"
        "element tristrips 1\nproperty list int int vertex_indices\nelement tail 1\n"
        "property list uchar char name\n"
        "end_header\n"
    )
    rows = [(*p, 255, 0, k, k, 2 * k, -k) for k, p in enumerate([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)])]
    rest = [5, 4, 0, 1, 2, 3, 8, 3, 0, 1, 2, 9, 8, 0, 1, 3, 2, -1, 2, 1, 0, 1, 65]
    if order == "ascii":
        numbers = [str(v) for row in rows for v in row] + [str(v) for v in rest]
        content = head.encode() + " ".join(numbers).encode()
    else:
        content = head.encode() + b"".join(struct.pack(order + "fdfBBBhhh", *row) for row in rows)
        content += struct.pack(order + "iB4iiB3ii8xBb".replace("8x", "9i"), *rest)
    surface = io.read(put(tmp_path, "a.ply", content))
    np.testing.assert_array_equal(surface.points, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    expected = [[0, 1, 2], [0, 2, 3], [0, 1, 2], [0, 1, 3], [3, 1, 2], [2, 1, 0]]
    np.testing.assert_array_equal(surface.triangles, expected)
    np.testing.assert_array_equal(
        surface.point_data["speed"], [[0, 0, 0], [1, 2, -1], [2, 4, -2], [3, 6, -3]]
    )
    np.testing.assert_array_equal(surface.point_data["colours"][:, 2], [0, 1, 2, 3])
    assert surface.frame == "LPS"
    assert surface.metadata["ignored"] == ["element 'camera'", "face property 'patch'", "element 'tail'"]


# ---------- STL ----------
def test_stl_weld_against_trimesh() -> None:
    path = shared_data("femur_stl/femur_reference.stl")
    surface = io.read(path)
    soup = trimesh.load(path, process=False, file_type="stl")
    np.testing.assert_array_equal(
        surface.points[surface.triangles].reshape(-1, 3), soup.vertices[soup.faces.ravel()]
    )
    assert len(np.unique(surface.points, axis=0)) == len(surface) == 1622
    weld_map = surface.metadata["weld_map"]
    assert surface.metadata["merged_corners"] == len(weld_map) - len(surface)
    # order of first appearance: a corner's number is new only if it is the next one
    assert np.all(weld_map <= np.maximum.accumulate(np.concatenate([[-1], weld_map[:-1]])) + 1)


def test_weld_is_exact() -> None:
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 3, size=(300, 3)) + rng.choice([0.0, 1e-12], size=(300, 3))
    points, weld_map = weld(corners)
    np.testing.assert_array_equal(points[weld_map], corners)
    assert len(points) == len(np.unique(corners, axis=0))
    first = [int(np.flatnonzero(weld_map == k)[0]) for k in range(len(points))]
    assert first == sorted(first)


def test_stl_ascii_is_the_same_as_binary(tmp_path: Path) -> None:
    mesh = trimesh.creation.box()
    (tmp_path / "a.stl").write_text(trimesh.exchange.stl.export_stl_ascii(mesh))
    (tmp_path / "b.stl").write_bytes(mesh.export(file_type="stl"))
    one, two = io.read(tmp_path / "a.stl"), io.read(tmp_path / "b.stl")
    assert len(one) == 8
    np.testing.assert_array_equal(one.points, two.points)
    np.testing.assert_array_equal(one.triangles, two.triangles)


def test_stl_says_what_it_loses(tmp_path: Path) -> None:
    surface = tetrahedron()
    doubled = surface.with_points(surface.points[[0, 1, 2, 0]])
    assert any("at the same place" in w for w in io.write(doubled, tmp_path / "a.stl"))
    loose = type(surface)(np.concatenate([surface.points, [[9, 9, 9]]]), TETRAHEDRON)
    assert any("1 points that no triangle uses" in w for w in io.write(loose, tmp_path / "b.stl"))


# ---------- OBJ and OFF ----------
def test_obj_with_texture_keeps_vertices(tmp_path: Path) -> None:
    text = (
        "# by hand\nmtllib a.mtl\no thing\nv 0 0 0\nv  1\t0 0 \nv 1 1 0\r\nv 0 1 0\n"
        "v 9 9 9\nvt 0 0\nvt 1 0\nvn 0 0 1\n"
        "g front\nusemtl skin\ns 1\nf 1/1/1 2/2/1 3/1/1 # a comment\nf 1//1 3//1 \\\n"
        " 4//1\ng back\nf -5 -4 -3 -2\n"
        "f 4/2 3/1 2/1\nl 1 2\n"
    )
    surface = io.read(put(tmp_path, "a.obj", text))
    assert len(surface) == 5
    np.testing.assert_array_equal(surface.triangles, [[0, 1, 2], [0, 2, 3], [0, 1, 2], [0, 2, 3], [3, 2, 1]])
    assert surface.metadata["ignored"] == ["texture coordinates (vt)", "normals (vn)", "lines", "materials"]


def test_obj_relative_indices_count_from_their_place(tmp_path: Path) -> None:
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 0 0 1\nv 1 0 1\nv 0 1 1\nf -3 -2 -1\n"
    surface = io.read(put(tmp_path, "a.obj", text))
    np.testing.assert_array_equal(surface.triangles, [[0, 1, 2], [3, 4, 5]])


def test_obj_colours(tmp_path: Path) -> None:
    surface = io.read(put(tmp_path, "a.obj", "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n"))
    np.testing.assert_array_equal(surface.point_data["colours"], np.eye(3))


def test_obj_of_shared_data_is_the_vtk_of_the_same_model() -> None:
    one = io.read(shared_data("heart_cycle/patient1_EPICARDIAL_000.obj"))
    two = io.read(shared_data("heart_cycle/patient1_EPICARDIAL_000.vtk"))
    np.testing.assert_array_equal(one.triangles, two.triangles)
    np.testing.assert_allclose(one.points, two.points, atol=5e-5)


def test_off_variants(tmp_path: Path) -> None:
    text = "OFF # comment\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2 255 0 0\n4 0 1 2 3\n"
    surface = io.read(put(tmp_path, "a.off", text))
    np.testing.assert_array_equal(surface.triangles, [[0, 1, 2], [0, 1, 2], [0, 2, 3]])
    assert len(io.read(put(tmp_path, "b.off", text.replace("OFF # comment\n4", "OFF 4")))) == 4
    with pytest.raises(InputError, match="binary"):
        io.read(put(tmp_path, "c.off", text.replace("OFF", "OFF BINARY", 1)))


def test_trimesh_reads_our_obj_and_off(tmp_path: Path) -> None:
    for suffix in ("obj", "off"):
        io.write(tetrahedron(), tmp_path / f"a.{suffix}")
        mesh = trimesh.load(tmp_path / f"a.{suffix}", process=False, maintain_order=True)
        np.testing.assert_array_equal(mesh.vertices, tetrahedron().points)
        np.testing.assert_array_equal(mesh.faces, TETRAHEDRON)


# ---------- polygons ----------
def test_fan_and_strip() -> None:
    sizes = np.array([3, 5, 2, 4])
    triangles = fan(np.arange(14), sizes)
    assert triangles.tolist() == [[0, 1, 2], [3, 4, 5], [3, 5, 6], [3, 6, 7], [10, 11, 12], [10, 12, 13]]
    assert strip(np.array([0, 1, 2, 3, 3, 4, 5, 6, 7]), np.array([4, 5])).tolist() == [
        [0, 1, 2],
        [2, 1, 3],
        [3, 4, 5],
        [5, 4, 6],
        [5, 6, 7],
    ]
    assert fan(np.zeros(0, int), np.zeros(0, int)).shape == (0, 3)
    assert strip(np.array([1, 2]), np.array([2])).shape == (0, 3)


def test_a_cloud_in_vtk_has_vertex_cells(tmp_path: Path) -> None:
    io.write(cloud(), tmp_path / "a.vtk")
    assert b"\nVERTICES 7 14\n" in (tmp_path / "a.vtk").read_bytes()
