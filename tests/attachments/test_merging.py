"""Diracs merged in cells: nearly the same value and smoothed gradient, and still a smooth function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from otreg.attachments import MMD, Current, Transport, Varifold
from otreg.attachments.base import ShapeAttachment
from otreg.attachments.diracs import Diracs, make_cells
from otreg.reductions import kernel_sum
from tests.attachments.cases import organ

FIXED, MOVING = organ(4, 1), organ(4, 2)
WIDTH = 3.0
KINDS: dict[str, Callable[..., ShapeAttachment]] = {
    "current": lambda fixed, **more: Current(fixed, WIDTH, **more),
    "varifold": lambda fixed, **more: Varifold(fixed, WIDTH, **more),
    "varifold, linear": lambda fixed, **more: Varifold(
        fixed, WIDTH, oriented=True, orientation="linear", **more
    ),
    "varifold, exponential": lambda fixed, **more: Varifold(fixed, WIDTH, oriented=True, **more),
    "mmd": lambda fixed, **more: MMD(fixed, WIDTH, **more),
    "transport": lambda fixed, **more: Transport(fixed, 0.8 * WIDTH, reach=3 * WIDTH, **more),
}


def gradient(attachment: ShapeAttachment, points: torch.Tensor) -> tuple[float, torch.Tensor]:
    x = points.clone().requires_grad_()
    value = attachment(x, MOVING[1])
    value.backward()
    assert x.grad is not None
    return float(value.detach()), x.grad


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_third_of_the_width_costs_two_percent(kind: str) -> None:
    """Of the value, and of the gradient as a deformation of that width sees it."""
    exact = KINDS[kind](FIXED)
    merged = KINDS[kind](FIXED, resolution=WIDTH / 3)
    value, expected = gradient(exact, MOVING[0])
    found, slope = gradient(merged, MOVING[0])
    assert found == pytest.approx(value, rel=0.02)
    smooth = [kernel_sum(MOVING[0], MOVING[0], part, width=WIDTH) for part in (slope, expected)]
    assert float((smooth[0] - smooth[1]).norm() / smooth[1].norm()) < 0.02
    assert merged._cells is not None and merged._cells.count < 0.8 * len(MOVING[1])
    assert "resolution=1" in repr(merged)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_gradient_is_that_of_the_merged_value(kind: str) -> None:
    """And one step after another, the function stays the same smooth one."""
    fixed, moving = organ(2, 1), organ(2, 2)
    more: dict[str, Any] = {"tol": 1e-12} if kind == "transport" else {}
    attachment = KINDS[kind](fixed, resolution=3.0, **more)
    x = moving[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attachment(x, moving[1]), (x,), atol=1e-6, fast_mode=True)
    assert attachment._cells is not None and attachment._cells.count < len(moving[1])


@pytest.mark.parametrize("kind", list(KINDS))
def test_equal_shapes_are_merged_alike(kind: str) -> None:
    more: dict[str, Any] = {"tol": 1e-7} if kind == "transport" else {}
    attachment = KINDS[kind](FIXED, resolution=2.0, **more)
    assert abs(float(attachment(*FIXED))) < 1e-9
    order = torch.randperm(len(FIXED[1]), generator=torch.Generator().manual_seed(0))
    attachment.reset()
    assert abs(float(attachment(FIXED[0], FIXED[1][order]))) < 1e-9


def test_cells_smaller_than_the_spacing_change_nothing() -> None:
    exact, merged = (Varifold(FIXED, WIDTH, resolution=side) for side in (None, 1e-3))
    assert float(merged(*MOVING)) == pytest.approx(float(exact(*MOVING)), rel=1e-12)


def test_cells_travel_with_the_shape_until_they_come_apart() -> None:
    attachment = Varifold(FIXED, WIDTH, resolution=1.0)
    attachment(*MOVING)
    cells = attachment._cells
    attachment(MOVING[0] + 7.3, MOVING[1])
    assert attachment._cells is cells
    attachment(1.2 * MOVING[0].float(), MOVING[1])
    assert attachment._cells is cells
    other = organ(3, 5)
    assert float(attachment(*other)) == pytest.approx(float(Varifold(FIXED, WIDTH)(*other)), rel=0.02)
    assert attachment._cells is not cells
    # as many triangles, but others
    order = torch.randperm(len(MOVING[1]), generator=torch.Generator().manual_seed(0))
    attachment(*MOVING)
    found = float(attachment(MOVING[0], MOVING[1][order]))
    assert found == pytest.approx(float(Varifold(FIXED, WIDTH)(*MOVING)), rel=0.02)
    attachment.reset()
    assert attachment._cells is None


def test_merging_keeps_sums_and_means() -> None:
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(50, 3, generator=generator, dtype=torch.float64)
    vectors = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    masses = torch.rand(50, generator=generator, dtype=torch.float64)
    # one cell without mass
    positions[0], masses[0] = torch.tensor([9.0, 9.0, 9.0]), 0.0
    diracs = Diracs(positions, vectors, masses)
    cells = make_cells(diracs, 0.5, torch.zeros(3, dtype=torch.float64))
    merged = cells.merge(diracs)
    assert cells.count == 9 and cells.fit(diracs, 0.5)
    assert torch.allclose(merged.vectors.sum(dim=0), vectors.sum(dim=0))
    assert torch.allclose(merged.masses[:, None].T @ merged.positions, masses[:, None].T @ positions)
    assert bool(torch.isfinite(merged.positions).all())
    assert torch.allclose(merged.positions[cells.labels[0]], positions[0])
    assert not cells.fit(Diracs(positions.flip(0), vectors, masses), 0.25)
