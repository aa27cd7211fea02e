"""The sparse inverse of a kernel matrix: against the dense one, and for what it is there for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from otreg.autodiff.krylov import solve
from otreg.reductions.radial import wendland_profile
from otreg.registration import screening
from otreg.registration.screening import InverseKernel


def on_a_sphere(count: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def wendland(points: np.ndarray, width: float) -> np.ndarray:
    return wendland_profile(torch.from_numpy(cdist(points, points, "sqeuclidean") / width**2)).numpy()


def test_it_is_the_inverse_where_all_points_are_neighbours() -> None:
    points = on_a_sphere(screening.NEIGHBOURS)
    inverse = InverseKernel(points, lambda squared: wendland_profile(squared / 0.8**2))(np.eye(len(points)))
    exact = np.linalg.inv(wendland(points, 0.8) + screening.RIDGE * np.eye(len(points)))
    assert np.abs(inverse - exact).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("count", [1, 5, 1300])
def test_it_is_symmetric_and_positive(count: int) -> None:
    points = on_a_sphere(count)
    inverse = InverseKernel(points, lambda squared: wendland_profile(squared / 0.4**2))(np.eye(count))
    assert np.abs(inverse - inverse.T).max() <= 1e-5 * np.abs(inverse).max()
    assert np.linalg.eigvalsh((inverse + inverse.T) / 2).min() > 0


def test_points_at_one_place() -> None:
    points = np.repeat(on_a_sphere(40), 3, axis=0)
    inverse = InverseKernel(points, lambda squared: wendland_profile(squared / 0.8**2))(np.eye(120))
    assert np.isfinite(inverse).all()


def test_conjugate_gradients_take_a_dozen_steps_instead_of_hundreds() -> None:
    """Points evenly spread, four spacings to a width: as the control points of a fine level are."""
    points = on_a_sphere(40_000)
    cells = np.unique(np.floor(points / 0.1), axis=0, return_index=True)[1]
    points = points[cells]
    width = 0.4
    matrix = torch.from_numpy(wendland(points, width) + screening.RIDGE * np.eye(len(points)))
    right = torch.from_numpy(np.random.default_rng(1).normal(size=(len(points), 3)))
    inverse = InverseKernel(points, lambda squared: wendland_profile(squared / width**2))
    taken = []
    for preconditioner in (None, lambda r: torch.from_numpy(inverse(r.numpy()).astype(np.float64))):
        found = solve(
            lambda u: matrix @ u, right, preconditioner=preconditioner, tol=1e-3, max_iterations=2000
        )
        assert float((matrix @ found.solution - right).norm() / right.norm()) < 2e-3
        taken.append(int(found.iterations))
    assert taken[1] < 25 and taken[0] > 5 * taken[1]


def test_it_is_the_same_each_time() -> None:
    points, seen = on_a_sphere(200), np.eye(200)
    first, second = (InverseKernel(points, wendland_profile)(seen) for _ in range(2))
    np.testing.assert_array_equal(first, second)
