"""Where each sampled point should go: unbalanced entropic transport, streamed or restricted to near pairs."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch

from otreg.reductions.near import near_pairs
from otreg.reductions.sparse import SparseMatrix
from otreg.registration.sampling import Samples, unit
from otreg.surface import FloatArray
from otreg.transport import ConvergenceWarning, solve

MOST_NEAR_PAIRS = 150
"""For each point: where the samples of a small or thin shape lie closer than that, all pairs are streamed instead."""


class Match(NamedTuple):
    """Where each moving point should go.

    Attributes
    ----------
    targets : (n, 3)
        Mean of the partners of each point.
    normals : (n, 3)
        Mean of their normals, not of unit length; zero for clouds without.
    confidence : (n,)
        Share of the point's mass that found a partner.
    """

    targets: FloatArray
    normals: FloatArray
    confidence: FloatArray


def meeting_normals(current: Samples, found: Match) -> FloatArray:
    """Mean of the unit normals of each point and of its partners, (n, 3); zero where they contradict or are none."""
    normals = unit(current.normals + unit(found.normals))
    normals[(current.normals * found.normals).sum(axis=1) <= 0] = 0.0
    return normals


def match(
    moving: Samples, fixed: Samples, blur: float, reach: float, normal_weight: float, device: str = "cpu"
) -> Match:
    """Match by unbalanced entropic transport, over near pairs alone where those hold all the mass."""
    # a blur reaches about this many samples; as many more as the reach allows still matter
    spacing = 1.0 / np.sqrt(max(len(fixed.points), 1))
    if blur < spacing:
        found = match_near_pairs(moving, fixed, blur, reach, normal_weight)
        if found is not None:
            return found
    return match_all_pairs(moving, fixed, blur, reach, normal_weight, device)


def match_all_pairs(
    moving: Samples, fixed: Samples, blur: float, reach: float, normal_weight: float, device: str = "cpu"
) -> Match:
    """Match over every pair, streamed by :func:`otreg.transport.solve`: for wide blurs."""
    x, y, a, b, values = (
        torch.as_tensor(array, dtype=torch.float32, device=device)
        for array in (
            moving.features(normal_weight),
            fixed.features(normal_weight),
            moving.weights,
            fixed.weights,
            np.concatenate([fixed.points, fixed.normals], axis=1),
        )
    )
    with warnings.catch_warnings():
        # the next match corrects this one: it need not be solved to the end
        warnings.simplefilter("ignore", ConvergenceWarning)
        plan = solve(
            x,
            y,
            a,
            b,
            blur=blur,
            reach=reach,
            start_blur=2.5 * blur,
            tol=2e-2,
            max_iterations=8,
        )
        means = plan.barycentric_map(values)
    confidence = plan.confidence.double().cpu().numpy()
    return _trusted(means.double().cpu().numpy(), confidence, moving.points)


def match_near_pairs(
    moving: Samples,
    fixed: Samples,
    blur: float,
    reach: float,
    normal_weight: float,
    iterations: int = 20,
    most: int = MOST_NEAR_PAIRS,
) -> Match | None:
    """Match over near pairs alone, O(pairs) memory: for blurs far below the diameter. None if they are too many.

    With a reach of a few blurs no mass travels beyond about six of them, so the pairs left out weigh less than
    exp(-18). Sinkhorn runs on the scalings, which stay within exp(±reach²/blur²) (Chizat et al. 2018, alg. 1).
    """
    x, y = moving.features(normal_weight), fixed.features(normal_weight)
    pairs = near_pairs(x, y, 6 * blur, most * max(len(x), len(y)))
    if pairs is None:
        return None
    # in double precision: scalings of points far from all others are small
    pairs.data = np.exp(pairs.data.astype(np.float64) * (-0.5 / blur**2))
    kernel, transposed = SparseMatrix(pairs), SparseMatrix(pairs.T)
    damping = 1.0 / (1.0 + (blur / reach) ** 2)
    u, v = np.ones(len(x)), np.ones(len(y))
    for _ in range(iterations):
        u = np.clip(kernel @ (fixed.weights * v), 1e-200, None) ** -damping
        v = np.clip(transposed @ (moving.weights * u), 1e-200, None) ** -damping
    mass = kernel @ (fixed.weights * v)
    found = mass > 1e-150
    values = np.concatenate([fixed.points, fixed.normals], axis=1)
    means = (kernel @ ((fixed.weights * v)[:, None] * values)) / np.where(found, mass, np.nan)[:, None]
    confidence = np.where(found, u * mass, 0.0)
    return _trusted(means, confidence, moving.points)


def _trusted(means: FloatArray, confidence: FloatArray, points: FloatArray) -> Match:
    """Leave points without a finite target where they are, with no confidence."""
    good = np.isfinite(means).all(axis=1) & np.isfinite(confidence)
    targets = np.where(good[:, None], means[:, :3], points)
    normals = np.where(good[:, None], means[:, 3:], 0.0)
    return Match(targets, normals, np.where(good, np.clip(confidence, 0.0, 10.0), 0.0))
