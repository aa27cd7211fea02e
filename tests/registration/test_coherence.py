"""Trust in residuals along the surface: full where patches move together, none where each goes its own way."""

from __future__ import annotations

import numpy as np
import pytest

from otreg.registration.coherence import LEAST, Trust, coherence
from otreg.registration.matching import Match
from otreg.registration.sampling import Samples


def sphere(count: int = 1200) -> Samples:
    """Points of a sphere of diameter one, evenly spread (Fibonacci)."""
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    ring = np.sqrt(1 - height**2)
    normals = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
    return Samples(normals / 2, normals, np.full(count, 1 / count))


def moved(samples: Samples, shift: np.ndarray) -> Match:
    return Match(samples.points + shift, samples.normals, np.ones(len(samples.points)))


def test_a_rotation_is_coherent_and_noise_is_not() -> None:
    given = sphere()
    turn = np.cross([0.0, 0.0, 0.01], given.points)
    noise = np.random.default_rng(0).normal(0, 0.005, turn.shape)
    assert coherence(given, moved(given, turn)) > 0.9
    assert coherence(given, moved(given, noise)) < 0.03
    half = coherence(given, moved(given, turn * np.sqrt((noise**2).sum() * 2 / 3 / (turn**2).sum()) + noise))
    assert half == pytest.approx(0.5, abs=0.08)


def test_size_and_what_goes_across_the_surface_do_not_matter() -> None:
    given = sphere()
    rng = np.random.default_rng(1)
    shift = np.cross([0.0, 0.01, 0.0], given.points) + rng.normal(0, 0.003, given.points.shape)
    first = coherence(given, moved(given, shift))
    assert coherence(given, moved(given, 7 * shift)) == pytest.approx(first)
    across = shift + 0.02 * rng.normal(size=(len(shift), 1)) * given.normals
    assert coherence(given, moved(given, across)) == pytest.approx(first)


def test_trust_lies_between_its_bounds_and_remembers() -> None:
    given = sphere()
    turn = moved(given, np.cross([0.0, 0.0, 0.01], given.points))
    still = moved(given, np.zeros_like(given.points))
    trust = Trust(0.3)
    assert trust.after(given, turn) == 0.3
    after = [trust.after(given, still) for _ in range(30)]
    assert after[0] == 0.3 and after[-1] == LEAST
    assert after == sorted(after, reverse=True)


def test_points_without_neighbours_say_nothing() -> None:
    far = Samples(np.arange(12.0).reshape(4, 3), np.eye(3)[[0, 1, 2, 0]], np.full(4, 0.25))
    assert coherence(far, moved(far, np.ones((4, 3)))) == 0.0
