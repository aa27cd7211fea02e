"""A registration without a favoured side: both shapes flow to where they meet, half-way."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from otreg.deformations import Composite, Deformation
from otreg.registration.coherence import Trust
from otreg.registration.fitting import CoarseFit, FineFit, carried
from otreg.registration.flowing import lifted
from otreg.registration.gap import Gap
from otreg.registration.matching import Match
from otreg.registration.pipeline import (
    ACROSS,
    CLEARLY_BETTER,
    FINE_TANGENTIAL,
    LEAST_GAIN,
    MOST_CONTROL_POINTS,
    MOST_FOLDED,
    Pipeline,
)
from otreg.registration.sampling import Samples, deformed, sample_shape
from otreg.registration.settings import COARSE, FINE, FineLevel
from otreg.registration.stages import in_units
from otreg.registration.strain import folded_share
from otreg.surface import FloatArray, Landmarks, Surface


def in_order(moving: Surface, fixed: Surface) -> bool:
    """Whether a symmetric registration takes the shapes as given, or exchanged: their content decides, not their role.

    Rounding, sampling and the order of updates always favour somebody a little. Taken in one order, whoever is called
    moving, the map there and the map back are inverse to each other exactly.
    """
    keys = [
        (len(shape), hashlib.sha256(np.ascontiguousarray(shape.points).tobytes()).digest())
        for shape in (moving, fixed)
    ]
    return keys[0] <= keys[1]


class Sides(NamedTuple):
    """What a level changes, on both sides."""

    score: float
    parts: list[Deformation]
    back: list[Deformation]
    x: Samples
    y: Samples
    held_x: Samples
    held_fixed: Samples


class SymmetricPipeline(Pipeline):
    """Rigid start, then a flow of MOVING and one of FIXED, each fitted to half of what is missing between them.

    With flows ψ_m and ψ_f from the shapes to their meeting, the map is ``ψ_f⁻¹ ∘ ψ_m`` after the pose: exchange the
    shapes and it is its own inverse (as in Avants et al. 2008, Med. Image Anal. 12, for images). Everything else is as
    in :class:`~otreg.registration.pipeline.Pipeline`, but for the affine start, which favours a side.
    """

    back: list[Deformation]
    held_fixed: Samples

    def run(self, preset: str, landmarks: tuple[Landmarks, Landmarks] | None) -> None:
        """Run the stages."""
        self.back, self.held_fixed = [], self.held_y
        self._rigid(preset, landmarks)
        self.watch.step("rigid start")
        self.y = self._with_marks(self.y, self.marks[1])
        self._coarse_both()
        self._refine_both()
        self._fine_as_soft_as_it_takes()

    def transform(self) -> Deformation:
        """MOVING to the meeting, and from there to FIXED."""
        if not self.back:
            return super().transform()
        there = super().transform()
        return Composite([there, *(part.inverse for part in reversed(self.back))]).simplified()

    def _distance(self, moving: Samples, fixed: Samples) -> float:
        self.held_y, self.held_tree = fixed, cKDTree(fixed.features(self.held_normals))
        return self._held_back(moving)

    def _coarse_both(self) -> None:
        settings, blurs = self.settings, self._coarse_blurs()
        noise = 1.0 / settings.independent_points

        def fits() -> list[CoarseFit | FineFit]:
            # each side goes half the way
            return [
                CoarseFit(
                    shape, COARSE, settings.control_points, settings.strain / 2, settings.independent_points
                )
                for shape in (self.x, self.y)
            ]

        before = self._sides()
        trusts = [Trust(settings.tangential_weight), Trust(settings.tangential_weight)]
        self._both("flow", fits(), blurs, COARSE.blur_variance, noise, trusts, 0.0)
        along = self._sides()
        self._return_to(before)
        try:
            self._both("flow", fits(), blurs, COARSE.blur_variance, noise, [ACROSS, ACROSS], 0.0)
        finally:
            scores = {"along and across": along.score * self.length, "across": self.score * self.length}
            across = self.score < (1.0 - CLEARLY_BETTER) * along.score
            if not across:
                self._return_to(along)
            self._note("choice of residuals", True, across=across, held_back=scores)

    def _fine_levels(self, flows: bool = True) -> None:
        for level in FINE:
            self._fine_both(level)

    def _gap(self) -> Gap:
        moving, fixed = self._moved(self.moving, self.parts), self._moved(self.fixed, self.back)
        return Gap(moving, fixed, self.partial)

    def _gap_since(self, start: Pipeline, gap: Gap) -> float | None:
        assert isinstance(start, SymmetricPipeline)
        there, back = self.parts[len(start.parts) :], self.back[len(start.back) :]
        return gap.under(self.held_x, self.held_fixed, self._flows(there), self._flows(back))

    def _take(self, other: Pipeline) -> None:
        assert isinstance(other, SymmetricPipeline)
        self._return_to(other._sides())
        self.stages = other.stages

    def _sides(self) -> Sides:
        return Sides(self.score, self.parts, self.back, self.x, self.y, self.held_x, self.held_fixed)

    def _return_to(self, sides: Sides) -> None:
        self.score, self.parts, self.back, self.x, self.y, self.held_x, self.held_fixed = sides
        self._distance(self.held_x, self.held_fixed)

    def _refine_both(self) -> None:
        """More points on both shapes for the fine levels, carried to where the shapes meet."""
        count = min(max(len(self.moving), 2 * self.points), self.settings.fine_points)
        moving = self._with_marks(self._sample_moving(count, self.seed + 5), self.marks[0])
        fixed = self._with_marks(sample_shape(self.fixed, count, self.seed + 6), self.marks[1])
        self.x, self.y = self._carried(self.parts, moving), self._carried(self.back, fixed)

    def _fine_both(self, level: FineLevel) -> None:
        blurs = np.geomspace(level.first_blur, level.last_blur, level.steps)
        most, stiffness = MOST_CONTROL_POINTS * self.settings.control_points, self.settings.fine_stiffness
        fits: list[CoarseFit | FineFit] = [
            FineFit(shape, self.area, level, most, stiffness) for shape in (self.x, self.y)
        ]
        name = f"flow {level.width * self.length:.3g}"
        along: list[Trust | float] = [FINE_TANGENTIAL, FINE_TANGENTIAL]
        self._both(name, fits, blurs, level.blur_variance, stiffness, along, LEAST_GAIN)

    def _both(
        self,
        name: str,
        fits: list[CoarseFit | FineFit],
        blurs: FloatArray,
        blur_variance: float,
        noise: float,
        tangential: list[Trust | float] | list[Trust] | list[float],
        least_gain: float,
    ) -> None:
        """Match at the meeting and fit both sides in turn; keep the flows if the held-back points come closer."""
        current, folded = [self.x, self.y], False
        splines = [fit.spline() for fit in fits]
        try:
            for blur in blurs:
                found = [
                    self._half_way(current[0], current[1], float(blur)),
                    self._half_way(current[1], current[0], float(blur)),
                ]
                distance = 0.0
                for side, fit in enumerate(fits):
                    trust = tangential[side]
                    along = trust if isinstance(trust, float) else trust.after(current[side], found[side])
                    residuals = self._residuals(
                        current[side], found[side], float(blur), along, blur_variance, noise
                    )
                    distance += residuals.distance
                    fit.update(residuals, found[side])
                gradients = [fit.gradient() for fit in fits]
                shares = [
                    folded_share(g, s.weights) for g, s in zip(gradients, (self.x, self.y), strict=True)
                ]
                if max(shares) > MOST_FOLDED:
                    folded = True
                    break
                splines = [fit.spline() for fit in fits]
                current = [
                    deformed(start, fit.moved(), gradient)
                    for start, fit, gradient in zip((self.x, self.y), fits, gradients, strict=True)
                ]
                self.watch.step(name, distance * self.length)
        finally:
            flows = [lifted(spline) for spline in splines]
            held = [
                carried(flow, shape)
                for flow, shape in zip(flows, (self.held_x, self.held_fixed), strict=True)
            ]
            before, score = self.score, self._distance(held[0], held[1])
            kept = score < (1.0 - least_gain) * before
            if kept:
                parts = [in_units(flow, self.length, self.centre) for flow in flows]
                self.parts, self.back = [*self.parts, parts[0]], [*self.back, parts[1]]
                self.held_x, self.held_fixed = held
                if len(flows[0].momenta) > 1:
                    current = [
                        carried(flow, shape) for flow, shape in zip(flows, (self.x, self.y), strict=True)
                    ]
                self.x, self.y = current
                self.score = score
            distances = {"held_back_before": before * self.length, "held_back_after": score * self.length}
            self._note(name, kept, stopped_before_folding=folded, **distances)

    def _half_way(self, current: Samples, other: Samples, blur: float) -> Match:
        """A match whose targets are half-way to the partners; of landmarks, half-way to the other landmark."""
        found = self._match_to(current, other, blur)
        return found._replace(targets=0.5 * (current.points + found.targets))
