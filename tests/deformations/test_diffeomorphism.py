"""Diffeomorphisms beyond the common contract: folding, the kept path, energy, inverse, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otreg import InputError, load_transform
from otreg.deformations import Composite, Diffeomorphism, InverseFlow
from otreg.errors import NotInvertibleError
from otreg.flows import carry, hamiltonian
from tests.deformations.cases import affine, constant_momenta, points, shooting, shooting_several_widths

seeds = st.integers(0, 2**32 - 1)


def large(rng: np.random.Generator, size: float, steps: int = 10, **settings: object) -> Diffeomorphism:
    """Shooting in opposite directions all over the place, far beyond where a spline folds."""
    momenta = size * rng.normal(size=(25, 3))
    return Diffeomorphism(rng.normal(size=(25, 3)), momenta, (1.2, 0.6), steps=steps, **settings)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=15)
@example(51277, 0.5)
@given(seeds, st.sampled_from([0.1, 0.3, 0.5]))
def test_large_deformations_do_not_fold(seed: int, size: float) -> None:
    """det J > 0 everywhere, and the inverse is one, at the default settings."""
    rng = np.random.default_rng(seed)
    flow = large(rng, size)
    x = 1.5 * rng.normal(size=(40, 3))
    assert flow.jacobian_determinant(x).min() > 0
    assert flow.inverse.jacobian_determinant(x).min() > 0
    moved = flow.map(x)
    assert np.abs(flow.inverse.map(moved) - x).max() < 1e-7 * flow.extent
    # before any correction: 0.1% of the size is what is asked for; the wildest flows need more steps for it
    finer = flow if size < 0.5 else large(np.random.default_rng(seed), size, steps=40)
    back = carry(torch.from_numpy(finer.map(x)), finer.path(), backward=True).numpy()
    assert np.abs(back - x).max() < (2e-5 if size < 0.5 else 1e-3) * flow.extent


def test_a_spline_of_the_same_momenta_would_fold() -> None:
    """So that the test above says something."""
    from otreg.deformations import Spline

    rng = np.random.default_rng(0)
    flow = large(rng, 0.5)
    spline = Spline(flow.control_points, flow.momenta, flow.widths)
    x = 1.5 * rng.normal(size=(300, 3))
    assert spline.jacobian_determinant(x).min() < -1.0
    assert flow.jacobian_determinant(x).min() > 0.0


def test_small_momenta_are_a_spline() -> None:
    from otreg.deformations import Spline

    flow = shooting_several_widths()
    small = Diffeomorphism(flow.control_points, 1e-6 * flow.momenta, flow.widths, amplitudes=flow.amplitudes)
    spline = Spline(flow.control_points, 1e-6 * flow.momenta, flow.widths, "gaussian", flow.amplitudes)
    assert np.abs(small.map(points()) - spline.map(points())).max() < 1e-11
    assert np.abs(spline.map(points()) - points()).max() > 1e-8


def test_wendland_by_near_pairs_is_the_dense_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 control points are more than are summed without looking for the near ones."""
    from otreg.reductions.mixed import MixedKernel

    rng = np.random.default_rng(1)
    z, p = rng.normal(size=(200, 3)), 0.05 * rng.normal(size=(200, 3))
    flow = Diffeomorphism(z, p, (1.0, 0.7), "wendland", steps=3)
    assert not flow.mixed_kernel._is_dense(flow.control_points)
    found = flow.map(points(30)), flow.jacobian(points(30)), flow.inverse.map(points(30))
    monkeypatch.setattr(MixedKernel, "_is_dense", lambda self, centres: True)
    again = Diffeomorphism(z, p, (1.0, 0.7), "wendland", steps=3)
    for one, other in zip(
        found, (again.map(points(30)), again.jacobian(points(30)), again.inverse.map(points(30))), strict=True
    ):
        assert np.abs(one - other).max() < 1e-11


def test_momenta_of_one_interval_are_held_and_no_geodesic() -> None:
    flow = shooting()
    held = Diffeomorphism(flow.control_points, flow.momenta[None], flow.widths, steps=flow.steps)
    assert held.intervals == 1 and flow.intervals == 0
    assert torch.equal(held.path().end[1], flow.momenta)
    assert np.abs(held.map(points()) - flow.map(points())).max() > 1e-3
    nested = Diffeomorphism(flow.control_points.tolist(), held.momenta.tolist(), flow.widths)
    assert nested.intervals == 1


class TestPath:
    """It is kept, but never when it could be wrong."""

    def test_is_integrated_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flow = shooting()
        kept = flow.path()
        assert flow.path() is kept
        flow.map(points())
        flow.inverse.map(points())
        with torch.no_grad():
            assert flow.path() is kept

    def test_follows_changes_in_place(self) -> None:
        flow = shooting()
        before = flow.map(points())
        with torch.no_grad():
            flow.momenta *= 2.0
        after = flow.map(points())
        fresh = Diffeomorphism(flow.control_points, flow.momenta, flow.widths, steps=flow.steps)
        assert np.array_equal(after, fresh.map(points())) and np.abs(after - before).max() > 1e-3
        shared = np.zeros((2, 3))
        flow = Diffeomorphism(torch.zeros(2, 3), torch.from_numpy(shared), 1.0)
        assert np.array_equal(flow.map(points()), points())
        shared += 1.0  # torch does not hear of this
        assert np.abs(flow.map(points()) - points()).max() > 0.1

    def test_carries_gradients_only_when_wanted(self) -> None:
        flow = shooting()
        kept = flow.path()
        flow.momenta.requires_grad_()
        assert flow.path().momenta.requires_grad and flow.path() is not kept
        with torch.no_grad():
            assert flow.path() is kept
        for _ in range(2):  # no graph is used twice
            flow.map(torch.from_numpy(points())).sum().backward()

    def test_an_optimiser_finds_momenta(self) -> None:
        target = torch.from_numpy(shooting().map(points()))
        start = shooting()
        flow = Diffeomorphism(start.control_points, torch.zeros(8, 3), 0.9, steps=2)
        flow.momenta.requires_grad_()
        optimiser = torch.optim.LBFGS([flow.momenta], max_iter=25, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            loss = (flow.map(torch.from_numpy(points())) - target).square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        assert np.abs(flow.map(points()) - target.numpy()).max() < 5e-3


def test_energy() -> None:
    """Half the squared length of the path: H on a geodesic, its mean over time otherwise."""
    flow = shooting()
    expected = hamiltonian(flow.control_points, flow.momenta, flow.mixed_kernel)
    assert float(flow.energy()) == pytest.approx(float(expected), rel=1e-14)
    energies = flow.path().hamiltonians()
    assert float(energies.mean()) == pytest.approx(float(expected), rel=1e-4)
    drifting = constant_momenta()
    fine = Diffeomorphism(drifting.control_points, drifting.momenta, drifting.widths, steps=200)
    energies = fine.path().hamiltonians()
    assert float(fine.energy()) == pytest.approx(float(energies[:-1].mean()), rel=1e-2)
    assert float(drifting.energy()) == pytest.approx(float(fine.energy()), rel=1e-2)
    drifting.momenta.requires_grad_()
    (gradient,) = torch.autograd.grad(drifting.energy(), drifting.momenta)
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 8, 3)))
    sides = []
    for sign in (1.0, -1.0):
        moved = drifting.momenta.detach() + sign * 1e-5 * direction
        sides.append(Diffeomorphism(drifting.control_points, moved, 0.9, steps=2, method="midpoint").energy())
    assert float(sides[0] - sides[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-7)


class TestInverse:
    def test_says_how_well_it_is_solved(self) -> None:
        flow = large(np.random.default_rng(3), 0.3)
        report = flow.inverse.solve(flow.map(points()))
        assert report.converged.all() and not report.folded.any()
        assert report.residual.max() < 1e-9 and np.abs(report.points - points()).max() < 1e-8
        assert np.array_equal(flow.inverse.residuals(points()), flow.inverse.solve(points()).residual)

    def test_too_few_steps(self) -> None:
        """Euler's steps far beyond what they resolve fold; the inverse says so, and can give NaN."""
        rng = np.random.default_rng(0)
        flow = large(rng, 6.0, steps=1, method="euler")
        x = rng.normal(size=(200, 3))
        assert flow.jacobian_determinant(x).min() < 0
        with pytest.raises(NotInvertibleError, match=r"take more than 1 step"):
            flow.inverse.map(x)
        lenient = InverseFlow(flow, tolerance=1e-8, max_iterations=20, on_failure="nan")
        back = lenient.map(x)
        solved = np.isfinite(back).all(axis=1)
        assert 0 < solved.sum() < 200
        assert np.abs(flow.map(back[solved]) - x[solved]).max() < 2e-8

    def test_far_from_the_origin(self) -> None:
        flow = shooting()
        shift = np.array([1e5, -2e5, 3e4])
        far = Diffeomorphism(
            flow.control_points + torch.from_numpy(shift), flow.momenta, flow.widths, steps=2
        )
        assert np.abs(far.map(points() + shift) - shift - flow.map(points())).max() < 1e-9
        assert np.abs(far.inverse.map(far.map(points() + shift)) - shift - points()).max() < 1e-8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control_points": np.zeros((0, 3))}, "control points must have shape"),
        ({"momenta": np.zeros((3, 3))}, r"momenta must have shape \(2, 3\), got \(3, 3\)"),
        ({"momenta": np.zeros((4, 3, 3))}, r"momenta must have shape \(N, 2, 3\), got \(4, 3, 3\)"),
        ({"momenta": np.zeros((0, 2, 3))}, r"momenta must have shape \(N, 2, 3\)"),
        ({"momenta": np.full((2, 3), np.nan)}, "momenta must be finite"),
        ({"momenta": "fast"}, "momenta must be an array of numbers"),
        ({"width": 0.0}, "width of a kernel must be positive"),
        ({"width": (1.0, 2.0), "amplitudes": (1.0,)}, "one amplitude for each of its 2 widths"),
        ({"kernel": "cubic"}, "unknown kernel 'cubic'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.0}, "steps must be a whole number"),
        ({"method": "rk5"}, "unknown method 'rk5': use one of"),
        ({"memory": "much"}, "memory must be"),
    ],
)
def test_constructor_refuses(change: dict, message: str) -> None:
    given = {"control_points": np.zeros((2, 3)), "momenta": np.zeros((2, 3)), "width": 1.0} | change
    with pytest.raises(InputError, match=message) as caught:
        Diffeomorphism(**given)
    assert "\n" not in str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a flow of each kind and the inverse of one."""
    stages = [shooting_several_widths(), constant_momenta(), shooting().inverse, affine()]
    Composite(stages).save(tmp_path / "transform.h5")
    return tmp_path / "transform.h5"


def test_file(path: Path) -> None:
    with h5py.File(path) as file:
        first, second, third = (file[f"stages/000{number}"] for number in range(3))
        assert first.attrs["kind"] == second.attrs["kind"] == "diffeomorphism"
        assert sorted(first) == ["amplitude", "control_points", "momenta", "width"]
        assert first["momenta"].shape == (8, 3) and second["momenta"].shape == (2, 8, 3)
        assert first["width"][()].tolist() == [1.4, 0.7, 0.45]
        assert (second.attrs["steps"], second.attrs["method"]) == (2, "midpoint")
        assert third.attrs["kind"] == "inverse" and third["original"].attrs["kind"] == "diffeomorphism"
    loaded = load_transform(path)
    assert isinstance(loaded, Composite)
    whole = Composite([shooting_several_widths(), constant_momenta(), shooting().inverse, affine()])
    assert np.array_equal(loaded.map(points()), whole.map(points()))
    assert np.array_equal(loaded.inverse.map(points()), whole.inverse.map(points()))
    assert isinstance(loaded.stages[2], InverseFlow)
    simple = loaded.simplified()
    assert isinstance(simple, Composite) and len(simple) == 4
    assert repr(loaded.stages[1]) == repr(constant_momenta())


def attribute(name: str, value: object, where: str = "stages/0000") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[where].attrs[name] = value

    return change


def dataset(name: str, value: object, where: str = "stages/0000") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file[where]:
            del file[where][name]
        if value is not None:
            file[where].create_dataset(name, data=value)

    return change


def unwritten(file: h5py.File) -> None:
    """Momenta that claim 24 TB and store nothing."""
    del file["stages/0001/momenta"]
    file.create_dataset("stages/0001/momenta", shape=(10**11, 8, 3), dtype="<f8")


def linked(file: h5py.File) -> None:
    del file["stages/0000/momenta"]
    file["stages/0000/momenta"] = h5py.SoftLink("/stages/0000/control_points")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("steps", 0), "steps must be a whole number of at least 1, got 0"),
        (attribute("steps", 10**7), "must be at most 100000, got 10000000"),
        (attribute("steps", 2.5), "must be a whole number"),
        (attribute("steps", "ten"), "must be a finite number"),
        (attribute("method", "rk5"), "unknown method 'rk5'"),
        (attribute("method", 4), "must be text"),
        (attribute("kernel", "cubic"), "unknown kernel 'cubic'"),
        (attribute("memory", "all"), "unknown attribute 'memory'"),
        (dataset("momenta", None), "/stages/0000/momenta is missing"),
        (dataset("momenta", np.zeros((7, 3))), "must have shape (8, 3), got (7, 3)"),
        (dataset("momenta", np.zeros((2, 7, 3))), "must have shape (N, 8, 3), got (2, 7, 3)"),
        (dataset("momenta", np.zeros((0, 8, 3))), "momenta must have shape (N, 8, 3)"),
        (dataset("momenta", np.zeros(24)), "must have shape (8, 3), got (24,)"),
        (dataset("momenta", np.zeros((1, 2, 8, 3))), "must have shape (8, 3)"),
        (dataset("momenta", np.full((8, 3), np.inf)), "not finite"),
        (dataset("momenta", np.zeros((8, 3), int)), "must hold float64 numbers, got int64"),
        (dataset("momenta", h5py.Empty("<f8")), "must have shape"),
        (dataset("amplitude", [1.0]), "must have shape (3), got (1"),
        (dataset("width", [1.0, 0.0, 1.0]), "width of a kernel must be positive"),
        (dataset("coefficients", np.zeros((8, 3))), "unknown member 'coefficients'"),
        (attribute("kind", "affine", "stages/0002/original"), "must be 'spline' or 'diffeomorphism'"),
        (attribute("tolerance", 0.0, "stages/0002"), "tolerance of an inverse must be positive"),
        (attribute("kind", "spline"), "unknown member 'momenta'"),
        (unwritten, "not stored whole"),
        (linked, "is a link"),
    ],
)
def test_wrong_content_is_refused(path: Path, change: Callable[[h5py.File], None], message: str) -> None:
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(InputError) as caught:
        load_transform(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_changed_numbers_are_noticed(path: Path) -> None:
    for name in ("0000/momenta", "0002/original/momenta"):
        with h5py.File(path, "a") as file:
            file[f"stages/{name}"][3, 1] += 1e-12
        with pytest.raises(InputError, match="checksum"):
            load_transform(path)
