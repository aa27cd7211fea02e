"""Penalties on intermediate results whose graphs do not wait for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from otreg.autodiff.closures import cut_off, edge_of, leaves_used, moment
from otreg.autodiff.heap import Holes, heap_bytes
from otreg.autodiff.surroundings import Autocast, RandomState, devices_of, transformed, undisturbed
from otreg.autodiff.tape import version_of
from otreg.errors import InputError

Factor = float | Tensor
_HOLES = Holes()


def eager_penalty(
    h: Tensor,
    penalty: Callable[[Tensor], Tensor],
    weight: Factor = 1.0,
    *,
    scale_gradient: Factor | Callable[[], Factor] | None = None,
    parameters: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """A penalty on an intermediate result, differentiated at once instead of in the backward pass.

    ``h, value = eager_penalty(h, penalty, weight)`` and ``loss = loss + value`` are ``loss + weight * penalty(h)``,
    with the gradients of plain autograd to rounding. What the penalty builds is freed before this function
    returns; the gradient at ``h`` is stored instead, one tensor like ``h``.

    Parameters
    ----------
    h : Tensor, any shape, floating or complex
        With samples along its first axis (B, ...), where the penalty is one number for each.
    penalty : callable
        ``h -> Tensor`` of shape () or (B,), real. Of (B,), entry b must depend on sample b of ``h`` alone. It is
        called once (see Notes), with a stand-in for ``h`` that shares its memory and must not be changed in
        place. Leaves that need a gradient and that it closes over, such as the parameters of a module, get theirs.
    weight : float or Tensor of shape () or (B,), default 1.0
        Factor of the penalty. Without ``scale_gradient`` it gets its gradient too, if it needs one.
    scale_gradient : float, Tensor of shape () or (B,), or callable, optional
        Who says how much of the penalty's gradient is added.

        - None (default): the loss, through ``value``. Added to the loss the penalty counts once; times c, c
          times; not added to it, not at all, as in plain autograd.
        - anything else: this factor, beside ``weight``. The gradient of ``factor * weight * penalty(h)`` is added
          as soon as the backward pass comes to the RETURNED ``h``, whatever the loss is. ``value`` has no
          gradient then, so adding it to the loss counts nothing twice. A Tensor is read, and a callable
          (``() -> float or Tensor``) is called, in the backward pass: fill it in at any time before. For a
          factor that only the end knows, as a weight per sample. If nothing uses the returned ``h``, nothing is
          added.
    parameters : sequence of Tensor
        Tensors that the penalty closes over and that have a history of their own (other intermediate results).
        Leaves need not be named.

    Returns
    -------
    h : Tensor
        The same values; the same object unless ``scale_gradient`` is given.
    value : Tensor
        ``weight * penalty(h)``, of shape () or (B,).

    Raises
    ------
    TypeError
        If ``h``, or what the penalty returns, is no Tensor.
    InputError
        On other shapes or dtypes than these, or where the penalty uses a tensor with a history that is not in
        ``parameters``. In the backward pass: on a factor of another shape, where the gradient of the penalty is
        differentiated again, and where, with ``scale_gradient``, a second backward pass would add it again.
        Errors of the penalty come as they are.

    Notes
    -----
    With f the upstream gradient of ``value`` (or ``scale_gradient * weight``), the backward pass adds
    ``f · ∂penalty/∂h`` by the product of the stored gradient with f, sample by sample if f has shape (B,). For the
    penalty's own parameters only the sum over samples is stored. If the entries of f turn out to differ, and
    there are such parameters, the penalty is run once more in the backward pass, with the same random numbers
    and autocast; then ``h`` is kept as well, which costs nothing where a layer keeps it anyway.

    Where gradients are disabled, or nothing needs one, the value is computed and nothing stored. Under
    ``torch.func`` transforms, forward-mode derivatives and ``torch.compile`` it is the plain sum, stored by the
    transform; ``scale_gradient`` is refused there. Under autocast the penalty runs as the code around it, and its
    gradient as a backward pass outside would; with float16 that gradient has not seen the loss scale of a gradient
    scaler, and may underflow (bfloat16 does not). Inside :func:`scan` the penalty's graph is not recorded either.
    On a CPU with glibc, freed arrays below 32 MB are handed back to the system (see :mod:`otreg.autodiff.heap`), which
    takes time to map them anew. Hooks registered on the penalty's own parameters see the gradient when it is
    stored and when it is added.
    """
    if not isinstance(h, Tensor):
        raise TypeError(f"h must be a Tensor, got {type(h).__name__}")
    if not (h.is_floating_point() or h.is_complex()):
        raise InputError(f"h must be floating or complex to have a gradient, got {h.dtype}")
    if scale_gradient is not None and isinstance(weight, Tensor) and weight.requires_grad:
        raise InputError(
            "a weight that needs a gradient goes with a value in the loss: leave out scale_gradient"
        )
    if transformed():
        if scale_gradient is not None:
            raise InputError(
                "scale_gradient needs a backward pass of its own: not under a torch.func transform"
            )
        return h, _weighted(weight, _checked(penalty(h), h))
    if not torch.is_grad_enabled():
        return h, _weighted(weight, _checked(penalty(h), h))
    # a tensor that is named twice is served once
    listed = {edge_of(tensor): tensor for tensor in parameters if tensor.requires_grad}
    eager = _Eager(penalty, h, list(listed.values()))
    if not eager.gradients:
        return h, _weighted(weight, eager.value)
    if scale_gradient is None:
        return h, _weighted(weight, _Add.apply(eager, None, h, *eager.served))
    with torch.no_grad():
        value = _weighted(weight, eager.value)

    def factor() -> Tensor:
        found = scale_gradient() if callable(scale_gradient) else scale_gradient
        return _weighted(weight, _factor(found, eager.value, "scale_gradient"))

    return _Add.apply(eager, factor, h, *eager.served), value


class _Eager:
    """A penalty's value, the tensors it serves beside h, and its gradients until the graph takes them over."""

    def __init__(self, penalty: Callable[[Tensor], Tensor], h: Tensor, listed: Sequence[Tensor]) -> None:
        self.penalty = penalty
        self.devices = devices_of([h, *listed])
        self.autocast = Autocast(self.devices)
        self.random: RandomState | None = RandomState(self.devices)
        self.added = False
        since = moment()
        run = _Run(self, h, h.requires_grad)
        self.value = run.value.detach().clone()
        self.served: list[Tensor] = []
        self.gradients: list[Tensor | None] = []
        if run.value.requires_grad:
            own = [run.h] if h.requires_grad else []
            self.served = [*listed, *leaves_used(run.value, since, [*own, *listed], "penalty")]
            found = run.gradients([*own, *self.served], torch.ones_like(self.value))
            self.gradients = found if h.requires_grad else [None, *found]
            self.anchor = _Anchor.apply(h, *self.served)
        # what a second run would need, see _Add.backward
        self.again = bool(self.served) and self.value.numel() > 1
        if not self.again:
            self.random = None

    def differentiated_again(
        self, h: Tensor, served: Sequence[Tensor], factor: Tensor
    ) -> list[Tensor | None]:
        """Gradients of ``<factor, penalty(h)>`` in the served tensors."""
        assert self.random is not None
        with undisturbed(self.devices, ()), torch.enable_grad():
            self.random.restore()
            return _Run(self, h, False).gradients(served, factor)


class _Run:
    """One run of a penalty, on a stand-in for h, whose graph nobody else sees."""

    def __init__(self, eager: _Eager, h: Tensor, wanted: bool) -> None:
        self._eager = eager
        self.h = h.detach().requires_grad_(wanted)
        self._freed = 0
        # A cast of a weight that the cache hands out would belong to the graphs of others, or to ours. And hooks
        # around us (a scan, an offload) would hold on to what is to be freed.
        with eager.autocast.again(cache_enabled=False), saved_tensors_hooks(self._pack, _unpack):
            self.value = _checked(eager.penalty(self.h), h)

    def gradients(self, tensors: Sequence[Tensor], factor: Tensor) -> list[Tensor | None]:
        """Gradients of ``<factor, value>``; None for tensors that the value does not depend on."""
        histories = [tensor for tensor in tensors if not tensor.is_leaf]
        # as a backward pass after the autocast region
        with cut_off(histories), self._eager.autocast.again(enabled=False):
            found = torch.autograd.grad(
                self.value,
                tensors,
                factor.to(self.value.dtype),
                allow_unused=True,
                retain_graph=bool(
                    histories
                ),  # a pass that stops at them still frees the nodes that made them
            )
        _HOLES.about_to_free(self._freed)
        return list(found)

    def _pack(self, tensor: Tensor) -> tuple[Tensor, int]:
        self._freed += heap_bytes(tensor)
        return tensor.detach(), version_of(tensor)


def _unpack(packed: tuple[Tensor, int]) -> Tensor:
    tensor, version = packed
    if version_of(tensor) != version:
        raise InputError("penalty changed a tensor in place after using it; make a new tensor instead")
    return tensor


class _Add(torch.autograd.Function):
    """Puts a stored gradient into the graph: behind the penalty's value, or (with ``factor``) behind h."""

    @staticmethod
    def forward(
        ctx: Any, eager: _Eager, factor: Callable[[], Tensor] | None, h: Tensor, *served: Tensor
    ) -> Tensor:
        ctx.eager, ctx.factor = eager, factor
        ctx.there = [gradient is not None for gradient in eager.gradients]
        again = (h, *served) if eager.again else ()
        # in autograd's keeping, where hooks around us see them and a backward pass frees them
        ctx.save_for_backward(*(gradient for gradient in eager.gradients if gradient is not None), *again)
        eager.gradients = []
        return eager.value.clone() if factor is None else h.detach()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        eager: _Eager = ctx.eager
        saved = iter(ctx.saved_tensors)
        stored = [next(saved) if there else None for there in ctx.there]
        with torch.no_grad():
            if ctx.factor is None:
                factor, through = cotangent, None
            else:
                if eager.added:
                    raise InputError(
                        "the gradient of an eager penalty with scale_gradient has been added already, and a second "
                        "backward pass would count it twice: add the losses and go back once"
                    )
                factor, through = ctx.factor(), cotangent
            if eager.again and bool((factor != factor.flatten()[0]).any()):
                h, *served = saved
                gradients: list[Tensor | None] = [
                    _times(stored[0], factor),
                    *eager.differentiated_again(h, served, factor),
                ]
            else:
                one = factor.flatten()[0] if eager.again else factor
                gradients = [_times(gradient, one) for gradient in stored]
        eager.added = True
        if torch.is_grad_enabled():
            gradients = [
                None if gradient is None else _Once.apply(eager.anchor, gradient) for gradient in gradients
            ]
        if through is not None and ctx.needs_input_grad[2]:
            gradients[0] = through if gradients[0] is None else through + gradients[0]
        return None, None, *gradients


class _Anchor(torch.autograd.Function):
    """Nothing, made from some tensors: what is made from it has a way back to them in the graph."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        return torch.empty(0, dtype=torch.float32, device="cpu")

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        raise InputError(
            "the gradient of an eager penalty cannot be differentiated again, its graph is gone: "
            "add weight * penalty(h) to the loss instead"
        )


class _Once(torch.autograd.Function):
    """A gradient, with an anchor in place of its own graph."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, gradient: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return torch.zeros(0, dtype=torch.float32, device="cpu"), None


def _times(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    """``factor * gradient``, the factor () or one for each sample."""
    if gradient is None:
        return None
    factor = factor.to(gradient.dtype)
    return gradient * factor.reshape(factor.shape + (1,) * (gradient.ndim - factor.ndim))


def _checked(value: Any, h: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"penalty must return a Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise InputError(f"penalty must return real floating numbers, got {value.dtype}")
    if value.ndim and (not h.ndim or value.shape != h.shape[:1]):
        wanted = f"() or ({len(h)},), one number for each sample of h" if h.ndim else "()"
        raise InputError(f"penalty must return a Tensor of shape {wanted}, got {tuple(value.shape)}")
    return value


def _factor(factor: Any, value: Tensor, name: str) -> Tensor:
    """A number or tensor as a tensor of shape (), or that of the penalty's value."""
    try:
        found = torch.as_tensor(factor, dtype=value.dtype, device=value.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be a number or a Tensor, got {type(factor).__name__}") from error
    if found.numel() == 1:
        return found.reshape(())
    if found.shape != value.shape:
        raise InputError(
            f"{name} must be one number, or one for each number that the penalty returns: shape "
            f"{tuple(value.shape)}, got {tuple(found.shape)}"
        )
    return found


def _weighted(weight: Factor, value: Tensor) -> Tensor:
    if isinstance(weight, int | float) and not isinstance(weight, bool):
        return value if weight == 1.0 else weight * value
    return _factor(weight, value, "weight") * value
