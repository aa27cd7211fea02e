"""The phantoms are what they claim to be: their truth is true, and the files are those the script makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from .phantoms import SHAPES, KnownMap, phantom_pair, random_map, sphere_tessellation

DATA = Path(__file__).parents[1] / "data"


def make_map(seed: int = 0) -> KnownMap:
    return random_map(SHAPES["bean"](sphere_tessellation(200)[0]), seed)


def test_inverse_undoes_the_map() -> None:
    points = np.random.default_rng(0).normal(scale=30.0, size=(500, 3))
    known = make_map()
    np.testing.assert_allclose(known.inverse(known(points)), points, atol=1e-9)


def test_jacobian_is_the_derivative() -> None:
    points = np.random.default_rng(1).normal(scale=20.0, size=(50, 3))
    known, step = make_map(1), 1e-4
    numeric = np.stack(
        [(known(points + step * axis) - known(points - step * axis)) / (2 * step) for axis in np.eye(3)],
        axis=-1,
    )
    np.testing.assert_allclose(known.jacobian(points), numeric, atol=1e-6)
    assert np.linalg.det(known.jacobian(points)).min() > 0


def test_twist_keeps_volume() -> None:
    points = np.random.default_rng(2).normal(scale=20.0, size=(50, 3))
    np.testing.assert_allclose(np.linalg.det(KnownMap(twist=0.05).jacobian(points)), 1.0, atol=1e-12)


def test_a_map_that_might_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="fold"):
        KnownMap(np.zeros((1, 3)), np.array([[10.0, 0, 0]]), np.array([2.0]))


@pytest.mark.parametrize("shape", SHAPES)
def test_meshes_are_closed_oriented_and_differently_tessellated(shape: str) -> None:
    pair = phantom_pair(shape, 300, 400)
    for points, triangles in (pair.moving, pair.fixed):
        edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
        assert len(np.unique(edges, axis=0)) == len(edges)  # no directed edge twice: consistent
        assert {tuple(edge) for edge in edges} == {tuple(edge[::-1]) for edge in edges}  # closed
        corners = points[triangles] - points.mean(axis=0)
        assert np.linalg.det(corners).sum() > 0  # normals point outwards
    # truth lies on the fixed surface, which was made from other points
    spacing = cKDTree(pair.fixed[0]).query(pair.fixed[0], 2)[0][:, 1].mean()
    distance = cKDTree(pair.fixed[0]).query(pair.truth)[0]
    assert distance.max() < 3.0 * spacing
    assert np.median(distance) > 0.1 * spacing


def test_cut_meshes() -> None:
    cap = phantom_pair("bumpy_sphere", 300, 400, open_rim=True)
    assert len(cap.moving[0]) < 250 and len(cap.fixed[0]) < 330
    assert cap.moving[1].max() == len(cap.moving[0]) - 1
    partial = phantom_pair("bean", 300, 400, missing=0.25)
    assert len(partial.moving[0]) == 300
    assert 280 <= len(partial.fixed[0]) <= 300


def test_files_are_those_that_the_script_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DATA / "make_phantoms.py"), str(tmp_path)], check=True)
    kept = sorted(path.name for path in (DATA / "phantoms").iterdir())
    assert kept == sorted(path.name for path in tmp_path.iterdir())
    for name in kept:
        made, file = (tmp_path / name).read_bytes(), (DATA / "phantoms" / name).read_bytes()
        assert len(made) == len(file), name
        if name.endswith(".csv"):
            numbers = [
                np.loadtxt(content.decode().splitlines()[1:], delimiter=",") for content in (made, file)
            ]
            np.testing.assert_allclose(
                *numbers, atol=2e-4
            )  # another machine may round the last digit otherwise
