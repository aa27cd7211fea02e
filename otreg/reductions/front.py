"""Sums over all pairs of points, streamed: the one front behind which the engines stand."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.reductions import compiled, mutual
from otreg.reductions.checks import (
    as_points,
    as_tensor,
    as_values,
    finite,
    positive,
    same_dimension,
    same_kind,
)
from otreg.reductions.engines import choose, get_engine
from otreg.reductions.gibbs import gibbs_sum, log_sum


class Softmin(NamedTuple):
    """What :func:`softmin` gives back: ``value`` (N,), and ``mean`` (N, V) or (N,) or None."""

    value: Any
    mean: Any


def softmin(
    x: Any,
    y: Any,
    potential: Any = None,
    weights: Any = None,
    *,
    blur: float,
    values: Any = None,
    engine: str = "auto",
) -> Softmin:
    """Smooth minimum over y of ``|x-y|²/2 - potential``, and the weighted mean that goes with it.

    ``value_i = -eps log Σ_j b_j exp((g_j - |x_i - y_j|²/2) / eps)`` with ``eps = blur²``, and
    ``mean_i = Σ_j π_ij v_j``, π being the softmax of the same terms. Streamed: memory grows as N + M.
    Differentiable any number of times in x, y, potential, weights and values.

    Parameters
    ----------
    x, y : array or Tensor, shapes (N, D) and (M, D)
        Points, float32 or float64, any dimension.
    potential : array or Tensor, shape (M,), optional
        g, in squared length units; 0 by default.
    weights : array or Tensor, shape (M,), optional
        b, 1 by default, not negative. Zeros leave points out.
    blur : float
        Length over which the minimum is smoothed.
    values : array or Tensor, shape (M,) or (M, V), optional
        What to average with the softmin's own weights; with ``values=y`` the barycentre.
    engine : {"auto", "fused", "keops", "blocks"}

    Returns
    -------
    Softmin
        ``value`` (N,) is float64, whatever the points: it is large against eps, and its differences matter.
        It is +inf where there is nothing to sum. ``mean`` has the dtype of the points.

    Raises
    ------
    InputError
        On shapes that do not match, NaN, negative weights, a blur that is not positive, or an engine that
        cannot run.
    """
    is_numpy = not any(isinstance(given, Tensor) for given in (x, y, potential, weights, values))
    x, y = as_points(x, "x", empty=True), as_points(y, "y", empty=True)
    same_kind(x, y, "x", "y")
    same_dimension(x, y, "x", "y")
    eps = positive(blur, "blur") ** 2
    h = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    if potential is not None:
        h = h + _vector(potential, y, "potential") / eps
    if weights is not None:
        h = h + logarithm(_vector(weights, y, "weights", negative=False))
    reduce = get_engine(engine, x.device.type)
    channels = None if values is None else as_values(values, y, "values", "y")
    matrix = channels if channels is None or channels.ndim == 2 else channels[:, None]
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, y, h, matrix)
    ):
        logs = log_sum(x, y, h, eps, reduce)
        mean = None if matrix is None else gibbs_sum(x, y, -logs, h, matrix, eps, reduce)
    else:
        logs, mean = reduce(x, y, h, eps, matrix)
    if mean is not None and channels is not None and channels.ndim == 1:
        mean = mean[:, 0]
    value = -eps * logs
    if is_numpy:
        return Softmin(value.numpy(), None if mean is None else mean.numpy())
    return Softmin(value, mean)


class SoftminPair(NamedTuple):
    """What :func:`softmin_pair` gives back: the softmin at each x, (N,), and at each y, (M,)."""

    to_x: Any
    to_y: Any


def softmin_pair(
    x: Any, y: Any, f: Any, g: Any, a: Any = None, b: Any = None, *, blur: float, engine: str = "auto"
) -> SoftminPair:
    """Both softmins of a pair of potentials, for little more than the price of one; without gradients.

    ``to_x_i = -eps log Σ_j b_j exp((g_j - |x_i - y_j|²/2) / eps)``,
    ``to_y_j = -eps log Σ_i a_i exp((f_i - |x_i - y_j|²/2) / eps)``.

    Parameters
    ----------
    x, y : array or Tensor, shapes (N, D) and (M, D)
        Points. The same object twice (with f, a those of g, b) stands for a cloud and itself: half the price.
    f, g : array or Tensor, shapes (N,) and (M,)
        Potentials, in squared length units. Cheapest where they nearly answer each other.
    a, b : array or Tensor, shapes (N,) and (M,), optional
        Weights, 1 by default, not negative.
    blur : float
    engine : {"auto", "fused", "keops", "blocks"}
        The fused engine shares the exponentials of both directions on a CPU; the others sum twice.

    Returns
    -------
    SoftminPair
        Both float64.
    """
    is_numpy = not any(isinstance(given, Tensor) for given in (x, y, f, g, a, b))
    same = x is y and f is g and a is b
    x = as_points(x, "x")
    y = x if same else as_points(y, "y")
    same_kind(x, y, "x", "y")
    same_dimension(x, y, "x", "y")
    eps = positive(blur, "blur") ** 2
    with torch.no_grad():
        p, q = _vector(f, x, "f") / eps, _vector(g, y, "g") / eps
        one_x, one_y = (torch.ones(len(points), dtype=torch.float64, device=x.device) for points in (x, y))
        weights_x = one_x if a is None else _vector(a, x, "a", negative=False)
        weights_y = one_y if b is None else _vector(b, y, "b", negative=False)
        reduce = get_engine(engine, x.device.type)
        attends = x.device.type == "cpu" and choose(engine, "cpu") == "fused" and not compiled.is_available()
        if attends:
            rows, columns = mutual.log_sum_exp_pair(x, y, p, q, weights_x, weights_y, eps, reduce)
        else:
            rows = reduce(x, y, q + logarithm(weights_y), eps, None)[0]
            columns = rows if same else reduce(y, x, p + logarithm(weights_x), eps, None)[0]
    found = (-eps * rows, -eps * columns)
    return SoftminPair(*(each.numpy() for each in found)) if is_numpy else SoftminPair(*found)


def logarithm(weights: Tensor) -> Tensor:
    """Logarithm with -inf for zero weights, whose gradient there is 0 rather than NaN."""
    positive_ones = torch.where(weights > 0, weights, torch.ones_like(weights))
    return torch.where(weights > 0, positive_ones.log(), torch.full_like(weights, -torch.inf))


def _vector(given: Any, points: Tensor, name: str, *, negative: bool = True) -> Tensor:
    vector = as_tensor(given, name)
    if vector.shape != (len(points),):
        raise InputError(f"{name} must have shape ({len(points)},), got {tuple(vector.shape)}")
    if vector.device != points.device:
        raise InputError(f"{name} is on {vector.device} but its points are on {points.device}")
    finite(vector, name)
    if not negative and bool((vector.detach() < 0).any()):
        raise InputError(f"{name} must not be negative, got {float(vector.detach().min()):.6g}")
    return vector.double()
