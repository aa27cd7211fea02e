"""The space of momenta against a dense kernel, and geodesic fits against momenta that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otreg.cohort import geodesic
from otreg.cohort.geodesic import fit_geodesic
from otreg.cohort.momenta import MomentaSpace, distances
from otreg.errors import InputError, IntegrationError
from tests.cohort.phantoms import bean_space, bean_surface, dense_kernel, random_momenta, shot


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_inner_products_are_those_of_the_dense_kernel(
    controls: int, count: int, widths: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    space = MomentaSpace(rng.normal(size=(controls, 3)), tuple(2.0 / 2**k for k in range(widths)))
    first, second = rng.normal(size=(count, controls, 3)), rng.normal(size=(count + 1, controls, 3))
    matrix = dense_kernel(space)
    wanted = np.einsum("ncd,ce,med->nm", first, matrix, second)
    np.testing.assert_allclose(space.gram(first, second), wanted, atol=1e-12 * np.abs(wanted).max() + 1e-13)
    own = space.gram(first)
    np.testing.assert_array_equal(own, own.T)
    np.testing.assert_allclose(space.norms(first) ** 2, np.diag(own), rtol=1e-10)
    squares = [[((a - b) * (matrix @ (a - b))).sum() for b in first] for a in first]
    np.testing.assert_allclose(distances(own) ** 2, squares, atol=1e-10 * np.abs(own).max())


def test_many_subjects_are_summed_in_several_passes() -> None:
    rng = np.random.default_rng(0)
    space = MomentaSpace(rng.normal(size=(5, 3)), (1.0,))
    momenta = rng.normal(size=(400, 5, 3))
    wanted = np.einsum("ncd,ce,med->nm", momenta, dense_kernel(space), momenta)
    np.testing.assert_allclose(space.gram(momenta), wanted, rtol=1e-10, atol=1e-10)


def test_the_norm_is_the_length_of_the_geodesic() -> None:
    shape = bean_surface(200)
    space = bean_space(shape)
    (momenta,) = random_momenta(space, 1, 9.0, 0)
    assert space.norms(momenta)[0] == pytest.approx(9.0)
    path = space.flow(momenta).path()
    # half its square is the energy, at all times but for the error of the integrator
    np.testing.assert_allclose(path.hamiltonians().numpy(), 40.5, rtol=0.01)


@pytest.mark.parametrize("length", [3.0, 12.0])
def test_known_momenta_are_found_again(length: float) -> None:
    shape = bean_surface(600)
    space = bean_space(shape)
    (truth,) = random_momenta(space, 1, length, 1)
    moved = shot(space, truth, shape).points
    found = fit_geodesic(space, shape.points, moved, shape.weights, stiffness=1e-7)
    error = space.norms(found.momenta - truth)[0]
    assert error < 0.05 * length
    assert found.rms < 0.01 * found.before
    assert found.norm == pytest.approx(space.norms(found.momenta)[0])
    images = space.flow(found.momenta).map(shape.points)
    np.testing.assert_allclose(found.residuals, moved - images, atol=1e-9)


def test_a_step_that_is_too_long_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a line search leaves the finite numbers, a new one begins at the best so far and gets as far."""
    shape = bean_surface(300)
    space = bean_space(shape)
    (truth,) = random_momenta(space, 1, 8.0, 3)
    moved = shot(space, truth, shape).points
    plain = fit_geodesic(space, shape.points, moved, shape.weights)
    original, calls = geodesic._carried, itertools.count(1)

    def carried(*given: object) -> torch.Tensor:
        if next(calls) in (4, 9):
            raise IntegrationError("the flow left the finite numbers")
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(geodesic, "_carried", carried)
    found = fit_geodesic(space, shape.points, moved, shape.weights)
    assert next(calls) > 10
    assert space.norms(found.momenta - plain.momenta)[0] < 0.02 * plain.norm
    assert found.rms < 1.05 * plain.rms


def test_targets_out_of_reach_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def carried(*_: object) -> torch.Tensor:
        raise IntegrationError("the flow left the finite numbers")

    monkeypatch.setattr(geodesic, "_carried", carried)
    shape = bean_surface(200)
    with pytest.raises(IntegrationError, match="finite numbers"):
        fit_geodesic(bean_space(shape), shape.points, shape.points, shape.weights)


def test_wrong_targets_bend_the_geodesic_little() -> None:
    shape = bean_surface(600)
    space = bean_space(shape)
    (truth,) = random_momenta(space, 1, 8.0, 2)
    moved = shot(space, truth, shape).points.copy()
    plain = fit_geodesic(space, shape.points, moved, shape.weights)
    rng = np.random.default_rng(0)
    wrong = rng.choice(600, 18, replace=False)
    moved[wrong] += rng.normal(scale=15.0, size=(18, 3))
    found = fit_geodesic(space, shape.points, moved, shape.weights)
    assert 0.01 < found.outlying < 0.2
    right = np.setdiff1d(np.arange(600), wrong)
    change = space.flow(found.momenta).map(shape.points) - space.flow(plain.momenta).map(shape.points)
    assert np.sqrt((change[right] ** 2).sum(axis=1).mean()) < 0.1 * plain.before


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"control points must be finite, of shape \(C, 3\)"):
        MomentaSpace(np.zeros((3, 2)), (1.0,))
    with pytest.raises(InputError, match="width"):
        MomentaSpace(np.zeros((3, 3)), (-1.0,))
    space = MomentaSpace(np.zeros((3, 3)), (1.0,))
    with pytest.raises(InputError, match=r"momenta must have shape \(N, 3, 3\)"):
        space.gram(np.zeros((2, 4, 3)))
    with pytest.raises(InputError, match="momenta must be finite"):
        space.norms(np.full((3, 3), np.nan))
