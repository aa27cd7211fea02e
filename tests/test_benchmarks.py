"""The benchmark of registrations: its measures against cases worked out by hand, and one task from end to end."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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


def test_distance_of_two_spheres(modules: tuple[ModuleType, ModuleType]) -> None:
    meshes, measures = modules
    points, triangles = sphere_tessellation(2000)
    inner, outer = (meshes.Mesh(radius * points, triangles) for radius in (10.0, 11.0))
    assert measures.surface_distance(inner, outer) == pytest.approx(1.0, abs=0.05)
    # nearest vertices of the same tessellation lie straight above each other
    assert measures.vertex_distance(inner.points, outer.points) == pytest.approx(1.0, abs=1e-9)


def test_error_of_an_inverse(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    from otreg.deformations import Affine, Spline

    meshes, measures = modules
    points, triangles = sphere_tessellation(1500)
    mesh = meshes.Mesh(points, triangles)
    Affine(random_rotation(np.random.default_rng(0)), np.array([3.0, 2.0, 1.0])).save(tmp_path / "fine.h5")
    assert measures.inverse_error(tmp_path / "fine.h5", mesh, mesh) < 1e-14
    # everything is drawn through the centre and out again: two points land on one
    Spline(np.zeros((1, 3)), np.array([[8.0, 0.0, 0.0]]), 0.7).save(tmp_path / "folded.h5")
    assert measures.inverse_error(tmp_path / "folded.h5", mesh, mesh) is None


def test_other_numbers_of_vertices(modules: tuple[ModuleType, ModuleType]) -> None:
    meshes, _ = modules
    points, triangles = sphere_tessellation(1000)
    mesh = meshes.Mesh(bumpy_sphere(points), triangles)

    def area(mesh: Any) -> float:
        corners = mesh.points[mesh.triangles]
        return np.linalg.norm(
            np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
        ).sum()

    def thinnest(mesh: Any) -> float:
        corners = mesh.points[mesh.triangles]
        edges = np.roll(corners, 1, axis=1) - corners
        areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
        return float((areas / (edges**2).sum(axis=2).max(axis=1)).min())

    for count in (400, 1000, 1500, 20_000):
        found = meshes.resized(mesh, count)
        assert len(found.points) == pytest.approx(count, rel=0.05)
        assert area(found) == pytest.approx(area(mesh), rel=0.02)
        # whole, and without slivers, which any bend would turn over
        edges = np.sort(found.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
        assert thinnest(found) > 0.3 * thinnest(mesh)
        if count > 1000:
            assert len(found.points) == count and area(found) == pytest.approx(area(mesh), rel=1e-12)
    assert len(meshes.decimated(mesh, 500).triangles) <= 500
    used, renumbered = meshes.used_part(np.array([[5, 1, 3], [1, 3, 2]]), 7)
    assert used.tolist() == [False, True, True, True, False, True, False]
    assert renumbered.tolist() == [[3, 0, 2], [0, 2, 1]]


@pytest.mark.parametrize("name", ["meshmonk", "nricp", "pycpd"])
def test_peers_bring_a_deformed_sphere_home(
    name: str, modules: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    """Vertices that no triangle uses come back too."""
    import peer

    if peer.missing(name):
        pytest.skip(f"{name} needs {', '.join(peer.missing(name))}")
    meshes, measures = modules
    points, triangles = sphere_tessellation(700)
    moving = meshes.Mesh(np.vstack([10.0 * points, [[0.0, 0.0, 10.0]]]), triangles)
    fixed = meshes.Mesh(10.0 * points * np.array([1.15, 1.0, 0.9]), triangles)
    moved = peer.PEERS[name](moving, fixed, tmp_path)
    assert moved.shape == moving.points.shape and np.isfinite(moved).all()
    before = measures.vertex_distance(peer.similarity(moving, fixed, tmp_path), fixed.points)
    assert measures.vertex_distance(moved, fixed.points) < 0.8 * before


def test_what_takes_too_long_is_ended(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import tools

    command = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    seconds, peak_mb, code, log = tools.measured(command, tmp_path, 1.0)
    assert 1.0 <= seconds < 30.0 and code == -9 and 1 < peak_mb < 200 and log == "begun\n"
    monkeypatch.setattr(tools, "measured", lambda *_: (1.2, 50.0, -9, ""))
    with pytest.raises(tools.ToolFailed, match="not done after 1 s"):
        tools.run("icp", tmp_path, limit=1.0)


def test_table(modules: tuple[ModuleType, ModuleType]) -> None:
    import registration

    base = {"task": "a task", "moving": 10, "fixed": 2000}
    figures = {"surface": 0.5, "turned": 0.0123, "seconds": 2.5, "peak_mb": 321}
    rows = [
        {
            **base,
            **figures,
            "tool": "otreg:diffeo",
            "unit": "vertex mm",
            "error": 1.23456,
            "folded": 0.0,
            "inverse": 2e-9,
        },
        {**base, **figures, "tool": "icp", "unit": "Dice", "error": 0.5},
        {**base, "tool": "other", "failed": "no luck"},
    ]
    lines = registration.table(rows).splitlines()
    assert lines[0].split() == list(registration.COLUMNS)
    first = "a task  10/2000  otreg:diffeo  1.23 mm  0.5  1.23  0.00  2e-07  2.5  321"
    assert lines[1].split() == first.split()
    assert lines[2].split() == "a task 10/2000 icp 0.5 Dice 0.5 1.23 2.5 321".split()
    assert lines[3].split() == "a task 10/2000 other failed: no luck".split()
    # numbers end where their heading does
    assert (
        len({line.index(text) + len(text) for line, text in zip(lines, ("MB", "321", "321"), strict=False)})
        == 1
    )


def test_from_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "registration.py"), "--tasks", "bean"]
    command += [
        "--tools",
        "otreg:similarity,icp",
        "--work",
        str(tmp_path),
        "--json",
        str(tmp_path / "a.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.count("phantom bean") == 2
    found = json.loads((tmp_path / "a.json").read_text())
    for row in found["rows"]:
        assert 0.5 < row["error"] < 4.0 and row["unit"] == "vertex mm"
        assert 0.1 < row["surface"] < row["nearest"] < 3.0 and row["turned"] == 0.0
        assert row["seconds"] > 0 and 20 < row["peak_mb"] < 2000
    ours, icp = found["rows"]
    assert ours["folded"] == 0.0 and ours["inverse"] < 1e-12 and "folded" not in icp
    assert found["machine"]["cores"] >= 1


def test_sizes_and_tools_that_are_not_there(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pairs
    import registration

    monkeypatch.setattr(registration, "missing", lambda tool: ["magic"] if tool == "nricp" else [])
    tasks = [task for task in pairs.find_tasks(ROOT / "data") if "cerebellum" in task.name]
    options = argparse.Namespace(tools=["icp", "nricp"], work=tmp_path, args="", limit=60.0)
    ((name, pair),) = registration.cases(tasks, [600])
    assert name.endswith("of 600") and [truth.unit for truth in pair.truths] == ["TRE mm"]
    icp, absent = registration.measure(name, pair, options)
    assert 500 < icp["moving"] < 700 and 500 < icp["fixed"] < 700 and icp["error"] < 2.0
    assert absent["skipped"] == "not installed: magic"


def test_largest_sizes_follow_from_the_slope(modules: tuple[ModuleType, ModuleType]) -> None:
    import memory

    def found(**megabytes: float) -> dict[int, dict[str, float]]:
        return {int(size[1:]): {"megabytes": value} for size, value in megabytes.items()}

    # 100 MB, and 40 MB for each item: 407 of them make 16 GB; what falls is not looked at
    assert memory.largest(found(n1=900.0, n10=500.0, n20=900.0), 1) == (pytest.approx(407.1), True)
    # 384 MB, and 1000 MB for each squared: 4 of them
    assert memory.largest(found(n1=1384.0, n2=4384.0), 2) == (pytest.approx(4.0), True)
    assert memory.largest(found(n10=140.0, n20=145.0), 1) == (20.0, False)
    # the steepest stretch, and no further than a hundred times the largest
    assert memory.largest(found(n10=500.0, n20=900.0, n40=910.0), 1) == (pytest.approx(407.1), True)
    assert memory.largest(found(n10=1.0, n20=12.0), 1) == (2000.0, False)
    assert memory.in_words(4071.0, True) == "about 4,100"
    assert memory.in_words(20.0, False) == "more than 20"


def test_memory(tmp_path: Path) -> None:
    """Penalties, whose memory is known: plain autograd stores more than the activation that ours stores."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "memory.py"),
        "--quick",
        "--problems",
        "eager_penalty",
    ]
    command += ["--json", str(tmp_path / "a.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "| penalties on all activations, 16 images | `eager_penalty` | " in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())["results"]["eager_penalty"]
    activation = 16 * 16 * 96**2 * 4 / 2**20
    plain, ours = (found[way]["16"] for way in ("plain", "ours"))
    assert plain["gradient"] == pytest.approx(ours["gradient"], rel=1e-3)
    # seven layers are penalised; the penalties alone keep at least two arrays of each
    assert plain["megabytes"] - ours["megabytes"] > 7 * activation
