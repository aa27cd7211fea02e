"""Values and plans against dense references and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otreg.transport import ConvergenceWarning, sinkhorn_divergence, solve
from tests.transport.support import dense_solve, uniform

REACHES = {
    "balanced": {},
    "unbalanced": {"reach": 0.4},
    "x only": {"reach_x": 0.4},
    "y only": {"reach_y": 0.3},
    "both, unequal": {"reach_x": 0.3, "reach_y": 0.5},
}


def rhos(reaches: dict[str, float]) -> tuple[float, float]:
    both = reaches.get("reach", math.inf)
    return reaches.get("reach_x", both) ** 2, reaches.get("reach_y", both) ** 2


@pytest.mark.parametrize("reaches", REACHES.values(), ids=REACHES)
@pytest.mark.parametrize("mass", [1.0, 3.0])
def test_value_and_plan_match_the_dense_reference(reaches: dict[str, float], mass: float) -> None:
    x, y = uniform(40, 3, 1), uniform(50, 3, 2) * 0.8
    a, b = uniform(40, 1, 3)[:, 0] + 0.1, uniform(50, 1, 4)[:, 0] + 0.1
    a, b = mass * a / a.sum(), b / b.sum() * (mass if not reaches else 0.7 * mass)
    if "reach" not in reaches and len(reaches) == 1:
        b = b * mass / b.sum()
    value, plan = dense_solve(x, y, a, b, 0.15, *rhos(reaches), 3000)
    found = solve(x, y, a, b, blur=0.15, tol=1e-11, **reaches)
    assert found.converged and found.marginal_error <= 1e-11
    assert float(found.value) == pytest.approx(float(value), rel=1e-9)
    assert torch.allclose(found.plan(), plan, rtol=1e-7, atol=1e-14)
    v = uniform(50, 2, 5)
    assert torch.allclose(found.apply(v), plan @ v)
    assert torch.allclose(found.apply(v[:, 0]), plan @ v[:, 0])
    assert torch.allclose(found.apply_transpose(x), plan.T @ x)
    assert torch.allclose(found.barycentric_map(), plan @ y / plan.sum(dim=1, keepdim=True))
    assert torch.allclose(found.barycentric_map(v[:, 1]), plan @ v[:, 1] / plan.sum(dim=1))
    assert torch.allclose(found.confidence, plan.sum(dim=1) / a)
    assert torch.allclose(found.confidence_y, plan.sum(dim=0) / b)


@pytest.mark.parametrize("engine", ["fused", "blocks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_engines_and_dtypes_agree(engine: str, dtype: torch.dtype) -> None:
    x, y = uniform(60, 3, 1), uniform(70, 3, 2)
    expected = solve(x, y, blur=0.1, reach=0.5, tol=1e-9)
    found = solve(x.to(dtype), y.to(dtype), blur=0.1, reach=0.5, tol=1e-4, engine=engine)
    assert found.value.dtype == found.potentials[0].dtype == found.barycentric_map().dtype == dtype
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-5)
    assert torch.allclose(found.barycentric_map().double(), expected.barycentric_map(), atol=1e-3)


def test_gaussians_closed_form() -> None:
    """Entropic transport between two normal laws (Janati et al., NeurIPS 2020), here on a fine grid."""
    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)[:, None]
    means, deviations, blur = (-0.4, 0.7), (0.8, 0.5), 0.6
    a, b = (
        torch.exp(-((grid[:, 0] - mean) ** 2) / (2 * sd**2))
        for mean, sd in zip(means, deviations, strict=True)
    )
    eps = blur**2
    spread = math.sqrt(4 * deviations[0] ** 2 * deviations[1] ** 2 + eps**2)
    overlap = spread - eps * (1 - math.log(2 * eps)) - eps * math.log(spread + eps)
    squared = (means[0] - means[1]) ** 2 + deviations[0] ** 2 + deviations[1] ** 2 - overlap
    found = solve(grid, grid, a / a.sum(), b / b.sum(), blur=blur, tol=1e-10)
    assert float(found.value) == pytest.approx(0.5 * squared, rel=1e-6)


def test_unbalanced_gaussians() -> None:
    """The potentials of normal laws are parabolas; their two coefficients obey a scalar recursion."""
    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)[:, None]
    masses, deviations, eps, rho = (1.5, 0.8), (0.8, 0.5), 0.36, 0.7
    damp = 1 / (1 + eps / rho)

    def answer(constant: float, curvature: float, mass: float, deviation: float) -> tuple[float, float]:
        k = 1 / deviation**2 + (curvature + 1) / eps
        scale = eps * math.log(mass / (deviation * math.sqrt(k)))
        return -damp * (constant + scale), -damp * (1 - 1 / (eps * k))

    f = g = (0.0, 0.0)
    for _ in range(2000):
        g = answer(*f, masses[0], deviations[0])
        f = answer(*g, masses[1], deviations[1])

    def kept(potential: tuple[float, float], mass: float, deviation: float) -> float:
        precision = 1 / deviation**2 - potential[1] / rho
        return mass * math.exp(-potential[0] / rho) / (deviation * math.sqrt(precision))

    left = kept(f, masses[0], deviations[0]) + kept(g, masses[1], deviations[1])
    expected = rho * sum(masses) + eps * masses[0] * masses[1] - (rho + eps / 2) * left
    a, b = (torch.exp(-(grid[:, 0] ** 2) / (2 * sd**2)) for sd in deviations)
    found = solve(
        grid, grid, masses[0] * a / a.sum(), masses[1] * b / b.sum(), blur=eps**0.5, reach=rho**0.5, tol=1e-11
    )
    assert float(found.value) == pytest.approx(expected, rel=1e-6)
    centre = found.potentials[0][300]
    assert float(centre) == pytest.approx(f[0], abs=1e-6)


def test_diracs() -> None:
    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert float(solve(x, y, blur=0.1).value) == pytest.approx(12.5)
    assert float(sinkhorn_divergence(x, y, blur=0.1)) == pytest.approx(12.5)
    m, n, blur, reach = 2.0, 0.5, 0.7, 1.5
    eps, rho = blur**2, reach**2
    mass = math.exp((rho * math.log(m * n) + eps * math.log(m * n) - 12.5) / (eps + 2 * rho))

    def kl(p: float, q: float) -> float:
        return p * math.log(p / q) - p + q

    expected = 12.5 * mass + eps * kl(mass, m * n) + rho * (kl(mass, m) + kl(mass, n))
    found = solve(x, y, x[:, 0] + m, x[:, 0] + n, blur=blur, reach=reach, tol=1e-12)
    assert float(found.value) == pytest.approx(expected, rel=1e-10)
    assert float(found.plan().sum()) == pytest.approx(mass, rel=1e-10)


def test_permutations_are_found() -> None:
    x = uniform(100, 3, 1)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    found = solve(x, x[order], blur=0.004)
    assert torch.equal(found.plan().argmax(dim=1), order.argsort())
    assert torch.allclose(found.barycentric_map(), x, atol=1e-3)


def test_gradients_of_convex_functions_are_optimal_maps() -> None:
    """Brenier: y = x + gradient of a small convex function is matched to its own x."""
    x = uniform(400, 2, 1)
    y = torch.stack([1.5 * x[:, 0] + 0.2 * x[:, 1], 0.2 * x[:, 0] + 0.8 * x[:, 1]], dim=1)
    found = solve(x, y, blur=0.01)
    assert float((found.barycentric_map() - y).norm(dim=1).mean()) < 0.01
    assert float(found.value) == pytest.approx(0.5 * float((x - y).square().sum(dim=1).mean()), abs=2e-3)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 12), m=st.integers(1, 12), dimension=st.integers(1, 5), seed=st.integers(0, 999),
    reach=st.sampled_from([None, 0.3]),
)  # fmt: skip
def test_divergence_is_symmetric_positive_and_zero_at_equality(
    n: int, m: int, dimension: int, seed: int, reach: float | None
) -> None:
    x, y = uniform(n, dimension, seed), uniform(m, dimension, seed + 1)
    kind = {"blur": 0.2, "reach": reach, "tol": 1e-9}
    there, back = sinkhorn_divergence(x, y, **kind), sinkhorn_divergence(y, x, **kind)
    assert float(there) >= -1e-10
    assert float(there) == pytest.approx(float(back), abs=1e-9)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert float(sinkhorn_divergence(x, x[order], **kind)) == pytest.approx(0.0, abs=1e-9)


def test_invariance_and_equivariance() -> None:
    x, y = uniform(30, 3, 1), uniform(40, 3, 2)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[0]
    shift = torch.tensor([100.0, -50.0, 20.0], dtype=torch.float64)
    before = solve(x, y, blur=0.1, reach=0.5, tol=1e-10)
    after = solve(x @ rotation + shift, y @ rotation + shift, blur=0.1, reach=0.5, tol=1e-10)
    assert float(after.value) == pytest.approx(float(before.value), rel=1e-8)
    assert torch.allclose(after.barycentric_map(), before.barycentric_map() @ rotation + shift)
    moved = solve(x, y + shift, blur=0.1, tol=1e-10)
    still = solve(x, y, blur=0.1, tol=1e-10)
    gain = 0.5 * shift.square().sum() + (shift * (y.mean(dim=0) - x.mean(dim=0))).sum()
    assert float(moved.value - still.value) == pytest.approx(float(gain), rel=1e-9)


def test_masses_of_the_plan() -> None:
    x, y = uniform(20, 2, 1), uniform(30, 2, 2)
    a = torch.full((20,), 0.1, dtype=torch.float64)
    kept = solve(x, y, a, a.new_full((30,), 1 / 30), blur=0.1, reach_y=0.5, tol=1e-10)
    assert torch.allclose(kept.plan().sum(dim=1), a)
    far = solve(x, y + 100.0, blur=0.1, reach=0.2)
    assert float(far.confidence.max()) < 1e-6 and torch.isfinite(far.barycentric_map()).all()


def test_points_without_weight_change_nothing() -> None:
    x, y = uniform(20, 3, 1), uniform(25, 3, 2)
    a = torch.ones(20, dtype=torch.float64)
    a[10:] = 0.0
    a = a / a.sum()
    for reach in (None, 0.5):
        found = solve(x, y, a, blur=0.1, reach=reach, tol=1e-9, debias=True)
        alone = solve(x[:10], y, blur=0.1, reach=reach, tol=1e-9, debias=True)
        assert float(found.value) == pytest.approx(float(alone.value), rel=1e-7)
        assert torch.allclose(found.barycentric_map()[:10], alone.barycentric_map(), atol=1e-7)
        assert torch.isfinite(found.barycentric_map()).all() and torch.isfinite(found.confidence).all()


def test_one_and_identical_points() -> None:
    one = torch.zeros(1, 3)
    same = torch.ones(7, 3)
    assert float(solve(one, one, blur=0.1).value) == pytest.approx(0.0, abs=1e-12)
    found = solve(one, same, blur=0.1)
    assert float(found.value) == pytest.approx(1.5, rel=1e-6)
    assert torch.allclose(found.barycentric_map(), same[:1])
    assert float(sinkhorn_divergence(same, same[:3], blur=0.1)) == pytest.approx(0.0, abs=1e-7)


def test_features_are_extra_coordinates() -> None:
    x, y = uniform(20, 3, 1), uniform(25, 3, 2)
    u, v = uniform(20, 2, 3), uniform(25, 2, 4)
    by_argument = solve(x, y, x_features=u, y_features=v, feature_weight=0.3, blur=0.1, tol=1e-9)
    by_hand = solve(torch.cat([x, 0.3 * u], 1), torch.cat([y, 0.3 * v], 1), blur=0.1, tol=1e-9)
    assert float(by_argument.value) == pytest.approx(float(by_hand.value))
    assert by_argument.barycentric_map().shape == (20, 3)
    each = solve(
        x, y, x_features=u, y_features=v, feature_weight=torch.tensor([0.3, 0.0]), blur=0.1, tol=1e-9
    )
    first = solve(x, y, x_features=u[:, 0], y_features=v[:, 0], feature_weight=0.3, blur=0.1, tol=1e-9)
    assert float(each.value) == pytest.approx(float(first.value))


def test_labels_keep_bodies_apart() -> None:
    x, labels = uniform(40, 2, 1), torch.eye(2, dtype=torch.float64)[torch.arange(40) % 2]
    found = solve(x, x + 0.05, x_features=labels, y_features=labels, feature_weight=10.0, blur=0.05)
    assert torch.allclose(found.barycentric_map(labels), labels, atol=1e-6)


def test_warm_start() -> None:
    x, y = uniform(200, 3, 1), uniform(220, 3, 2)
    first = solve(x, y, blur=0.05, debias=True)
    again = solve(x, y, blur=0.05, debias=True, init=first)
    assert again.iterations == 1 and float(again.value) == pytest.approx(float(first.value), rel=1e-6)
    assert solve(x, y, blur=0.05, init=first.potentials).iterations == 1
    moved = solve(x + 0.002, y, blur=0.05, debias=True, init=first)
    assert moved.converged and moved.iterations < first.iterations
    assert moved.own[1].solution is first.own[1].solution, "the unchanged shape is not solved again"
    assert moved.own[0].solution is not first.own[0].solution


def test_not_converged_is_said() -> None:
    x, y = uniform(100, 3, 1), uniform(100, 3, 2)
    with pytest.warns(ConvergenceWarning, match="marginal error"):
        found = solve(x, y, blur=0.01, max_iterations=2)
    assert not found.converged
    plan = found.plan()
    true_error = (plan.sum(dim=1) - 0.01).abs().sum() + (plan.sum(dim=0) - 0.01).abs().sum()
    assert found.marginal_error == pytest.approx(float(true_error), rel=1e-6)


def test_numpy_in_numpy_out() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((10, 3)), rng.random((12, 3))
    found = solve(x, y, np.full(10, 0.1), blur=0.1, debias=True)
    assert isinstance(found.value, float)
    outputs = (*found.potentials, found.apply(y), found.barycentric_map(), found.confidence, found.plan())
    assert all(isinstance(output, np.ndarray) for output in outputs)
    single = solve(x.astype(np.float32), y.astype(np.float32), blur=0.1)
    assert single.barycentric_map().dtype == np.float32


def test_a_dense_plan_that_is_too_large_is_refused() -> None:
    x = uniform(8000, 1, 1)
    found = solve(x, x, blur=1.0, tol=1.0)
    with pytest.raises(ValueError, match="use apply"):
        found.plan()
