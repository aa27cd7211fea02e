"""Transport as an attachment: a dense reference, partial shapes, and what is kept between calls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from otreg import InputError, Surface
from otreg.attachments import Transport
from otreg.transport import ConvergenceWarning, front
from tests.attachments.cases import as_surface, organ, plate
from tests.transport.support import dense_solve

FIXED, MOVING = organ(1, 1), organ(1, 2)


def dense_divergence(
    moving: Surface, fixed: Surface, blur: float, reach: float | None, normal_weight: float
) -> float:
    """Debiased value from the textbook's loop, on what a Surface says of itself."""
    rho = math.inf if reach is None else reach**2
    sides = []
    for shape in (moving, fixed):
        places = np.concatenate([shape.triangle_centres, normal_weight * shape.triangle_normals], axis=1)
        masses = shape.triangle_areas / (shape if reach is None else fixed).triangle_areas.sum()
        sides.append((torch.from_numpy(places), torch.from_numpy(masses)))
    (x, a), (y, b) = sides

    def value(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
        return float(dense_solve(x, y, a, b, blur, rho, rho, 500)[0])

    own = 0.5 * (value(x, x, a, a) + value(y, y, b, b))
    return value(x, y, a, b) - own + 0.5 * blur**2 * float(a.sum() - b.sum()) ** 2


@pytest.mark.parametrize("reach", [None, 4.0])
@pytest.mark.parametrize("normal_weight", [None, 2.0])
def test_against_the_textbook(reach: float | None, normal_weight: float | None) -> None:
    attachment = Transport(FIXED, 2.0, reach, normal_weight=normal_weight, tol=1e-10)
    expected = dense_divergence(as_surface(MOVING), as_surface(FIXED), 2.0, reach, normal_weight or 0.0)
    assert float(attachment(*MOVING)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distance", [0.3, 40.0])
def test_a_translation_costs_half_its_square_from_any_distance(distance: float) -> None:
    shift = distance * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    x = (FIXED[0] + shift).requires_grad_()
    value = Transport(FIXED, 1.0, tol=1e-8)(x, FIXED[1])
    assert float(value.detach()) == pytest.approx(distance**2 / 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(value, x)
    assert torch.allclose(gradient.sum(dim=0), shift, rtol=1e-5, atol=1e-6)


def test_part_of_a_shape_fits_the_whole_where_mass_may_be_left_out() -> None:
    """The left half of a plate, slightly off, is pulled to its place rather than spread over the whole."""
    points, triangles = plate(8)
    half = triangles[(points[triangles, 0] <= 1e-9).all(dim=1)]
    shift = torch.tensor([0.0, 0.0, 0.4], dtype=torch.float64)
    pulls = {}
    for reach in (None, 3.0):
        x = (points + shift).requires_grad_()
        (gradient,) = torch.autograd.grad(Transport((points, triangles), 1.0, reach)(x, half), x)
        pulls[reach] = gradient.sum(dim=0)
    # balanced: mass must travel to the other half
    assert float(pulls[None][0]) < -5.0
    assert abs(float(pulls[3.0][0])) < 0.3
    assert float(pulls[3.0][2]) == pytest.approx(0.5 * 0.4, rel=0.2)
    # a part has half the mass of the whole, and what it lacks costs reach² times that
    assert float(Transport((points, triangles), 1.0, 3.0)(points, half)) < 0.5 * 3.0**2


def test_the_fixed_self_term_is_solved_once_and_potentials_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solved: list[int] = []
    solve_self, solve_pair = front.solve_self, front.solve_pair
    updates: list[int] = []

    def counted_self(problem: Any, *rest: Any) -> Any:
        solved.append(len(problem.x))
        return solve_self(problem, *rest)

    def counted_pair(*arguments: Any) -> Any:
        found = solve_pair(*arguments)
        updates.append(found.iterations)
        return found

    monkeypatch.setattr(front, "solve_self", counted_self)
    monkeypatch.setattr(front, "solve_pair", counted_pair)
    moving = organ(2, 2)
    attachment = Transport(FIXED, 1.5, tol=1e-4)
    values = [float(attachment(moving[0] + 0.01 * step, moving[1])) for step in range(4)]
    assert solved == [128, 32, 128, 128, 128]
    assert max(updates[1:]) < 0.5 * updates[0]
    attachment.reset()
    again = [float(attachment(moving[0] + 0.01 * step, moving[1])) for step in (3,)]
    assert again[0] == pytest.approx(values[3], rel=1e-3)
    assert updates[-1] >= updates[0] - 2


def test_moving_shapes_of_several_sizes_and_precisions_in_turn() -> None:
    attachment = Transport(FIXED, 2.0, tol=1e-6)
    for rounds in (1, 2, 1):
        moving = organ(rounds, 3)
        for dtype in (torch.float64, torch.float32):
            fresh = float(Transport(FIXED, 2.0, tol=1e-6)(*moving))
            found = attachment(moving[0].to(dtype), moving[1])
            assert found.dtype == dtype and float(found) == pytest.approx(fresh, rel=1e-4)


def test_clouds_weigh_what_they_are_told() -> None:
    cloud = FIXED[0]
    heavy = torch.zeros(len(cloud), dtype=torch.float64)
    heavy[:9] = 2.0
    assert float(Transport(cloud, 2.0, weights=heavy, tol=1e-8)(cloud[:9])) == pytest.approx(0.0, abs=1e-8)
    # a partial cloud says so by its weights; without them it is too dense
    part = cloud[:9]
    whole = torch.full((len(cloud),), 1.0, dtype=torch.float64)
    attachment = Transport(cloud, 1.0, 2.0, weights=whole, tol=1e-8)
    assert float(attachment(part, None, whole[:9])) < float(Transport(cloud, 1.0, 2.0, tol=1e-8)(part))
    # a mesh and a cloud: both of mass 1
    for reach in (None, 5.0):
        value = float(Transport(FIXED, 2.0, reach)(FIXED[0]))
        other = float(Transport(FIXED[0], 2.0, reach)(*FIXED))
        assert 0.0 < value < 6.0 and value == pytest.approx(other, rel=1e-2)


def test_default_blur_and_what_it_says_of_itself() -> None:
    surface = as_surface(organ(4, 1))
    attachment = Transport(surface)
    spacing = math.sqrt(float(surface.triangle_areas.mean()))
    assert attachment.blur == attachment.scale == pytest.approx(max(0.01 * surface.diameter, spacing))
    assert repr(attachment) == f"Transport(2048 triangles, blur={attachment.blur:.6g})"
    assert "reach=3, normal_weight=1" in repr(Transport(surface, reach=3.0, normal_weight=1.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blur": 0.0}, "blur must be a positive number, got 0.0"),
        ({"reach": -1.0}, "reach must be a positive number, got -1.0"),
        ({"normal_weight": 0.0}, "normal_weight must be a positive number"),
        ({"tol": 0.0}, "tol must be a positive number"),
        ({"resolution": "fine"}, "resolution must be a positive number, got 'fine'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Transport(FIXED, **settings)


def test_normals_need_triangles() -> None:
    with pytest.raises(InputError, match=r"normal_weight needs triangles, but fixed has none \(18 points\)"):
        Transport(FIXED[0], normal_weight=1.0)
    with pytest.raises(InputError, match="normal_weight needs triangles, but points has none"):
        Transport(FIXED, normal_weight=1.0)(MOVING[0])
    with pytest.raises(InputError, match="points has no area"):
        Transport(FIXED)(0.0 * MOVING[0], MOVING[1])


def test_not_converged_is_said() -> None:
    with pytest.warns(ConvergenceWarning):
        Transport(FIXED, 0.2, tol=1e-9, max_iterations=2)(*MOVING)
