"""How much a map deforms: what decides between two that fit about as well, and what a fit may not do."""

from __future__ import annotations

from typing import Any

import numpy as np

from otreg.surface import FloatArray

BENDING_WEIGHT = 2.0
"""Of the spread of the gradient over the shape, beside the strain itself."""

LEAST_STRETCH = 1e-3


def deformation_energy(transform: Any, pose: FloatArray, points: FloatArray, weights: FloatArray) -> float:
    """Mean squared strain of a map beyond its pose, plus twice the variance of its gradient over the shape.

    ``mean |log s(J)|² + 2 mean |J A⁻¹ - mean J A⁻¹|²`` with the singular values s of the gradient J A⁻¹, A (3, 3) being
    the matrix of the pose, with its scale. Without unit. The first part is the Hencky strain (Neff et al. 2016, Arch.
    Ration. Mech. Anal. 222); the second, which an affine map does not have, is what a spline has to do.
    """
    gradient = transform.jacobian(points) @ np.linalg.inv(pose)
    share = weights / weights.sum()
    stretch = np.log(np.maximum(np.linalg.svd(gradient, compute_uv=False), LEAST_STRETCH))
    mean = np.tensordot(share, gradient, axes=1)
    spread = ((gradient - mean) ** 2).sum(axis=(1, 2))
    return float(share @ (stretch**2).sum(axis=1) + BENDING_WEIGHT * share @ spread)


def folded_share(gradients: FloatArray, weights: FloatArray) -> float:
    """Share of the weight of points whose gradients (n, 3, 3) turn space inside out, det J ≤ 0."""
    return float(weights[~(np.linalg.det(gradients) > 0)].sum() / weights.sum())
