"""What every kernel does: the contract that attachments, flows and deformations rely on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from otreg.reductions.checks import as_points, same_dimension, same_kind
from otreg.reductions.kernels import over_pairs

Parameter = float | Tensor
"""A float, or a tensor of shape (), to which gradients flow."""


class Kernel(ABC):
    """A positive definite function k of two points, for sums over all pairs of them.

    Kernels are immutable. Their parameters are floats, or tensors of shape () that gradients reach.
    """

    @property
    def widths(self) -> tuple[Parameter, ...]:
        """The lengths at which the kernel works, in the unit of the points; none unless it is radial."""
        return ()

    @abstractmethod
    def parameters(self) -> dict[str, Parameter]:
        """Return the numbers that the kernel depends on, by name."""

    def sum(self, x: Any, y: Any, v: Any, engine: str = "auto") -> Any:
        """``Σ_j k(x_i, y_j) v_j`` for each x_i, streamed: memory grows as N + M, with gradients too.

        Parameters
        ----------
        x, y : array or Tensor, shapes (N, D) and (M, D)
            Points, float32 or float64, of one kind.
        v : array or Tensor, shape (M,) or (M, V)
            Values on y, of the dtype of the points.
        engine : {"auto", "fused", "keops", "blocks"}
            ``auto`` takes the fused engine on a CPU and on CUDA. What an engine does not know goes through plain
            chunks.

        Returns
        -------
        array or Tensor, shape (N,) or (N, V)
            A tensor if anything given, or a parameter of the kernel, is one. Differentiable at least twice in
            x, y, v and the parameters.

        Raises
        ------
        InputError
            On shapes that do not match, NaN, or an engine that is unknown or cannot run here.
        """

        def add_up(x: Tensor, y: Tensor, values: Tensor, engine: str) -> Tensor:
            return self._sum(x, y, values, engine)

        return over_pairs(x, y, v, add_up, engine, tuple(self.parameters().values()))

    def __call__(self, x: Any, y: Any, v: Any, engine: str = "auto") -> Any:
        """The same as :meth:`sum`."""
        return self.sum(x, y, v, engine)

    def matrix(self, x: Any, y: Any) -> Any:
        """``k(x_i, y_j)`` as an (N, M) array: for small problems, and as a reference.

        Parameters
        ----------
        x, y : array or Tensor, shapes (N, D) and (M, D)

        Returns
        -------
        array or Tensor, shape (N, M)
            In the dtype of the points; differentiable, all pairs being stored.
        """
        given = (x, y, *self.parameters().values())
        is_numpy = not any(isinstance(each, Tensor) for each in given)
        x, y = as_points(x, "x", empty=True), as_points(y, "y", empty=True)
        same_kind(x, y, "x", "y")
        same_dimension(x, y, "x", "y")
        matrix = self._matrix(x, y)
        return matrix.numpy() if is_numpy else matrix

    @abstractmethod
    def _sum(self, x: Tensor, y: Tensor, v: Tensor, engine: str) -> Tensor:
        """:meth:`sum` of checked points (at least one each) and values (M, V), on an engine by name."""

    @abstractmethod
    def _matrix(self, x: Tensor, y: Tensor) -> Tensor:
        """:meth:`matrix` of checked points."""


def root(squares: Tensor) -> Tensor:
    """Square root whose derivatives at 0 are 0, not infinite: there, they only meet factors that vanish."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, torch.ones_like(squares)).sqrt(), 0.0)
