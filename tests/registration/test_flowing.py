"""Splines taken over by flows: the same places, no folds, and exact agreement where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otreg.deformations import Spline
from otreg.registration import flowing
from otreg.registration.flowing import lifted
from tests.phantoms import sphere_tessellation

CONTROLS, _ = sphere_tessellation(80, 3)
POINTS, _ = sphere_tessellation(400, 4)


def spline(size: float, widths: tuple[float, ...] = (2.0, 0.5), seed: int = 0) -> Spline:
    """A random spline around the unit sphere that moves points by about ``size``."""
    coefficients = np.random.default_rng(seed).normal(size=CONTROLS.shape)
    found = Spline(CONTROLS, coefficients, widths)
    displacement = np.linalg.norm(found.map(POINTS) - POINTS, axis=1).mean()
    return Spline(CONTROLS, size / displacement * coefficients, widths)


def test_a_translation_stays_one() -> None:
    """One control point: its path is straight, and near it the flow goes along."""
    one = Spline([[0.0, 0.0, 0.0]], [[0.3, -0.2, 0.1]], 50.0)
    moved = lifted(one).map(np.zeros((1, 3)))
    assert np.allclose(moved, [[0.3, -0.2, 0.1]], atol=1e-4)


@pytest.mark.parametrize("size", [0.02, 0.15])
def test_control_points_land_where_the_spline_sends_them(size: float) -> None:
    given = spline(size)
    flow = lifted(given)
    missed = np.linalg.norm(flow.map(CONTROLS) - given.map(CONTROLS), axis=1)
    assert missed.mean() < 0.02 * size
    between = np.linalg.norm(flow.map(POINTS) - given.map(POINTS), axis=1)
    assert between.mean() < 0.1 * size


def test_where_a_spline_folds_the_flow_does_not() -> None:
    given = spline(0.6, (0.6, 0.3))
    assert (given.jacobian_determinant(POINTS) < 0).mean() > 0.02
    flow = lifted(given)
    assert (flow.jacobian_determinant(POINTS) > 0).all()
    assert np.abs(flow.inverse.map(flow.map(POINTS)) - POINTS).max() < 1e-8


def test_many_control_points_keep_their_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowing, "MOST_SOLVED", 10)
    given = Spline(CONTROLS, 0.01 * np.random.default_rng(1).normal(size=CONTROLS.shape), 0.8, "wendland")
    flow = lifted(given)
    assert torch.equal(flow.momenta[0], given.coefficients) and len(flow.momenta) == 1
    size = np.linalg.norm(given.map(POINTS) - POINTS, axis=1).mean()
    assert np.linalg.norm(flow.map(POINTS) - given.map(POINTS), axis=1).mean() < 0.05 * size
