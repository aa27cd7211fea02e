"""What other registration tools get wrong, as known before otreg was begun; those of transport have a file there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import otreg
from otreg.deformations import Affine
from tests.cli import support
from tests.phantoms import bean, sphere_tessellation

POINTS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A similarity registration by the command line, of a surface that carries scalars and labels."""
    place = tmp_path_factory.mktemp("faults")
    directions, triangles = sphere_tessellation(POINTS)
    scalars = {"thickness": np.linspace(0.0, 4.0, POINTS), "region": np.arange(POINTS) % 5}
    moving = otreg.Surface(bean(directions), triangles, point_data=scalars)
    fixed = moving.with_points(1.1 * moving.points @ support.ROTATION.T + support.OFFSET)
    otreg.write(moving, place / "moving.vtk")
    otreg.write(fixed, place / "fixed.vtk")
    done = support.otreg(
        "register", place / "moving.vtk", place / "fixed.vtk", "-o", place / "run",
        "--preset", "similarity", "--quiet",
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    return place


def test_scalars_survive(folder: Path) -> None:
    """Deformetrica 4.3 writes ASCII VTK with the scalars dropped."""
    before, after = otreg.read(folder / "moving.vtk"), otreg.read(folder / "run" / "moved.vtk")
    for name in ("thickness", "region"):
        assert np.array_equal(before.point_data[name], after.point_data[name])
    assert np.array_equal(before.triangles, after.triangles)


def test_the_transform_is_kept_and_used_again(folder: Path) -> None:
    """MeshMonk saves the mesh, never the transform; BCPD's output cannot be applied to anything else."""
    transform = otreg.load_transform(folder / "run" / "transform.h5")
    before, after = otreg.read(folder / "moving.vtk"), otreg.read(folder / "run" / "moved.vtk")
    assert np.allclose(transform(before.points), after.points, atol=1e-4)
    new = np.random.default_rng(0).normal(scale=20.0, size=(50, 3))
    truth = 1.1 * new @ support.ROTATION.T + support.OFFSET
    assert np.linalg.norm(transform(new) - truth, axis=1).max() < 0.02 * before.diameter


def test_every_map_has_an_inverse(folder: Path) -> None:
    """Deformetrica 4.3 gives none."""
    transform = otreg.load_transform(folder / "run" / "transform.h5")
    points = np.random.default_rng(1).normal(scale=20.0, size=(50, 3))
    assert np.allclose(transform.inverse(transform(points)), points, atol=1e-9)


def test_the_jacobian_determinant_is_that_of_the_whole_matrix() -> None:
    """RobOT multiplies the three derivatives of the diagonal: here that says 1, and the truth is 0.75."""
    shear = Affine([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.0, 0.0, 0.0], "affine")
    assert np.allclose(shear.jacobian_determinant(np.zeros((2, 3))), 0.75)
