"""Point clouds in tables, and landmark files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from otreg import io
from otreg.errors import InputError
from otreg.surface import Landmarks
from tests.io.shapes import cloud
from tests.io.test_meshes import put
from tests.support import shared_data

POINTS = np.array([[1.5, -2.0, 3.25], [4.0, 5.0, -6e-3], [0.1, 1 / 3, 9.0]])


# ---------- tables ----------
@pytest.mark.parametrize(
    "text",
    [
        "1 2 3\n4 5 6\n",
        "  1\t2\t3\r\n4\t5\t6",
        "1,2,3\n4,5,6\n\n",
        "1; 2; 3\n4; 5; 6\n",
        "# SPACE=RAS\nx y z\n1 2 3\n4 5 6\n",
        "name,Z,Y,X\na,3,2,1\nb,6,5,4\n",
        "2\n1 2 3\n4 5 6\n",
        "\ufeffx,y,z\n1,2,3\n4,5,6\n",
        "a 1 2 3\nb 4 5 6\n",
        '"x","y","z"\n"1","2","3"\n"4","5","6"\n',
        "r,a,s\n1,2,3\n4,5,6\n",
        "1,2,3,\n4,5,6,\n",
    ],
)
def test_tables_of_all_sorts(tmp_path: Path, text: str) -> None:
    surface = io.read(put(tmp_path, "a.txt", text.encode()))
    np.testing.assert_array_equal(surface.points, [[1, 2, 3], [4, 5, 6]])
    assert surface.frame == ("RAS" if "RAS" in text or "r,a,s" in text else None)


def test_columns_become_point_data(tmp_path: Path) -> None:
    text = (
        "x,y,z,v_x,v_y,v_z,part,count,depth\n1,2,3,1,0,0,front,3,0.5\n"
        "4,5,6,0,1,0,back,4,\n7,8,9,0,0,1,front,5,1\n"
    )
    surface = io.read(put(tmp_path, "a.csv", text))
    np.testing.assert_array_equal(surface.point_data["v"], np.eye(3))
    np.testing.assert_array_equal(surface.point_data["part"], [0, 1, 0])
    assert surface.label_names == {"part": {0: "front", 1: "back"}}
    assert surface.point_data["count"].dtype == np.int64
    np.testing.assert_array_equal(surface.point_data["depth"], [0.5, np.nan, 1])


def test_contours_of_the_shared_data() -> None:
    path = shared_data("heart_cycle/GPFile_000.txt")
    surface = io.read(path)
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    np.testing.assert_array_equal(surface.points, [[float(v) for v in row[:3]] for row in rows])
    names = surface.label_names["contour type"]
    assert [names[k] for k in surface.point_data["contour type"].tolist()] == [row[3] for row in rows]
    assert not io.is_landmark_file(path)


def test_values_without_coordinates(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        io.read_point_data(put(tmp_path, "depth.txt", "1\n2\n3\n"))["depth"], [1, 2, 3]
    )
    table = io.read_point_data(put(tmp_path, "a.csv", "x,y,z,depth\n1,2,3,4\n5,6,7,8\n"))
    assert list(table) == ["depth"]
    np.save(tmp_path / "speed.npy", np.ones((5, 3)))
    assert io.read_point_data(tmp_path / "speed.npy")["speed"].shape == (5, 3)


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 2 3\n4 5\n", "row 2 has 2 values where 3"),
        ("1 2\n3 4\n", "three numbers, x y z"),
        ("a b\nc 1\n", "three numbers, x y z"),
        ("# 1 2 3\n", "no points: the table has no rows"),
        ("x,y,z\n", "no points"),
        ("x,y,z\n1,2,three\n4,5,6\n", "not all numbers"),
        ("1 2 3\n4 nan 6\n7 8 inf\n", r"2 of 3 points have NaN or infinite coordinates \(indices 1, 2\)"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        io.read(put(tmp_path, "a.txt", text))


def test_npy_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="plain array"):
        io.read(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"shape \(N, 3\)"):
        io.read(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.arange(6, dtype=np.int16).reshape(2, 3))
    np.testing.assert_array_equal(io.read(tmp_path / "c.npy").points, [[0, 1, 2], [3, 4, 5]])


# ---------- landmarks ----------
@pytest.mark.parametrize("frame", ["RAS", "LPS", "tkRAS", None])
@pytest.mark.parametrize("suffix", ["mrk.json", "fcsv", "csv", "txt", "pts", "particles"])
def test_landmarks_survive(tmp_path: Path, suffix: str, frame: str | None) -> None:
    landmarks = Landmarks(POINTS, ("nasion", "left, upper", 'the "tip"'), frame)
    path = tmp_path / f"a.{suffix}"
    if frame == "tkRAS" and suffix in ("mrk.json", "fcsv"):
        with pytest.raises(InputError, match="3D Slicer knows RAS and LPS"):
            io.write_landmarks(landmarks, path)
        return
    warnings = io.write_landmarks(landmarks, path)
    again = io.read_landmarks(path)
    np.testing.assert_array_equal(again.points, POINTS)
    assert again.frame == frame
    named = suffix in ("mrk.json", "fcsv", "csv")
    assert again.names == (landmarks.names if named else ("1", "2", "3"))
    assert any("names" in w for w in warnings) == (not named)
    assert any("Slicer will take them" in w for w in warnings) == (
        frame is None and suffix in ("mrk.json", "fcsv")
    )
    assert io.is_landmark_file(path) == (suffix != "txt")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_names_that_are_numbers(tmp_path: Path) -> None:
    landmarks = Landmarks(POINTS)
    for suffix in ("mrk.json", "fcsv", "csv"):
        io.write_landmarks(landmarks, tmp_path / f"a.{suffix}")
        assert io.read_landmarks(tmp_path / f"a.{suffix}").names == ("1", "2", "3")
    assert io.read_landmarks(put(tmp_path, "b.csv", "7,1,2,3\n9,4,5,6\n")).names == ("7", "9")


@pytest.mark.parametrize(
    "name, count, first",
    [
        ("mouse_skull/C57BL6_J.mrk.json", 51, "1"),
        ("femur_landmarks/VSD001-lm.csv", 4, "A"),
        ("femur_stl/femur_target.json", 6, "L0"),
        ("left_atrium/LA_01_groomed_local.particles", 128, "1"),
    ],
)
def test_shared_landmarks(name: str, count: int, first: str) -> None:
    path = shared_data(name)
    assert io.is_landmark_file(path)
    landmarks = io.read_landmarks(path)
    assert len(landmarks) == count and landmarks.names[0] == first
    assert landmarks.frame == ("LPS" if "mrk" in name else None)
    text = path.read_text()
    if name.endswith(".json") and "mrk" in name:
        expected = [c["position"] for c in json.loads(text)["markups"][0]["controlPoints"]]
    elif name.endswith(".json"):
        expected = [c["coordinates"] for c in json.loads(text)]
    else:
        rows = [line.replace(",", " ").split()[-3:] for line in text.splitlines() if line.strip()]
        expected = [[float(v) for v in row] for row in rows]
    np.testing.assert_array_equal(landmarks.points, expected)


def test_old_slicer_files(tmp_path: Path) -> None:
    text = (
        "# Markups fiducial file version = 4.10\n# CoordinateSystem = 0\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "vtkMRMLMarkupsFiducialNode_0,1.5,2,3,0,0,0,1,1,1,0,F-1,,\n"
    )
    landmarks = io.read_landmarks(put(tmp_path, "a.fcsv", text))
    assert landmarks.frame == "RAS" and landmarks.names == ("F-1",)
    assert io.read_landmarks(put(tmp_path, "b.fcsv", text.replace("= 0", "= 1"))).frame == "LPS"
    table = io.read_landmarks(put(tmp_path, "c.csv", "label,l,p,s,defined,selected\nF-1,1,2,3,1,1\n"))
    assert table.frame == "LPS" and table.names == ("F-1",)
    np.testing.assert_array_equal(table.points, [[1, 2, 3]])


def _markups(*controls: dict, frame: str = "LPS") -> str:
    return json.dumps({"markups": [{"coordinateSystem": frame, "controlPoints": list(controls)}]})


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.mrk.json", _markups({"label": "F", "position": None}), "'F' has no position; place it"),
        (
            "a.mrk.json",
            _markups({"label": "F", "position": [0, 0, 0], "positionStatus": "undefined"}),
            "no position",
        ),
        ("a.mrk.json", _markups({"label": "F", "position": [0, 0, 1]}, frame="XYZ"), "'XYZ' is unknown"),
        ("a.mrk.json", _markups(), "no landmarks"),
        ("a.mrk.json", _markups({"label": "F", "position": [0, 0, 1]})[:-9], "truncated or damaged"),
        ("a.json", '{"preset": "spline"}', "is JSON, but no landmarks"),
        ("a.csv", "A,1,2,3\nB,4,5\n", "row 2 has 3 values where 4"),
        ("a.csv", "A,1,2,nan\n", "'A' has no finite coordinates"),
        ("a.fcsv", "# Markups fiducial file version = 4.10\n0,1,2\n", "landmarks"),
        ("a.fcsv", "", "empty"),
    ],
)
def test_bad_landmarks(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = put(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as caught:
        io.read_landmarks(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_landmarks_and_surfaces_are_told_apart(tmp_path: Path) -> None:
    io.write(cloud(), tmp_path / "a.ply")
    with pytest.raises(InputError, match=r"is a surface \(ply\), not landmarks"):
        io.read_landmarks(tmp_path / "a.ply")
    io.write_landmarks(Landmarks(POINTS, frame="LPS"), tmp_path / "a.mrk.json")
    with pytest.raises(InputError, match="holds landmarks, not a surface"):
        io.read(tmp_path / "a.mrk.json")
    assert not io.is_landmark_file(tmp_path / "a.ply")
    assert not io.is_landmark_file(tmp_path / "missing.csv")
    with pytest.raises(InputError, match=r"cannot write landmarks as \.ply; use \.mrk\.json"):
        io.write_landmarks(Landmarks(POINTS), tmp_path / "b.ply")


@pytest.mark.parametrize(
    "name, text, landmarks",
    [
        ("a.csv", "name,x,y,z\n1,1,2,3\n2,4,5,6\n", True),
        ("a.csv", "id,x,y,z\n7,1,2,3\n9,4,5,6\n", True),
        ("a.csv", "x,y,z,name\n1,2,3,1\n4,5,6,2\n", True),
        ("a.csv", "x,y,z,label\n1,2,3,tip\n4,5,6,base\n", True),
        ("a.csv", "label,l,p,s,defined,selected\nF-1,1,2,3,1,1\nF-2,1,2,4,1,1\n", True),
        ("a.csv", "x,y,z,label\n1,2,3,1\n4,5,6,2\n", False),  # labels of a cloud, as otreg writes them
        ("a.csv", "x,y,z,label\n1,2,3,bone\n4,5,6,bone\n", False),
        ("a.csv", "id,x,y,z\n7,1,2,3\n7,4,5,6\n", False),
        ("a.csv", "x,y,z\n1,2,3\n4,5,6\n", False),
    ],
)
def test_names_tell_landmarks_from_clouds(tmp_path: Path, name: str, text: str, landmarks: bool) -> None:
    path = put(tmp_path, name, text)
    assert io.is_landmark_file(path) == landmarks
    expected = [[1, 2, 3], [1, 2, 4] if "F-2" in text else [4, 5, 6]]
    np.testing.assert_array_equal((io.read_landmarks(path) if landmarks else io.read(path)).points, expected)


def test_landmarks_named_by_numbers_are_still_landmarks_when_written(tmp_path: Path) -> None:
    io.write_landmarks(Landmarks(POINTS), tmp_path / "a.csv")
    assert io.is_landmark_file(tmp_path / "a.csv")


@pytest.mark.parametrize("suffix", [".mrk.json.gz", ".csv.gz"])
def test_landmarks_are_compressed_where_the_name_says_so(tmp_path: Path, suffix: str) -> None:
    landmarks = Landmarks(POINTS, ("a", "b", "c"), "LPS")
    path = tmp_path / f"a{suffix}"
    io.write_landmarks(landmarks, path)
    assert path.read_bytes()[:2] == b"\x1f\x8b" and io.is_landmark_file(path)
    again = io.read_landmarks(path)
    assert again.names == landmarks.names and again.frame == "LPS"
    np.testing.assert_array_equal(again.points, POINTS)
