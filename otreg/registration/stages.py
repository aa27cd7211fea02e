"""What every stage of a registration shares: samples, matches, the judgement of held-back points, the parts so far."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from scipy.spatial import cKDTree

from otreg.deformations import Affine, Composite, Deformation, Diffeomorphism, Spline
from otreg.flows.shooting import carry
from otreg.registration.fitting import Residuals, carried
from otreg.registration.matching import Match, match
from otreg.registration.progress import Progress
from otreg.registration.sampling import FEW, Samples, deformed, sample_shape
from otreg.registration.settings import COARSE, FINE, Settings
from otreg.registration.strain import deformation_energy
from otreg.surface import FloatArray, Landmarks, Surface
from otreg.together import together

SplineOrFlow = TypeVar("SplineOrFlow", Spline, Diffeomorphism)

VERTICES_PER_POINT = 20
HELD_BACK = 4000
LATE_POINTS = 2
"""Times as many points in the last coarse matches as in the first ones, at most."""

LEAST_MORE = 1.2
"""Times as many points that are worth another sampling."""

UNMATCHED = 0.1
"""Share of its mass below which a point has found no partner."""

HELD_BACK_TRUNCATION = 0.1


class FittedSpline(NamedTuple):
    """The spline fitted last, and where it started from: what it takes to put a flow in its place.

    ``blurs_left`` are those that it did not reach before it would have folded; ``along`` is the weight of residuals
    along the surface, None where that follows their coherence.
    """

    spline: Spline
    x: Samples
    held_x: Samples
    blurs_left: FloatArray
    along: float | None = None


class State(NamedTuple):
    """What a stage changes: to go back, or to compare two ways."""

    parts: list[Deformation]
    x: Samples
    held_x: Samples
    score: float
    stages: list[dict[str, Any]]
    fitted: FittedSpline | None


class Stages:
    """The state of one run, in units of FIXED's diameter around FIXED's centre.

    Landmarks, if there are any, are the last rows of the samples: they weigh nothing in a match, and have targets of
    their own (:meth:`_match`).
    """

    def __init__(
        self,
        moving: Surface,
        fixed: Surface,
        settings: Settings,
        device: str,
        seed: int,
        watch: Progress,
        landmarks: tuple[Landmarks, Landmarks] | None = None,
        part: bool = False,
    ) -> None:
        self.partial = part
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
        self.fitted: FittedSpline | None = None
        self.late: tuple[Samples, Samples] | None = None
        self.fine: tuple[Samples, Samples] | None = None
        self.interrupted = False
        pair = () if landmarks is None else landmarks
        self.marks = [(points.points - self.centre) / self.length for points in pair] or [
            np.zeros((0, 3))
        ] * 2
        # finer meshes have more to show, and their users more patience
        finest = max(len(moving), len(fixed)) // VERTICES_PER_POINT
        self.points = min(max(finest, settings.points), 2 * settings.points)
        x, self.y, self.held_x, self.held_y = together(
            partial(self._sample_moving, self.points, seed + 1),
            partial(sample_shape, self.fixed, self.points, seed + 2),
            partial(self._sample_moving, HELD_BACK, seed + 3),
            partial(sample_shape, self.fixed, HELD_BACK, seed + 4),
        )
        self.x = self._with_marks(x, self.marks[0])
        # as they were sampled, whatever stages do to the others
        self.held_samples = self.held_x, self.held_y
        # whatever weight the matches of a stage give to normals, all stages are judged by one
        self.held_normals = settings.normal_weight
        self.held_tree = cKDTree(self.held_y.features(self.held_normals))
        self.score = float("inf")

    def _sample_moving(self, count: int, seed: int) -> Samples:
        scaled = self.moving.with_points(self.moving.points / self.grid)
        samples = sample_shape(scaled, count, seed)
        return Samples(samples.points * self.grid, samples.normals, samples.weights)

    def _with_marks(self, samples: Samples, marks: FloatArray) -> Samples:
        nothing = np.zeros_like(marks)
        return Samples(
            np.concatenate([samples.points, marks]),
            np.concatenate([samples.normals, nothing]),
            np.concatenate([samples.weights, nothing[:, 0]]),
        )

    def _late_samples(self) -> tuple[Samples, Samples] | None:
        """More points on both shapes for the last coarse matches, MOVING's unmoved; None where there are enough.

        No more than there are vertices: between these a mesh shows its facets, and no shape. Nor more than
        :data:`FEW`, which helped no more (docs/decisions/0012).
        """
        vertices = min(len(self.moving), len(self.fixed))
        count = min(LATE_POINTS * self.points, FEW, vertices)
        if count < LEAST_MORE * self.points:
            return None
        moving, fixed = together(
            partial(self._sample_moving, count, self.seed + 7),
            partial(sample_shape, self.fixed, count, self.seed + 8),
        )
        return self._with_marks(moving, self.marks[0]), fixed

    def _fine_samples(self) -> tuple[Samples, Samples]:
        """More points on both shapes for the fine levels, as many as MOVING has vertices; MOVING's unmoved.

        Never fewer than the coarse levels had. Twice as many brought held-back points 1% closer, and no truth.
        """
        count = min(max(len(self.moving), 2 * self.points), self.settings.fine_points)
        moving, fixed = together(
            partial(self._sample_moving, count, self.seed + 5),
            partial(sample_shape, self.fixed, count, self.seed + 6),
        )
        return self._with_marks(moving, self.marks[0]), fixed

    def _carried(self, parts: list[Deformation], samples: Samples) -> Samples:
        """Samples of our units under maps in the unit of the files, one after the other."""
        for part in parts:
            if isinstance(part, Diffeomorphism):
                samples = carried(self._in_our_units(part), samples)
            else:
                there = Samples(samples.points * self.length + self.centre, samples.normals, samples.weights)
                moved = carried(part, there)
                samples = Samples((moved.points - self.centre) / self.length, moved.normals, moved.weights)
        return samples

    def _moved(self, surface: Surface, parts: list[Deformation]) -> Surface:
        """A surface of our units under maps in the unit of the files; flows carry it in single precision."""
        points = surface.points
        with torch.no_grad():
            for part in parts:
                if isinstance(part, Diffeomorphism):
                    single = torch.tensor(points, dtype=torch.float32)
                    path = self._in_our_units(part).path().to(single)
                    points = carry(single, path).double().numpy()
                else:
                    points = (part.map(points * self.length + self.centre) - self.centre) / self.length
        return surface.with_points(points)

    def _in_our_units(self, flow: Diffeomorphism) -> Diffeomorphism:
        return in_units(flow, 1.0 / self.length, -self.centre / self.length)

    def _flows(self, parts: list[Deformation]) -> list[Diffeomorphism]:
        """Flows in the unit of the files, in our units."""
        return [self._in_our_units(part) for part in parts if isinstance(part, Diffeomorphism)]

    def _match(self, x: Samples, blur: float, y: Samples | None = None) -> Match:
        """Match samples of MOVING to those of FIXED, ``self.y`` unless others are given."""
        return self._match_to(x, self._with_marks(self.y if y is None else y, self.marks[1]), blur)

    def _match_to(self, x: Samples, y: Samples, blur: float) -> Match:
        """Match all samples but the landmarks, the last rows of both, which know where to go."""
        count = len(self.marks[0])
        found = self._match_shapes(x.but_last(count), y.but_last(count), blur)
        targets = y.points[len(y.points) - count :]
        return Match(
            np.concatenate([found.targets, targets]),
            np.concatenate([found.normals, np.zeros_like(targets)]),
            np.concatenate([found.confidence, np.ones(count)]),
        )

    def _match_shapes(self, x: Samples, y: Samples, blur: float) -> Match:
        settings = self.settings
        return match(x, y, blur, settings.reach_factor * blur, settings.normal_weight, self.device)

    def _residuals(
        self, current: Samples, found: Match, blur: float, along: float, blur_variance: float, noise: float
    ) -> Residuals:
        """Residuals of a match; ``noise`` is what a fit multiplies their variance with, per unit of mass."""
        residuals = Residuals(current, found, blur, along, blur_variance)
        if len(self.marks[0]):
            # landmarks have a variance of their own, which does not fall with that of the match
            mass = noise * residuals.variance / self.settings.landmark_error**2
            residuals.mass[-len(self.marks[0]) :] = mass
        return residuals

    def _held_back(self, moved: Samples) -> float:
        """Truncated mean distance both ways between points that no match has seen, normals included."""
        features = moved.features(self.held_normals)
        there = np.minimum(self.held_tree.query(features)[0], HELD_BACK_TRUNCATION)
        back = cKDTree(features).query(self.held_y.features(self.held_normals))[0]
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
        # how far matches were apart, step by step: where the stage has steps
        distances = self.watch.distances()
        if distances:
            figures["residuals"] = distances
        self.stages = [*self.stages, {"stage": name, "kept": kept, "seconds": round(gone, 3), **figures}]

    def _state(self) -> State:
        return State(self.parts, self.x, self.held_x, self.score, self.stages, self.fitted)

    def _restore(self, state: State) -> None:
        self.parts, self.x, self.held_x, self.score, self.stages, self.fitted = state

    def _energy(self, parts: list[Deformation]) -> float:
        """How much the map of these parts deforms MOVING beyond its pose, on some of the held-back points."""
        pose = parts[0]
        assert isinstance(pose, Affine)
        some = slice(None, None, max(len(self.held_samples[0].points) // 1500, 1))
        points = self.held_samples[0].points[some] * self.length + self.centre
        return deformation_energy(Composite(parts), pose.matrix.numpy(), points, self.held_x.weights[some])

    def _affine_map(self, matrix: FloatArray, translation: FloatArray, kind: str) -> Affine:
        """An affine map of our units, in the unit of the files."""
        return Affine(matrix, self.length * translation + self.centre - matrix @ self.centre, kind)

    def transform(self) -> Deformation:
        """Everything kept so far as one map."""
        if not self.parts:
            return Affine.identity()
        return Composite(self.parts).simplified()

    def unmatched(self) -> tuple[float, float]:
        """Shares of the area of MOVING and of FIXED that find no partner where the map has brought them together."""
        blur = COARSE.last_blur if len(self.parts) > 1 else COARSE.first_blur
        shares = []
        for shape, other in ((self.held_x, self.held_y), (self.held_y, self.held_x)):
            found = self._match_shapes(shape, other, blur)
            shares.append(float(np.average(found.confidence < UNMATCHED, weights=shape.weights)))
        return shares[0], shares[1]

    def absolute(self) -> dict[str, Any]:
        """The lengths behind the relative settings, in the unit of the files."""
        levels = [dataclasses.asdict(level) for level in (COARSE, *FINE)]
        for level in levels:
            for name, value in level.items():
                if name not in ("steps", "blur_variance"):
                    level[name] = np.multiply(value, self.length).tolist()
        return {"diameter": self.length, "spline_levels": levels}


def linear(samples: Samples, matrix: FloatArray, translation: FloatArray) -> Samples:
    """Samples under an affine map."""
    return deformed(samples, samples.points @ matrix.T + translation, matrix)


def in_units(part: SplineOrFlow, length: float, centre: FloatArray) -> SplineOrFlow:
    """A spline or a flow of our units, in the unit of the files."""
    points = part.control_points * length + part.control_points.new_tensor(centre.tolist())
    widths = [width * length for width in part.widths]
    if isinstance(part, Diffeomorphism):
        return Diffeomorphism(
            points, part.momenta * length, widths, part.kernel, part.amplitudes, part.steps, part.method
        )
    return Spline(points, part.coefficients * length, widths, part.kernel, part.amplitudes)
