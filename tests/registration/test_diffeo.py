"""The preset diffeo: accuracy, folds, inverse, the two sides, landmarks and parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import otreg
from otreg import InputError
from otreg.deformations import Diffeomorphism, Spline
from otreg.registration import Registration, pipeline, softening
from otreg.registration.symmetric import in_order
from otreg.surface import Landmarks, Surface
from tests.phantoms import PhantomPair, bumpy_sphere, phantom_pair, sphere_tessellation

QUICK = {"points": 250, "fine_points": 500, "control_points": 20, "starts": 20}
"""A flow of 200 control points costs four times one of 20, and the fine levels have up to twelve times as many."""


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return phantom_pair("bean", 400, 500, seed=2, strength=0.8, twist=0.5)


@pytest.fixture(scope="module")
def found(pair: PhantomPair) -> Registration:
    return otreg.register(Surface(*pair.moving), Surface(*pair.fixed), "diffeo", settings=QUICK)


def error(found: Registration, truth: np.ndarray) -> float:
    """Mean distance of vertices to where they belong, as a share of the diameter."""
    size = np.linalg.norm(np.ptp(truth, axis=0))
    return float(np.linalg.norm(found.moved.points - truth, axis=1).mean() / size)


def test_a_smooth_map_is_recovered(pair: PhantomPair, found: Registration) -> None:
    assert found.passed and error(found, pair.truth) < 0.03
    stages = [part for part in found.transform.stages if isinstance(part, Diffeomorphism)]
    assert stages and found.report["preset"] == "diffeo"
    names = [stage["stage"] for stage in found.report["stages"]]
    assert "choice of residuals" in names and "flow" in names


def test_nothing_folds_and_the_inverse_is_exact(pair: PhantomPair, found: Registration) -> None:
    quality = found.report["quality"]["after"]
    assert quality["log_jacobian"]["folded"] == quality["log_jacobian_around"]["folded"] == 0.0
    assert quality["triangles"]["flipped"] == 0.0
    points = pair.moving[0]
    size = Surface(*pair.fixed).diameter
    assert np.abs(found.transform.inverse.map(found.moved.points) - points).max() < 1e-6 * size
    assert quality["inverse_error"]["max"] < 1e-6 * size


def test_the_map_is_kept_in_a_file(found: Registration, pair: PhantomPair, tmp_path: object) -> None:
    path = f"{tmp_path}/transform.h5"
    found.transform.save(path)
    assert np.allclose(otreg.load_transform(path).map(pair.moving[0]), found.moved.points, atol=1e-9)


def test_symmetric_maps_are_inverse_to_each_other(pair: PhantomPair) -> None:
    moving, fixed = Surface(*pair.moving), Surface(*pair.fixed)
    there = otreg.register(moving, fixed, symmetric=True, settings=QUICK)
    back = otreg.register(fixed, moving, symmetric=True, settings=QUICK)
    assert in_order(moving, fixed) != in_order(fixed, moving)
    assert there.report["symmetric"] and error(there, pair.truth) < 0.03
    returned = back.transform.map(there.transform.map(moving.points))
    assert np.abs(returned - moving.points).max() < 1e-6 * moving.diameter
    assert there.report["quality"]["after"]["log_jacobian"]["folded"] == 0.0


def test_symmetric_needs_the_preset_diffeo(pair: PhantomPair) -> None:
    with pytest.raises(InputError, match="symmetric needs the preset diffeo, got 'spline'"):
        otreg.register(Surface(*pair.moving), Surface(*pair.fixed), "spline", symmetric=True)


@pytest.mark.parametrize("symmetric", [False, True])
def test_landmarks_guide_what_shape_cannot_tell(symmetric: bool) -> None:
    """An ellipsoid twisted about its axis looks nearly as before; landmarks say how far."""
    pair = phantom_pair("ellipsoid", 400, 500, seed=3, strength=0.1, twist=1.0, similarity=False)
    moving, fixed = Surface(*pair.moving), Surface(*pair.fixed)
    marks = tuple(Landmarks(points) for points in pair.landmarks)
    without = otreg.register(moving, fixed, symmetric=symmetric, settings=QUICK)
    guided = otreg.register(moving, fixed, landmarks=marks, symmetric=symmetric, settings=QUICK)

    def missed(found: Registration) -> float:
        moved = found.transform.map(pair.landmarks[0])
        return float(np.linalg.norm(moved - pair.landmarks[1], axis=1).mean() / fixed.diameter)

    assert missed(guided) < 0.02 and missed(guided) < 0.5 * missed(without)
    assert error(guided, pair.truth) < error(without, pair.truth)
    after = guided.report["quality"]["after"]["landmarks"]
    assert after["mean"] == pytest.approx(missed(guided) * fixed.diameter)


def test_a_part_finds_its_place_and_the_rest_is_named(found: Registration) -> None:
    """A third of the fixed shape is cut away: what is left is matched, and the report says how much is not."""
    pair = phantom_pair("bean", 700, 900, seed=5, strength=0.3, twist=0.2, missing=0.3)
    moving, fixed = Surface(*pair.moving), Surface(*pair.fixed)
    part = otreg.register(moving, fixed, partial=True, settings=QUICK)
    whole = dataclasses.replace(fixed, points=fixed.points.copy())
    near = (
        np.linalg.norm(pair.truth[:, None] - whole.points[None], axis=2).min(axis=1) < 0.05 * fixed.diameter
    )
    size = np.linalg.norm(np.ptp(pair.truth, axis=0))
    errors = np.linalg.norm(part.moved.points - pair.truth, axis=1) / size
    assert errors[near].mean() < 0.05
    assert 0.1 < part.report["unmatched"]["moving"] < 0.5
    assert part.report["unmatched"]["fixed"] < 0.1
    assert "unmatched" not in found.report


@pytest.mark.parametrize("better", [False, True])
def test_residuals_along_the_surface_are_left_out_where_that_fits_better(
    pair: PhantomPair, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    original = pipeline.Pipeline._coarse_spline

    def coarse(self: pipeline.Pipeline, along: float | None = None) -> None:
        original(self, along)
        if along is not None:
            self.score *= 0.5 if better else 0.995 * self._kept_score / self.score

    def across(self: pipeline.Pipeline, start: object) -> None:
        self._kept_score = self.score
        unchanged(self, start)

    unchanged = pipeline.Pipeline._coarse_across
    monkeypatch.setattr(pipeline.Pipeline, "_coarse_spline", coarse)
    monkeypatch.setattr(pipeline.Pipeline, "_coarse_across", across)
    found = otreg.register(Surface(*pair.moving), Surface(*pair.fixed), settings=QUICK)
    (choice,) = [stage for stage in found.report["stages"] if stage["stage"] == "choice of residuals"]
    assert choice["across"] == better


def rippled(count: int, seed: int, height: float) -> Surface:
    """A smooth shape with ripples of this height, a share of its radius."""
    around, triangles = sphere_tessellation(count, seed)
    ripples = np.sin(14 * around[:, 0]) * np.sin(14 * around[:, 1]) * np.sin(14 * around[:, 2] + 0.5)
    return Surface(bumpy_sphere(around) * (1.0 + height * ripples)[:, None], triangles)


def test_fine_levels_are_soft_where_a_shape_has_detail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"points": 250, "fine_points": 2000, "control_points": 40, "starts": 20}
    moving, truth = rippled(2000, 1, 0.0), rippled(2000, 1, 0.06).points

    def registered(height: float) -> tuple[Registration, dict[str, Any]]:
        found = otreg.register(moving, rippled(2100, 2, height), settings=settings)
        (choice,) = [stage for stage in found.report["stages"] if stage["stage"] == "choice of stiffness"]
        return found, choice

    # surfaces that lie on one another are not tried any softer
    choice = registered(0.0)[1]
    assert choice["fine_stiffness"] == 30.0 and list(choice["surface_distance"]) == ["30"]
    found, choice = registered(0.06)
    apart = choice["surface_distance"]
    assert choice["fine_stiffness"] < 30.0 and found.passed
    kept = f"{choice['fine_stiffness']:.3g}"
    fewer = f"{kept}, normals {choice['normal_weight']:.2g}"
    assert apart["10"] < 0.9 * apart["30"] and all(
        apart[kept] <= 1.02 * gap for name, gap in apart.items() if "," not in name
    )
    # the last run has fewer normals, and is kept where it is clearly closer
    *_, (last, gap) = apart.items()
    assert ", normals" in last and (last == fewer) == (gap < 0.95 * apart[kept])
    monkeypatch.setattr(softening, "CLEARLY_CLOSER", 0.999)
    monkeypatch.setattr(softening, "CLOSER_BY_NORMALS", 0.999)
    stiff, choice = registered(0.06)
    assert choice["fine_stiffness"] == 30.0
    assert list(choice["surface_distance"]) == ["30", "10", "30, normals 0.05"]
    distances = [each.report["quality"]["after"]["assd"] for each in (found, stiff)]
    assert distances[0] < 0.9 * distances[1]
    # a smooth shape does not say where along the surface detail belongs: no point may stray for it
    assert error(found, truth) < 0.01


def test_clouds_stay_stiff() -> None:
    settings = {"points": 250, "fine_points": 800, "control_points": 40, "starts": 20}
    moving, fixed = (Surface(rippled(800, seed, 0.06).points) for seed in (1, 2))
    found = otreg.register(moving, fixed, settings=settings)
    (choice,) = [stage for stage in found.report["stages"] if stage["stage"] == "choice of stiffness"]
    assert choice["fine_stiffness"] == 30.0 and choice["surface_distance"] == {}


def test_the_inverse_of_a_real_registration() -> None:
    """Two people's metacarpals: back and forth to far less than a thousandth of the size, at default flow settings."""
    data = Path(__file__).parents[2] / "data"
    moving, fixed = otreg.read(data / "metacarpal_1.vtk"), otreg.read(data / "metacarpal_2.stl")
    found = otreg.register(moving, fixed, settings=QUICK)
    assert any(isinstance(part, Diffeomorphism) for part in found.transform.stages)
    back = found.transform.inverse.map(found.moved.points)
    assert np.abs(back - moving.points).max() < 1e-3 * fixed.diameter
    there = found.transform.map(found.transform.inverse.map(fixed.points))
    assert np.abs(there - fixed.points).max() < 1e-3 * fixed.diameter
    quality = found.report["quality"]["after"]
    assert quality["log_jacobian"]["folded"] == 0.0 and quality["assd"] < 0.005 * fixed.diameter


def test_flows_that_had_to_stop_go_on_and_no_spline_is_left(
    pair: PhantomPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fit counts as folded from its third match on: flows go on twice, and each takes the place of its spline."""
    counts = {"matches": 0}
    original = pipeline.Pipeline._level

    def level(self: pipeline.Pipeline, *given: object, **named: object) -> None:
        counts["matches"] = 0
        original(self, *given, **named)  # type: ignore[arg-type]

    def third(*_: object) -> float:
        counts["matches"] += 1
        return float(counts["matches"] > 2)

    monkeypatch.setattr(pipeline.Pipeline, "_level", level)
    monkeypatch.setattr(pipeline, "folded_share", third)
    # One thread: with more, two fits at once would share the counter.
    found = otreg.register(Surface(*pair.moving), Surface(*pair.fixed), settings=QUICK, threads=1)
    names = [stage["stage"] for stage in found.report["stages"]]
    assert names.count("flow") == 1 + names.count("flow goes on") and "flow goes on" in names
    assert not any(isinstance(part, Spline) for part in found.transform.stages)
    assert not any("attachment" in warning for warning in found.warnings)
