"""Fits to matches, against dense solutions of their documented objectives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from otreg.deformations import Affine, Spline
from otreg.registration import fitting
from otreg.registration.fitting import CoarseFit, FineFit, Residuals, carried, fit_affine
from otreg.registration.matching import Match
from otreg.registration.sampling import Samples, sample_shape
from otreg.registration.settings import CoarseLevel, FineLevel
from otreg.surface import Surface
from tests.phantoms import bean, random_rotation, sphere_tessellation

COARSE = CoarseLevel(widths=(0.5, 0.2, 0.1))
FINE = FineLevel(width=0.3, spacing=0.1, first_blur=0.01, last_blur=0.01)
BLUR = 0.01


def start(count: int = 400, normals: bool = True) -> Samples:
    directions, triangles = sphere_tessellation(600, 0)
    points = bean(directions)
    given = sample_shape(Surface(points / np.linalg.norm(np.ptp(points, axis=0)), triangles), count, 0)
    return given if normals else Samples(given.points, np.zeros_like(given.normals), given.weights)


def isotropic(points: np.ndarray, match: Match, weights: np.ndarray) -> Residuals:
    """Residuals of points without normals."""
    return Residuals(Samples(points, np.zeros_like(points), weights), match, BLUR, 0.1)


def wavy(given: Samples, seed: int = 0) -> Match:
    """Smooth targets with some noise, uneven confidence, and a few normals that contradict."""
    rng = np.random.default_rng(seed)
    targets = (
        given.points
        + 0.03 * np.sin(5 * given.points[:, [1, 2, 0]])
        + rng.normal(0, 2e-3, (len(given.points), 3))
    )
    normals = 0.8 * given.normals + 0.1 * rng.normal(size=given.normals.shape) * given.normals.any()
    normals[::17] *= -1
    return Match(targets, normals, rng.uniform(0.1, 1, len(given.points)))


def explicit(current: Samples, match: Match, tangential: float) -> np.ndarray:
    """The matrices A_i, one by one."""
    matrices = []
    for own, other in zip(current.normals, match.normals, strict=True):
        if own @ other <= 0:
            matrices.append(np.eye(3))
            continue
        n = own + other / np.linalg.norm(other)
        n /= np.linalg.norm(n)
        matrices.append(np.outer(n, n) + tangential * (np.eye(3) - np.outer(n, n)))
    return np.array(matrices)


class Quadratic(NamedTuple):
    """``Σ_i m_i r_iᵀ A_i r_i + penalty · pᵀ K_zz p`` with r = K p - wanted, dense."""

    kernel: np.ndarray
    energy: np.ndarray
    matrices: np.ndarray
    mass: np.ndarray
    wanted: np.ndarray
    penalty: float

    def minimum(self) -> np.ndarray:
        count, weights = self.kernel.shape[1], self.mass[:, None, None] * self.matrices
        big = np.einsum("nc,nij,nd->cidj", self.kernel, weights, self.kernel, optimize=True)
        big = big.reshape(3 * count, 3 * count) + self.penalty * np.kron(self.energy, np.eye(3))
        right = np.einsum("nc,nij,nj->ci", self.kernel, weights, self.wanted, optimize=True)
        return np.linalg.solve(big, right.ravel()).reshape(count, 3)

    def at(self, p: np.ndarray) -> float:
        r = self.kernel @ p - self.wanted
        misfit = np.einsum("n,ni,nij,nj->", self.mass, r, self.matrices, r)
        return float(misfit + self.penalty * np.einsum("ci,cd,di->", p, self.energy, p))


def gaussians(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The kernel of a coarse fit before it has seen data, at a strain of one."""
    squared = cdist(x, z) ** 2
    return sum(width**2 * np.exp(-squared / (2 * width**2)) for width in COARSE.widths)


def wendland(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    r = np.minimum(cdist(x, z) / FINE.width, 1.0)
    return (1 - r) ** 6 * (35 * r**2 + 18 * r + 3) / 3


def expected_variance(current: Samples, match: Match, tangential: float) -> float:
    """Weighted mean of rᵀ A r over its degrees of freedom, and a tenth of the squared blur."""
    matrices, offset = explicit(current, match, tangential), match.targets - current.points
    mass = current.weights * match.confidence
    each = np.einsum("ni,nij,nj->n", offset, matrices, offset) / np.trace(matrices, axis1=1, axis2=2)
    return float(np.average(each, weights=mass)) + 0.1 * BLUR**2


def test_affine_maps_are_recovered() -> None:
    rng = np.random.default_rng(0)
    points, weights = rng.normal(size=(50, 3)), rng.uniform(0.1, 1, 50)
    wanted, offset = np.eye(3) + 0.4 * rng.normal(size=(3, 3)), rng.normal(size=3)
    targets = points @ wanted.T + offset
    confidence = rng.uniform(0.1, 1, 50)
    targets[:5], confidence[:5] = 99.0, 0.0  # no confidence, no say
    match = Match(targets, np.zeros((50, 3)), confidence)
    residuals = isotropic(points, match, weights)
    matrix, translation = fit_affine(points, match, residuals, ridge=0.0)
    assert np.abs(matrix - wanted).max() < 1e-12 and np.abs(translation - offset).max() < 1e-12
    # a ridge pulls towards the identity by about its own share of the spread
    matrix, _ = fit_affine(points, match, residuals, ridge=1e-3 / residuals.variance)
    assert 0 < np.abs(matrix - wanted).max() < 3e-3


def test_affine_fit_needs_no_targets_along_the_surface() -> None:
    """Residuals along the surface without weight: what is seen across it determines the map of a closed shape."""
    rng = np.random.default_rng(5)
    current = start()
    wanted = np.eye(3) + 0.05 * rng.normal(size=(3, 3))
    sliding = rng.normal(size=current.points.shape)
    sliding -= (sliding * current.normals).sum(axis=1, keepdims=True) * current.normals
    targets = current.points @ wanted.T + 0.1 * sliding
    match = Match(targets, current.normals, np.ones(len(targets)))
    matrix, _ = fit_affine(current.points, match, Residuals(current, match, BLUR, 1e-9), ridge=0.0)
    assert np.abs(matrix - wanted).max() < 1e-4
    matrix, _ = fit_affine(current.points, match, Residuals(current, match, BLUR, 1.0), ridge=0.0)
    assert np.abs(matrix - wanted).max() > 1e-2


def test_affine_fit_weighs_points_and_confidence_alike() -> None:
    """Against least squares of numpy with the root of the product of both weights."""
    rng = np.random.default_rng(1)
    points, targets = rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    weights, confidence = rng.uniform(0.1, 1, 40), rng.uniform(0.1, 1, 40)
    match = Match(targets, targets, confidence)
    matrix, translation = fit_affine(points, match, isotropic(points, match, weights), ridge=0.0)
    root = np.sqrt(weights * confidence)[:, None]
    exact = np.linalg.lstsq(root * np.column_stack([points, np.ones(40)]), root * targets, rcond=None)[0]
    assert np.abs(matrix - exact[:3].T).max() < 1e-10 and np.abs(translation - exact[3]).max() < 1e-10


def test_affine_fit_of_a_flat_shape_leaves_the_third_direction() -> None:
    rng = np.random.default_rng(2)
    points = rng.normal(size=(30, 3)) * [1, 1, 0]
    turn = random_rotation(rng)
    match = Match(2 * points @ turn.T, points, np.ones(30))
    matrix, _ = fit_affine(points @ turn.T, match, isotropic(points @ turn.T, match, np.ones(30)), ridge=1e-3)
    normal = turn[:, 2]
    assert matrix @ normal == pytest.approx(normal, abs=1e-9)
    assert matrix @ turn[:, 0] == pytest.approx(2 * turn[:, 0], abs=5e-3)


def test_residuals_are_the_explicit_matrices() -> None:
    current = start(120)
    match = wavy(current)
    residuals = Residuals(current, match, BLUR, 0.1)
    matrices = explicit(current, match, 0.1)
    vectors = np.random.default_rng(3).normal(size=(120, 3))
    assert residuals.apply(vectors) == pytest.approx(np.einsum("nij,nj->ni", matrices, vectors), abs=1e-12)
    for row in range(3):
        for column in range(3):
            assert residuals.entry(row, column) == pytest.approx(matrices[:, row, column], abs=1e-12)
    assert residuals.mass == pytest.approx(current.weights * match.confidence)
    assert residuals.variance == pytest.approx(expected_variance(current, match, 0.1))
    squared = ((match.targets - current.points) ** 2).sum(axis=1)
    assert residuals.distance == pytest.approx(np.sqrt(np.average(squared, weights=residuals.mass)))


def test_normals_that_contradict_count_as_none() -> None:
    current = start(60)
    match = Match(current.points, -current.normals, np.ones(60))
    vectors = np.random.default_rng(4).normal(size=(60, 3))
    assert np.array_equal(Residuals(current, match, BLUR, 0.1).apply(vectors), vectors)
    without = start(60, normals=False)
    match = Match(without.points, without.normals, np.ones(60))
    assert np.array_equal(Residuals(without, match, BLUR, 0.1).apply(vectors), vectors)


@pytest.mark.parametrize("tangential", [0.1, 1.0])
@pytest.mark.parametrize("normals", [True, False])
def test_coarse_fit_minimises_its_objective(tangential: float, normals: bool) -> None:
    given = start(normals=normals)
    match = wavy(given)
    residuals = Residuals(given, match, BLUR, tangential)
    fit = CoarseFit(given, COARSE, 60, 1.0, 5.0)
    fit.update(residuals, match)
    z = fit.control_points
    assert len(z) == 60 and cdist(z, given.points).min(axis=1).max() == 0.0
    kernel, energy = gaussians(given.points, z), gaussians(z, z)
    penalty = expected_variance(given, match, tangential) / 5.0
    rest = (
        explicit(given, match, tangential),
        given.weights * match.confidence,
        match.targets - given.points,
    )
    ridge = fitting.KERNEL_RIDGE * energy[0, 0] * np.eye(60)
    exact = Quadratic(kernel, energy + ridge, *rest, penalty).minimum()
    found = fit.spline().map(given.points) - given.points
    np.testing.assert_allclose(fit.moved() - given.points, found, atol=1e-5 * np.abs(found).max())
    jacobian = fit.spline().jacobian(given.points)
    np.testing.assert_allclose(fit.gradient(), jacobian, atol=1e-4 * np.abs(jacobian - np.eye(3)).max())
    assert np.linalg.norm(found - kernel @ exact) < 1e-3 * np.linalg.norm(kernel @ exact)
    objective = Quadratic(kernel, energy, *rest, penalty)
    best = objective.at(exact)
    assert objective.at(fit.coefficients) == pytest.approx(best, rel=1e-4)
    assert objective.at(np.zeros((60, 3))) > 2 * best


@pytest.mark.parametrize(
    ("tolerance", "error", "excess"), [(1e-4, 1e-2, 2e-3), (fitting.FINE_TOLERANCE, 4e-2, 2e-2)]
)
@pytest.mark.parametrize("tangential", [0.02, 0.1, 1.0])
def test_fine_fit_minimises_its_objective(
    tangential: float, tolerance: float, error: float, excess: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "FINE_TOLERANCE", tolerance)
    given = start()
    match = wavy(given)
    residuals = Residuals(given, match, BLUR, tangential)
    fit = FineFit(given, 0.5, FINE, 100, 3.0)
    fit.update(residuals, match)
    z = fit.control_points
    kernel, energy = wendland(given.points, z), wendland(z, z)
    penalty = 3.0 * expected_variance(given, match, tangential)
    rest = (
        explicit(given, match, tangential),
        given.weights * match.confidence,
        match.targets - given.points,
    )
    objective = Quadratic(kernel, energy, *rest, penalty)
    exact = objective.minimum()
    found = fit.spline().map(given.points) - given.points
    assert np.linalg.norm(found - kernel @ exact) < error * np.linalg.norm(kernel @ exact)
    np.testing.assert_allclose(fit.moved() - given.points, found, atol=1e-5 * np.abs(found).max())
    jacobian = fit.spline().jacobian(given.points)
    np.testing.assert_allclose(fit.gradient(), jacobian, atol=1e-4 * np.abs(jacobian - np.eye(3)).max())
    best = objective.at(exact)
    assert objective.at(fit.coefficients) == pytest.approx(best, rel=excess)
    assert objective.at(np.zeros((len(z), 3))) > 2 * best


@pytest.mark.parametrize("kind", ["coarse", "fine"])
def test_a_translation_is_recovered_without_stiffness(kind: str) -> None:
    given, step = start(), np.array([0.02, -0.01, 0.015])
    fit = (
        CoarseFit(given, COARSE, 100, 1.0, 1e8) if kind == "coarse" else FineFit(given, 0.5, FINE, 100, 1e-8)
    )
    match = Match(given.points + step, given.normals, np.ones(len(given.points)))
    fit.update(Residuals(given, match, BLUR, 0.1), match)
    off = fit.spline().map(given.points) - given.points - step
    assert np.linalg.norm(off, axis=1).mean() < 0.05 * np.linalg.norm(step)


@pytest.mark.parametrize("kind", ["coarse", "fine"])
def test_stiffness_lowers_the_energy(kind: str) -> None:
    given = start()
    match = wavy(given)
    energies, misfits = [], []
    for stiffness in (0.1, 10.0, 1000.0):
        fit: CoarseFit | FineFit
        if kind == "coarse":
            fit = CoarseFit(given, COARSE, 60, 1.0, 1 / stiffness)
            energy = gaussians(fit.control_points, fit.control_points)
        else:
            fit = FineFit(given, 0.5, FINE, 100, stiffness)
            energy = wendland(fit.control_points, fit.control_points)
        fit.update(Residuals(given, match, BLUR, 0.1), match)
        energies.append(float(np.einsum("ci,cd,di->", fit.coefficients, energy, fit.coefficients)))
        misfits.append(float(((fit.spline().map(given.points) - match.targets) ** 2).sum()))
    assert energies[0] > 1.5 * energies[1] > 2.25 * energies[2] > 0
    assert misfits == sorted(misfits)


def drawn(given: Samples, fit: CoarseFit, variances: list[float], noise: float, seed: int) -> Match:
    """A match whose displacements are a draw of the fit's own prior with these variances, and noise."""
    rng = np.random.default_rng(seed)
    z = fit.control_points
    shift = np.zeros_like(given.points)
    for variance, width in zip(variances, COARSE.widths, strict=True):
        k = np.exp(-(cdist(z, z) ** 2) / (2 * width**2)) + 1e-9 * np.eye(len(z))
        white = rng.normal(size=(len(z), 3))
        nodes = np.sqrt(variance) * np.linalg.cholesky(k) @ white
        shift += np.exp(-(cdist(given.points, z) ** 2) / (2 * width**2)) @ np.linalg.solve(k, nodes)
    targets = given.points + shift + rng.normal(0, noise, shift.shape)
    return Match(targets, np.zeros_like(targets), np.ones(len(targets)))


def settled(match: Match, given: Samples, noise: float, matches: int = 100) -> CoarseFit:
    """A fit that has seen one match many times, with the true variance of its noise."""
    fit = CoarseFit(given, COARSE, 60, 0.1, float(len(given.points)))
    residuals = Residuals(given, match, BLUR, 1.0)
    residuals.variance = noise**2
    for _ in range(matches):
        fit.update(residuals, match)
    return fit


def test_variances_come_to_the_maximum_of_their_restricted_likelihood() -> None:
    """Against the marginal likelihood itself, of dense matrices: no step along any width raises it."""
    given = start(150, normals=False)
    noise = 2e-3
    given = Samples(given.points, given.normals, np.full(150, 1 / 150))
    match = drawn(given, CoarseFit(given, COARSE, 60, 0.1, 150.0), [4e-4, 1e-4, 4e-5], noise, 0)
    fit = settled(match, given, noise)
    z = fit.control_points
    shift = match.targets - given.points

    def likelihood(variances: np.ndarray) -> float:
        cross = sum(
            v * np.exp(-(cdist(given.points, z) ** 2) / (2 * w**2))
            for v, w in zip(variances, COARSE.widths, strict=True)
        )
        own = sum(
            v * np.exp(-(cdist(z, z) ** 2) / (2 * w**2))
            for v, w in zip(variances, COARSE.widths, strict=True)
        )
        own = own + fitting.KERNEL_RIDGE * variances.sum() * np.eye(len(z))
        covariance = cross @ np.linalg.solve(own, cross.T) + noise**2 * np.eye(len(shift))
        return -1.5 * np.linalg.slogdet(covariance)[1] - 0.5 * float(
            (shift * np.linalg.solve(covariance, shift)).sum()
        )

    best = likelihood(fit.variances)
    assert best > likelihood((0.1 * np.array(COARSE.widths)) ** 2) + 1
    for axis in range(3):
        for factor in (0.25, 4.0):
            other = fit.variances.copy()
            other[axis] *= factor
            assert likelihood(other) < best


def test_a_shape_that_bends_widely_gets_a_stiff_map() -> None:
    """Variances found from draws of wide and of narrow deformations tell them apart."""
    given = start(300, normals=False)
    given = Samples(given.points, given.normals, np.full(300, 1 / 300))
    first = CoarseFit(given, COARSE, 60, 0.1, 300.0)
    wide = settled(drawn(given, first, [1e-3, 0.0, 0.0], 1e-3, 1), given, 1e-3).variances
    narrow = settled(drawn(given, first, [0.0, 0.0, 1e-3], 1e-3, 1), given, 1e-3).variances
    assert wide[0] / wide[2] > 100 * narrow[0] / narrow[2]
    assert 2e-4 < wide[0] < 5e-3 and 5e-4 < narrow[2] < 2e-3


def test_a_second_fit_forgets_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update fits the displacement from the start of the level, whatever came before."""
    monkeypatch.setattr(fitting, "FINE_TOLERANCE", 1e-4)
    given = start()
    matches = [wavy(given, seed) for seed in (0, 1)]
    moved = []
    for order in (matches, matches[1:]):
        fit = FineFit(given, 0.5, FINE, 100, 3.0)
        for match in order:
            fit.update(Residuals(given, match, BLUR, 0.1), match)
        moved.append(fit.spline().map(given.points) - given.points)
    assert np.linalg.norm(moved[0] - moved[1]) < 1e-2 * np.linalg.norm(moved[1])


def test_carried_normals_stay_across_carried_tangents() -> None:
    given = start(80)
    rng = np.random.default_rng(5)
    bend = Spline(given.points[:10], 0.05 * rng.normal(size=(10, 3)), 0.4)
    skew = Affine(np.eye(3) + 0.3 * rng.normal(size=(3, 3)), rng.normal(size=3))
    for transform in (bend, skew):
        after = carried(transform, given)
        assert after.points == pytest.approx(transform.map(given.points)) and after.weights is given.weights
        assert np.linalg.norm(after.normals, axis=1) == pytest.approx(np.ones(80))
        assert np.abs((after.normals * given.normals).sum(axis=1) - 1).max() > 0.01  # they did turn
        for axis in np.eye(3):
            tangent = np.cross(given.normals, axis)
            step = 1e-5 * tangent
            moved = (transform.map(given.points + step) - transform.map(given.points - step)) / 2e-5
            assert np.abs((moved * after.normals).sum(axis=1)).max() < 1e-7
        across = transform.map(given.points + 1e-5 * given.normals) - after.points
        assert ((across * after.normals).sum(axis=1) > 0).all()
    without = start(80, normals=False)
    assert not carried(bend, without).normals.any()


def test_a_coarse_fit_goes_on_with_other_samples() -> None:
    first, others = start(300), start(500)
    fit = CoarseFit(first, COARSE, 40, 0.1, 1000.0)
    match = wavy(first)
    fit.update(Residuals(first, match, BLUR, 0.3), match)
    spline = fit.spline()
    fit.use(others)
    np.testing.assert_allclose(fit.moved(), spline.map(others.points), atol=1e-7)
    np.testing.assert_allclose(fit.gradient(), spline.jacobian(others.points), atol=1e-5)
    more = wavy(others)
    fit.update(Residuals(others, more, BLUR, 0.3), more)
    # the same control points, variances and targets from the start on
    whole = CoarseFit(first, COARSE, 40, 0.1, 1000.0)
    whole.use(others)
    whole.update(Residuals(others, more, BLUR, 0.3), more)
    np.testing.assert_allclose(fit.coefficients, whole.coefficients, rtol=1e-6, atol=1e-9)
