"""Whole registrations of shapes whose map is known."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch

import otreg
from otreg import InputError
from otreg.registration import Registration, pipeline
from otreg.registration.progress import Progress
from otreg.registration.settings import Settings
from otreg.registration.stages import Stages
from otreg.surface import Surface
from tests.phantoms import PhantomPair, bean, phantom_pair, random_rotation, sphere_tessellation

QUICK = {"points": 400, "fine_points": 800, "control_points": 30, "starts": 30}
FEW = {"points": 300, "fine_points": 500, "control_points": 20, "starts": 20}


def mesh(seed: int, **options: Any) -> Surface:
    directions, triangles = sphere_tessellation(700, seed)
    return Surface(bean(directions), triangles, **options)


def error(found: Registration, truth: np.ndarray, fixed: Surface) -> float:
    """Mean distance of vertices to where they belong, as a share of the diameter."""
    return float(np.linalg.norm(found.moved.points - truth, axis=1).mean()) / fixed.diameter


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return phantom_pair("bean", 400, 500, seed=2, strength=0.8, twist=0.5)


@pytest.fixture(scope="module")
def splined(pair: PhantomPair) -> Registration:
    moving = Surface(*pair.moving, point_data={"height": pair.moving[0][:, 2]})
    return otreg.register(moving, Surface(*pair.fixed, frame="LPS"), "spline", settings=QUICK)


@pytest.fixture(scope="module")
def by_threads(pair: PhantomPair) -> dict[int, tuple[Registration, list[Any]]]:
    """The same run with one thread and with two, and the events that a listener heard of each."""
    found = {}
    for threads in (1, 2):
        events: list[Any] = []
        shapes = Surface(*pair.moving), Surface(*pair.fixed)
        result = otreg.register(*shapes, "spline", settings=FEW, progress=events.append, threads=threads)
        found[threads] = result, events
    return found


@pytest.mark.parametrize("preset", ["rigid", "similarity", "affine"])
def test_linear_maps_are_recovered(preset: str) -> None:
    """From any pose, another tessellation: to a hundredth of the diameter."""
    rng = np.random.default_rng(4)
    matrix = random_rotation(rng)
    if preset == "similarity":
        matrix = 1.4 * matrix
    if preset == "affine":
        matrix = matrix @ (np.eye(3) + 0.08 * rng.uniform(-1, 1, (3, 3)))
    offset = 200 * rng.uniform(-1, 1, 3)
    moving, fixed = mesh(1), mesh(2)
    fixed = fixed.with_points(fixed.points @ matrix.T + offset)
    found = otreg.register(moving, fixed, preset, settings=QUICK)
    assert error(found, moving.points @ matrix.T + offset, fixed) < (0.0065 if preset == "affine" else 5e-4)
    assert found.passed and found.report["preset"] == preset
    gram = found.transform.jacobian(np.zeros((1, 3)))[0]
    assert np.abs(gram - matrix).max() < 0.03
    gram = gram.T @ gram
    if preset == "affine":
        similarity = otreg.register(moving, fixed, "similarity", settings=QUICK)
        truth = moving.points @ matrix.T + offset
        assert error(found, truth, fixed) < 0.3 * error(similarity, truth, fixed)
    if preset == "rigid":
        assert np.abs(gram - np.eye(3)).max() < 1e-9
    if preset == "similarity":
        assert np.abs(gram / gram[0, 0] - np.eye(3)).max() < 1e-9


def test_a_spline_recovers_a_smooth_map(pair: PhantomPair, splined: Registration) -> None:
    fixed = Surface(*pair.fixed)
    similarity = otreg.register(Surface(*pair.moving), fixed, "similarity", settings=QUICK)
    assert error(splined, pair.truth, fixed) < 0.029
    assert error(splined, pair.truth, fixed) < 0.75 * error(similarity, pair.truth, fixed)
    assert splined.passed
    assert splined.report["quality"]["after"] != splined.report["quality"]["before"]
    # the map itself, away from the vertices it was fitted to
    marks = splined.transform.map(pair.landmarks[0])
    assert np.linalg.norm(marks - pair.landmarks[1], axis=1).mean() < 0.026 * fixed.diameter
    assert (splined.transform.jacobian_determinant(pair.moving[0]) > 0).all()


def test_moved_is_moving_in_the_space_of_fixed(pair: PhantomPair, splined: Registration) -> None:
    points, triangles = pair.moving
    moved = splined.moved
    assert np.array_equal(moved.triangles, triangles)
    assert np.array_equal(moved.point_data["height"], points[:, 2])
    assert moved.point_data["displacement"] == pytest.approx(moved.points - points)
    assert moved.points == pytest.approx(splined.transform.map(points))
    assert moved.frame == "LPS" and splined.transform.fixed_frame == "LPS"


@pytest.mark.parametrize("preset", ["spline", "diffeo"])
def test_the_same_seed_gives_the_same_result(pair: PhantomPair, preset: str) -> None:
    shapes = Surface(*pair.moving), Surface(*pair.fixed)
    least = {"points": 150, "fine_points": 300, "control_points": 10, "starts": 10}
    first, again = (otreg.register(*shapes, preset, settings=least, seed=3).moved.points for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, otreg.register(*shapes, preset, settings=least, seed=4).moved.points)


def test_global_state_is_left_alone(pair: PhantomPair) -> None:
    before_threads, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        state = torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
        otreg.register(
            Surface(*pair.moving),
            Surface(*pair.fixed),
            "affine",
            settings=QUICK,
            threads=1,
            progress=lambda _: seen.append(torch.get_num_threads()),
        )
        assert set(seen) == {1} and torch.get_num_threads() == 2
        assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
        assert torch.equal(torch.random.get_rng_state(), state[0])
        after = np.random.get_state()  # noqa: NPY002
        assert np.array_equal(after[1], state[1][1]) and after[2:] == state[1][2:]
        assert random.getstate() == state[2]
    finally:
        torch.set_num_threads(before_threads)


@pytest.mark.parametrize("steps", [1, 6])
def test_stopping_keeps_the_best_so_far(pair: PhantomPair, steps: int) -> None:
    moving, fixed, events = Surface(*pair.moving), Surface(*pair.fixed), []
    # One thread: with more, the fit beside the stopped one ends one step later.
    found = otreg.register(
        moving,
        fixed,
        "spline",
        settings=QUICK,
        progress=events.append,
        stop=lambda: len(events) >= steps,
        threads=1,
    )
    assert len(events) == steps and [event.step for event in events] == list(range(1, steps + 1))
    assert found.report["interrupted"] and any("stopped early" in warning for warning in found.warnings)
    assert [stage["stage"] for stage in found.report["stages"]] == ["rigid start", "spline"][: min(steps, 2)]
    assert error(found, pair.truth, fixed) < 0.08
    assert found.moved.points == pytest.approx(found.transform.map(moving.points))


def test_stopping_two_fits_side_by_side_keeps_the_best_so_far(pair: PhantomPair) -> None:
    moving, fixed, events = Surface(*pair.moving), Surface(*pair.fixed), []
    found = otreg.register(
        moving,
        fixed,
        "spline",
        settings=QUICK,
        progress=events.append,
        stop=lambda: len(events) >= 12,
        threads=2,
    )
    assert 12 <= len(events) <= 13
    assert [event.step for event in events] == list(range(1, len(events) + 1))
    assert found.report["interrupted"] and error(found, pair.truth, fixed) < 0.08
    assert found.moved.points == pytest.approx(found.transform.map(moving.points))


def test_threads_do_not_change_the_result(by_threads: dict[int, tuple[Registration, list[Any]]]) -> None:
    one, two = (by_threads[count][0] for count in (1, 2))
    np.testing.assert_allclose(one.moved.points, two.moved.points, atol=1e-4 * one.fixed.diameter)


@pytest.mark.parametrize("threads", [1, 2])
def test_stages_keep_the_distances_that_their_steps_reported(
    by_threads: dict[int, tuple[Registration, list[Any]]], threads: int
) -> None:
    """What a listener hears is what the report says, also of two fits that run side by side."""
    found, events = by_threads[threads]
    stages = {stage["stage"]: stage.get("residuals") for stage in found.report["stages"]}
    assert stages["rigid start"] is None and stages["choice of start"] is None
    heard = iter([float(f"{event.distance:.4g}") for event in events if event.stage == "spline"])
    assert len(stages["spline"]) == 14
    assert all(distance in heard for distance in stages["spline"])  # in this order, others in between
    fine = [name for name in stages if name.startswith("spline ")]
    assert len(fine) == 2
    for name in fine:
        assert stages[name] == [float(f"{e.distance:.4g}") for e in events if e.stage == name]


def test_a_whole_run_is_not_marked_as_stopped(splined: Registration) -> None:
    assert not splined.report["interrupted"]
    assert not any("stopped early" in warning for warning in splined.warnings)


def test_stages_that_do_not_help_are_dropped_and_named(
    pair: PhantomPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = itertools.count(1)
    monkeypatch.setattr(pipeline.Pipeline, "_held_back", lambda *_: float(next(score)))
    shapes = Surface(*pair.moving), Surface(*pair.fixed)
    found = otreg.register(*shapes, "spline", settings=FEW)
    kept = {stage["stage"]: stage["kept"] for stage in found.report["stages"]}
    assert len(kept) == 5 and [name for name in kept if kept[name]] == ["rigid start", "choice of start"]
    for name, stays in kept.items():
        assert stays != any(f"stage {name} brought" in warning for warning in found.warnings)
    # what is left is the rigid start, which has the same turn and scale everywhere
    monkeypatch.setattr(pipeline.Pipeline, "_affine", lambda _: None)
    rigid = otreg.register(*shapes, "affine", settings=FEW)
    assert np.array_equal(found.moved.points, rigid.moved.points)


def test_a_fit_that_would_fold_stops_at_the_match_before(
    pair: PhantomPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the fifth match on every gradient counts as folded: four remain, and the report says why."""
    asked = itertools.count(1)
    monkeypatch.setattr(pipeline, "folded_share", lambda *_: float(next(asked) > 4))
    matches: list[str] = []
    shapes = Surface(*pair.moving), Surface(*pair.fixed)
    found = otreg.register(
        *shapes, "spline", settings=FEW, progress=lambda event: matches.append(event.stage)
    )
    assert matches.count("spline") == 4
    stages = [stage for stage in found.report["stages"] if stage["stage"].startswith("spline")]
    assert stages and all(stage["stopped_before_folding"] for stage in stages)
    assert (found.transform.jacobian_determinant(shapes[0].points) > 0).all()
    monkeypatch.setattr(pipeline.Pipeline, "_affine", lambda _: None)
    start = otreg.register(*shapes, "affine", settings=FEW)
    assert error(found, pair.truth, shapes[1]) < error(start, pair.truth, shapes[1])


@pytest.mark.parametrize("cheaper", ["rigid", "affine"])
@pytest.mark.parametrize("clear", [False, True])
def test_the_start_that_deforms_less_is_kept_unless_the_other_fits_clearly_better(
    pair: PhantomPair, monkeypatch: pytest.MonkeyPatch, cheaper: str, clear: bool
) -> None:
    """Energies and, where ``clear``, distances are dictated: then the dearer start fits far better."""
    fits: list[float] = []
    original = pipeline.Pipeline._coarse_spline

    def coarse(self: pipeline.Pipeline, along: float | None = None) -> None:
        original(self, along)
        fits.append(self.score)
        far_better = len(fits) == (2 if cheaper == "rigid" else 1)
        self.score = 1e-6 if clear and far_better else 1e-2

    energies = iter([1.0, 2.0] if cheaper == "rigid" else [2.0, 1.0])
    monkeypatch.setattr(pipeline.Pipeline, "_coarse_spline", coarse)
    monkeypatch.setattr(pipeline.Pipeline, "_energy", lambda *_: next(energies))
    found = otreg.register(Surface(*pair.moving), Surface(*pair.fixed), "spline", settings=FEW)
    (choice,) = [stage for stage in found.report["stages"] if stage["stage"] == "choice of start"]
    assert (choice["start"] == cheaper) != clear


def test_landmarks_give_the_start() -> None:
    """Three exact pairs of a turned copy: the map is theirs, to rounding."""
    moving, turn = mesh(1), random_rotation(np.random.default_rng(8))
    fixed = moving.with_points(moving.points @ turn.T + 100)
    pairs = tuple(otreg.Landmarks(shape.points[[0, 100, 200, 300]]) for shape in (moving, fixed))
    found = otreg.register(moving, fixed, "rigid", landmarks=pairs, settings=QUICK)
    assert error(found, fixed.points, fixed) < 1e-10


def refused(change: str) -> tuple[Surface, Surface]:
    moving, fixed = mesh(1), mesh(2)
    if change == "frame":
        return mesh(1, frame="RAS"), mesh(2, frame="LPS")
    if change == "unit":
        return moving.with_points(moving.points / 1000), fixed
    if change == "missing":
        points = moving.points.copy()
        points[5] = np.nan
        return moving.with_points(points), fixed
    return moving, Surface(np.zeros((10, 3)))


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        ("frame", "the moving surface is in RAS and the fixed surface in LPS.*otreg convert"),
        ("unit", "0.001 times the size.*otreg convert --scale"),
        ("missing", "the moving surface: 1 points are not finite .first index 5.: repair"),
        ("equal", "the fixed surface: all points are equal"),
    ],
)
def test_what_cannot_be_registered_is_refused(change: str, cure: str) -> None:
    with pytest.raises(InputError, match=cure):
        otreg.register(*refused(change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "elastic"}, "use one of rigid, similarity, affine, spline, diffeo"),
        ({"device": "tpu"}, "use auto, cpu or cuda"),
        ({"settings": {"pionts": 100}}, "unknown setting 'pionts': use one of points"),
        ({"settings": {"points": 100.5}}, "points must be a whole number"),
        ({"settings": {"strain": 0.0}}, "strain must be positive"),
        ({"settings": {"starts": 3}}, "starts must be at least 10"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        otreg.register(mesh(1), mesh(2), **options)


@pytest.mark.parametrize(("points", "late"), [(300, 600), (500, 700), (650, None)])
def test_the_last_coarse_matches_have_more_points_but_no_more_than_vertices(
    points: int, late: int | None
) -> None:
    settings = Settings.from_mapping({**FEW, "points": points})
    stages = Stages(mesh(1), mesh(2), settings, "cpu", 0, Progress(1, None, None))
    found = stages._late_samples()
    assert (None if found is None else len(found[0].points)) == late
    if found is not None:
        assert len(found[1].points) == late
        assert abs(found[0].weights.sum() - 1.0) < 1e-9
