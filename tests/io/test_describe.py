"""Descriptions of files, and every file of the shared data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import trimesh

from otreg import io
from otreg.errors import InputError
from otreg.surface import Landmarks, Surface
from tests.io.shapes import cloud, tetrahedron, with_data
from tests.support import SHARED_DATA, shared_data


def test_a_closed_mesh(tmp_path: Path) -> None:
    io.write(with_data(), tmp_path / "a.vtk")
    found = io.describe(tmp_path / "a.vtk")
    assert json.loads(json.dumps(found)) == found
    assert (found["format"], found["kind"], found["points"], found["triangles"]) == ("vtk", "mesh", 4, 4)
    assert (found["components"], found["boundary_edges"], found["non_manifold_edges"]) == (1, 0, 0)
    mesh = trimesh.Trimesh(tetrahedron().points, tetrahedron().triangles, process=False)
    np.testing.assert_allclose(found["area"], mesh.area)
    np.testing.assert_allclose(found["bounds"], mesh.bounds)
    assert found["point_data"]["displacement"]["shape"] == [4, 3]
    assert found["point_data"]["x"] == {"shape": [4], "dtype": "int16", "minimum": 0, "maximum": 3}
    assert found["labels"]["Cartilage Region"] == {"bone": 2, "medial, front": 1, "Übergang": 1}


def test_every_defect_is_counted(tmp_path: Path) -> None:
    """Two sheets, three triangles at an edge, doubled, loose and NaN points, degenerate triangles."""
    points = [
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, -1, 0],
        [0, 0, 1],
        [5, 5, 5],
        [6, 5, 5],
        [5, 6, 5],
        [7, 5, 5],
    ]
    points += [[0, 0, 0], [9, 9, 9], [np.nan, 0, 0]]
    triangles = [[0, 1, 2], [1, 0, 3], [0, 1, 4], [5, 6, 7], [5, 6, 8], [0, 0, 1]]
    io.write(Surface(points, triangles), tmp_path / "a.ply")
    found = io.describe(tmp_path / "a.ply")
    assert found["components"] == 2
    assert found["non_manifold_edges"] == 1
    assert found["boundary_edges"] == 6 + 4  # two free edges a leaf; four around the pair
    assert found["duplicate_points"] == 1
    assert found["unreferenced_points"] == 3
    assert found["degenerate_triangles"] == 2
    assert found["nan_points"] == 1
    assert found["bounds"] == [[0, -1, 0], [9, 9, 9]]


def test_a_cloud_and_landmarks(tmp_path: Path) -> None:
    io.write(cloud(), tmp_path / "a.xyz")
    found = io.describe(tmp_path / "a.xyz")
    assert found["kind"] == "point cloud" and found["area"] is None and found["components"] is None
    io.write_landmarks(Landmarks(np.eye(3), ("a", "b", "c"), "LPS"), tmp_path / "a.mrk.json")
    found = io.describe(tmp_path / "a.mrk.json")
    assert (found["kind"], found["points"], found["frame"], found["names"]) == (
        "landmarks",
        3,
        "LPS",
        ["a", "b", "c"],
    )
    assert json.loads(json.dumps(found)) == found


def test_values_on_points() -> None:
    found = io.describe(shared_data("cerebellum/Buckner_7Networks.label.gii"))
    assert found["kind"] == "point data" and found["points"] == 28935
    assert sum(found["labels"]["col_01"].values()) == 28935
    found = io.describe(shared_data("cortex/fsa5_lh_aparc.annot"))
    assert found["labels"]["fsa5_lh_aparc"]["bankssts"] > 0


def test_against_trimesh_on_shared_data() -> None:
    found = io.describe(shared_data("talus/KSBL_L_01_talus.ply"))
    mesh = trimesh.load(shared_data("talus/KSBL_L_01_talus.ply"), process=False)
    assert found["boundary_edges"] == 0 and mesh.is_watertight
    assert found["components"] == mesh.body_count
    np.testing.assert_allclose(found["area"], mesh.area, rtol=1e-6)
    assert found["ignored"][0] == "face property 'patch'"
    # known from the notes on the data
    found = io.describe(shared_data("cerebellum/PIAL_SUIT.surf.gii"))
    assert (found["duplicate_points"], found["unreferenced_points"]) == (100, 101)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        io.describe(tmp_path / "none.vtk")


def test_every_shared_file_is_read_or_refused_for_a_reason() -> None:
    shared_data()
    kinds: dict[str, int] = {}
    for path in sorted(p for p in SHARED_DATA.rglob("*") if p.is_file()):
        if path.suffix == ".md" or path.name == "LICENSE":
            with pytest.raises(InputError):
                io.describe(path)
            continue
        found = io.describe(path)
        assert found["points"] > 0, path
        kinds[found["kind"]] = kinds.get(found["kind"], 0) + 1
        assert found.get("nan_points", 0) == (1 if path.name == "MRL_MPJ.ply" else 0), path
        if found["kind"] in ("mesh", "point cloud"):
            assert found["format"] == (
                "freesurfer" if path.name.startswith(("fsa5_lh.obj", "lh.pial")) else found["format"]
            )
    assert (
        kinds["mesh"] >= 50
        and kinds["point cloud"] >= 4
        and kinds["landmarks"] >= 10
        and kinds["point data"] >= 4
    )


def test_counts_in_the_readme_of_the_data_are_true() -> None:
    """Every surface in data/ is in the tables of its README, with the counts that its file has."""
    folder = Path(__file__).parents[2] / "data"
    rows = re.findall(r"^\| `([^`]+)` \|(.*)$", (folder / "README.md").read_text(encoding="utf-8"), re.M)
    told = {}
    for name, text in rows:
        pairs = [
            tuple(int(v.replace(",", "")) for v in pair) for pair in re.findall(r"([\d,]+) / ([\d,]+)", text)
        ]
        if len(pairs) == 1:
            told[folder / name] = pairs[0]
        elif len(pairs) == 2:
            told[folder / "phantoms" / f"{name}_moving.vtk"] = pairs[0]
            told[folder / "phantoms" / f"{name}_fixed.ply"] = pairs[1]
    surfaces = {path for suffix in ("vtk", "ply", "stl", "gii") for path in folder.rglob(f"*.{suffix}")}
    assert set(told) == surfaces
    for path, counts in told.items():
        found = io.describe(path)
        assert (found["points"], found["triangles"]) == counts, path.name
