"""Deformations one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otreg import InputError
from otreg.deformations import Affine, Composite, compose
from tests.deformations.cases import affine, gaussian, points, rigid, similarity, wendland


def test_first_is_applied_first() -> None:
    assert np.array_equal(
        compose(similarity(), gaussian()).map(points()), gaussian().map(similarity().map(points()))
    )


def test_nested_composites_are_flattened() -> None:
    inner = Composite([rigid(), gaussian()])
    outer = Composite([affine(), inner, wendland()])
    assert len(outer) == 4 and outer.stages[1] is inner.stages[0]
    assert set(outer.parameters()) == {
        "0.matrix",
        "0.translation",
        "1.matrix",
        "1.translation",
        "2.control_points",
        "2.coefficients",
        "3.control_points",
        "3.coefficients",
    }


def test_simplified_merges_neighbouring_affine_maps() -> None:
    composite = Composite([rigid(), similarity(), gaussian(), rigid(), rigid()], metadata={"diameter": 2.0})
    simple = composite.simplified()
    assert isinstance(simple, Composite)
    assert [getattr(stage, "kind", "spline") for stage in simple.stages] == ["similarity", "spline", "rigid"]
    assert np.abs(simple.map(points()) - composite.map(points())).max() < 1e-13
    assert simple.metadata == {"diameter": 2.0}
    whole = Composite([rigid(), affine()], moving_frame="RAS", metadata={"diameter": 2.0}).simplified()
    assert isinstance(whole, Affine) and whole.kind == "affine" and whole.moving_frame == "RAS"
    assert whole.metadata == {"diameter": 2.0}
    assert np.abs(whole.map(points()) - affine().map(rigid().map(points()))).max() < 1e-13


def test_simplified_keeps_gradients() -> None:
    matrix = torch.eye(3, dtype=torch.float64, requires_grad=True)
    composite = Composite([Affine(matrix, np.zeros(3)), similarity()])
    (one,) = torch.autograd.grad(composite.map(torch.from_numpy(points())).square().sum(), matrix)
    (other,) = torch.autograd.grad(
        composite.simplified().map(torch.from_numpy(points())).square().sum(), matrix
    )
    assert torch.allclose(one, other)


def test_frames_and_names_come_from_the_ends() -> None:
    first, last = rigid(), gaussian()
    first.moving_frame, first.fixed_frame, last.fixed_frame = "LPS", "RAS", "RAS"
    first.metadata = {"moving_file": "a", "fixed_file": "b", "diameter": 1.0}
    last.metadata = {"moving_file": "b", "fixed_file": "c"}
    composite = compose(first, last)
    assert (composite.moving_frame, composite.fixed_frame) == ("LPS", "RAS")
    assert composite.metadata == {"moving_file": "a", "fixed_file": "c"}


def test_frames_that_do_not_meet_are_refused() -> None:
    first, last = rigid(), gaussian()
    first.fixed_frame, last.moving_frame = "LPS", "RAS"
    with pytest.raises(
        InputError, match="transform 1 ends in LPS coordinates, but transform 2 begins in RAS"
    ):
        compose(first, last)


def test_compose_refuses() -> None:
    with pytest.raises(InputError, match="at least one"):
        compose()
    with pytest.raises(InputError, match="transform 2 of a composite is a str"):
        compose(rigid(), "t.h5")  # type: ignore[arg-type]
    only = gaussian()
    assert compose(only) is only
