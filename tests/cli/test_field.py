"""``otreg field``: what it writes moves points as ``otreg apply`` does, and bad input leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

import otreg as package
from otreg.deformations import Affine, Composite, Spline

from .support import OFFSET, ROTATION, bean, otreg, refused, succeed, write_landmarks, write_ply

HALF_TURN = np.array([-1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fields")
    points, triangles = bean(2)
    write_ply(folder / "bean.ply", points, triangles)
    write_landmarks(folder / "marks.csv", points[::10])
    rng = np.random.default_rng(0)
    for name, frame in (("none", None), ("ras", "RAS")):
        rigid = Affine(ROTATION, OFFSET, "rigid", moving_frame=frame, fixed_frame=frame)
        spline = Spline(
            points[::8] @ ROTATION.T + OFFSET, rng.normal(size=(len(points[::8]), 3)), 30.0,
            moving_frame=frame, fixed_frame=frame,
        )  # fmt: skip
        rigid.save(folder / f"rigid_{name}.h5")
        Composite([rigid, spline]).save(folder / f"bend_{name}.h5")
    Spline([[0.0, 0.0, 0.0]], [[50.0, 0.0, 0.0]], 5.0).save(folder / "fold.h5")
    return folder


def moved(path: Path, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points as SimpleITK moves them with a file, in LPS."""
    if path.suffix in (".h5", ".tfm", ".txt"):
        transform: SimpleITK.Transform = SimpleITK.ReadTransform(str(path))
    else:
        image = SimpleITK.Cast(SimpleITK.ReadImage(str(path)), SimpleITK.sitkVectorFloat64)
        transform = SimpleITK.DisplacementFieldTransform(image)
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


@pytest.mark.parametrize("name", ["f.nii.gz", "f.nii", "f.nrrd", "f.h5"])
def test_points_move_as_with_apply(folder: Path, name: str) -> None:
    succeed("apply", "bend_ras.h5", "bean.ply", "-o", "moved.ply", cwd=folder)
    wanted = package.read(folder / "moved.ply").points
    out = succeed("field", "bend_ras.h5", "-o", name, "--json", cwd=folder, fresh=name == "f.nii.gz")
    facts = json.loads(out)
    assert facts["maps"] == "points of MOVING to FIXED" and facts["frame"] == "RAS"
    points = bean(2)[0]
    found = moved(folder / name, points * HALF_TURN) * HALF_TURN
    error = np.linalg.norm(found - wanted, axis=1).max()
    assert error <= 1.05 * facts["accuracy"]["largest"] + 1e-5 and error < 0.1

    succeed(
        "field",
        "bend_ras.h5",
        "-o",
        name,
        "--direction",
        "images",
        "--like",
        "moved.ply",
        "--quiet",
        cwd=folder,
    )
    back = moved(folder / name, wanted * HALF_TURN) * HALF_TURN
    assert np.linalg.norm(back - points, axis=1).max() < 0.1


def test_it_says_what_it_wrote(folder: Path) -> None:
    out = succeed("field", "bend_ras.h5", "-o", "a.vti", "--spacing", "8", cwd=folder)
    for words in (
        "a.vti", "points of MOVING to FIXED", "RAS, written as RAS", "8 apart", "mean", "no motion"
    ):  # fmt: skip
        assert words in out
    out = succeed("field", "bend_ras.h5", "-o", "a.h5", "--direction", "images", "--spacing", "8", cwd=folder)
    for words in (
        "points of FIXED to MOVING (resamples MOVING onto FIXED)", "RAS, written as LPS", "affine parts alone"
    ):  # fmt: skip
        assert words in out
    assert "points of FIXED to MOVING\n" in succeed(
        "field", "rigid_ras.h5", "-o", "a.tfm", "--inverse", cwd=folder
    )
    assert succeed("field", "rigid_ras.h5", "-o", "a.tfm", "--quiet", cwd=folder) == ""


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".h5"])
def test_affine_maps_are_exact(folder: Path, suffix: str) -> None:
    points = bean(2)[0]
    path = folder / f"a{suffix}"
    assert "exact" in succeed("field", "rigid_ras.h5", "-o", path, cwd=folder)
    found = moved(path, points * HALF_TURN) * HALF_TURN
    np.testing.assert_allclose(found, points @ ROTATION.T + OFFSET, atol=1e-10)


def test_a_frame_that_is_not_known_is_written_as_it_is_with_a_warning(folder: Path) -> None:
    points = bean(2)[0]
    wanted = points @ ROTATION.T + OFFSET
    done = otreg("field", "rigid_none.h5", "-o", "a.txt", cwd=folder)
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert "does not say in which frame" in done.stderr and "--frame RAS" in done.stderr
    np.testing.assert_allclose(moved(folder / "a.txt", points), wanted, atol=1e-10)
    succeed("field", "rigid_none.h5", "-o", "a.txt", "--frame", "LPS", cwd=folder)
    np.testing.assert_allclose(moved(folder / "a.txt", points), wanted, atol=1e-10)
    succeed("field", "rigid_none.h5", "-o", "a.txt", "--frame", "RAS", cwd=folder)
    np.testing.assert_allclose(moved(folder / "a.txt", points * HALF_TURN), wanted * HALF_TURN, atol=1e-10)
    succeed("field", "bend_none.h5", "-o", "a.vti", "--spacing", "8", cwd=folder)
    assert "in RAS, not LPS" in refused("field", "rigid_ras.h5", "-o", "b.txt", "--frame", "LPS", cwd=folder)


def test_the_grid_of_an_image(folder: Path) -> None:
    image = SimpleITK.Image([30, 25, 20], SimpleITK.sitkInt16)
    image.SetOrigin([60.0, 50.0, -40.0])
    image.SetSpacing([4.0, 4.5, 5.0])
    image.SetDirection([-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0])
    for like in ("like.nii.gz", "like.nrrd"):
        SimpleITK.WriteImage(image, str(folder / like))
        for transform in ("bend_ras.h5", "bend_none.h5"):
            otreg("field", transform, "-o", "g.nii.gz", "--like", like, "--quiet", cwd=folder)
            found = SimpleITK.ReadImage(str(folder / "g.nii.gz"))
            assert found.GetSize() == image.GetSize()
            np.testing.assert_allclose(found.GetOrigin(), image.GetOrigin(), atol=1e-4)
            np.testing.assert_allclose(found.GetSpacing(), image.GetSpacing(), atol=1e-5)
            np.testing.assert_allclose(found.GetDirection(), image.GetDirection(), atol=1e-6)
    otreg(
        "field", "bend_ras.h5", "-o", "g.nrrd", "--like", "like.nrrd", "--spacing", "10", "--margin", "5", cwd=folder
    )  # fmt: skip
    assert SimpleITK.ReadImage(str(folder / "g.nrrd")).GetSize() == (14, 13, 12)


def test_boxes_around_surfaces_landmarks_and_numbers(folder: Path) -> None:
    points = bean(2)[0]
    for like, covered in (("bean.ply", points), ("marks.csv", points[::10])):
        out = succeed("field", "rigid_ras.h5", "-o", "b.nii", "--like", like, "--json", cwd=folder)
        grid = json.loads(out)["grid"]
        low = np.array(grid["origin"])
        high = low + (np.array(grid["shape"]) - 1) * grid["spacing"]
        margin = 0.1 * np.linalg.norm(covered.max(axis=0) - covered.min(axis=0))
        assert (low <= covered.min(axis=0) - 0.99 * margin).all()
        assert (high >= covered.max(axis=0) + 0.99 * margin).all()
    box = ("--bounds", "-10", "10", "-20", "20", "0", "30", "--margin", "0", "--spacing", "10")
    grid = json.loads(succeed("field", "rigid_ras.h5", "-o", "b.nii", *box, "--json", cwd=folder))["grid"]
    assert grid["shape"] == [3, 5, 4] and grid["origin"] == [-10.0, -20.0, 0.0]


def test_a_run_knows_its_shape(tmp_path: Path) -> None:
    """A rigid run, which has no control points: its box is that of the shapes."""
    points, triangles = bean(2)
    write_ply(tmp_path / "moving.ply", points, triangles)
    write_ply(tmp_path / "fixed.ply", points @ ROTATION.T + OFFSET, triangles)
    assert otreg(
        "register", "moving.ply", "fixed.ply", "-o", "run", "--preset", "rigid", cwd=tmp_path
    ).returncode in (0, 3)
    for direction, shape in (("points", "moving.ply"), ("images", "fixed.ply")):
        done = otreg(
            "field", "run", "-o", "f.vti", "--direction", direction, "--margin", "0", "--json", cwd=tmp_path
        )
        grid = json.loads(done.stdout)["grid"]
        low = np.array(grid["origin"])
        high = low + (np.array(grid["shape"]) - 1) * grid["spacing"]
        bounds = package.read(tmp_path / shape).bounds
        np.testing.assert_allclose([low, high], bounds, atol=max(grid["spacing"]))
        assert (low <= bounds[0]).all() and (high >= bounds[1]).all()


def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    bend, rigid = folder / "bend_ras.h5", folder / "rigid_ras.h5"
    (tmp_path / "broken.h5").write_bytes(b"not HDF5")
    for arguments, words in (
        ((bend, "-o", tmp_path / "f.png"), ".nii.gz"),
        ((bend, "-o", tmp_path / "f.tfm"), "bends"),
        ((rigid, "-o", tmp_path / "f.txt", "--spacing", "1"), "no grid"),
        ((rigid, "-o", tmp_path / "f.nii.gz"), "--like SURFACE"),
        ((bend, "-o", tmp_path / "none" / "f.nii"), "does not exist"),
        ((bend, "-o", bend), "also the input"),
        ((tmp_path / "none.h5", "-o", tmp_path / "f.nii"), "no such file"),
        ((tmp_path / "broken.h5", "-o", tmp_path / "f.nii"), "not HDF5"),
        ((bend, "-o", tmp_path / "f.nii", "--like", tmp_path / "none.ply"), "none.ply"),
        ((bend, "-o", tmp_path / "f.nii", "--like", tmp_path / "none.nii"), "none.nii"),
        ((bend, "-o", tmp_path / "f.nii", "--spacing", "-1"), "spacing"),
        ((bend, "-o", tmp_path / "f.nii", "--spacing", "0.0001"), "larger spacing"),
        ((bend, "-o", tmp_path / "f.nii", "--margin", "-1"), "margin"),
        ((bend, "-o", tmp_path / "f.nii", "--bounds", "1", "0", "0", "1", "0", "1"), "bounds"),
        ((bend, "-o", tmp_path / "f.nii", "--direction", "both"), "--direction"),
        ((bend, "-o", tmp_path / "f.nii", "--like", folder / "bean.ply", "--bounds", *"010101"), "--like"),
        ((folder / "fold.h5", "-o", tmp_path / "f.nii", "--direction", "images", "--bounds",
          "-10", "60", "-5", "5", "-5", "5", "--spacing", "2"), "no inverse"),
    ):  # fmt: skip
        assert words in refused("field", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.h5"]
    assert "bends" in refused("field", bend, "-o", tmp_path / "f.tfm", fresh=True)
