"""The rigid start: many orientations, refined by closest points, scored by a truncated distance."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from otreg.registration.orientations import OUTLIER_SCALE, Orientations
from otreg.registration.sampling import Samples, farthest_points
from otreg.surface import FloatArray

Pose = tuple[float, FloatArray, FloatArray]
"""Scale, rotation (3, 3) and translation (3,): y = scale · R x + t."""

NORMAL_WEIGHT = 0.15
TRUNCATION = 0.25
NEAR_TIE = 1.02
"""Two samplings of one surface differ by more than this share of their distance."""


def procrustes(x: FloatArray, y: FloatArray, weights: FloatArray, scaled: bool) -> Pose:
    """Weighted least-squares similarity from x to y, never a reflection (Umeyama 1991, eqs. 40-42)."""
    weights = weights / weights.sum()
    centre_x, centre_y = weights @ x, weights @ y
    a, b = x - centre_x, y - centre_y
    left, singular, right = np.linalg.svd((weights[:, None] * b).T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right)) or 1.0])
    rotation = left @ np.diag(sign) @ right
    spread = float(weights @ (a * a).sum(axis=1))
    scale = float((singular * sign).sum()) / spread if scaled and spread > 0 else 1.0
    return scale, rotation, centre_y - scale * rotation @ centre_x


def uniform_rotations(count: int) -> FloatArray:
    """Evenly spread rotations, (count, 3, 3): super-Fibonacci spirals (Alexa, CVPR 2022)."""
    step = np.arange(count) + 0.5
    first, second = 2 * np.pi * step / np.sqrt(2.0), 2 * np.pi * step / 1.533751168755204288118041
    inner, outer = np.sqrt(step / count), np.sqrt(1 - step / count)
    quaternions = [
        inner * np.sin(first),
        inner * np.cos(first),
        outer * np.sin(second),
        outer * np.cos(second),
    ]
    return Rotation.from_quat(np.stack(quaternions, axis=1)).as_matrix()


def principal_frame(samples: Samples) -> tuple[FloatArray, FloatArray, float]:
    """Weighted mean, right-handed principal axes as columns (largest first), and root-mean-square radius."""
    weights = samples.weights / samples.weights.sum()
    centre = weights @ samples.points
    offset = samples.points - centre
    axes = np.linalg.eigh((offset * weights[:, None]).T @ offset)[1][:, ::-1].copy()
    if np.linalg.det(axes) < 0:
        axes[:, 2] *= -1
    return centre, axes, float(np.sqrt(weights @ (offset**2).sum(axis=1)))


def apply_pose(pose: Pose, samples: Samples) -> Samples:
    """Move samples and turn their normals."""
    scale, rotation, translation = pose
    points = scale * samples.points @ rotation.T + translation
    return Samples(points, samples.normals @ rotation.T, samples.weights)


def truncated_distance(
    moved: Samples, fixed: Samples, truncation: float = TRUNCATION, partial: bool = False
) -> float:
    """Mean squared distance both ways between positions and normals, each at most ``truncation``².

    With ``partial``, twice the smaller one: a part is near the whole, though the whole is not near the part.
    """
    x, y = moved.features(NORMAL_WEIGHT), fixed.features(NORMAL_WEIGHT)
    there = np.minimum(cKDTree(y).query(x)[0], truncation) ** 2
    back = np.minimum(cKDTree(x).query(y)[0], truncation) ** 2
    means = np.average(there, weights=moved.weights), np.average(back, weights=fixed.weights)
    return float(2.0 * min(means) if partial else sum(means))


def subset(samples: Samples, count: int) -> Samples:
    """Thin samples evenly, the weights of those left out going to their nearest neighbour."""
    features = samples.features(NORMAL_WEIGHT)
    chosen = farthest_points(features, count)
    owner = cKDTree(features[chosen]).query(features)[1]
    weights = np.asarray(np.bincount(owner, samples.weights, len(chosen)), dtype=np.float64)
    return Samples(samples.points[chosen], samples.normals[chosen], weights)


def refine(pose: Pose, moving: Samples, fixed: Samples, steps: int, scaled: bool, scale_range: float) -> Pose:
    """Closest points both ways, far ones weighed down (Cauchy), ``steps`` times."""
    start = pose[0]
    tree = cKDTree(fixed.features(NORMAL_WEIGHT))
    for _ in range(steps):
        moved = apply_pose(pose, moving)
        features = moved.features(NORMAL_WEIGHT)
        there, to = tree.query(features)
        back, origin = cKDTree(features).query(fixed.features(NORMAL_WEIGHT))
        weights = np.concatenate([moving.weights, fixed.weights])
        weights = weights / (1 + (np.concatenate([there, back]) / OUTLIER_SCALE) ** 2)
        x = np.concatenate([moving.points, moving.points[origin]])
        y = np.concatenate([fixed.points[to], fixed.points])
        scale, rotation, translation = procrustes(x, y, weights, scaled)
        if not start / scale_range <= scale <= start * scale_range:
            break
        pose = scale, rotation, translation
    return pose


def find_pose(moving: Samples, fixed: Samples, scaled: bool, starts: int, partial: bool = False) -> Pose:
    """Find the similarity (or rigid map) that brings ``moving`` onto ``fixed``, from any pose.

    The given pose wins a near tie: data that are aligned already stay as they are.
    """
    centre_x, axes_x, radius_x = principal_frame(moving)
    centre_y, axes_y, radius_y = principal_frame(fixed)
    ratio = radius_y / max(radius_x, 1e-12) if scaled else 1.0
    ratio = 1.0 if 0.8 < ratio < 1.25 else ratio
    signs = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    rotations = [
        np.eye(3),
        *(axes_y @ np.diag(sign) @ axes_x.T for sign in signs),
        *uniform_rotations(starts),
    ]
    given: Pose = (1.0, np.eye(3), np.zeros(3))
    poses: list[Pose] = [given, *((ratio, r, centre_y - ratio * r @ centre_x) for r in rotations)]
    scales, turns, shifts = (np.array(part) for part in zip(*poses, strict=True))
    tried = Orientations(subset(moving, 200), subset(fixed, 200), scales, turns, shifts, NORMAL_WEIGHT)
    # without a free scale: closest points would shrink what is not turned right yet
    tried.refine(8)
    scores = tried.distances(TRUNCATION, partial)
    scores[0] *= 0.97
    kept: list[Pose] = []
    for k in np.argsort(scores, kind="stable"):
        pose = float(tried.scales[k]), tried.rotations[k].numpy(), tried.translations[k].numpy()
        if all(np.trace(pose[1] @ other[1].T) < 2.9 for other in kept):
            kept.append(pose)
        if len(kept) == 6:
            break
    many_x, many_y = subset(moving, 1000), subset(fixed, 1000)
    refined_poses = [refine(pose, many_x, many_y, 25, scaled, 1.7) for pose in kept]
    reached = [
        truncated_distance(apply_pose(pose, many_x), many_y, partial=partial) for pose in refined_poses
    ]
    best = int(np.argmin(reached))
    if truncated_distance(many_x, many_y, partial=partial) <= NEAR_TIE * reached[best]:
        return given
    return refined_poses[best]
