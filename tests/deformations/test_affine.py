"""Linear maps and their fit to corresponding points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from otreg import InputError
from otreg.deformations import Affine
from otreg.errors import NotInvertibleError
from tests.deformations.cases import rotation

seeds = st.integers(0, 2**32 - 1)
KINDS = ("rigid", "similarity", "affine")


def cost(transform: Affine, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    return float((weights * ((transform.map(x) - y) ** 2).sum(axis=1)).sum())


@settings(deadline=None)
@given(seeds, st.integers(4, 30), st.sampled_from([1e-3, 1.0, 1e4]), st.sampled_from([0.0, 1.0, 1e3]))
def test_fit_recovers_the_map(seed: int, count: int, size: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    x = size * (rng.normal(size=(count, 3)) + offset)
    weights = rng.uniform(0.1, 1.0, size=count)
    turn, factor, shift = rotation(rng), rng.uniform(0.2, 5.0), size * rng.normal(size=3)
    diameter = np.linalg.norm(np.ptp(x, axis=0))
    for kind, matrix in (("rigid", turn), ("similarity", factor * turn), ("affine", factor * turn)):
        y = x @ matrix.T + shift
        fitted = Affine.fit(x, y, weights, kind)
        assert fitted.kind == kind
        assert np.abs(fitted.map(x) - y).max() < 1e-10 * factor * diameter * (1 + offset)
        assert np.abs(fitted.matrix.numpy() - matrix).max() < 1e-9 * factor * (1 + offset)
        assert fitted.scale == pytest.approx(1.0 if kind == "rigid" else factor, rel=1e-9 * (1 + offset))
        assert np.abs(fitted.inverse.map(fitted.map(x)) - x).max() < 1e-9 * diameter * (1 + offset)


@settings(deadline=None)
@given(seeds, st.integers(1, 12), st.sampled_from(KINDS), st.integers(0, 3))
def test_fit_never_mirrors(seed: int, count: int, kind: str, rank: int) -> None:
    """Mirrored, planar, collinear, equal and few points: the determinant stays positive, the map finite."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, rank)) @ rng.normal(size=(rank, 3)) + rng.normal(size=3)
    y = (x - x.mean(axis=0)) @ (rotation(rng) * [-1.0, 1.0, 1.0]).T
    fitted = Affine.fit(x, y, kind=kind)
    assert bool(torch.isfinite(fitted.matrix).all())
    assert float(torch.linalg.det(fitted.matrix)) > 0
    if kind == "rigid":
        assert np.abs(fitted.matrix.numpy() @ fitted.matrix.numpy().T - np.eye(3)).max() < 1e-12
    # The centre of mass goes to the centre of mass, whatever the points.
    assert np.abs(fitted.map(x).mean(axis=0) - y.mean(axis=0)).max() < 1e-9


def test_reflection_when_asked_for() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3))
    mirror = rotation(rng) * [-1.0, 1.0, 1.0]
    for kind in KINDS:
        fitted = Affine.fit(x, x @ mirror.T + 3.0, kind=kind, allow_reflection=True)
        assert np.abs(fitted.matrix.numpy() - mirror).max() < 1e-12


@pytest.mark.parametrize("kind", ["rigid", "similarity"])
def test_fit_is_the_minimum(kind: str) -> None:
    """Against a general optimiser from several starts, on noisy points."""
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=(15, 3)), rng.uniform(size=15)
    y = 1.4 * x @ rotation(rng).T + 0.3 * rng.normal(size=(15, 3))
    fitted = Affine.fit(x, y, weights, kind)

    def error(p: np.ndarray) -> float:
        matrix = Rotation.from_rotvec(p[:3]).as_matrix() * (np.exp(p[6]) if kind == "similarity" else 1.0)
        return float((weights * ((x @ matrix.T + p[3:6] - y) ** 2).sum(axis=1)).sum())

    best = min(minimize(error, rng.normal(size=7)).fun for _ in range(8))
    assert cost(fitted, x, y, weights) == pytest.approx(best, rel=1e-6)


def test_affine_fit_is_weighted_least_squares() -> None:
    rng = np.random.default_rng(2)
    x, y, weights = rng.normal(size=(30, 3)), rng.normal(size=(30, 3)) + 0.0, rng.uniform(size=30)
    y = x @ (np.eye(3) + 0.3 * rng.normal(size=(3, 3))).T + 0.2 * y
    design = np.hstack([x, np.ones((30, 1))]) * np.sqrt(weights)[:, None]
    solution = np.linalg.lstsq(design, y * np.sqrt(weights)[:, None], rcond=None)[0]
    fitted = Affine.fit(x, y, weights, "affine")
    assert np.allclose(fitted.matrix.numpy(), solution[:3].T, rtol=0, atol=1e-12)
    assert np.allclose(fitted.translation.numpy(), solution[3], rtol=0, atol=1e-12)


def test_zero_weights_leave_points_out() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(10, 3)), rng.normal(size=(10, 3))
    weights = np.r_[np.ones(6), np.zeros(4)]
    for kind in KINDS:
        some, all_of_them = Affine.fit(x[:6], y[:6], kind=kind), Affine.fit(x, y, weights, kind)
        assert np.allclose(some.matrix, all_of_them.matrix, rtol=0, atol=1e-12)
        huge = Affine.fit(x, y, weights * 1e300, kind)
        assert np.allclose(some.matrix, huge.matrix, rtol=0, atol=1e-12)


def test_planar_affine_fit_follows_the_similarity_out_of_the_plane() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(25, 3)) * [1.0, 1.0, 0.0]
    shear = np.array([[1.2, 0.3, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]])
    turn = rotation(rng)
    y = x @ (turn @ shear).T + 2.0
    fitted = Affine.fit(x, y, kind="affine")
    assert np.abs(fitted.map(x) - y).max() < 1e-12
    normal = np.array([0.0, 0.0, 1.0])
    expected = Affine.fit(x, y, kind="similarity").matrix.numpy() @ normal
    assert np.abs(fitted.matrix.numpy() @ normal - expected).max() < 1e-9
    assert np.abs(np.cross(expected, turn @ normal)).max() < 1e-9


def test_open_turns_are_not_taken() -> None:
    """Points on a line leave the turn about it open, equal points every turn: then nothing turns."""
    line = np.linspace(0, 1, 5)[:, None] * [[1.0, 2.0, 3.0]]
    fitted = Affine.fit(line, line + 1.0, kind="similarity")
    assert np.abs(fitted.matrix.numpy() - np.eye(3)).max() < 1e-5
    assert np.abs(fitted.map(line) - line - 1.0).max() < 1e-9
    for equal in (np.ones((4, 3)), np.ones((1, 3))):
        fitted = Affine.fit(equal, equal + 2.0, kind="affine")
        assert np.array_equal(fitted.matrix.numpy(), np.eye(3))
        assert np.allclose(fitted.translation, 2.0)


def test_fit_is_differentiable() -> None:
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.normal(size=(6, 3))).requires_grad_()
    y = torch.from_numpy(rng.normal(size=(6, 3))).requires_grad_()
    w = torch.from_numpy(rng.uniform(0.5, 1, size=6)).requires_grad_()
    for kind in KINDS:
        assert torch.autograd.gradcheck(
            lambda *a, k=kind: Affine.fit(*a, kind=k).matrix, (x, y, w), atol=1e-6
        )


@pytest.mark.parametrize(
    ("x", "y", "weights", "message"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), None, "x must have shape"),
        (np.zeros((3, 2)), np.zeros((3, 2)), None, "x must have shape"),
        (np.zeros((3, 3)), np.zeros((4, 3)), None, "y must have shape"),
        (np.full((3, 3), np.nan), np.zeros((3, 3)), None, "x must be finite"),
        (np.zeros((3, 3)), np.zeros((3, 3)), [1, -1, 1], "weights must not be negative"),
        (np.zeros((3, 3)), np.zeros((3, 3)), [0, 0, 0], "weights must not be negative, nor all zero"),
        (np.zeros((3, 3)), np.zeros((3, 3)), [1, 1], "weights must have shape"),
        ([["a"]], np.zeros((3, 3)), None, "x must be an array of numbers"),
    ],
)
def test_fit_refuses(x: object, y: object, weights: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Affine.fit(x, y, weights)


def test_constructor_refuses() -> None:
    with pytest.raises(InputError, match="unknown kind of affine map 'projective'"):
        Affine(np.eye(3), np.zeros(3), "projective")
    with pytest.raises(InputError, match="unknown kind of affine map 'projective'"):
        Affine.fit(np.eye(3), np.eye(3), kind="projective")
    with pytest.raises(InputError, match="must be orthogonal"):
        Affine(2 * np.eye(3), np.zeros(3), "rigid")
    with pytest.raises(InputError, match="multiple of an orthogonal"):
        Affine(np.diag([1.0, 1.0, 2.0]), np.zeros(3), "similarity")
    with pytest.raises(InputError, match="multiple of an orthogonal"):
        Affine(np.zeros((3, 3)), np.zeros(3), "similarity")
    with pytest.raises(InputError, match="translation must have shape"):
        Affine(np.eye(3), np.zeros((3, 1)))


def test_singular_map_has_no_inverse() -> None:
    with pytest.raises(NotInvertibleError, match="singular"):
        _ = Affine(np.diag([1.0, 1.0, 0.0]), np.zeros(3)).inverse
