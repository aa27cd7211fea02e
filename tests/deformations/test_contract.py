"""The contract of every deformation, one set of tests for all kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from otreg import InputError, Landmarks, Surface
from otreg.deformations import Composite, Deformation, load_transform
from tests.deformations.cases import CASES, points


@pytest.fixture(params=list(CASES))
def deformation(request: pytest.FixtureRequest) -> Deformation:
    return CASES[request.param]()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f8", np.float16])
def test_array_in_array_out(deformation: Deformation, dtype: str) -> None:
    exact = deformation.map(points())
    given = points().astype(dtype)
    kept = given.copy()
    moved = deformation.map(given)
    assert isinstance(moved, np.ndarray) and moved.dtype == np.dtype(dtype) and moved.shape == (20, 3)
    assert np.array_equal(given, kept)
    assert np.abs(moved.astype(np.float64) - exact).max() < 50 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensor_in_tensor_out(deformation: Deformation, dtype: torch.dtype) -> None:
    exact = deformation.map(points())
    moved = deformation.map(torch.from_numpy(points()).to(dtype))
    assert isinstance(moved, torch.Tensor) and moved.dtype == dtype and moved.shape == (20, 3)
    assert not moved.requires_grad
    assert np.abs(moved.double().numpy() - exact).max() < 50 * torch.finfo(dtype).eps
    assert deformation.jacobian(torch.from_numpy(points()).to(dtype)).dtype == dtype


def test_integers_become_float64(deformation: Deformation) -> None:
    whole = np.array([[0, 1, 2], [-1, 0, 1]])
    assert deformation.map(whole).dtype == np.float64
    assert np.array_equal(deformation.map(whole), deformation.map(whole.astype(np.float64)))
    assert deformation.map(torch.from_numpy(whole)).dtype == torch.float64


def test_no_points(deformation: Deformation) -> None:
    for empty in (np.zeros((0, 3), np.float32), torch.zeros((0, 3), dtype=torch.float32)):
        assert deformation.map(empty).shape == (0, 3)
        assert deformation.map(empty).dtype == empty.dtype
        assert deformation.jacobian(empty).shape == (0, 3, 3)
        assert deformation.jacobian_determinant(empty).shape == (0,)
    attached = torch.zeros((0, 3), dtype=torch.float64, requires_grad=True)
    deformation.map(attached).sum().backward()
    assert attached.grad is not None and attached.grad.shape == (0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(3),
        np.zeros((2, 2)),
        np.zeros((2, 3, 1)),
        np.zeros(0),
        np.zeros((2, 3), bool),
        np.zeros((2, 3), complex),
        np.array([["a", "b", "c"]]),
        np.zeros((2, 3), object),
        torch.zeros(3),
        torch.zeros((2, 4)),
        torch.zeros((2, 3), dtype=torch.bool),
        torch.zeros((2, 3), dtype=torch.complex64),
    ],
)
def test_what_are_not_points_is_refused(deformation: Deformation, wrong: np.ndarray | torch.Tensor) -> None:
    for method in (deformation.map, deformation, deformation.jacobian, deformation.jacobian_determinant):
        with pytest.raises(InputError, match="points must"):
            method(wrong)


def test_points_that_are_not_finite_stay_so_and_disturb_nobody(deformation: Deformation) -> None:
    given = points()
    given[3, 1], given[7] = np.nan, np.inf
    moved = deformation.map(given)
    others = np.setdiff1d(np.arange(20), [3, 7])
    assert not np.isfinite(moved[[3, 7]]).all(axis=1).any()
    assert np.allclose(moved[others], deformation.map(points())[others], rtol=0, atol=1e-12)


def test_noncontiguous_and_read_only_arrays(deformation: Deformation) -> None:
    wide = np.zeros((20, 6))
    wide[:, ::2] = points()
    frozen = points()
    frozen.setflags(write=False)
    with np.testing.assert_no_warnings():
        assert np.array_equal(deformation.map(wide[:, ::2]), deformation.map(points()))
        moved = deformation.map(frozen)
    moved += 1.0  # the result is the caller's own
    assert np.array_equal(frozen, points())


def test_jacobian_is_the_derivative(deformation: Deformation) -> None:
    given = points(6)
    jacobian = deformation.jacobian(given)
    step = 1e-5
    for axis in range(3):
        shift = np.zeros(3)
        shift[axis] = step
        difference = (deformation.map(given + shift) - deformation.map(given - shift)) / (2 * step)
        assert np.abs(difference - jacobian[:, :, axis]).max() < 1e-8
    attached = torch.from_numpy(given)
    automatic = torch.autograd.functional.jacobian(lambda x: deformation.map(x).sum(dim=0), attached)
    assert np.abs(automatic.permute(1, 0, 2).numpy() - jacobian).max() < 1e-10
    assert np.allclose(deformation.jacobian_determinant(given), np.linalg.det(jacobian), rtol=1e-12)
    together = deformation._map_and_jacobian(attached)
    assert np.abs(together[0].numpy() - deformation.map(given)).max() < 1e-13
    assert np.abs(together[1].numpy() - jacobian).max() < 1e-13


def test_gradients_with_respect_to_points(deformation: Deformation) -> None:
    given = torch.from_numpy(points(2)).requires_grad_()
    assert torch.autograd.gradcheck(deformation.map, (given,), atol=1e-7)
    assert torch.autograd.gradcheck(deformation.jacobian, (given,), atol=1e-6)
    assert torch.autograd.gradcheck(
        lambda x: deformation.jacobian_determinant(x).clamp_min(1e-3).log(), (given,), atol=1e-6
    )


def test_gradients_with_respect_to_parameters(deformation: Deformation) -> None:
    leaves = list(deformation.parameters().values())
    given = torch.from_numpy(points(3))
    for leaf in leaves:
        leaf.requires_grad_()
    weights = torch.from_numpy(points(3, seed=9))
    for function, atol in ((deformation.map, 1e-7), (lambda x: deformation.jacobian(x)[:, 0], 1e-6)):
        value = (function(given) * weights).sum()
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            gradient = torch.zeros_like(leaf) if gradient is None else gradient
            direction = torch.from_numpy(np.random.default_rng(3).normal(size=tuple(leaf.shape)))
            sides = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    leaf += sign * 1e-5 * direction
                    sides.append(float((function(given) * weights).sum()))
                    leaf -= sign * 1e-5 * direction
            difference = (sides[0] - sides[1]) / 2e-5
            assert abs(difference - float((gradient * direction).sum())) < atol * 10


def test_inverse_undoes(deformation: Deformation) -> None:
    given = points(50)
    moved = deformation.map(given)
    assert np.abs(deformation.inverse.map(moved) - given).max() < 1e-9
    back = deformation.inverse.map(given)
    assert np.abs(deformation.map(back) - given).max() < 1e-9
    product = deformation.inverse.jacobian(moved) @ deformation.jacobian(given)
    assert np.abs(product - np.eye(3)).max() < 1e-9
    twice = deformation.inverse.inverse
    assert np.abs(twice.map(given) - moved).max() < 1e-9


@pytest.mark.parametrize("name", ["rigid", "gaussian", "composite"])
def test_inverse_swaps_frames_and_names(name: str) -> None:
    deformation = CASES[name]()
    deformation.moving_frame, deformation.fixed_frame = "LPS", "RAS"
    deformation.metadata = {"moving_file": "a.vtk", "fixed_file": "b.vtk", "diameter": 3.5}
    inverse = deformation.inverse
    assert (inverse.moving_frame, inverse.fixed_frame) == ("RAS", "LPS")
    assert inverse.metadata == {"fixed_file": "a.vtk", "moving_file": "b.vtk", "diameter": 3.5}
    assert inverse.inverse.metadata == deformation.metadata


def test_surface_in_surface_out(deformation: Deformation) -> None:
    data = {
        "scalar": np.arange(5.0),
        "displacement": np.arange(15.0).reshape(5, 3),
        "label": np.array([1, 1, 2, 2, 3], np.int16),
    }
    surface = Surface(
        points(5),
        np.array([[0, 1, 2], [2, 3, 4]]),
        data,
        frame="LPS",
        label_names={"label": {1: "one", 2: "two"}},
        landmarks=Landmarks(points(2, seed=4), ("nasion", "inion"), "LPS"),
        metadata={"source": "here"},
    )
    moved = deformation(surface)
    assert np.array_equal(moved.points, deformation.map(points(5)))
    assert np.array_equal(moved.triangles, surface.triangles)
    assert moved.point_data.keys() == data.keys()
    for name, values in data.items():
        assert np.array_equal(moved.point_data[name], values) and moved.point_data[name].dtype == values.dtype
    assert moved.label_names == surface.label_names and moved.metadata == surface.metadata
    assert moved.frame == "LPS"
    assert moved.landmarks is not None and moved.landmarks.names == ("nasion", "inion")
    assert np.array_equal(moved.landmarks.points, deformation.map(points(2, seed=4)))
    assert np.array_equal(surface.points, points(5))


def test_normals_among_point_data_turn_with_the_surface(deformation: Deformation) -> None:
    """They stay orthogonal to the images of tangents, by finite differences of the map itself."""
    rng = np.random.default_rng(8)
    tangents = rng.normal(size=(2, 20, 3))
    normals = np.cross(*tangents)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    shape = Surface(points(), point_data={"Normals": normals, "speed": tangents[0]})
    moved = deformation(shape)
    step = 1e-6
    for tangent in tangents:
        ahead, behind = (deformation.map(points() + sign * step * tangent) for sign in (1, -1))
        image = (ahead - behind) / (2 * step)
        image /= np.linalg.norm(image, axis=1, keepdims=True)
        assert np.abs((image * moved.point_data["Normals"]).sum(axis=1)).max() < 1e-5
    assert np.allclose(np.linalg.norm(moved.point_data["Normals"], axis=1), 1.0)
    assert np.array_equal(moved.point_data["speed"], tangents[0])


def test_landmarks_in_landmarks_out(deformation: Deformation) -> None:
    landmarks = Landmarks(points(3), ("a", "b", "c"), "RAS")
    moved = deformation(landmarks)
    assert isinstance(moved, Landmarks) and moved.names == landmarks.names and moved.frame == "RAS"
    assert np.array_equal(moved.points, deformation.map(points(3)))


def test_frames_are_followed_and_never_mixed(deformation: Deformation) -> None:
    deformation.moving_frame, deformation.fixed_frame = "LPS", "RAS"
    assert deformation(Surface(points(3), frame="LPS")).frame == "RAS"
    assert deformation(Landmarks(points(3))).frame == "RAS"
    for shape in (Surface(points(3), frame="RAS"), Landmarks(points(3), frame="RAS")):
        with pytest.raises(InputError, match="LPS coordinates, but the shape is in RAS"):
            deformation(shape)


def test_save_and_load_exactly(deformation: Deformation, tmp_path: Path) -> None:
    deformation.moving_frame = "LPS"
    deformation.metadata = {"moving_file": "ä.vtk", "diameter": 0.1, "count": 3, "symmetric": True}
    deformation.save(tmp_path / "t.h5")
    loaded = load_transform(tmp_path / "t.h5")
    assert type(loaded) is type(deformation)
    assert np.array_equal(loaded.map(points()), deformation.map(points()))
    assert np.array_equal(loaded.jacobian(points()), deformation.jacobian(points()))
    assert np.array_equal(loaded.inverse.map(points()), deformation.inverse.map(points()))
    for name, parameter in deformation.parameters().items():
        assert torch.equal(loaded.parameters()[name], parameter)
    assert loaded.moving_frame == "LPS" and loaded.fixed_frame is None
    assert loaded.metadata == deformation.metadata
    kept = [type(value) for _, value in sorted(loaded.metadata.items())]
    assert kept == [int, float, str, bool]
    loaded.save(tmp_path / "again.h5")
    assert (tmp_path / "t.h5").read_bytes() == (tmp_path / "again.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.h5", "t.h5"]


def test_composition_is_associative(deformation: Deformation) -> None:
    first, last = CASES["similarity"](), CASES["gaussian"]()
    one = Composite([Composite([first, deformation]), last])
    other = Composite([first, Composite([deformation, last])])
    direct = last.map(deformation.map(first.map(points())))
    assert np.array_equal(one.map(points()), other.map(points()))
    assert np.array_equal(one.map(points()), direct)


def test_global_state_is_left_alone(deformation: Deformation, tmp_path: Path) -> None:
    before = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), np.geterr())
    seeds = (torch.get_rng_state().clone(), np.random.get_state()[1].copy())  # noqa: NPY002
    attached = torch.from_numpy(points()).requires_grad_()
    deformation.map(attached).sum().backward()
    deformation.inverse.map(points())
    deformation.jacobian(points())
    deformation.save(tmp_path / "t.h5")
    load_transform(tmp_path / "t.h5")
    assert before == (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        np.geterr(),
    )
    assert torch.equal(seeds[0], torch.get_rng_state())
    assert np.array_equal(seeds[1], np.random.get_state()[1])  # noqa: NPY002


def test_default_dtype_does_not_matter(deformation: Deformation) -> None:
    exact = deformation.map(points())
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32 if before == torch.float64 else torch.float64)
        assert np.array_equal(deformation.map(points()), exact)
    finally:
        torch.set_default_dtype(before)


def test_results_carry_gradients_only_when_asked(deformation: Deformation) -> None:
    given = torch.from_numpy(points()).requires_grad_()
    assert deformation.map(given).requires_grad
    with torch.no_grad():
        assert not deformation.map(given).requires_grad
    for parameter in deformation.parameters().values():
        parameter.requires_grad_()
    assert deformation.map(given.detach()).requires_grad
    assert isinstance(deformation.map(points()), np.ndarray)
    assert isinstance(deformation(Surface(points())), Surface)


def test_metadata_that_a_file_cannot_keep_is_refused(deformation: Deformation) -> None:
    for wrong in ({"a": [1]}, {"a": None}, {"a": float("nan")}, {1: "a"}):
        with pytest.raises(InputError, match="metadata"):
            Composite([deformation], metadata=wrong)
    assert Composite([deformation], metadata={"n": np.int64(3)}).metadata == {"n": 3}
    with pytest.raises(InputError, match="unknown frame 'XYZ'"):
        Composite([deformation], moving_frame="XYZ")
