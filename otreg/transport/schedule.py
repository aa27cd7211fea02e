"""How a solve proceeds: the blurs of the annealing, and the over-relaxation at the last one."""

from __future__ import annotations

import math

from otreg.errors import InputError

LARGEST_RELAXATION = 1.97


def annealing(start_blur: float, blur: float, scaling: float) -> list[float]:
    """Blurs from ``start_blur`` down by factors ``scaling``, all strictly larger than ``blur``."""
    if not 0.0 < scaling < 1.0:
        raise InputError(f"scaling must lie between 0 and 1, got {scaling}")
    if start_blur <= blur:
        return []
    steps = math.ceil(math.log(blur / start_blur) / math.log(scaling) - 1e-9)
    return [start_blur * scaling**step for step in range(steps)]


class Relaxation:
    """Adaptive, safeguarded over-relaxation of alternating updates.

    Near the solution, alternating updates are a Gauss–Seidel iteration with two blocks, so Young's theory of
    successive over-relaxation holds: observed with factor ω, a contraction q per iteration means that plain updates
    contract by ``μ² = (q + ω - 1)² / (q ω²)``, and the best factor is ``ω = 2 / (1 + √(1 - μ²))`` (Thibault et al.,
    arXiv:1711.01851; Lehmann et al. 2021). The contraction is estimated every few iterations; when the dual value
    falls, the next iteration is a plain one and the factor is lowered.
    """

    def __init__(self, every: int = 3) -> None:
        self.factor = 1.0
        self.every = every
        self._errors: list[float] = []
        self._best_dual = -math.inf
        self._pause = False

    @property
    def next_factor(self) -> float:
        """Factor for the next iteration."""
        return 1.0 if self._pause else self.factor

    def observe(self, error: float, dual: float, tolerance: float) -> None:
        """Learn from an iteration: its marginal error, and its dual value with the rounding to be expected."""
        self._pause = dual < self._best_dual - tolerance or not math.isfinite(error)
        self._best_dual = max(self._best_dual, dual) if math.isfinite(dual) else self._best_dual
        if self._pause:
            self.factor = 1.0 + 0.7 * (self.factor - 1.0)
            self._errors.clear()
            return
        self._errors.append(error)
        if len(self._errors) <= self.every:
            return
        first = self._errors[-1 - self.every]
        contraction = (error / first) ** (1.0 / self.every) if first > 0 else 0.0
        self._errors = self._errors[-1:]
        if 0.0 < contraction < 1.0:
            floor = self.factor - 1.0
            if contraction <= floor:
                return  # faster than the factor allows in the long run: a transient says nothing
            squared = (contraction + floor) ** 2 / (contraction * self.factor**2)
            squared = min(squared, 1.0 - 1e-6)
            self.factor = min(max(self.factor, 2.0 / (1.0 + math.sqrt(1.0 - squared))), LARGEST_RELAXATION)
