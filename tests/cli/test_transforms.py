"""``apply``, ``compose`` and ``info`` with transforms whose formulas are known."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import otreg as package
from otreg.deformations import Affine, Composite, Spline

from .support import OFFSET, ROTATION, bean, otreg, refused, succeed, write_landmarks, write_ply

CONTROL_POINTS = np.array([[20.0, 5.0, -3.0], [-25.0, 4.0, 8.0], [0.0, -20.0, 0.0]])
COEFFICIENTS = np.array([[4.0, 2.0, -1.0], [-3.0, 5.0, 2.0], [1.0, -4.0, 3.0]])
WIDTH = 25.0


def truth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The map of ``bend.h5``: rotation and offset, then a sum of three Gaussian bumps."""
    x = points @ ROTATION.T + OFFSET
    squared = ((x[:, None] - CONTROL_POINTS) ** 2).sum(axis=2)
    return x + np.exp(-squared / (2 * WIDTH**2)) @ COEFFICIENTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transforms")
    points, triangles = bean(2)
    write_ply(folder / "bean.ply", points, triangles)
    write_landmarks(folder / "marks.csv", points[::20])
    rotation = Affine(ROTATION, OFFSET, "rigid")
    rotation.save(folder / "rotate.h5")
    Composite([rotation, Spline(CONTROL_POINTS, COEFFICIENTS, WIDTH)]).save(folder / "bend.h5")
    Affine(np.eye(3), np.zeros(3), "rigid", moving_frame="RAS", fixed_frame="RAS").save(folder / "ras.h5")
    # a bump of 50 in a width of 5 turns space inside out beside its centre
    write_landmarks(folder / "axis.csv", np.outer(np.arange(-10.0, 60.0), [1.0, 0.0, 0.0]))
    Spline([[0.0, 0.0, 0.0]], [[50.0, 0.0, 0.0]], 5.0).save(folder / "fold.h5")
    return folder


def test_surfaces_clouds_and_landmarks_move(folder: Path) -> None:
    points, triangles = bean(2)
    out = succeed("apply", "bend.h5", "bean.ply", "-o", "moved.vtk", cwd=folder, fresh=True)
    assert "moved.vtk" in out and "162" in out
    moved = package.read(folder / "moved.vtk")
    np.testing.assert_allclose(moved.points, truth(points), atol=1e-9)
    np.testing.assert_array_equal(moved.triangles, triangles)

    np.savetxt(folder / "cloud.txt", points, fmt="%.17g")
    assert succeed("apply", "bend.h5", "cloud.txt", "-o", "cloud.ply", "--quiet", cwd=folder) == ""
    cloud = package.read(folder / "cloud.ply")
    assert not cloud.has_triangles
    np.testing.assert_allclose(cloud.points, truth(points), atol=1e-9)

    succeed("apply", "bend.h5", "marks.csv", "-o", "moved.csv", cwd=folder)
    marks = package.read_landmarks(folder / "moved.csv")
    np.testing.assert_allclose(marks.points, truth(points[::20]), atol=1e-9)
    assert marks.names == tuple(f"P{index}" for index in range(len(marks)))


def test_the_inverse_leads_back_and_says_how_exactly(folder: Path) -> None:
    points, triangles = bean(2)
    write_ply(folder / "there.ply", truth(points), triangles)
    out = succeed("apply", "bend.h5", "there.ply", "-o", "back.ply", "--inverse", cwd=folder)
    assert "residual" in out
    np.testing.assert_allclose(package.read(folder / "back.ply").points, points, atol=1e-5)
    write_ply(folder / "rotated.ply", points @ ROTATION.T + OFFSET, triangles)
    succeed("apply", "rotate.h5", "rotated.ply", "-o", "unrotated.ply", "--inverse", cwd=folder)
    np.testing.assert_allclose(package.read(folder / "unrotated.ply").points, points, atol=1e-10)


def test_a_fold_has_no_inverse_and_nothing_is_written(folder: Path) -> None:
    line = refused("apply", "fold.h5", "axis.csv", "-o", "unfolded.csv", "--inverse", cwd=folder, fresh=True)
    assert "axis.csv" in line and "fold" in line and "no inverse" in line
    assert not (folder / "unfolded.csv").exists()


def test_composition_applies_the_first_named_first(folder: Path) -> None:
    succeed("compose", "rotate.h5", "bend.h5", "-o", "both.h5", cwd=folder, fresh=True)
    points = bean(2)[0]
    both = package.load_transform(folder / "both.h5")
    np.testing.assert_allclose(both(points), truth(points @ ROTATION.T + OFFSET), atol=1e-9)
    assert "is also the input" in refused("compose", "rotate.h5", "-o", "rotate.h5", cwd=folder)


def test_known_frames_must_agree(folder: Path) -> None:
    succeed("convert", "bean.ply", "lps.vtk", "--from-frame", "LPS", cwd=folder)
    line = refused("apply", "ras.h5", "lps.vtk", "-o", "wrong.vtk", cwd=folder)
    assert "lps.vtk" in line and "RAS" in line and "LPS" in line
    assert "--convert-frames" in line and not (folder / "wrong.vtk").exists()
    done = otreg("apply", "ras.h5", "lps.vtk", "-o", "turned.vtk", "--convert-frames", cwd=folder)
    assert done.returncode == 0 and "converted from LPS to RAS" in done.stderr
    turned = package.read(folder / "turned.vtk")
    assert turned.frame == "RAS"
    np.testing.assert_allclose(turned.points, package.read(folder / "bean.ply").points * [-1, -1, 1])
    succeed("convert", "lps.vtk", "ras.vtk", "--frame", "RAS", cwd=folder)
    succeed("apply", "ras.h5", "ras.vtk", "-o", "right.vtk", cwd=folder)
    assert package.read(folder / "right.vtk").frame == "RAS"


def test_info_of_a_transform(folder: Path) -> None:
    found = json.loads(succeed("info", "bend.h5", "--json", cwd=folder))
    assert found["kind"] == "transform" and len(found["stages"]) == 2
    assert "3 control points" in succeed("info", "bend.h5", cwd=folder)


def test_damaged_and_foreign_transforms(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.h5").write_bytes(b"not HDF5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = [1.0]
    assert "is HDF5, but no transform file" in refused("info", tmp_path / "foreign.h5")
    (tmp_path / "half.h5").write_bytes((folder / "bend.h5").read_bytes()[:1000])
    mesh = folder / "bean.ply"
    for arguments in (
        ("apply", tmp_path / "t.h5", mesh, "-o", tmp_path / "out.ply"),
        ("apply", tmp_path / "half.h5", mesh, "-o", tmp_path / "out.ply"),
        ("apply", tmp_path / "none.h5", mesh, "-o", tmp_path / "out.ply"),
        ("compose", tmp_path / "t.h5", "-o", tmp_path / "out.h5"),
        ("info", tmp_path / "t.h5"),
    ):
        assert ".h5: " in refused(*arguments)
    assert "bean.ply" in refused("apply", mesh, mesh, "-o", tmp_path / "out.ply")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.h5", "half.h5", "t.h5"]
