"""The registration pipeline: rigid start, affine, then splines or flows from wide and stiff to narrow and soft."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial

import numpy as np
from scipy.spatial import cKDTree

from otreg.deformations import Deformation
from otreg.registration.coherence import Trust
from otreg.registration.fitting import BLUR_VARIANCE, CoarseFit, FineFit, SplineFit, carried, fit_affine
from otreg.registration.flowing import lifted
from otreg.registration.gap import Gap
from otreg.registration.polishing import Polished, Polisher
from otreg.registration.pose import apply_pose, find_pose, procrustes
from otreg.registration.progress import Interrupted
from otreg.registration.refining import refined
from otreg.registration.sampling import Samples, deformed
from otreg.registration.settings import COARSE, FINE, FineLevel, Settings
from otreg.registration.softening import as_soft_as_it_takes
from otreg.registration.stages import FittedSpline, Stages, State, in_units, linear
from otreg.registration.strain import folded_share
from otreg.surface import FloatArray, Landmarks
from otreg.together import together

AFFINE_BLURS = np.geomspace(0.04, 0.006, 12)
FIRST_BLUR_TO_MISFIT = 2.0
AFFINE_TANGENTIAL = 0.1
FINE_TANGENTIAL = 0.02
MOST_FOLDED = 0.0005
"""Share of the sampled points at which a fit may fold space; beyond it, it stops at the match before."""

CLEAR_DIFFERENCE = 0.05
"""Share of what the held-back points gained that decides by itself between two starts."""

ACROSS = 0.02
"""Weight of residuals along the surface where those across it are to decide."""

CLEARLY_BETTER = 0.01
"""Share by which they must bring held-back points closer, to be preferred."""

MOST_CONTINUED = 2
"""Times that a coarse spline goes on from the flow that took the place of one that had to stop."""

MOST_CONTROL_POINTS = 12
"""Control points of a fine level, at most, for each of the coarse one."""

LEAST_GAIN = 0.0025
"""Share by which a fine stage must bring held-back points closer: less may come from their choice."""


class Pipeline(Stages):
    """The stages of one run, from the rigid start to the finest map."""

    def run(self, preset: str, landmarks: tuple[Landmarks, Landmarks] | None) -> None:
        deformable = preset in ("spline", "diffeo")
        if deformable:
            # samples for later need no pose
            _, self.late = together(partial(self._rigid, preset, landmarks), self._late_samples)
        else:
            self._rigid(preset, landmarks)
        self.watch.step("rigid start")
        if preset == "affine":
            self._affine()
        if deformable:
            # nor do the fits of either start need those of the fine levels
            start = self._coarse_from_either_start(sampling=preset == "spline")
            samples = self.fine
            if preset == "diffeo":
                whole, samples = together(
                    lambda: _finished(lambda: self._coarse_across(start)), self._fine_samples
                )
                if not whole:
                    raise Interrupted
                self._flow_in_place()
                if self.settings.attachment_iterations:
                    self._refine_by_attachment()
            assert samples is not None
            self.x, self.y = self._carried(self.parts, samples[0]), samples[1]
            if preset == "diffeo":
                self._fine_as_soft_as_it_takes()
            else:
                self._fine_levels(flows=False)

    def _rigid(self, preset: str, landmarks: tuple[Landmarks, Landmarks] | None) -> None:
        scaled = preset != "rigid"
        polished: Polished | None = None
        if landmarks is not None and len(landmarks[0]) >= 3:
            pose = procrustes(self.marks[0], self.marks[1], np.ones(len(self.marks[0])), scaled)
        else:
            shape = self.x.but_last(len(self.marks[0]))
            # the size of a part says nothing about that of the whole
            free = scaled and (preset == "similarity" or not self.partial)
            pose = find_pose(shape, self.y, free, self.settings.starts, self.partial)
            if preset in ("rigid", "similarity"):
                # samples lie as far apart as their spacing; before anything deforms that is near enough
                polisher = Polisher(self.moving, self.fixed, shape, self.y, self.partial)
                polished = polisher.polished(pose, free)
                pose = polished.pose
        scale, rotation, translation = pose
        self.parts = [self._affine_map(scale * rotation, translation, "similarity" if scaled else "rigid")]
        self.x, self.held_x = apply_pose(pose, self.x), apply_pose(pose, self.held_x)
        self.score = self._held_back(self.held_x)
        self._note("rigid start", True, scale=scale)
        if polished is not None:
            distances = {"before": polished.before * self.length, "after": polished.after * self.length}
            self._note("polish", True, distance=distances)

    def _affine(self) -> None:
        matrix, translation, current = np.eye(3), np.zeros(3), self.x
        noise = 1.0 / self.settings.independent_points
        try:
            for blur in AFFINE_BLURS:
                found = self._match(current, float(blur))
                residuals = self._residuals(
                    current, found, float(blur), AFFINE_TANGENTIAL, BLUR_VARIANCE, noise
                )
                matrix, translation = fit_affine(self.x.points, found, residuals)
                current = linear(self.x, matrix, translation)
                self.watch.step("affine", self.length * residuals.distance)
        finally:
            held = linear(self.held_x, matrix, translation)
            if self._accept("affine", held, self._affine_map(matrix, translation, "affine")):
                self.x = current

    def _coarse_from_either_start(self, sampling: bool = False) -> State:
        """Fit the coarse spline from the rigid pose and from the affine map, and keep what deforms less.

        Neither start is better everywhere: an affine map helps where shapes differ in proportions, and misleads
        where they bend. Both fit about as well, so that distances tell little; but points that slid along the
        surface cost deformation. Held-back points decide only where they differ by :data:`CLEAR_DIFFERENCE`.
        Returns the state from which the kept spline was fitted.

        The affine map takes time of its own; with ``sampling`` the other side makes the fine samples meanwhile.
        """
        before = self._state()
        rigid, affine = copy(self), copy(self)
        starts = {"rigid": before, "affine": before}

        def from_the_pose() -> bool:
            whole = _finished(rigid._coarse_spline)
            if whole and sampling:
                self.fine = self._fine_samples()
            return whole

        def from_an_affine_map() -> bool:
            if self.watch.stopped or not _finished(affine._affine):
                return False
            starts["affine"] = affine._state()
            return _finished(affine._coarse_spline)

        whole = together(from_the_pose, from_an_affine_map)
        states = {"rigid": rigid._state(), "affine": affine._state()}
        energies = {start: self._energy(state.parts) for start, state in states.items()}
        least = min(state.score for state in states.values())
        most = least + CLEAR_DIFFERENCE * max(before.score - least, 0.0)
        near = [start for start, state in states.items() if state.score <= most]
        chosen = min(near, key=lambda start: energies[start])
        self._restore(states[chosen])
        if not all(whole):
            raise Interrupted
        scores = {start: state.score * self.length for start, state in states.items()}
        self._note("choice of start", True, start=chosen, held_back=scores, energy=energies)
        return starts[chosen]

    def _coarse_across(self, start: State) -> None:
        """Fit the coarse spline once more with residuals across the surface alone, and keep what fits clearly better.

        Partners along the surface are where equal amounts of surface are. That guides the match where shapes differ
        little in this, and holds the map back where they are stretched unevenly: then held-back points, which see
        distance alone, are met better without (by 1.4% to 4% on ventricles and knees; within 0.1% on faces and femora,
        where both fit alike and the first is closer to the truth).
        """
        kept = self._state()
        self._restore(start)
        scores = {"along and across": kept.score * self.length}
        across = kept
        try:
            self._coarse_spline(ACROSS)
            across = self._state()
        finally:
            scores["across"] = across.score * self.length
            better = across.score < (1.0 - CLEARLY_BETTER) * kept.score
            self._restore((across if better else kept)._replace(stages=kept.stages))
            self._note("choice of residuals", True, across=better, held_back=scores)

    def _coarse_spline(self, along: float | None = None) -> None:
        self._coarse_level("spline", self._coarse_blurs(), along)

    def _coarse_blurs(self) -> FloatArray:
        """Matching starts at the scale of the misfit that the rigid start left."""
        there = cKDTree(self.held_y.points).query(self.held_x.points)[0]
        misfit = float(np.average(there, weights=self.held_x.weights))
        if self.partial:
            back = cKDTree(self.held_x.points).query(self.held_y.points)[0]
            misfit = min(misfit, float(np.average(back, weights=self.held_y.weights)))
        first = max(COARSE.first_blur, FIRST_BLUR_TO_MISFIT * misfit)
        return np.asarray(np.geomspace(first, COARSE.last_blur, COARSE.steps))

    def _coarse_level(self, name: str, blurs: FloatArray, along: float | None) -> None:
        settings = self.settings
        fit = CoarseFit(self.x, COARSE, settings.control_points, settings.strain, settings.independent_points)
        tangential = Trust(settings.tangential_weight) if along is None else along
        late = None if self.late is None else (self._carried(self.parts, self.late[0]), self.late[1])
        noise = 1.0 / settings.independent_points
        self._level(name, fit, blurs, COARSE.blur_variance, noise, tangential, late=late)
        if self.fitted is not None:
            self.fitted = self.fitted._replace(along=along)

    def _flow_in_place(self) -> None:
        """Take a flow for the coarse spline; where that had to stop before it folded, more flows go on from there."""
        for continued in range(1 + MOST_CONTINUED):
            fitted = self.fitted
            if fitted is None:
                return
            self.fitted = None
            flow = lifted(fitted.spline)
            self.parts = [*self.parts[:-1], in_units(flow, self.length, self.centre)]
            self.x, self.held_x = carried(flow, fitted.x), carried(flow, fitted.held_x)
            before, self.score = self.score, self._held_back(self.held_x)
            distances = {
                "held_back_before": before * self.length,
                "held_back_after": self.score * self.length,
            }
            self._note("flow", True, energy=float(flow.energy()), **distances)
            if continued < MOST_CONTINUED and len(fitted.blurs_left):
                self._coarse_level("flow goes on", fitted.blurs_left, fitted.along)

    def _refine_by_attachment(self) -> None:
        """A flow down the gradient of the attachment, which sees how far surfaces are apart and no matches.

        Only where it is asked for: of sixteen pairs it was kept on one, which it took away from the truth
        (docs/decisions/0011).
        """
        flow = refined(
            self.x.but_last(len(self.marks[0])),
            self.y,
            self.area,
            self.settings.attachment_iterations,
            lambda distance: self.watch.step("flow by attachment", distance * self.length),
        )
        held = carried(flow, self.held_x)
        part = in_units(flow, self.length, self.centre)
        energy = float(flow.energy())
        if self._accept("flow by attachment", held, part, LEAST_GAIN, energy=energy, trial=True):
            self.x = carried(flow, self.x)

    def _fine_as_soft_as_it_takes(self) -> None:
        """Run the fine levels, at the stiffness and with the normals that the surfaces ask for."""
        gap = self._gap()

        def run(settings: Settings) -> tuple[Pipeline, bool]:
            tried = copy(self)
            tried.settings = settings
            return tried, _finished(tried._fine_levels)

        choice = as_soft_as_it_takes(self.settings, run, lambda tried: tried._gap_since(self, gap))
        self._take(choice.found)
        self._note(
            "choice of stiffness",
            True,
            fine_stiffness=choice.settings.fine_stiffness,
            normal_weight=choice.settings.normal_weight,
            surface_distance={name: found * self.length for name, found in choice.gaps.items()},
        )
        if not choice.whole:
            raise Interrupted

    def _gap(self) -> Gap:
        """What measures the distance between the surfaces from here on."""
        return Gap(self._moved(self.moving, self.parts), self.fixed, self.partial)

    def _gap_since(self, start: Pipeline, gap: Gap) -> float | None:
        """The distance between the surfaces, measured by what another state had prepared."""
        return gap.under(self.held_x, self.held_y, self._flows(self.parts[len(start.parts) :]))

    def _take(self, other: Pipeline) -> None:
        """Go on from what a copy of this pipeline has found."""
        self._restore(other._state())

    def _fine_levels(self, flows: bool = True) -> None:
        for level in FINE:
            self._fine(level, flows)

    def _fine(self, level: FineLevel, flows: bool) -> None:
        blurs = np.geomspace(level.first_blur, level.last_blur, level.steps)
        most = MOST_CONTROL_POINTS * self.settings.control_points
        fit = FineFit(self.x, self.area, level, most, self.settings.fine_stiffness)
        name = f"{'flow' if flows else 'spline'} {level.width * self.length:.3g}"
        noise = self.settings.fine_stiffness
        self._level(name, fit, blurs, level.blur_variance, noise, FINE_TANGENTIAL, LEAST_GAIN, flows)

    def _level(
        self,
        name: str,
        fit: SplineFit,
        blurs: FloatArray,
        blur_variance: float,
        noise: float,
        tangential: Trust | float,
        least_gain: float = 0.0,
        flows: bool = False,
        late: tuple[Samples, Samples] | None = None,
    ) -> None:
        """Match and fit in turn, up to where the fit would fold; keep it if the held-back points come closer.

        ``late`` are samples of both shapes, MOVING's as it is at the start, that take the place of the others once
        blurs are small enough to see them.
        """
        current, spline, folded, done = self.x, fit.spline(), False, 0
        fixed = self.y
        try:
            for blur in blurs:
                if late is not None and fixed is self.y and blur < COARSE.late_blur:
                    assert isinstance(fit, CoarseFit)
                    fit.use(late[0])
                    current, fixed = deformed(late[0], fit.moved(), fit.gradient()), late[1]
                found = self._match(current, float(blur), fixed)
                along = tangential if isinstance(tangential, float) else tangential.after(current, found)
                residuals = self._residuals(current, found, float(blur), along, blur_variance, noise)
                fit.update(residuals, found)
                proposed = fit.spline()
                gradient = fit.gradient()
                if folded_share(gradient, fit.start.weights) > MOST_FOLDED:
                    # finer matches would fold it further
                    folded = True
                    break
                spline, current = proposed, deformed(fit.start, fit.moved(), gradient)
                done += 1
                self.watch.step(name, residuals.distance * self.length)
        finally:
            x, held_x = self.x, self.held_x
            part: Deformation = in_units(spline, self.length, self.centre)
            if flows:
                flow = lifted(spline)
                part = in_units(flow, self.length, self.centre)
                if len(flow.momenta) > 1:
                    flow.path()  # integrated once for both
                    held, current = together(partial(carried, flow, held_x), partial(carried, flow, x))
                else:
                    # the displacements are so small, and the samples so many, that the spline's places will do
                    held = carried(flow, held_x)
            else:
                held = carried(spline, held_x)
                if fixed is not self.y:
                    current = carried(spline, x)
            if self._accept(name, held, part, least_gain, stopped_before_folding=folded):
                self.x = current
                self.fitted = FittedSpline(spline, x, held_x, blurs[done:] if folded else blurs[:0])


def _finished(stage: Callable[[], None]) -> bool:
    """Run a stage; False if the caller asked to stop meanwhile, and what it has found so far is kept."""
    try:
        stage()
    except Interrupted:
        return False
    return True
