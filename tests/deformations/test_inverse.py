"""The inverse that is solved for, and what it does where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otreg import InputError
from otreg.deformations import InverseDeformation, Spline
from otreg.errors import NotInvertibleError
from tests.deformations.cases import gaussian, points


def steep(strength: float, kernel: str = "gaussian") -> Spline:
    """One bump, ``x -> x - strength x exp(-r²/2)`` to first order; folds at 0 for strengths above 1."""
    ends = np.array([[-0.05, 0.0, 0.0], [0.05, 0.0, 0.0]])
    push = np.array([[10.0 * strength, 0.0, 0.0], [-10.0 * strength, 0.0, 0.0]])
    return Spline(ends, push, 1.0, kernel)


def test_inverse_of_a_steep_map() -> None:
    """Nearly folded (smallest determinant about 0.05): far from what a plain iteration solves."""
    spline = steep(0.95)
    x = np.random.default_rng(0).uniform(-3, 3, size=(2000, 3))
    assert 0 < spline.jacobian_determinant(np.zeros((1, 3)))[0] < 0.06
    report = spline.inverse.solve(spline.map(x))
    assert report.converged.all() and not report.folded.any()
    assert report.residual.max() <= 1e-9 * spline.extent
    assert np.abs(spline.inverse.map(spline.map(x)) - x).max() < 1e-12
    assert np.array_equal(spline.inverse.residuals(spline.map(x)), report.residual)


def test_residuals_reach_rounding_far_from_the_origin() -> None:
    rng = np.random.default_rng(1)
    spline = Spline(rng.normal(size=(20, 3)) + 1e8, 0.1 * rng.normal(size=(20, 3)), 0.7)
    report = spline.inverse.solve(rng.normal(size=(30, 3)) + 1e8)
    assert report.converged.all()


@pytest.mark.parametrize("strength", [1.5, 4.0])
def test_folded_map_is_refused(strength: float) -> None:
    spline = steep(strength)
    y = np.concatenate(
        [np.zeros((1, 3)), np.random.default_rng(2).uniform(-0.3, 0.3, size=(200, 3)), [[9, 9, 9.0]]]
    )
    with pytest.raises(NotInvertibleError, match=r"no inverse at \d+ of 202 points .* worst at point \d+ \("):
        spline.inverse.map(y)
    with pytest.raises(NotInvertibleError):
        spline.inverse.jacobian(torch.from_numpy(y))
    lenient = InverseDeformation(spline, tolerance=1e-9, on_failure="nan")
    x, report = lenient.map(y), lenient.solve(y)
    failed = ~report.converged | report.folded
    assert failed[0] and not failed[-1]
    assert np.isnan(x[failed]).all() and np.isfinite(x[~failed]).all()
    assert np.abs(spline.map(x[~failed]) - y[~failed]).max() < 1e-9
    assert np.isnan(lenient.jacobian(y)[failed]).all()
    assert np.isfinite(lenient.jacobian(y)[~failed]).all()


def test_turned_inside_out_is_folded_though_solved() -> None:
    """At 0 the folded bump has the exact solution 0, with a negative determinant."""
    report = steep(3.0).inverse.solve(torch.zeros((1, 3), dtype=torch.float64))
    assert bool(report.converged[0]) and bool(report.folded[0]) and float(report.residual[0]) < 1e-12


def test_points_that_are_not_finite_are_no_failure() -> None:
    y = points()
    y[2, 0] = np.nan
    report = gaussian().inverse.solve(y)
    assert not report.converged[2] and np.isnan(report.residual[2]) and not report.folded[2]
    assert np.isnan(gaussian().inverse.map(y)[2, 0])


def test_report_keeps_kind_and_dtype() -> None:
    report = gaussian().inverse.solve(torch.from_numpy(points()).float())
    assert report.points.dtype == report.residual.dtype == torch.float32
    assert report.converged.dtype == report.folded.dtype == torch.bool
    report = gaussian().inverse.solve(points().astype(np.float32))
    assert report.points.dtype == report.residual.dtype == np.float32
    assert gaussian().inverse.solve(np.zeros((0, 3))).points.shape == (0, 3)


def test_inverse_of_the_inverse_is_the_object() -> None:
    spline = gaussian()
    assert spline.inverse.inverse is spline


def test_gradients_do_not_record_iterations() -> None:
    """One Newton step is on the graph, however many were made."""
    spline = steep(0.95)
    y = spline.map(torch.full((1, 3), 0.4, dtype=torch.float64)).requires_grad_()
    result = spline.inverse.map(y)
    nodes, todo = set(), [result.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            todo += [parent for parent, _ in node.next_functions]
    assert len(nodes) < 15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance of an inverse must be positive"),
        ({"tolerance": float("nan")}, "tolerance of an inverse must be positive"),
        ({"tolerance": 1.0, "max_iterations": 0}, "at least one iteration"),
        ({"tolerance": 1.0, "on_failure": "ignore"}, "unknown on_failure 'ignore'"),
    ],
)
def test_constructor_refuses(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        InverseDeformation(gaussian(), **settings)


def test_too_few_iterations_are_reported() -> None:
    spline = steep(0.95)
    y = spline.map(np.array([[0.4, 0.1, 0.0]]))
    assert not InverseDeformation(spline, tolerance=1e-14, max_iterations=1).solve(y).converged[0]
