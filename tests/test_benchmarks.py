"""The accuracy table: its measures against cases worked out by hand, and one task from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from .phantoms import bumpy_sphere, random_rotation, sphere_tessellation

ROOT = Path(__file__).parents[1]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import measures
    import meshes

    return meshes, measures


def test_measures(modules: tuple[ModuleType, ModuleType]) -> None:
    _, measures = modules
    points = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]])
    shift = np.array([1.0, 2.0, 2.0])
    assert measures.VertexTruth(points).error(points, points + shift) == pytest.approx(3.0)
    truth = measures.LandmarkTruth(points[:2] + 0.5, points[:2] + 0.5 + shift)
    assert truth.error(points, points) == pytest.approx(3.0)
    assert truth.error(points, points + shift) == pytest.approx(0.0)
    labels = np.array([1, 1, 2, 2])
    truth = measures.LabelTruth(labels, labels, points, (1, 2))
    assert truth.error(points, points) == 1.0
    # point 1 lands on point 2: label 1 has one hit of 2 + 1, label 2 one of 1 + 2, when ties go to the first
    truth = measures.LabelTruth(labels, np.array([1, 2, 2, 2]), points, (1, 2))
    assert truth.error(points, points) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_turned_triangles_are_counted_whatever_the_pose(modules: tuple[ModuleType, ModuleType]) -> None:
    meshes, measures = modules
    points, triangles = sphere_tessellation(300)
    rotation = random_rotation(np.random.default_rng(0))
    mesh = meshes.Mesh(points, triangles)
    assert measures.turned_share(mesh, 2.0 * points @ rotation.T + 5.0) == 0.0
    pushed = points.copy()
    pushed[0] *= -0.5
    assert 0 < measures.turned_share(mesh, pushed) < 0.05


def test_icp_finds_a_similarity_and_shuffling_keeps_the_surface(
    modules: tuple[ModuleType, ModuleType],
) -> None:
    meshes, _ = modules
    rng = np.random.default_rng(1)
    points, triangles = sphere_tessellation(1500)
    points = bumpy_sphere(points) * np.array([1.5, 1.0, 0.8])
    pose = meshes.Similarity(1.2, random_rotation(rng), np.array([100.0, -50.0, 20.0]))
    mesh = meshes.shuffled(meshes.Mesh(pose(points), triangles), rng)
    found = meshes.similarity_icp(points, mesh.points)
    np.testing.assert_allclose(found(points), pose(points), atol=0.5)
    areas = [
        np.linalg.norm(np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]), axis=1).sum()
        for c in (mesh.points[mesh.triangles], pose(points)[triangles])
    ]
    assert areas[0] == pytest.approx(areas[1])


def test_table_from_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "accuracy.py"), str(ROOT / "data"), "--presets"]
    command += [
        "--peers",
        "icp",
        "--tasks",
        "bean",
        "--work",
        str(tmp_path),
        "--json",
        str(tmp_path / "a.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "| phantom bean" in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    (row,) = found["rows"]
    assert 0.5 < row["error"] < 4.0 and row["seconds"] > 0 and 20 < row["peak_mb"] < 2000
    assert found["machine"]["cores"] >= 1
