"""The registration pipeline: rigid start, affine, then splines from wide and stiff to narrow and soft."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree

from otreg.deformations import Affine, Composite, Deformation, Spline
from otreg.errors import InputError
from otreg.registration.checks import check_device, check_pair
from otreg.registration.coherence import Trust
from otreg.registration.fitting import CoarseFit, FineFit, Residuals, SplineFit, carried, fit_affine
from otreg.registration.matching import Match, match
from otreg.registration.pose import apply_pose, find_pose, procrustes
from otreg.registration.progress import Interrupted, Progress
from otreg.registration.report import finish
from otreg.registration.result import Registration
from otreg.registration.sampling import Samples, deformed, sample_shape
from otreg.registration.settings import COARSE, FINE, PRESETS, FineLevel, Settings
from otreg.registration.strain import deformation_energy, folded_share
from otreg.surface import FloatArray, Landmarks, Surface

AFFINE_BLURS = np.geomspace(0.04, 0.006, 12)
VERTICES_PER_POINT = 20
HELD_BACK = 4000
HELD_BACK_TRUNCATION = 0.1
FIRST_BLUR_TO_MISFIT = 2.0
AFFINE_TANGENTIAL = 0.1
FINE_TANGENTIAL = 0.02
MOST_FOLDED = 0.0005
"""Share of the sampled points at which a fit may fold space; beyond it, it stops at the match before."""

CLEAR_DIFFERENCE = 0.05
"""Share of what the held-back points gained that decides by itself between two starts."""

LEAST_GAIN = 0.0025
"""Share by which a fine stage must bring held-back points closer: less may come from their choice."""


def register(
    moving: Surface,
    fixed: Surface,
    preset: str = "spline",
    *,
    landmarks: tuple[Landmarks, Landmarks] | None = None,
    settings: Mapping[str, Any] | Settings | None = None,
    partial: bool = False,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    labels: str | None = None,
    progress: Callable[[Any], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Registration:
    """Find the map that carries ``moving`` onto ``fixed``.

    Parameters
    ----------
    moving, fixed : Surface
        Meshes or point clouds, in the same unit, at any pose.
    preset : {"rigid", "similarity", "affine", "spline"}
        How freely ``moving`` may deform.
    landmarks : pair of Landmarks, optional
        Corresponding points. Three or more give the rigid start; their error is reported.
    settings : mapping or Settings, optional
        Overrides of :class:`Settings`.
    partial : bool
        One shape shows only a part of the other: the report names the share of points left unmatched.
    device : {"auto", "cpu", "cuda"}
        Where the matches over all pairs are computed.
    threads : int, optional
        Threads of torch while this runs; the number before is restored.
    seed : int
        Seed of the sampling: the same seed, the same result on the same machine.
    labels : str, optional
        Point data that both carry as labels; their overlap is reported.
    progress, stop : callables, optional
        Told of every step with a :class:`ProgressEvent`; asked after each whether to stop, keeping the best so far.

    Returns
    -------
    Registration

    Raises
    ------
    InputError
        On shapes that cannot be registered, frames or sizes that differ wildly, unknown settings.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}: use one of {', '.join(PRESETS)}")
    chosen = settings if isinstance(settings, Settings) else Settings.from_mapping(settings)
    check_pair(moving, fixed, preset, landmarks)
    total = 1 + (len(AFFINE_BLURS) if preset == "affine" else 0)
    if preset == "spline":
        total += len(AFFINE_BLURS) + 2 * COARSE.steps + sum(level.steps for level in FINE)
    watch = Progress(total, progress, stop)
    with _threads(threads):
        pipeline = _Pipeline(moving, fixed, chosen, check_device(device), seed, watch)
        try:
            pipeline.run(preset, landmarks)
        except Interrupted:
            pipeline.interrupted = True
        transform = pipeline.transform()
        report = {
            "preset": preset,
            "seed": seed,
            "partial": partial,
            "labels": labels,
            "device": device,
            "threads": threads,
            "settings": chosen.as_dict(),
            "absolute": pipeline.absolute(),
            "stages": pipeline.stages,
            "interrupted": pipeline.interrupted,
        }
        if partial:
            report["unmatched"] = pipeline.unmatched
        return finish(moving, fixed, transform, report, landmarks, labels, seed)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


class _State(NamedTuple):
    """What a stage changes: to go back, or to compare two ways."""

    parts: list[Deformation]
    x: Samples
    held_x: Samples
    score: float
    stages: list[dict[str, Any]]


class _Pipeline:
    """The state of one run, in units of FIXED's diameter around FIXED's centre."""

    def __init__(
        self, moving: Surface, fixed: Surface, settings: Settings, device: str, seed: int, watch: Progress
    ) -> None:
        self.settings, self.device, self.seed, self.watch = settings, device, seed, watch
        self.length, self.centre = fixed.diameter, fixed.bounds.mean(axis=0)
        # MOVING is brought to FIXED's centre and size first, so that sampling sees both at one scale
        self.moving = moving.with_points((moving.points - self.centre) / self.length)
        self.fixed = fixed.with_points((fixed.points - self.centre) / self.length)
        self.grid = moving.diameter / self.length
        # in units of the squared diameter; a cloud is taken for a surface of about that
        self.area = float(self.fixed.triangle_areas.sum()) if fixed.has_triangles else 1.0
        self.parts: list[Deformation] = []
        self.stages: list[dict[str, Any]] = []
        self.interrupted = False
        self.unmatched: dict[str, float] = {}
        # finer meshes have more to show, and their users more patience
        finest = max(len(moving), len(fixed)) // VERTICES_PER_POINT
        self.points = min(max(finest, settings.points), 2 * settings.points)
        self.x = self._sample_moving(self.points, seed + 1)
        self.y = sample_shape(self.fixed, self.points, seed + 2)
        self.held_x = self._sample_moving(HELD_BACK, seed + 3)
        self.held_points = self.held_x.points
        self.held_y = sample_shape(self.fixed, HELD_BACK, seed + 4)
        self.held_tree = cKDTree(self.held_y.features(settings.normal_weight))
        self.score = float("inf")

    def _sample_moving(self, count: int, seed: int) -> Samples:
        scaled = self.moving.with_points(self.moving.points / self.grid)
        samples = sample_shape(scaled, count, seed)
        return Samples(samples.points * self.grid, samples.normals, samples.weights)

    def run(self, preset: str, landmarks: tuple[Landmarks, Landmarks] | None) -> None:
        self._rigid(preset != "rigid", landmarks)
        self.watch.step("rigid start")
        if preset == "affine":
            self._affine()
        if preset == "spline":
            self._coarse_spline_from_either_start()
            self._refine_samples()
            for level in FINE:
                self._fine_spline(level)

    def _rigid(self, scaled: bool, landmarks: tuple[Landmarks, Landmarks] | None) -> None:
        if landmarks is not None and len(landmarks[0]) >= 3:
            pair = [(points.points - self.centre) / self.length for points in landmarks]
            pose = procrustes(pair[0], pair[1], np.ones(len(pair[0])), scaled)
        else:
            pose = find_pose(self.x, self.y, scaled, self.settings.starts)
        scale, rotation, translation = pose
        self.parts.append(
            self._affine_map(scale * rotation, translation, "similarity" if scaled else "rigid")
        )
        self.x, self.held_x = apply_pose(pose, self.x), apply_pose(pose, self.held_x)
        self.score = self._held_back(self.held_x)
        self._note("rigid start", True, scale=scale)

    def _affine(self) -> None:
        matrix, translation, current = np.eye(3), np.zeros(3), self.x
        try:
            for blur in AFFINE_BLURS:
                found = self._match(current, float(blur))
                residuals = Residuals(current, found, float(blur), AFFINE_TANGENTIAL)
                matrix, translation = fit_affine(self.x.points, found, residuals)
                current = _linear(self.x, matrix, translation)
                self.watch.step("affine", self.length * residuals.distance)
        finally:
            held = _linear(self.held_x, matrix, translation)
            if self._accept("affine", held, self._affine_map(matrix, translation, "affine")):
                self.x = current

    def _coarse_spline_from_either_start(self) -> None:
        """Fit the coarse spline from the rigid pose and from the affine map, and keep what deforms less.

        Neither start is better everywhere: an affine map helps where shapes differ in proportions, and misleads
        where they bend. Both fit about as well, so that distances tell little; but points that slid along the
        surface cost deformation. Held-back points decide only where they differ by :data:`CLEAR_DIFFERENCE`.
        """
        before = self._state()
        self._coarse_spline()
        states = {"rigid": self._state()}
        self._restore(before)
        try:
            self._affine()
            self._coarse_spline()
        finally:
            states["affine"] = self._state()
            energies = {start: self._energy(state.parts) for start, state in states.items()}
            least = min(state.score for state in states.values())
            most = least + CLEAR_DIFFERENCE * max(before.score - least, 0.0)
            near = [start for start, state in states.items() if state.score <= most]
            chosen = min(near, key=lambda start: energies[start])
            self._restore(states[chosen])
            scores = {start: state.score * self.length for start, state in states.items()}
            self._note("choice of start", True, start=chosen, held_back=scores, energy=energies)

    def _state(self) -> _State:
        return _State(self.parts, self.x, self.held_x, self.score, self.stages)

    def _restore(self, state: _State) -> None:
        self.parts, self.x, self.held_x, self.score, self.stages = state

    def _energy(self, parts: list[Deformation]) -> float:
        """How much the map of these parts deforms MOVING beyond its pose, on some of the held-back points."""
        pose = parts[0]
        assert isinstance(pose, Affine)
        some = slice(None, None, max(len(self.held_points) // 1500, 1))
        points = self.held_points[some] * self.length + self.centre
        return deformation_energy(Composite(parts), pose.matrix.numpy(), points, self.held_x.weights[some])

    def _coarse_spline(self) -> None:
        # matching starts at the scale of the misfit that the rigid start left
        nearest = cKDTree(self.held_y.points).query(self.held_x.points)[0]
        misfit = float(np.average(nearest, weights=self.held_x.weights))
        first = max(COARSE.first_blur, FIRST_BLUR_TO_MISFIT * misfit)
        blurs = np.geomspace(first, COARSE.last_blur, COARSE.steps)
        settings = self.settings
        fit = CoarseFit(self.x, COARSE, settings.control_points, settings.strain, settings.independent_points)
        self._spline("spline", fit, blurs, COARSE.blur_variance, Trust(settings.tangential_weight))

    def _fine_spline(self, level: FineLevel) -> None:
        blurs = np.geomspace(level.first_blur, level.last_blur, level.steps)
        most = 12 * self.settings.control_points
        fit = FineFit(self.x, self.area, level, most, self.settings.fine_stiffness)
        name = f"spline {level.width * self.length:.3g}"
        self._spline(name, fit, blurs, level.blur_variance, least_gain=LEAST_GAIN)

    def _spline(
        self,
        name: str,
        fit: SplineFit,
        blurs: FloatArray,
        blur_variance: float,
        trust: Trust | None = None,
        least_gain: float = 0.0,
    ) -> None:
        """Match and fit in turn, up to where the fit would fold; keep it if the held-back points come closer."""
        current, spline, folded = self.x, fit.spline(), False
        try:
            for blur in blurs:
                found = self._match(current, float(blur))
                along = trust.after(current, found) if trust else FINE_TANGENTIAL
                residuals = Residuals(current, found, float(blur), along, blur_variance)
                fit.update(residuals, found)
                proposed = fit.spline()
                gradient = fit.gradient()
                if folded_share(gradient, self.x.weights) > MOST_FOLDED:
                    # finer matches would fold it further
                    folded = True
                    break
                spline, current = proposed, deformed(self.x, fit.moved(), gradient)
                self.unmatched["moving"] = float(np.average(found.confidence < 0.1, weights=current.weights))
                self.watch.step(name, residuals.distance * self.length)
        finally:
            part = Spline(
                spline.control_points * self.length + torch.as_tensor(self.centre),
                spline.coefficients * self.length,
                [width * self.length for width in spline.widths],
                spline.kernel,
                spline.amplitudes,
            )
            held = carried(spline, self.held_x)
            if self._accept(name, held, part, least_gain, stopped_before_folding=folded):
                self.x = current

    def _refine_samples(self) -> None:
        """More points on both shapes for the fine levels, never fewer than the coarse ones had."""
        count = min(max(2 * len(self.moving), 2 * self.points), self.settings.fine_points)
        samples = self._sample_moving(count, self.seed + 5)
        there = Samples(samples.points * self.length + self.centre, samples.normals, samples.weights)
        moved = carried(self.transform(), there)
        self.x = Samples((moved.points - self.centre) / self.length, moved.normals, moved.weights)
        self.y = sample_shape(self.fixed, count, self.seed + 6)

    def _match(self, x: Samples, blur: float) -> Match:
        settings = self.settings
        return match(x, self.y, blur, settings.reach_factor * blur, settings.normal_weight, self.device)

    def _held_back(self, moved: Samples) -> float:
        """Truncated mean distance both ways between points that no match has seen, normals included."""
        features = moved.features(self.settings.normal_weight)
        there = np.minimum(self.held_tree.query(features)[0], HELD_BACK_TRUNCATION)
        back = cKDTree(features).query(self.held_y.features(self.settings.normal_weight))[0]
        back = np.minimum(back, HELD_BACK_TRUNCATION)
        return float(there @ moved.weights / moved.weights.sum() + back @ self.held_y.weights) / 2

    def _accept(self, name: str, held: Samples, part: Deformation, gain: float = 0.0, **figures: Any) -> bool:
        """Keep a stage only if the held-back points come closer, by a share of at least ``gain``."""
        score = self._held_back(held) if np.isfinite(held.points).all() else float("inf")
        kept = score < (1.0 - gain) * self.score
        before = self.score
        if kept:
            self.parts = [*self.parts, part]
            self.held_x, self.score = held, score
        distances = {"held_back_before": before * self.length, "held_back_after": score * self.length}
        self._note(name, kept, **distances, **figures)
        return kept

    def _note(self, name: str, kept: bool, **figures: Any) -> None:
        gone = self.watch.elapsed - sum(stage["seconds"] for stage in self.stages)
        self.stages = [*self.stages, {"stage": name, "kept": kept, "seconds": round(gone, 3), **figures}]

    def _affine_map(self, matrix: FloatArray, translation: FloatArray, kind: str) -> Affine:
        """An affine map of our units, in the unit of the files."""
        return Affine(matrix, self.length * translation + self.centre - matrix @ self.centre, kind)

    def transform(self) -> Deformation:
        """Everything kept so far as one map."""
        if not self.parts:
            return Affine.identity()
        composite = Composite(self.parts).simplified()
        return composite

    def absolute(self) -> dict[str, Any]:
        """The lengths behind the relative settings, in the unit of the files."""
        levels = [dataclasses.asdict(level) for level in (COARSE, *FINE)]
        for level in levels:
            for name, value in level.items():
                if name not in ("steps", "blur_variance"):
                    level[name] = np.multiply(value, self.length).tolist()
        return {"diameter": self.length, "spline_levels": levels}


def _linear(samples: Samples, matrix: FloatArray, translation: FloatArray) -> Samples:
    """Samples under an affine map."""
    return deformed(samples, samples.points @ matrix.T + translation, matrix)
