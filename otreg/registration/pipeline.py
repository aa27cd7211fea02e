"""The registration pipeline: rigid start, affine, then splines from wide and stiff to narrow and soft."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from otreg.deformations import Affine, Composite, Deformation, Spline
from otreg.errors import InputError
from otreg.registration.checks import check_device, check_pair
from otreg.registration.fitting import SplineFit, fit_affine
from otreg.registration.matching import match_all_pairs, match_near_pairs
from otreg.registration.pose import apply_pose, find_pose, procrustes
from otreg.registration.progress import Interrupted, Progress
from otreg.registration.report import finish
from otreg.registration.result import Registration
from otreg.registration.sampling import Samples, sample_shape, unit
from otreg.registration.settings import LEVELS, PRESETS, Settings
from otreg.surface import FloatArray, Landmarks, Surface

AFFINE_BLURS = np.geomspace(0.05, 0.015, 6)
HELD_BACK = 4000
HELD_BACK_TRUNCATION = 0.1


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
    total = 1 + (6 if preset in ("affine", "spline") else 0)
    total += sum(level.steps for level in LEVELS) if preset == "spline" else 0
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
        self.parts: list[Deformation] = []
        self.stages: list[dict[str, Any]] = []
        self.interrupted = False
        self.unmatched: dict[str, float] = {}
        self.x = self._sample_moving(settings.points, seed + 1)
        self.y = sample_shape(self.fixed, settings.points, seed + 2)
        self.held_x = self._sample_moving(HELD_BACK, seed + 3)
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
        if preset in ("affine", "spline"):
            self._affine()
        if preset == "spline":
            for level in LEVELS:
                self._spline(level)

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
                match = self._match(current, self.y, float(blur), False)
                a, t = fit_affine(current.points, match, current.weights)
                matrix, translation = a @ matrix, a @ translation + t
                current = _linear(self.x, matrix, translation)
                self.watch.step("affine", self.length * _residual(current, match))
        finally:
            held = _linear(self.held_x, matrix, translation)
            if self._accept("affine", held, self._affine_map(matrix, translation, "affine")):
                self.x = current

    def _spline(self, level: Any) -> None:
        fine = level.kernel != "gaussian"
        if fine and len(self.x.points) == self.settings.points:
            self._refine_samples()
        fit = SplineFit(self.x, level, self.settings.control_points, self.settings.stiffness)
        current, name = self.x, f"spline {level.width * self.length:.3g}"
        try:
            for blur in np.geomspace(level.first_blur, level.last_blur, level.steps):
                match = self._match(current, self.y, float(blur), fine)
                fit.update(current, match, float(blur))
                current = fit.moved()
                self.unmatched["moving"] = float(np.average(match.confidence < 0.1, weights=current.weights))
                self.watch.step(name, fit.residual * self.length)
        finally:
            spline = Spline(fit.control_points, fit.coefficients, level.width, level.kernel)
            points = spline.map(self.held_x.points)
            normals = self.held_x.normals
            if normals.any():
                jacobian = spline.jacobian(self.held_x.points)
                normals = unit(np.linalg.solve(np.swapaxes(jacobian, 1, 2), normals[:, :, None])[:, :, 0])
            part = Spline(
                fit.control_points * self.length + self.centre,
                fit.coefficients * self.length,
                level.width * self.length,
                level.kernel,
            )
            if self._accept(name, Samples(points, normals, self.held_x.weights), part):
                self.x = current

    def _refine_samples(self) -> None:
        """More points on both shapes for the fine levels, never fewer than the coarse ones had."""
        count = min(max(2 * len(self.moving), 8000), self.settings.fine_points)
        samples = self._sample_moving(count, self.seed + 5)
        transform = self.transform()
        there = samples.points * self.length + self.centre
        points = (transform.map(there) - self.centre) / self.length
        normals = samples.normals
        if normals.any():
            jacobian = transform.jacobian(there)
            normals = unit(np.linalg.solve(np.swapaxes(jacobian, 1, 2), normals[:, :, None])[:, :, 0])
        self.x = Samples(points, normals, samples.weights)
        self.y = sample_shape(self.fixed, count, self.seed + 6)

    def _match(self, x: Samples, y: Samples, blur: float, fine: bool) -> Any:
        reach = self.settings.reach_factor * blur
        if fine:
            return match_near_pairs(x, y, blur, reach, self.settings.normal_weight)
        return match_all_pairs(x, y, blur, reach, self.settings.normal_weight, self.device)

    def _held_back(self, moved: Samples) -> float:
        """Truncated mean distance both ways between points that no match has seen, normals included."""
        features = moved.features(self.settings.normal_weight)
        there = np.minimum(self.held_tree.query(features)[0], HELD_BACK_TRUNCATION)
        back = cKDTree(features).query(self.held_y.features(self.settings.normal_weight))[0]
        back = np.minimum(back, HELD_BACK_TRUNCATION)
        return float(there @ moved.weights / moved.weights.sum() + back @ self.held_y.weights) / 2

    def _accept(self, name: str, held: Samples, part: Deformation) -> bool:
        """Keep a stage only if the held-back points come closer."""
        score = self._held_back(held) if np.isfinite(held.points).all() else float("inf")
        kept = score < self.score
        before = self.score
        if kept:
            self.parts.append(part)
            self.held_x, self.score = held, score
        self._note(name, kept, held_back_before=before * self.length, held_back_after=score * self.length)
        return kept

    def _note(self, name: str, kept: bool, **figures: float) -> None:
        gone = self.watch.elapsed - sum(stage["seconds"] for stage in self.stages)
        self.stages.append({"stage": name, "kept": kept, "seconds": round(gone, 3), **figures})

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
        levels = [dataclasses.asdict(level) for level in LEVELS]
        for level in levels:
            for name in ("width", "first_blur", "last_blur", "spacing"):
                level[name] *= self.length
        return {"diameter": self.length, "spline_levels": levels}


def _linear(samples: Samples, matrix: FloatArray, translation: FloatArray) -> Samples:
    """Samples under an affine map, their normals by the inverse transpose."""
    normals = samples.normals
    if normals.any():
        normals = unit(np.linalg.solve(matrix.T, normals.T).T)
    return Samples(samples.points @ matrix.T + translation, normals, samples.weights)


def _residual(samples: Samples, match: Any) -> float:
    mass = samples.weights * match.confidence
    squared = ((match.targets - samples.points) ** 2).sum(axis=1)
    return float(np.sqrt(mass @ squared / max(float(mass.sum()), 1e-300)))
