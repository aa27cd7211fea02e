"""Loops that autograd need not store: checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from otreg.autodiff.nested import Nested, Structure, flatten, stack, unflatten
from otreg.autodiff.replay import Loop
from otreg.autodiff.schedule import Snapshots, schedule_of
from otreg.autodiff.surroundings import transformed
from otreg.errors import InputError


def scan(
    step: Callable[..., Nested],
    state: Nested,
    inputs: Nested | Sequence[Any] | None = None,
    *,
    length: int | None = None,
    checkpoints: Literal["sqrt", "all", "none"] | int | Snapshots = "sqrt",
    offload: Literal["cpu"] | None = None,
    generators: Sequence[torch.Generator] = (),
) -> Nested:
    """Run a loop whose backward pass runs steps again instead of storing them all.

    ``for input in inputs: state = step(state, input)``, with the gradients of plain autograd to rounding.

    Parameters
    ----------
    step : callable
        ``step(state, input)``, or ``step(state)`` without ``inputs``. Returns the new state, in the same
        structure, or a pair ``(state, output)``. It may close over anything, parameters, modules and
        intermediate tensors with a history among them: they get their gradients. It must do the same when it is
        run again (what it changes outside, a counter or running averages, it changes again), and it must not
        change its state in place.
    state : Tensor, or nested tuples and dicts of Tensors
        The first state. Its tensors may change shape and dtype along the way.
    inputs : Tensor, nested tuples and dicts of Tensors, list or range, optional
        One input for each step. Tensors are cut along their first axis, and get their gradients. The items of a
        list or range (any objects) are handed on as they are.
    length : int, optional
        Number of steps; needed without ``inputs``, otherwise checked against them.
    checkpoints : {"sqrt", "all", "none"}, int or Snapshots
        What is kept for the backward pass.

        - "sqrt" (default): the state every √length steps and what one such stretch saves, the best for its
          price of less than one more run of the loop;
        - k: the same every k steps;
        - ``Snapshots(s)``: at most s states and what a SINGLE step saves, by the binomial schedule. For steps
          that save much more than their state;
        - "all": everything, as plain autograd;
        - "none": nothing; the loop runs without a graph, and what it returns is detached.

        :func:`body_evaluations` says what each costs. Nothing is kept where nothing requires a gradient.
    offload : {"cpu"}, optional
        Keep the states in the host's memory instead of the GPU's. For states on the CPU it changes nothing.
    generators : sequence of torch.Generator
        Generators of your own that ``step`` draws from. Those of torch itself are always put back before a step
        is run again, and left afterwards as they were; Python's and NumPy's are not.

    Returns
    -------
    Tensor, or nested tuples and dicts of Tensors
        The last state; where ``step`` returns pairs ``(last state, outputs)``, each tensor of the outputs with
        a new first axis of ``length``. A loop of no steps returns its first state alone.

    Raises
    ------
    InputError
        For arguments that do not fit together, and a step that returns another structure or writes into its
        state.
    ReplayError
        In the backward pass, if a step did something else when it was run again, or if a parameter was changed
        in place meanwhile.

    Notes
    -----
    Where gradients are disabled (``torch.no_grad``) the loop runs plainly. Under ``torch.func`` transforms,
    forward-mode derivatives and ``torch.compile`` it runs as with "all": PyTorch has no saved-tensor hooks
    there. Autocast is entered again for steps that are run again. The result can be differentiated twice, but
    a backward pass with ``create_graph=True`` stores its own graph of the whole loop, as plain autograd does.
    In a loop inside a step of another loop, the outer one decides on what the inner one keeps, so only the inner
    loop that is being differentiated holds any states. Errors of ``step`` come with their own traceback, from
    the backward pass too.

    The graph itself is built in full: about 1 kB for each operation, without its tensors.
    """
    structure = flatten(state)[1]
    tensors, cut, items, length = _inputs(inputs, length)
    if offload not in (None, "cpu"):
        raise InputError(f"offload must be 'cpu' or None, got {offload!r}")
    schedule = schedule_of(checkpoints, length)
    if not length:
        return state

    def body(index: int, state: Nested, slices: Sequence[Tensor]) -> tuple[Nested, Nested | None]:
        # no tensors of the inputs in here: the body lives as long as the graph, a loop around it decides on them
        if items is not None:
            result = step(state, items[index])
        else:
            result = step(state) if cut is None else step(state, unflatten(slices, cut))
        return _state_and_output(result, structure)

    columns = [tensor.unbind() for tensor in tensors]
    if checkpoints == "none":
        with torch.no_grad():
            return _collect(_plain(body, state, columns, length))
    if schedule is None or not torch.is_grad_enabled() or transformed():
        return _collect(_plain(body, state, columns, length))
    loop = Loop(body, structure, schedule, flatten(state)[0], tensors, offload == "cpu", tuple(generators))
    return _collect(loop.first_pass(state, columns, length))


def _inputs(
    inputs: Nested | Sequence[Any] | None, length: int | None
) -> tuple[list[Tensor], Structure | None, Sequence[Any] | None, int]:
    """Tensors to cut and their structure, or items to hand on as they are; and the number of steps."""
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 0):
        raise InputError(f"length must be a whole number of at least 0, got {length!r}")
    if inputs is None:
        if length is None:
            raise InputError("scan needs inputs or a length")
        return [], None, None, length
    if isinstance(inputs, list | range):
        tensors: list[Tensor] = []
        cut, sizes = None, [len(inputs)]
    else:
        tensors, cut = flatten(inputs, "inputs")
        if not tensors or any(tensor.dim() == 0 for tensor in tensors):
            raise InputError(
                "inputs must be tensors with one slice for each step, got none or a single number"
            )
        sizes = [len(tensor) for tensor in tensors]
    if len({*sizes} | ({length} if length is not None else set())) > 1:
        wanted = "" if length is None else f"; length is {length}"
        raise InputError(f"inputs must have one slice for each step, got lengths {sorted({*sizes})}{wanted}")
    return tensors, cut, inputs if cut is None else None, sizes[0]


def _plain(
    body: Callable[..., tuple[Nested, Nested | None]],
    state: Nested,
    slices: Sequence[Sequence[Tensor]],
    length: int,
) -> Iterator[tuple[Nested, Nested | None]]:
    for index in range(length):
        state, output = body(index, state, [column[index] for column in slices])
        yield state, output


def _collect(passes: Iterator[tuple[Nested, Nested | None]]) -> Nested:
    """The last state, with the stacked outputs if there are any."""
    outputs: list[Nested] = []
    for result in passes:
        state, output = result
        if output is not None:
            outputs.append(output)
    return (state, stack(outputs, "output")) if outputs else state


def _state_and_output(result: Nested, structure: Structure) -> tuple[Nested, Nested | None]:
    """What a step returned, taken apart: no structure is a pair that begins with itself, so it is never in doubt."""
    found = flatten(result, "what step returns")[1]
    if found == structure:
        return result, None
    if found.kind is tuple and len(found.children) == 2 and found.children[0] == structure:
        return result
    raise InputError(f"step must return the state, {structure}, or a pair (state, output), got {found}")
