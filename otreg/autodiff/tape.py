"""Tensors that autograd saves while a step runs, recorded beside the graph instead of in it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from otreg.autodiff.heap import heap_bytes
from otreg.errors import ReplayError


class _Keep(torch.autograd.Function):
    """A node that no gradient ever visits; it only saves tensors."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return anchor.new_empty(0)


class Kept:
    """Tensors in autograd's own safekeeping.

    Saved-tensor hooks that are set around a loop see them, as they see what plain operations save. So in a loop
    inside a loop the outer one keeps, drops and makes again what the inner one wants to keep.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        with torch.enable_grad():
            anchor = torch.empty(0, device="cpu", requires_grad=True)
            # autograd refuses to save tensors of inference mode
            plain = (tensor.clone() if tensor.is_inference() else tensor.detach() for tensor in tensors)
            # the output, not its node: torch before 2.13 lets a node go, and what it saved, with its last output
            self._output: Any = _Keep.apply(anchor, *plain)

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, without a graph."""
        return self._output.grad_fn.saved_tensors


def version_of(tensor: Tensor) -> int:
    """How often a tensor has been changed in place, as autograd counts it."""
    return 0 if tensor.is_inference() else tensor._version


class Tape:
    """The tensors that one run of a step saved, in order, without their graphs.

    ``running`` is true while the step runs.
    """

    def __init__(self) -> None:
        self.running = True
        self.heap_bytes = 0
        self._tensors: list[Tensor] | None = []
        self._kept: Kept | None = None
        self.versions: list[int] = []
        self._spoilt: frozenset[int] = frozenset()

    def add(self, tensor: Tensor) -> int:
        """Record a tensor; its place."""
        assert self._tensors is not None, "a tape is recorded before it is kept"
        self._tensors.append(tensor.detach())  # the tensor itself would tie the graph to its own record
        self.versions.append(version_of(tensor))
        self.heap_bytes += heap_bytes(tensor)
        return len(self.versions) - 1

    def keep(self) -> None:
        """Give the tensors into autograd's safekeeping, see :class:`Kept`."""
        if self._tensors:
            self._spoilt = frozenset(index for index in range(len(self.versions)) if self._changed(index))
            self._kept, self._tensors = Kept(self._tensors), None

    def get(self, index: int) -> Tensor:
        """The tensor recorded at a place.

        Raises
        ------
        ReplayError
            If it has been changed in place since it was recorded.
        """
        if index in self._spoilt or (self._kept is None and self._changed(index)):
            raise ReplayError(
                "a tensor needed for the gradient was changed in place after the step had used it; "
                "make a new tensor instead"
            )
        return self._kept.tensors()[index] if self._tensors is None else self._tensors[index]  # type: ignore[union-attr]

    def _changed(self, index: int) -> bool:
        assert self._tensors is not None
        return version_of(self._tensors[index]) != self.versions[index]


class Handle:
    """What the graph holds in place of a saved tensor: where it was recorded, and what it must look like.

    ``recorded`` leads to the tape of the run that built the graph, as long as there is one.
    ``version`` is that of a leaf which the step closes over and which requires gradients, None for others:
    only such tensors must be the same when the step is run again, all others are made anew.
    """

    __slots__ = ("dtype", "index", "owner", "recorded", "shape", "step", "version")

    def __init__(self, owner: Any, step: int, tape: Tape, tensor: Tensor, version: int | None) -> None:
        self.owner, self.step = owner, step
        self.recorded, self.index = weakref.ref(tape), tape.add(tensor)
        self.shape, self.dtype, self.version = tensor.shape, tensor.dtype, version

    def read(self, tape: Tape) -> Tensor:
        """The tensor, from a tape of its step.

        Raises
        ------
        ReplayError
            If the tape is not one of the same computation.
        """
        tensor = tape.get(self.index)
        if (tensor.shape, tensor.dtype) != (self.shape, self.dtype):
            raise ReplayError(
                f"step {self.step} saved a tensor of shape {tuple(self.shape)} and {self.dtype} at first, and of "
                f"{tuple(tensor.shape)} and {tensor.dtype} when it was run again: it must do the same each time"
            )
        if self.version is not None and tape.versions[self.index] != self.version:
            raise ReplayError(
                "a parameter that the loop uses was changed in place between its forward and its backward pass"
            )
        return tensor
