"""Linear maps of space: rigid, similarity and affine, and their fit to corresponding points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from otreg.deformations.base import Deformation, parameter_tensor
from otreg.deformations.matrices import determinant
from otreg.errors import InputError, NotInvertibleError

KINDS = ("rigid", "similarity", "affine")
"""Kinds of linear map, each a special case of the next."""

_KIND_TOLERANCE = 1e-6  # how far A'A of a "rigid" matrix may be from I: files may carry 7 digits
_RANK_TOLERANCE = 1e-9  # directions in which the points extend less than this share of their largest extent
_TIE_BREAK = 1e-10  # pull towards the identity where the points leave the rotation open


class Affine(Deformation):
    """The map ``y = A x + t``.

    Parameters
    ----------
    matrix : array_like or tensor, shape (3, 3)
        A. A float64 tensor is kept as it is, so that gradients reach it.
    translation : array_like or tensor, shape (3,)
        t, in the unit of the files.
    kind : {"rigid", "similarity", "affine"}
        What A is promised to be: orthogonal, a multiple of an orthogonal matrix, or anything.
    moving_frame, fixed_frame, metadata
        See :class:`~otreg.deformations.base.Deformation`.

    Raises
    ------
    InputError
        On wrong shapes, numbers that are not finite, or a matrix that is not of its kind (to 1e-6).
    """

    def __init__(
        self,
        matrix: Any,
        translation: Any,
        kind: str = "affine",
        *,
        moving_frame: str | None = None,
        fixed_frame: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(moving_frame=moving_frame, fixed_frame=fixed_frame, metadata=metadata)
        if kind not in KINDS:
            raise InputError(f"unknown kind of affine map {kind!r}: use one of {', '.join(KINDS)}")
        self.matrix = parameter_tensor(matrix, (3, 3), "matrix")
        self.translation = parameter_tensor(translation, (3,), "translation")
        self.kind = kind
        if kind != "affine":
            _check_kind(self.matrix.detach(), kind)

    def __repr__(self) -> str:
        return f"Affine(kind={self.kind!r}, scale={self.scale:.6g})"

    @classmethod
    def identity(cls) -> Affine:
        """Return the map that leaves every point where it is."""
        matrix = torch.eye(3, dtype=torch.float64, device="cpu")
        return cls(matrix, torch.zeros_like(matrix[0]), "rigid")

    @classmethod
    def fit(
        cls,
        x: Any,
        y: Any,
        weights: Any = None,
        kind: str = "rigid",
        *,
        allow_reflection: bool = False,
    ) -> Affine:
        """Return the map of a kind that minimises ``sum_n w_n |A x_n + t - y_n|²``.

        Rigid and similarity: Kabsch 1976 and Umeyama 1991, the closed form by the singular values of the
        weighted cross-covariance. Affine: weighted least squares on top of the similarity, by the
        pseudo-inverse, so that directions in which the points do not extend (planar, collinear or few points)
        follow the similarity.

        Parameters
        ----------
        x, y : array or tensor, shape (N, 3)
            Corresponding points, row by row, of MOVING and FIXED. At least one.
        weights : array or tensor, shape (N,), optional
            Not negative, not all zero; equal by default.
        kind : {"rigid", "similarity", "affine"}
        allow_reflection : bool, default False
            Whether the map may mirror. A mirrored organ is the other side of the body, so the default is the
            best map that does not; for an affine fit whose least-squares solution mirrors, that is the
            similarity.

        Returns
        -------
        Affine
            Where the points leave a rotation open (all on one line, or all equal) it is the one nearest the
            identity; where they leave the scale open it is 1. Gradients flow from tensors that require them.

        Raises
        ------
        InputError
            On wrong shapes, numbers that are not finite, or weights that cannot be used.
        """
        if kind not in KINDS:
            raise InputError(f"unknown kind of affine map {kind!r}: use one of {', '.join(KINDS)}")
        moving = parameter_tensor(x, (None, 3), "x")
        fixed = parameter_tensor(y, (moving.shape[0], 3), "y")
        share = _shares(weights, moving)
        moving_centre, fixed_centre = share @ moving, share @ fixed
        moving, fixed = moving - moving_centre, fixed - fixed_centre
        matrix = _procrustes(moving, fixed, share, kind != "rigid", allow_reflection)
        if kind == "affine":
            refined = _least_squares(moving, fixed, share, matrix)
            if allow_reflection or bool(determinant(refined.detach()) > 0):
                matrix = refined
        return cls(matrix, fixed_centre - matrix @ moving_centre, kind)

    @property
    def scale(self) -> float:
        """Mean change of length, ``|det A|^(1/3)``."""
        return float(determinant(self.matrix.detach()).abs()) ** (1.0 / 3.0)

    @property
    def inverse(self) -> Affine:
        """The exact inverse, ``x = A⁻¹ (y - t)``, of the same kind; NotInvertibleError if A is singular."""
        singular_values = torch.linalg.svdvals(self.matrix.detach())
        if bool(singular_values[-1] <= 3e-15 * singular_values[0]):
            raise NotInvertibleError("the affine map is singular: it flattens space, so it has no inverse")
        back = torch.linalg.inv(self.matrix)
        return Affine(back, -(back @ self.translation), self.kind, **self._swapped())

    def parameters(self) -> dict[str, Tensor]:
        """Return ``matrix`` (3, 3) and ``translation`` (3,)."""
        return {"matrix": self.matrix, "translation": self.translation}

    def after(self, first: Affine) -> Affine:
        """Return the one affine map that does what ``first`` and then this one do."""
        # it lies where this one does: the identity that a chain begins with is on the CPU
        matrix, translation = first.matrix.to(self.matrix.device), first.translation.to(self.matrix.device)
        return Affine(
            self.matrix @ matrix,
            self.matrix @ translation + self.translation,
            max(self.kind, first.kind, key=KINDS.index),
            moving_frame=first.moving_frame,
            fixed_frame=self.fixed_frame,
            metadata=first.metadata | self.metadata,
        )

    def _map(self, points: Tensor) -> Tensor:
        return points @ self.matrix.to(points).T + self.translation.to(points)

    def _jacobian(self, points: Tensor) -> Tensor:
        # A copy per point: an expanded view would surprise whoever writes into the result.
        return self.matrix.to(points).repeat(points.shape[0], 1, 1)


def _check_kind(matrix: Tensor, kind: str) -> None:
    gram = matrix.T @ matrix
    square = 1.0 if kind == "rigid" else float(gram.trace()) / 3.0
    error = float((gram - square * torch.eye(3, dtype=gram.dtype, device=gram.device)).abs().max())
    if square == 0.0 or error > _KIND_TOLERANCE * square:
        wanted = "orthogonal" if kind == "rigid" else "a multiple of an orthogonal matrix"
        raise InputError(f"the matrix of a {kind} map must be {wanted}: use kind='affine'")


def _shares(weights: Any, points: Tensor) -> Tensor:
    """Weights that sum to 1, (N,)."""
    count = points.shape[0]
    if weights is None:
        return points.new_full((count,), 1.0 / count)
    tensor = parameter_tensor(weights, (count,), "weights").to(points)
    largest = tensor.max()
    if bool((tensor < 0).any()) or not bool(largest > 0):
        raise InputError("weights must not be negative, nor all zero")
    tensor = tensor / largest  # first, so that the sum of huge weights stays finite
    return tensor / tensor.sum()


def _procrustes(x: Tensor, y: Tensor, share: Tensor, scaled: bool, allow_reflection: bool) -> Tensor:
    """Rotation, or scaled rotation, of centred points: Umeyama 1991, equations (40)-(42)."""
    covariance = (y * share[:, None]).T @ x
    identity = torch.eye(3, dtype=x.dtype, device=x.device)
    size = torch.linalg.svdvals(covariance.detach())
    if not bool(size[0] > 0):
        return identity
    if bool(size[1] <= _RANK_TOLERANCE * size[0]):  # on one line: the turn about it is open
        covariance = covariance + _TIE_BREAK * size[0] * identity
    left, values, right = torch.linalg.svd(covariance)
    signs = torch.ones_like(values)
    if not allow_reflection:
        signs = torch.cat([signs[:2], torch.sign(torch.linalg.det((left @ right).detach()))[None]])
    rotation = (left * signs) @ right
    if not scaled:
        return rotation
    spread = (share[:, None] * x * x).sum()
    scale = (values * signs).sum() / spread
    return rotation * scale if bool(scale.detach() > 0) else rotation


def _least_squares(x: Tensor, y: Tensor, share: Tensor, start: Tensor) -> Tensor:
    """Matrix of the weighted least-squares fit of centred points that is nearest to ``start``."""
    root = share.sqrt()[:, None]
    inverse = torch.linalg.pinv(root * x, rtol=_RANK_TOLERANCE)
    return start + (inverse @ (root * (y - x @ start.T))).T
