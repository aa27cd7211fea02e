"""The differentiable primitives: a log-sum-exp, and a sum of Gaussians that is closed under derivatives.

Everything that is summed over pairs here has the form

``A_i = Σ_j exp(p_i + q_j - |x_i - y_j|²/(2 eps)) v_j``

(a kernel product when p = q = 0; a transport plan applied to v when p and q are potentials). Its derivatives
are sums of the same form with more channels, so it can be differentiated any number of times, and no pair is
ever stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from otreg.reductions.blocks import finite_or_zero
from otreg.reductions.engines import Engine


def gibbs_sum(
    x: Tensor, y: Tensor, p: Tensor | None, q: Tensor | None, v: Tensor, eps: float, reduce: Engine
) -> Tensor:
    """``A_i = Σ_j exp(p_i + q_j - |x_i - y_j|²/(2 eps)) v_j``, differentiable any number of times.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
    p, q : Tensor, shapes (N,) and (M,), float64, optional
        Zero by default; ``-inf`` leaves a point out.
    v : Tensor, shape (M, V), in the dtype of the points
    eps : float
    reduce : Engine

    Returns
    -------
    Tensor, shape (N, V), in the dtype of the points
    """
    p = torch.zeros(len(x), dtype=torch.float64, device=x.device) if p is None else p
    q = torch.zeros(len(y), dtype=torch.float64, device=y.device) if q is None else q
    return _GibbsSum.apply(x, y, p, q, v, eps, reduce)


def log_sum(x: Tensor, y: Tensor, q: Tensor, eps: float, reduce: Engine) -> Tensor:
    """``log Σ_j exp(q_j - |x_i - y_j|²/(2 eps))``, (N,), float64, differentiable any number of times."""
    return _LogSum.apply(x, y, q, eps, reduce)


class _GibbsSum(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, p: Tensor, q: Tensor, v: Tensor, eps: float, reduce: Engine
    ) -> Tensor:
        logs, mean = reduce(x, y, q, eps, v)
        assert mean is not None
        total = mean * torch.exp(logs + p).to(mean.dtype)[:, None]
        ctx.save_for_backward(x, y, p, q, v, total)
        ctx.eps, ctx.reduce = eps, reduce
        return total

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        x, y, p, q, v, total = ctx.saved_tensors
        eps, reduce = ctx.eps, ctx.reduce
        need_x, need_y, need_p, need_q, need_v = ctx.needs_input_grad[:5]
        grad_x = grad_y = grad_p = grad_q = grad_v = None
        centre = y.detach().mean(dim=0)
        if need_x:
            grad_x = _position_gradient(x, y, p, q, v, cotangent, total, centre, eps, reduce)
        if need_p:
            grad_p = (cotangent * total).sum(dim=1).double()
        if need_y or need_q or need_v:
            back = gibbs_sum(y, x, q, p, cotangent, eps, reduce)
            grad_v = back
            if need_q:
                grad_q = (v * back).sum(dim=1).double()
            if need_y:
                grad_y = _position_gradient(y, x, q, p, cotangent, v, back, centre, eps, reduce)
        return grad_x, grad_y, grad_p, grad_q, grad_v, None, None


def _position_gradient(
    x: Tensor, y: Tensor, p: Tensor, q: Tensor, v: Tensor, cotangent: Tensor, total: Tensor, centre: Tensor,
    eps: float, reduce: Engine,
) -> Tensor:  # fmt: skip
    """``Σ_c G_ic Σ_j A_ij v_jc (y_j - x_i) / eps``, from one sum with V·D channels."""
    near_x, near_y = x - centre, y - centre
    outer = (v[:, :, None] * near_y[:, None, :]).flatten(1)
    sums = gibbs_sum(x, y, p, q, outer, eps, reduce).unflatten(1, (v.shape[1], y.shape[1]))
    pulled = (cotangent[:, :, None] * sums).sum(dim=1)
    return (pulled - near_x * (cotangent * total).sum(dim=1, keepdim=True)) / eps


class _LogSum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, q: Tensor, eps: float, reduce: Engine) -> Tensor:
        logs, _ = reduce(x, y, q, eps, None)
        ctx.save_for_backward(x, y, q, logs)
        ctx.eps, ctx.reduce = eps, reduce
        return logs

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        x, y, q, logs = ctx.saved_tensors
        eps, reduce = ctx.eps, ctx.reduce
        # the softmax itself is exp(p_i + q_j - ...) with p = -log_sum; rows with nothing to sum have no
        # gradient
        p = -finite_or_zero(logs)
        weight = torch.where(torch.isfinite(logs), cotangent, torch.zeros_like(cotangent)).to(x.dtype)[
            :, None
        ]
        grad_x = grad_y = grad_q = None
        centre = y.detach().mean(dim=0)
        if ctx.needs_input_grad[0]:
            ones = torch.ones_like(y[:, :1])
            total = gibbs_sum(x, y, p, q, ones, eps, reduce)
            grad_x = _position_gradient(x, y, p, q, ones, weight, total, centre, eps, reduce)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            back = gibbs_sum(y, x, q, p, weight, eps, reduce)
            grad_q = back[:, 0].double()
            if ctx.needs_input_grad[1]:
                ones = torch.ones_like(back)
                grad_y = _position_gradient(y, x, q, p, weight, ones, back, centre, eps, reduce)
        return grad_x, grad_y, grad_q, None, None
