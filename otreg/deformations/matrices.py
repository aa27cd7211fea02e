"""Determinant and inverse of stacks of 3×3 matrices by cofactors.

A stack may hold singular or NaN matrices: unlike LAPACK's routines these give infinities or NaN for those and
leave the others alone, which is what Newton steps and Jacobians need. Both are differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor


def adjugate(matrices: Tensor) -> Tensor:
    """Adjugate (transposed cofactors) of matrices (N, 3, 3): ``adjugate(A) @ A = det(A) I``."""
    first, second, third = matrices.unbind(dim=-1)
    return torch.stack(
        [
            torch.linalg.cross(second, third),
            torch.linalg.cross(third, first),
            torch.linalg.cross(first, second),
        ],
        dim=-2,
    )


def determinant(matrices: Tensor) -> Tensor:
    """Determinants (N,) of matrices (N, 3, 3)."""
    first, second, third = matrices.unbind(dim=-1)
    return (first * torch.linalg.cross(second, third)).sum(dim=-1)


def inverse(matrices: Tensor) -> Tensor:
    """Inverses (N, 3, 3) of matrices (N, 3, 3); not finite where the determinant is zero."""
    return adjugate(matrices) / determinant(matrices)[..., None, None]
