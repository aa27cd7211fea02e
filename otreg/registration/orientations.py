"""Many orientations of a few points, refined by closest points side by side."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from otreg.registration.sampling import Samples
from otreg.surface import FloatArray

OUTLIER_SCALE = 0.05
"""Distance from which partners are weighed down, as a share of FIXED's diameter."""

AT_ONCE = 4
"""Orientations whose distances stay in the processor's cache."""


class Orientations:
    """Rigid motions of scaled points, all refined at once; a few hundred points, every pair of which is looked at.

    Parameters
    ----------
    moving, fixed : Samples
        A few hundred points each.
    scales : array, shape (P,)
        By which ``moving`` is scaled first.
    rotations, translations : arrays, shapes (P, 3, 3) and (P, 3)
        Of the scaled points.
    normal_weight : float
        Of unit normals beside positions, in the distances.
    """

    def __init__(
        self,
        moving: Samples,
        fixed: Samples,
        scales: FloatArray,
        rotations: FloatArray,
        translations: FloatArray,
        normal_weight: float,
    ) -> None:
        self.scales, self.rotations, self.translations = (
            torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in (scales, rotations, translations)
        )
        self._grown = self.scales[:, None, None] * torch.from_numpy(moving.points)
        self._normals = torch.from_numpy(normal_weight * moving.normals)
        self._targets = torch.from_numpy(fixed.points)
        self._features = torch.from_numpy(fixed.features(normal_weight))
        self._weights = torch.from_numpy(moving.weights), torch.from_numpy(fixed.weights)

    def _moved(self) -> Tensor:
        """Features of the moved points, (P, n, 6)."""
        turned = self.rotations.transpose(1, 2)
        points = self._grown @ turned + self.translations[:, None, :]
        return torch.cat([points, self._normals @ turned], dim=2)

    def _closest(self, moved: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Distances to the closest fixed point (P, n), and which it is; those back (P, m), and which."""
        # single precision finds the partner, double says how far it is
        y = self._features.float()
        half = 0.5 * y.square().sum(dim=1)
        found: list[tuple[FloatArray, FloatArray]] = []
        for x in moved.float().split(AT_ONCE):
            squared = torch.baddbmm(
                0.5 * x.square().sum(dim=2)[:, :, None] + half, x, y.T.expand(len(x), -1, -1), alpha=-1.0
            ).numpy()
            # NumPy's is four times as quick
            found.append((squared.argmin(axis=2), squared.argmin(axis=1)))
        to, origin = (torch.from_numpy(np.concatenate(part)) for part in zip(*found, strict=True))
        there = (moved - self._features[to]).norm(dim=2)
        back = (torch.take_along_dim(moved, origin[:, :, None], dim=1) - self._features).norm(dim=2)
        return there, to, back, origin

    def refine(self, steps: int) -> None:
        """Closest points both ways, far ones weighed down (Cauchy), ``steps`` times."""
        for _ in range(steps):
            there, to, back, origin = self._closest(self._moved())
            weights = torch.cat([part.expand(len(there), -1) for part in self._weights], dim=1)
            weights = weights / (1 + (torch.cat([there, back], dim=1) / OUTLIER_SCALE).square())
            weights = (weights / weights.sum(dim=1, keepdim=True))[:, :, None]
            x = torch.cat([self._grown, torch.take_along_dim(self._grown, origin[:, :, None], dim=1)], dim=1)
            y = torch.cat([self._targets[to], self._targets.expand(len(to), -1, -1)], dim=1)
            centre_x, centre_y = (weights * x).sum(dim=1), (weights * y).sum(dim=1)
            # never a reflection (Umeyama 1991, eqs. 40-42)
            left, _, right = torch.linalg.svd(
                (weights * (y - centre_y[:, None, :])).transpose(1, 2) @ (x - centre_x[:, None, :])
            )
            sign = torch.ones_like(centre_x)
            sign[:, 2] = torch.where(torch.linalg.det(left @ right) < 0, -1.0, 1.0)
            self.rotations = (left * sign[:, None, :]) @ right
            self.translations = centre_y - (self.rotations @ centre_x[:, :, None])[:, :, 0]

    def distances(self, truncation: float, partial: bool) -> FloatArray:
        """Mean squared distance both ways of each orientation, (P,): as :func:`~pose.truncated_distance` has it."""
        there, _, back, _ = self._closest(self._moved())
        means = torch.stack(
            [
                (found.clamp_max(truncation).square() * weights).sum(dim=1) / weights.sum()
                for found, weights in zip((there, back), self._weights, strict=True)
            ]
        )
        found: FloatArray = (2.0 * means.amin(dim=0) if partial else means.sum(dim=0)).numpy()
        return found
