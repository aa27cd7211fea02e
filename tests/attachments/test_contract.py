"""The contract of every attachment, one set of tests for all kinds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from otreg import InputError, Surface
from otreg.attachments import KernelAttachment
from tests.attachments.cases import CASES, Case, as_surface, flipped, organ, plate, rotation

FIXED, MOVING = organ(1, 1), organ(1, 2)


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_zero_at_equality_and_positive_elsewhere(case: Case) -> None:
    attachment = case.build(FIXED)
    assert abs(float(attachment(*FIXED))) < 1e-8
    assert float(attachment(*MOVING)) > 0.05
    x = FIXED[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(attachment(x, FIXED[1]), x)
    assert float(gradient.norm()) < 1e-6


def test_fixed_and_moving_can_be_exchanged(case: Case) -> None:
    one, other = case.build(FIXED), case.build(MOVING)
    there, back = float(one(*MOVING)), float(other(*FIXED))
    if isinstance(one, KernelAttachment) and isinstance(other, KernelAttachment):
        there, back = there * one.norm, back * other.norm
    elif "reach" in repr(one):
        # masses are relative to the fixed one
        ratio = float(as_surface(MOVING).triangle_areas.sum() / as_surface(FIXED).triangle_areas.sum())
        one, other = case.build(FIXED), case.build((MOVING[0] * ratio**-0.5, MOVING[1]))
        there, back = float(one(MOVING[0] * ratio**-0.5, MOVING[1])), float(other(*FIXED))
    elif "Combined" in repr(one):
        there = sum(
            float(value) * term.norm for value, (_, term) in zip(one.parts(*MOVING), one.terms, strict=True)
        )
        back = sum(
            float(value) * term.norm
            for value, (_, term) in zip(other.parts(*FIXED), other.terms, strict=True)
        )
    assert there == pytest.approx(back, rel=1e-6)


def test_moving_both_rigidly_changes_nothing(case: Case) -> None:
    turn, shift = rotation(3), torch.tensor([40.0, -3.0, 11.0], dtype=torch.float64)
    expected = float(case.build(FIXED)(*MOVING))
    attachment = case.build((FIXED[0] @ turn.T + shift, FIXED[1]))
    assert float(attachment(MOVING[0] @ turn.T + shift, MOVING[1])) == pytest.approx(expected, rel=1e-6)


def test_scaling_both_scales_the_value_by_the_square(case: Case) -> None:
    """With default scales, which follow the fixed shape: values are squared lengths."""
    attachment = case.build(FIXED)
    kind = type(attachment)
    if attachment.scale == 0.0 or "Combined" in repr(attachment):
        pytest.skip("no scale of its own")
    plain, large = kind(FIXED), kind((10.0 * FIXED[0], FIXED[1]))
    assert large.scale == pytest.approx(10.0 * plain.scale)
    expected = 100.0 * float(plain(*MOVING))
    assert float(large(10.0 * MOVING[0], MOVING[1])) == pytest.approx(expected, rel=2e-3)


def test_order_of_triangles_and_vertices_does_not_matter(case: Case) -> None:
    rng = np.random.default_rng(4)
    attachment = case.build(FIXED)
    expected = float(attachment(*MOVING))
    triangles = MOVING[1][rng.permutation(len(MOVING[1]))]
    assert float(attachment(MOVING[0], triangles)) == pytest.approx(expected, rel=1e-7)
    turned = MOVING[1][:, [1, 2, 0]]
    assert float(attachment(MOVING[0], turned)) == pytest.approx(expected, rel=1e-7)
    if case.needs_order:
        return
    order = torch.from_numpy(rng.permutation(len(MOVING[0])))
    place = torch.argsort(order)
    assert float(attachment(MOVING[0][order], place[MOVING[1]])) == pytest.approx(expected, rel=1e-7)
    points = torch.cat([torch.full((1, 3), 900.0, dtype=torch.float64), MOVING[0]])
    assert float(attachment(points, MOVING[1] + 1)) == pytest.approx(expected, rel=1e-7)


def test_triangles_turned_over(case: Case) -> None:
    attachment = case.build(FIXED)
    expected = float(attachment(*MOVING))
    found = float(attachment(MOVING[0], flipped(MOVING[1])))
    if case.sees_flip:
        assert found > expected + 0.3
        both = case.build((FIXED[0], flipped(FIXED[1])))
        assert float(both(MOVING[0], flipped(MOVING[1]))) == pytest.approx(expected, rel=1e-6)
    else:
        assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.filterwarnings("error")
def test_gradient_by_finite_differences(case: Case) -> None:
    fixed, moving = organ(0, 1), organ(0, 2)
    attachment = case.build(fixed)
    x = moving[0].clone().requires_grad_()
    assert gradcheck(lambda x: attachment(x, moving[1]), (x,), atol=1e-6, rtol=1e-4)
    if case.twice:
        assert gradgradcheck(lambda x: attachment(x, moving[1]), (x,), atol=1e-5, rtol=1e-3, fast_mode=True)


def test_gradient_of_a_cloud_by_finite_differences(case: Case) -> None:
    """With respect to points and, where there are masses, to weights."""
    if not case.clouds or case.needs_order:
        pytest.skip("meshes only")
    attachment = case.build(FIXED[0][:9])
    x = MOVING[0][:7].clone().requires_grad_()
    w = torch.linspace(0.1, 0.3, 7, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda x, w: attachment(x, None, w), (x, w), atol=1e-6, rtol=1e-4)


def test_decreases_along_its_gradient(case: Case) -> None:
    attachment = case.build(FIXED)
    x = MOVING[0].clone().requires_grad_()
    value = attachment(x, MOVING[1])
    (gradient,) = torch.autograd.grad(value, x)
    step = 0.1 * float(value.detach()) / float(gradient.square().sum())
    moved = float(attachment(MOVING[0] - step * gradient, MOVING[1]))
    assert 0.85 * float(value.detach()) < moved < 0.95 * float(value.detach())


def test_a_translation_is_undone_in_an_optimisation_loop(case: Case) -> None:
    attachment = case.build(FIXED)
    shift = torch.tensor([2.0, -1.0, 1.5], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([shift], max_iter=20, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = attachment(FIXED[0] + shift, FIXED[1])
        value.backward()
        return value

    optimiser.step(closure)
    assert float(shift.detach().norm()) < 1e-3


def test_a_small_displacement_costs_half_its_square(case: Case) -> None:
    if not case.quadratic:
        pytest.skip("saturates, or has other tails")
    points, triangles = plate()
    attachment = case.build((points, triangles))
    for d in (0.05, 0.5):
        moved = points + torch.tensor([0.0, 0.0, d], dtype=torch.float64)
        assert float(attachment(moved, triangles)) == pytest.approx(d**2 / 2, rel=0.02)


def test_kinds_of_numbers(case: Case) -> None:
    attachment = case.build(as_surface(FIXED))
    exact = attachment(*MOVING)
    assert exact.shape == () and exact.dtype == torch.float64 and exact.device == MOVING[0].device
    assert not exact.requires_grad
    single = attachment(MOVING[0].float(), MOVING[1].int())
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(float(exact), rel=2e-5)
    x = MOVING[0].float().requires_grad_()
    y = MOVING[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(attachment(x, MOVING[1]), x)
    (expected,) = torch.autograd.grad(attachment(y, MOVING[1]), y)
    assert gradient.dtype == torch.float32
    assert float((gradient - expected).norm()) < 2e-4 * float(expected.norm())
    for same in (
        attachment(MOVING[0].numpy(), MOVING[1].numpy()),
        attachment(MOVING[0].numpy(), MOVING[1].numpy().astype(np.uint32).tolist()),
        attachment(MOVING[0].numpy(), MOVING[1].numpy().astype(np.uint32)),
        attachment(as_surface(MOVING)),
        case.build(FIXED)(*MOVING),
    ):
        assert float(same) == pytest.approx(float(exact), rel=1e-8)


def test_graph_only_where_asked_and_nothing_changed(case: Case) -> None:
    fixed = (FIXED[0].clone().requires_grad_(), FIXED[1].clone())
    attachment = case.build(fixed)
    x = MOVING[0].clone().requires_grad_()
    expected = attachment(x, MOVING[1])
    assert expected.requires_grad
    with torch.no_grad():
        assert not attachment(x, MOVING[1]).requires_grad
        fixed[0].add_(100.0)
    assert float(attachment(MOVING[0], MOVING[1])) == pytest.approx(float(expected.detach()), rel=1e-8)
    expected.backward()
    assert fixed[0].grad is None and torch.equal(x.detach(), MOVING[0])


def test_degenerate_triangles_and_duplicate_points(case: Case) -> None:
    """They count for nothing, and no gradient is NaN."""
    attachment = case.build(FIXED)
    expected = float(attachment(*MOVING))
    x = torch.cat([MOVING[0], MOVING[0][:2]]) if not case.needs_order else MOVING[0].clone()
    last = len(x) - 1
    needle = torch.tensor([[0, 0, 1], [3, 3, 3], [last, 0, last]])
    x.requires_grad_()
    value = attachment(x, torch.cat([MOVING[1], needle]))
    value.backward()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6)
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())
    again = case.build((FIXED[0], torch.cat([FIXED[1], needle.clamp_max(5)])))
    assert float(again(*MOVING)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("points", "triangles", "message"),
    [
        (torch.zeros(0, 3), None, "points has no points"),
        (torch.zeros(4, 2), None, r"points must have shape \(N, 3\), got \(4, 2\)"),
        (torch.zeros(12), None, r"points must have shape"),
        (torch.zeros(4, 3, dtype=torch.int64), None, "points must be float32 or float64"),
        (torch.tensor([[0.0, 0, 0], [1, math.nan, 1]]), None, "points must be finite, but row 1 is not"),
        (torch.tensor([[0.0, 0, 0], [1, math.inf, 1]]), None, "points must be finite, but row 1 is not"),
        ("nonsense", None, "points must be"),
    ],
)
def test_bad_points(case: Case, points: object, triangles: object, message: str) -> None:
    attachment = case.build(FIXED)
    with pytest.raises(InputError, match=message) as raised:
        attachment(points, triangles)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("triangles", "message"),
    [
        (torch.tensor([[0, 1, 18]]), r"triangles must name vertices within 0..17, got 18"),
        (torch.tensor([[0, 1, -1]]), r"triangles must name vertices within 0..17, got -1"),
        (torch.zeros(2, 4, dtype=torch.int64), r"triangles must have shape \(T, 3\), got \(2, 4\)"),
        (torch.zeros(2, 3), "triangles must be integers, got torch.float32"),
        (torch.zeros(2, 3, dtype=torch.bool), "triangles must be integers, got torch.bool"),
        ([[0, 1, 2], [0, 1]], "triangles must be"),
    ],
)
def test_bad_triangles(case: Case, triangles: object, message: str) -> None:
    if case.needs_order:
        pytest.skip("triangles play no part")
    attachment = case.build(FIXED)
    with pytest.raises(InputError, match=message):
        attachment(MOVING[0], triangles)


def test_bad_fixed_shapes(case: Case) -> None:
    nan = FIXED[0].clone()
    nan[3, 1] = math.nan
    for wrong, message in (
        ((nan, FIXED[1]), "fixed must be finite, but row 3 is not"),
        ((FIXED[0][:0], FIXED[1][:0]), "fixed has no points"),
        (Surface(np.zeros((0, 3))), "fixed has no points"),
    ):
        with pytest.raises(InputError, match=message):
            case.build(wrong)
    if case.needs_order:
        return
    with pytest.raises(InputError, match="fixed has no area"):
        case.build((FIXED[0] * 0.0, FIXED[1]))
    with pytest.raises(InputError, match=r"within 0\.\.17"):
        case.build((FIXED[0], FIXED[1] + 1))


def test_point_clouds_where_normals_are_needed(case: Case) -> None:
    if case.clouds:
        assert float(case.build(FIXED[0])(MOVING[0])) > 0.0
        return
    with pytest.raises(InputError, match=r"needs triangles, but fixed has none \(18 points\)"):
        case.build(FIXED[0])
    attachment = case.build(FIXED)
    for nothing in (None, MOVING[1][:0], np.zeros((0, 3), int)):
        with pytest.raises(InputError, match=r"needs triangles, but points has none \(18 points\)"):
            attachment(MOVING[0], nothing)


def test_what_it_says_of_itself(case: Case) -> None:
    attachment = case.build(FIXED)
    assert type(attachment).__name__ in repr(attachment) and "\n" not in repr(attachment)
    assert attachment.scale >= 0.0
    attachment.reset()
    value = float(attachment(*MOVING))
    attachment.reset()
    assert float(attachment(*MOVING)) == pytest.approx(value, rel=1e-7)
