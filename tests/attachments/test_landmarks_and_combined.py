"""Landmarks, and weighted sums of attachments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from otreg import InputError, Landmarks, Surface
from otreg.attachments import Combined, Current, LandmarkDistance, Transport, Varifold
from tests.attachments.cases import organ

FIXED, MOVING = organ(1, 1), organ(1, 2)
POINTS = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 4.0, 0.0]], dtype=torch.float64)


def test_half_the_weighted_mean_of_squared_distances() -> None:
    moved = POINTS + torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    assert float(LandmarkDistance(POINTS)(moved)) == pytest.approx((1 + 4 + 9) / 6)
    weighted = LandmarkDistance(POINTS, weights=np.array([1.0, 0.0, 3.0]))
    assert float(weighted(moved)) == pytest.approx(0.5 * (1 + 27) / 4)
    assert weighted.scale == 0.0 and repr(weighted) == "LandmarkDistance(3 landmarks)"
    x = moved.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(weighted(x), x)
    assert torch.allclose(gradient, torch.tensor([0.25, 0.0, 0.75])[:, None].double() * (moved - POINTS))


def test_landmarks_named_by_vertices_or_between_them() -> None:
    chosen = torch.tensor([5, 0, 17])
    by_vertex = LandmarkDistance(FIXED[0][chosen], chosen)
    assert float(by_vertex(*FIXED)) == 0.0
    expected = 0.5 * (MOVING[0] - FIXED[0])[chosen].square().sum(dim=1).mean()
    assert float(by_vertex(*MOVING)) == pytest.approx(float(expected))
    triangles, shares = FIXED[1][[3, 8]], torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    inside = (FIXED[0][triangles] * shares[:, :, None]).sum(dim=1)
    between = LandmarkDistance(inside, triangles, coordinates=shares)
    assert float(between(*FIXED)) == pytest.approx(0.0, abs=1e-12)
    x = MOVING[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: between(x, MOVING[1]), (x,))
    assert between(MOVING[0].float()).dtype == torch.float32


def test_what_may_carry_landmarks() -> None:
    landmarks = Landmarks(POINTS.numpy(), ("a", "b", "c"))
    surface = Surface(FIXED[0].numpy(), FIXED[1].numpy(), landmarks=landmarks)
    for fixed in (landmarks, surface, POINTS.numpy(), POINTS.float()):
        assert float(LandmarkDistance(fixed)(POINTS + 1.0)) == pytest.approx(1.5)
    assert float(LandmarkDistance(FIXED[0])(surface)) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fixed": np.zeros((0, 3))}, "fixed has no points"),
        ({"fixed": np.zeros((3, 2))}, r"fixed must have shape \(L, 3\), got \(3, 2\)"),
        ({"fixed": Surface(np.ones((2, 3)))}, "carries no landmarks"),
        ({"weights": np.ones(2)}, r"weights must have shape \(3,\), got \(2,\)"),
        ({"weights": np.zeros(3)}, "weights has no mass"),
        ({"vertices": [0, 1]}, r"vertices must have shape \(3,\), got \(2,\)"),
        ({"vertices": [0, 1, -2]}, "vertices must not be negative, got -2"),
        ({"vertices": [0.5, 1.0, 2.0]}, "vertices must be integers"),
        ({"vertices": [[0, 1], [1, 2], [2, 0]]}, r"vertices must have shape \(3,\), got \(3, 2\)"),
        ({"coordinates": np.ones((3, 3))}, "coordinates need vertices"),
        ({"vertices": [0, 1, 2], "coordinates": np.ones((3, 3))}, r"vertices must have shape \(3, K\)"),
        (
            {"vertices": [[0, 1], [1, 2], [2, 0]], "coordinates": np.ones((3, 3))},
            r"coordinates must have shape \(3, 2\), got \(3, 3\)",
        ),
        (
            {"vertices": [[0, 1], [1, 2], [2, 0]], "coordinates": np.full((3, 2), np.nan)},
            "coordinates must be finite, but row 0 is not",
        ),
    ],
)
def test_bad_landmarks(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LandmarkDistance(**{"fixed": POINTS, **arguments})


def test_moving_points_that_lack_the_landmarks() -> None:
    with pytest.raises(InputError, match="points must be the 3 landmarks, got 18: say which they are"):
        LandmarkDistance(POINTS)(*MOVING)
    with pytest.raises(InputError, match="points must have the vertex 18 that a landmark names, got 18"):
        LandmarkDistance(POINTS, [0, 1, 18])(*MOVING)


def test_combined_is_the_weighted_sum() -> None:
    landmarks = LandmarkDistance(FIXED[0][:4], [0, 1, 2, 3])
    terms = [(1.0, Varifold(FIXED, 4.0)), (0.5, Transport(FIXED, 2.0, tol=1e-9)), (0.25, landmarks)]
    both = Combined(terms)
    expected = [weight * float(attachment(*MOVING)) for weight, attachment in terms]
    assert [float(part) for part in both.parts(*MOVING)] == pytest.approx(expected, rel=1e-6)
    assert float(both(*MOVING)) == pytest.approx(sum(expected), rel=1e-6)
    assert both.scale == 0.0 and Combined(terms[:2]).scale == 2.0
    assert "(0.25, LandmarkDistance(4 landmarks))" in repr(both)
    x = MOVING[0].float().requires_grad_()
    value = both(x, MOVING[1])
    assert value.dtype == torch.float32
    value.backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())
    nested = Combined([(2.0, both), (1.0, terms[0][1])])
    assert float(nested(*MOVING)) == pytest.approx(2 * sum(expected) + expected[0], rel=1e-5)


def test_landmarks_can_travel_beside_the_mesh() -> None:
    """Points that no triangle uses are passengers: the varifold does not see them, the landmarks do."""
    passengers = torch.cat([MOVING[0], POINTS + 1.0])
    count = len(MOVING[0])
    both = Combined(
        [
            (1.0, Varifold(FIXED, 4.0)),
            (1.0, LandmarkDistance(POINTS, [count, count + 1, count + 2])),
        ]
    )
    expected = float(Varifold(FIXED, 4.0)(*MOVING)) + 1.5
    assert float(both(passengers, MOVING[1])) == pytest.approx(expected)


def test_reset_reaches_every_term_and_zero_weights_are_not_computed() -> None:
    transport = Transport(FIXED, 2.0)
    both = Combined([(1.0, transport), (0.0, Current(FIXED))])
    both(*MOVING)
    assert transport._divergence.result is not None
    both.reset()
    assert transport._divergence.result is None

    def never(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError

    parts = Combined([(0.0, never), (1.0, Varifold(FIXED, 4.0))]).parts(*MOVING)
    assert float(parts[0]) == 0.0 and parts[0].dtype == torch.float64
    nothing = Combined([(0.0, never)])(MOVING[0].float(), MOVING[1])
    assert float(nothing) == 0.0 and nothing.dtype == torch.float32


def test_anything_that_is_called_alike_may_be_a_term() -> None:
    def size(points: torch.Tensor, triangles: torch.Tensor | None = None) -> torch.Tensor:
        return points.square().sum()

    assert float(Combined([(0.5, size)])(POINTS)) == pytest.approx(12.5)
    assert Combined([(0.5, size)]).scale == 0.0
    Combined([(0.5, size)]).reset()


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "terms must hold at least one pair"),
        ([Varifold(FIXED)], r"terms\[0\] must be a pair \(weight, attachment\)"),
        ([(-1.0, Varifold(FIXED))], r"the weight of terms\[0\] must be finite and not negative, got -1.0"),
        ([(1.0, Varifold(FIXED)), ("x", Varifold(FIXED))], r"the weight of terms\[1\]"),
        ([(float("inf"), Varifold(FIXED))], r"the weight of terms\[0\]"),
        ([(1.0, 3.0)], r"terms\[0\] must hold an attachment, got float"),
    ],
)
def test_bad_terms(terms: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Combined(terms)


def test_weights_reach_only_those_who_ask() -> None:
    cloud = FIXED[0]
    weights = torch.linspace(0.1, 1.0, len(cloud), dtype=torch.float64)
    both = Combined([(1.0, Transport(cloud, 2.0, weights=weights)), (1.0, LandmarkDistance(cloud))])
    assert float(both(cloud, None, weights)) == pytest.approx(0.0, abs=1e-5)
