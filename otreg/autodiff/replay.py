"""A loop whose steps are run again in the backward pass instead of being stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from otreg.autodiff.heap import Holes, heap_bytes
from otreg.autodiff.nested import Nested, Structure, flatten, unflatten
from otreg.autodiff.schedule import Pass, Schedule
from otreg.autodiff.surroundings import Autocast, RandomState, devices_of, undisturbed
from otreg.autodiff.tape import Handle, Kept, Tape, version_of
from otreg.errors import InputError, ReplayError

Body = Callable[[int, Nested, Sequence[Tensor]], tuple[Nested, Nested | None]]
"""``(index, state, slices of the inputs) -> state, output``."""


class Snapshot:
    """The state before a step, with what else its steps depend on.

    With ``offload`` the tensors lie in the memory of the host, page-locked where a GPU fetches them from there.
    """

    def __init__(self, leaves: Sequence[Tensor], random: RandomState, offload: bool) -> None:
        self._devices = [leaf.device for leaf in leaves]
        self._wanted = [leaf.requires_grad for leaf in leaves]
        self._kept = Kept([_to_host(leaf) for leaf in leaves] if offload else leaves)
        self.random = random

    def leaves(self) -> list[Tensor]:
        """The state, as leaves of a graph of its own."""
        return [
            tensor.to(device).detach().requires_grad_(wanted)
            for tensor, device, wanted in zip(self._kept.tensors(), self._devices, self._wanted, strict=True)
        ]


def _to_host(leaf: Tensor) -> Tensor:
    if leaf.device.type == "cpu":
        return leaf
    copy = torch.empty_like(leaf, device="cpu", pin_memory=leaf.device.type == "cuda", requires_grad=False)
    return copy.copy_(leaf.detach())


class Loop:
    """The steps of one call of :func:`scan`, alive as long as the graph asks for its saved tensors.

    The first pass builds the whole graph, but in place of the tensors that its nodes save they hold a
    :class:`Handle`. When the backward pass asks for the tensor behind one, its step is run again from the
    nearest snapshot, and what it saves this time is handed out. Parameters that the step closes over are tied to
    the graph as in plain autograd, so their gradients come by themselves.
    """

    def __init__(
        self,
        body: Body,
        structure: Structure,
        schedule: Schedule,
        leaves: Sequence[Tensor],
        inputs: Sequence[Tensor],
        offload: bool,
        generators: Sequence[torch.Generator],
    ) -> None:
        self._body, self._structure, self._schedule, self._offload = body, structure, schedule, offload
        self._inputs_want = [tensor.requires_grad for tensor in inputs]
        self._inputs = Kept(inputs)
        self._devices = devices_of([*leaves, *inputs])
        self._generators = generators
        self._autocast = Autocast(self._devices)
        self._snapshots: dict[int, Snapshot] = {}
        self._tapes: dict[int, Tape] = {}
        self._holes = Holes()
        self._saved: dict[int, int] = {}  # how many tensors, by step
        self._now: tuple[int, Tape, Sequence[Tensor]] | None = None
        # a backward pass may ask from the threads of several devices at once
        self._lock = threading.RLock()

    def first_pass(
        self, state: Nested, columns: Sequence[Sequence[Tensor]], length: int
    ) -> Iterator[tuple[Nested, Nested | None]]:
        """Run all steps with their graph; the state and output after each."""
        plan = self._schedule.forward(length)
        for index in range(length):
            slices = [column[index] for column in columns]
            state, output = self._step(plan, index, flatten(state)[0], slices)
            yield state, output
        for tape in self._tapes.values():
            tape.keep()

    def _step(
        self, plan: Pass, index: int, leaves: Sequence[Tensor], slices: Sequence[Tensor]
    ) -> tuple[Nested, Nested | None]:
        """Run one step of a pass; keep the state before it and its tape where the plan says so."""
        if index in plan.snapshots:
            if not any(self._saved.values()):
                self._snapshots.clear()  # nothing before this step will ever be asked for
            random = RandomState(self._devices, self._generators)
            self._snapshots[index] = Snapshot(leaves, random, self._offload)
        versions = [version_of(leaf) for leaf in leaves]
        tape, around = Tape(), self._now
        self._now = index, tape, (*leaves, *slices)
        try:
            with saved_tensors_hooks(self._pack, _unpack):
                state, output = self._body(index, unflatten(leaves, self._structure), slices)
        finally:
            self._now, tape.running = around, False
        if index >= plan.tape_from:
            self._tapes[index] = tape
        else:
            self._holes.about_to_free(tape.heap_bytes + sum(map(heap_bytes, leaves)))
        if self._saved.setdefault(index, len(tape.versions)) != len(tape.versions):
            raise ReplayError(
                f"step {index} saved {self._saved[index]} tensors for its derivative at first, and "
                f"{len(tape.versions)} when it was run again: it must do the same each time"
            )
        if versions != [version_of(leaf) for leaf in leaves]:
            raise InputError(f"step changed its state in place at step {index}; it must return new tensors")
        return state, output

    def _pack(self, tensor: Tensor) -> Handle:
        """Record a tensor that autograd saves in the step that runs now.

        Every node that saves something holds on to this method, so it must not lead to the tape by itself.
        """
        assert self._now is not None
        index, tape, own = self._now
        lasting = tensor.is_leaf and tensor.requires_grad and not any(tensor is mine for mine in own)
        return Handle(self, index, tape, tensor, version_of(tensor) if lasting else None)

    def fetch(self, handle: Handle) -> Tensor:
        """The tensor that a handle stands for.

        Raises
        ------
        ReplayError
            If the step did not do the same as before.
        """
        tape = handle.recorded()
        if tape is not None and tape.running:
            return handle.read(tape)  # the step itself differentiates something
        with self._lock:
            if handle.step not in self._tapes:
                self._run_again(handle.step)
            # the backward pass comes from the last step to the first
            self._drop_tapes(handle.step + 1)
            return handle.read(self._tapes[handle.step])

    def _drop_tapes(self, first: int) -> None:
        for index in [index for index in self._tapes if index >= first]:
            self._holes.about_to_free(self._tapes.pop(index).heap_bytes)

    def _run_again(self, last: int) -> None:
        """Make the tape of a step, by running from the nearest snapshot."""
        self._drop_tapes(0)
        kept = self._schedule.kept(self._snapshots, last)
        self._snapshots = {index: self._snapshots[index] for index in kept}
        start = max(index for index in self._snapshots if index <= last)
        plan = self._schedule.again(start, last, len(self._snapshots))
        snapshot = self._snapshots[start]
        inputs = self._inputs.tensors()
        leaves = snapshot.leaves()
        with undisturbed(self._devices, self._generators), torch.enable_grad(), self._autocast.again():
            snapshot.random.restore()
            for index in range(start, last + 1):
                slices = [
                    tensor[index].detach().requires_grad_(wanted)
                    for tensor, wanted in zip(inputs, self._inputs_want, strict=True)
                ]
                state, _ = self._step(plan, index, leaves, slices)
                # each step stands on its own: what the one before built is freed here
                leaves = [leaf.detach().requires_grad_(leaf.requires_grad) for leaf in flatten(state)[0]]


def _unpack(handle: Handle) -> Tensor:
    return handle.owner.fetch(handle)
