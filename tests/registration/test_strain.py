"""Deformation energy and folding, against maps whose gradients are known."""

from __future__ import annotations

import numpy as np
import pytest

from otreg.deformations import Affine, Spline
from otreg.registration.strain import BENDING_WEIGHT, deformation_energy, folded_share
from tests.phantoms import random_rotation

POINTS = np.random.default_rng(0).normal(size=(50, 3))
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1, 50)


def test_a_pose_costs_nothing_and_a_stretch_its_logarithms() -> None:
    turn = 1.7 * random_rotation(np.random.default_rng(2))
    assert deformation_energy(Affine(turn, np.ones(3)), turn, POINTS, WEIGHTS) == pytest.approx(0, abs=1e-20)
    stretch = np.diag([1.2, 1.0, 0.8])
    found = deformation_energy(Affine(stretch @ turn, np.zeros(3)), turn, POINTS, WEIGHTS)
    assert found == pytest.approx(np.log(1.2) ** 2 + np.log(0.8) ** 2)


def test_what_varies_over_the_shape_counts_twice_more() -> None:
    """A wide spline is nearly affine; against the definition, from its Jacobians."""
    bend = Spline(POINTS[:5], 0.1 * np.ones((5, 3)), 1.0)
    gradient = bend.jacobian(POINTS)
    share = WEIGHTS / WEIGHTS.sum()
    strain = sum(w * (np.log(np.linalg.svd(j)[1]) ** 2).sum() for w, j in zip(share, gradient, strict=True))
    mean = sum(w * j for w, j in zip(share, gradient, strict=True))
    spread = sum(w * ((j - mean) ** 2).sum() for w, j in zip(share, gradient, strict=True))
    found = deformation_energy(bend, np.eye(3), POINTS, WEIGHTS)
    assert found == pytest.approx(strain + BENDING_WEIGHT * spread)


def test_folding_is_weighed_and_not_a_number_folds() -> None:
    push = Spline(POINTS[:1], [[-3.0, 0.0, 0.0]], 0.5)
    gradients = push.jacobian(POINTS)
    folded = np.linalg.det(gradients) <= 0
    assert 0 < folded.sum() < 50
    share = WEIGHTS[folded].sum() / WEIGHTS.sum()
    assert folded_share(gradients, WEIGHTS) == pytest.approx(share)
    assert folded_share(np.broadcast_to(np.eye(3), (50, 3, 3)), WEIGHTS) == 0.0
    with np.errstate(invalid="ignore"):
        assert folded_share(np.full((50, 3, 3), np.nan), WEIGHTS) == 1.0
