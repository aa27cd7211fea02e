"""One small, invertible example of every kind of deformation, for the tests that all of them must pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from otreg.deformations import (
    Affine,
    Composite,
    Deformation,
    Diffeomorphism,
    InverseDeformation,
    Spline,
)

Matrix = NDArray[np.float64]


def rotation(rng: np.random.Generator) -> Matrix:
    """A uniformly random rotation."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


def rigid() -> Affine:
    rng = np.random.default_rng(1)
    return Affine(rotation(rng), rng.normal(size=3), "rigid")


def similarity() -> Affine:
    rng = np.random.default_rng(2)
    return Affine(1.7 * rotation(rng), rng.normal(size=3), "similarity")


def affine() -> Affine:
    rng = np.random.default_rng(3)
    return Affine(np.eye(3) + 0.2 * rng.normal(size=(3, 3)), rng.normal(size=3))


def gaussian() -> Spline:
    rng = np.random.default_rng(4)
    return Spline(rng.normal(size=(12, 3)), 0.1 * rng.normal(size=(12, 3)), 0.7)


def wendland() -> Spline:
    rng = np.random.default_rng(5)
    return Spline(rng.normal(size=(12, 3)), 0.1 * rng.normal(size=(12, 3)), 1.8, "wendland")


def several_widths() -> Spline:
    rng = np.random.default_rng(6)
    coefficients = 0.1 * rng.normal(size=(12, 3))
    return Spline(rng.normal(size=(12, 3)), coefficients, (1.2, 0.5), amplitudes=(0.8, 0.3))


def shooting() -> Diffeomorphism:
    rng = np.random.default_rng(7)
    return Diffeomorphism(rng.normal(size=(8, 3)), 0.3 * rng.normal(size=(8, 3)), 0.9, steps=2)


def shooting_several_widths() -> Diffeomorphism:
    rng = np.random.default_rng(8)
    momenta = 0.2 * rng.normal(size=(8, 3))
    widths, amplitudes = (1.4, 0.7, 0.45), (0.5, 0.3, 0.2)
    return Diffeomorphism(rng.normal(size=(8, 3)), momenta, widths, amplitudes=amplitudes, steps=2)


def shooting_wendland() -> Diffeomorphism:
    rng = np.random.default_rng(9)
    return Diffeomorphism(rng.normal(size=(8, 3)), 0.3 * rng.normal(size=(8, 3)), 2.5, "wendland", steps=1)


def constant_momenta() -> Diffeomorphism:
    rng = np.random.default_rng(10)
    momenta = 0.4 * rng.normal(size=(2, 8, 3))
    return Diffeomorphism(rng.normal(size=(8, 3)), momenta, 0.9, steps=2, method="midpoint")


CASES: dict[str, Callable[[], Deformation]] = {
    "identity": Affine.identity,
    "rigid": rigid,
    "similarity": similarity,
    "affine": affine,
    "gaussian": gaussian,
    "wendland": wendland,
    "several widths": several_widths,
    "shooting": shooting,
    "shooting several widths": shooting_several_widths,
    "shooting wendland": shooting_wendland,
    "constant momenta": constant_momenta,
    "composite": lambda: Composite([similarity(), gaussian(), shooting(), wendland(), affine()]),
    "inverse of affine": lambda: affine().inverse,
    "inverse of gaussian": lambda: gaussian().inverse,
    "inverse of wendland": lambda: InverseDeformation(wendland(), tolerance=1e-8, on_failure="nan"),
    "inverse of shooting": lambda: shooting().inverse,
    "inverse of shooting wendland": lambda: shooting_wendland().inverse,
    "inverse of constant momenta": lambda: constant_momenta().inverse,
    "inverse of composite": lambda: Composite([rigid(), gaussian(), shooting(), affine()]).inverse,
}


def points(count: int = 20, seed: int = 0) -> Matrix:
    """Points about the control points of the cases."""
    return np.random.default_rng(seed).normal(size=(count, 3))
