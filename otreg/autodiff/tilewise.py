"""Functions of tiles, and their derivatives, which are functions of tiles again.

A task takes tensors that lie somewhere on an array of pairs (:class:`Place`) and returns others, tile by tile. The
derivative of a task is a task: it takes the same tensors and the cotangents of what was returned, each where that
lay, and returns a gradient where each of the tensors lies. So there is one way to run through tiles, whatever
the order of the derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from otreg.autodiff.nested import Nested, Structure, unflatten
from otreg.autodiff.surroundings import Autocast, RandomState, devices_of, undisturbed
from otreg.autodiff.tape import version_of
from otreg.autodiff.tiling import Place, Tile, Tiling, enter, read, wide
from otreg.errors import InputError, ReplayError


class Task(Protocol):
    """What is done with each tile."""

    evaluation: Evaluation
    places: tuple[Place, ...]
    outcomes: tuple[Place, ...]

    def run(self, tile: Tile, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """What comes out, from the parts of the inputs that belong to a tile."""
        ...


class Evaluation:
    """The user's function on each tile, summed within the tile if so asked.

    The inputs are x, y, the parameters, and the tensors that the function closes over, as far as they are found to
    require gradients.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        structures: Sequence[Structure],
        inputs: Sequence[Tensor],
        places: Sequence[Place],
        tiling: Tiling,
        sum_over: str | None,
        device: torch.device,
        generators: Sequence[torch.Generator],
    ) -> None:
        self._function, self._structures, self._sum_over = function, structures, sum_over
        self.evaluation, self.tiling, self.device = self, tiling, device
        self.places, self.given = tuple(places), len(places)
        self.outcomes = _outcomes(sum_over, tiling.symmetric)
        self.closed: list[Tensor] = []
        self._devices = devices_of([*inputs, torch.empty(0, device=device)])
        self._generators = tuple(generators)
        self._autocast = Autocast(self._devices)
        self._random: dict[int, RandomState] = {}
        self._looks: tuple[torch.Size, torch.dtype] | None = None

    def first_pass(self, inputs: Sequence[Tensor]) -> Iterator[tuple[Tile, Sequence[Tensor]]]:
        """What comes out of each tile, without a graph."""
        differentiable = torch.is_grad_enabled()
        wanted = any(tensor.requires_grad for tensor in inputs)
        for tile in self.tiling.tiles():
            state = RandomState(self._devices, self._generators) if differentiable else None
            versions = [version_of(tensor) for tensor in inputs]
            # One tile with a graph shows what the function closes over. Where nothing requires gradients there is
            # no graph, and looking at every tile costs nothing.
            if differentiable and (self._looks is None or not (wanted or self.closed)):
                values = self._looked_at(tile, inputs)
            else:
                with torch.no_grad():
                    values = self._call(tile, parts(self, inputs, tile))
            if versions != [version_of(tensor) for tensor in inputs]:
                raise InputError("fn changed its arguments in place; it must make new tensors")
            if state is not None and state.moved():
                self._random[tile.number] = state
            yield tile, values

    def _looked_at(self, tile: Tile, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run a tile with its graph, and find in it the tensors that the function closes over."""
        leaves = [
            part.detach().requires_grad_(tensor.requires_grad)
            for part, tensor in zip(parts(self, inputs, tile), inputs, strict=True)
        ]
        # A node made here; all nodes of the tile come later. Saved tensors must not reach hooks that are set
        # around us, which would keep them.
        before = _number(torch.empty(0, requires_grad=True).view(0).grad_fn)
        with torch.enable_grad(), saved_tensors_hooks(Tensor.detach, lambda tensor: tensor):
            values = self._call(tile, leaves)
            found = _leaves_behind(values, before)
        own = {id(leaf) for leaf in leaves}
        self.closed += [leaf for leaf in found if id(leaf) not in own]
        self.places = (*self.places[: self.given], *(Place.WHOLE for _ in self.closed))
        return [value.detach() for value in values]

    def plain(self, tile: Tile, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run a tile as it is."""
        return self._call(tile, parts(self, inputs, tile))

    def run(self, tile: Tile, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run a tile again, with its graph."""
        with self._again(tile):
            values = self._call(tile, inputs[: self.given])
        known = {id(tensor) for tensor in (*inputs, *self.closed)}
        if not all(id(leaf) in known for leaf in _leaves_behind(values)):
            raise ReplayError(
                "fn used a tensor that requires gradients in one tile and not in the first: "
                "hand it over as a parameter of blockwise"
            )
        return values

    @contextmanager
    def _again(self, tile: Tile) -> Iterator[None]:
        state = self._random.get(tile.number)
        if state is None:  # the tile drew no random numbers
            yield
            return
        with undisturbed(self._devices, self._generators):
            state.restore()
            yield

    def _call(self, tile: Tile, inputs: Sequence[Tensor]) -> list[Tensor]:
        nests: list[Nested] = []
        position = 0
        for structure in self._structures:
            size = _size(structure)
            nests.append(unflatten(inputs[position : position + size], structure))
            position += size
        with self._autocast.again(cache_enabled=False):
            value = self._function(*nests)
        self._check(value, tile)
        if self._sum_over is None:
            return [value]
        if self._sum_over == "all":
            return [value.sum(dim=(0, 1)) * (2 if tile.mirrored else 1)]
        if not self.tiling.symmetric:
            return [value.sum(dim=1 if self._sum_over == "columns" else 0)]
        return [value.sum(dim=1), value.sum(dim=0) * (1 if tile.mirrored else 0)]

    def _check(self, value: Any, tile: Tile) -> None:
        if not isinstance(value, Tensor):
            raise InputError(f"fn must return a Tensor, got {type(value).__name__}")
        if value.shape[:2] != tile.shape:
            raise InputError(
                f"fn must return one entry for each pair, a shape that begins with {tile.shape}, "
                f"got {tuple(value.shape)}"
            )
        looks = value.shape[2:], value.dtype
        if self._looks is None:
            if self.tiling.symmetric and not _symmetric(value):
                raise InputError(
                    "fn is not symmetric: fn(a, b) must be the transpose of fn(b, a) for y=None or symmetric=True; "
                    "pass symmetric=False to have all pairs computed"
                )
            self._looks = looks
        if looks != self._looks:
            raise InputError(
                f"fn must return the same kind of tensor for each tile: {tuple(self._looks[0])} after the pairs and "
                f"{self._looks[1]} at first, {tuple(looks[0])} and {looks[1]} for another"
            )


class Slopes:
    """The vector-Jacobian product of a task: gradients of the inputs ``wanted``, from cotangents of ``present``."""

    def __init__(self, task: Task, wanted: Sequence[int], present: Sequence[int]) -> None:
        self._task, self._wanted, self._present = task, wanted, present
        self.evaluation = task.evaluation
        self.places = (*task.places, *(task.outcomes[index] for index in present))
        self.outcomes = tuple(task.places[index] for index in wanted)

    def run(self, tile: Tile, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The gradients of a tile; with a graph of their own where gradients are enabled."""
        further = torch.is_grad_enabled()
        count = len(self._task.places)
        with torch.enable_grad():
            leaves = [self._leaf(index, tensor, further) for index, tensor in enumerate(inputs[:count])]
            values = self._task.run(tile, leaves)
            ends: list[tuple[Tensor, Tensor]] = []
            for index, cotangent in zip(self._present, inputs[count:], strict=True):
                value = values[index]
                if value is not None and value.requires_grad:
                    ends.append((value, cotangent))
            if not ends:
                return [None] * len(self._wanted)
            return torch.autograd.grad(
                [value for value, _ in ends],
                [leaves[index] for index in self._wanted],
                [cotangent for _, cotangent in ends],
                create_graph=further,
                allow_unused=True,
            )

    def _leaf(self, index: int, tensor: Tensor, further: bool) -> Tensor:
        first = self.evaluation.given
        closed = first <= index < first + len(self.evaluation.closed)
        if closed or (further and tensor.requires_grad):
            return tensor
        return tensor.detach().requires_grad_(index in self._wanted)


def parts(task: Task, inputs: Sequence[Tensor], tile: Tile) -> list[Tensor]:
    """The parts of the inputs that belong to a tile, on the device where tiles are computed."""
    evaluation = task.evaluation
    first, last = evaluation.given, evaluation.given + len(evaluation.closed)
    return [
        # what the function closes over is the tensor itself, not a copy in our hands
        evaluation.closed[index - first]
        if first <= index < last
        else read(task.places[index], tensor, tile).to(evaluation.device)
        for index, tensor in enumerate(inputs)
    ]


def tied(task: Task, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of a task, made differentiable in its inputs."""
    return _Tied.apply(task, outputs, *inputs)


class _Tied(torch.autograd.Function):
    """A node whose outputs have been computed before, tile by tile."""

    @staticmethod
    def forward(ctx: Any, task: Task, outputs: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.task = task
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        inputs = ctx.saved_tensors
        wanted = [index for index, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        present = [index for index, cotangent in enumerate(cotangents) if cotangent is not None]
        gradients: list[Tensor | None] = [None] * len(inputs)
        if present:
            slopes = Slopes(ctx.task, wanted, present)
            given = (*inputs, *(cotangents[index] for index in present))
            found = tied(slopes, _gradients(slopes, given, [inputs[index] for index in wanted]), given)
            for index, gradient in zip(wanted, found, strict=True):
                gradients[index] = gradient
        return None, None, *gradients


def _gradients(task: Slopes, inputs: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Run through the tiles once more, and gather a gradient for each of ``like``."""
    with torch.no_grad():
        targets = [torch.zeros_like(tensor, dtype=wide(tensor.dtype)) for tensor in like]
        for tile in task.evaluation.tiling.tiles():
            values = task.run(tile, parts(task, inputs, tile))
            for place, target, value in zip(task.outcomes, targets, values, strict=True):
                if value is not None:
                    enter(place, target, tile, value)
        return [target.to(tensor.dtype) for target, tensor in zip(targets, like, strict=True)]


def _outcomes(sum_over: str | None, symmetric: bool) -> tuple[Place, ...]:
    if sum_over is None:
        return (Place.PAIRS,)
    if sum_over == "all":
        return (Place.WHOLE,)
    if symmetric:
        return (Place.ROWS, Place.COLUMNS)
    return (Place.ROWS,) if sum_over == "columns" else (Place.COLUMNS,)


def _size(structure: Structure) -> int:
    return 1 if structure.kind is None else sum(map(_size, structure.children))


def _symmetric(value: Tensor) -> bool:
    """Whether a tile on the diagonal is symmetric, up to more than rounding."""
    value = value.detach()
    other = value.transpose(0, 1)
    if not (value.is_floating_point() or value.is_complex()):
        return torch.equal(value, other)
    finite = value[torch.isfinite(value)].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    tolerance = torch.finfo(value.dtype).eps ** 0.5
    return torch.allclose(value, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _number(node: Any) -> int | None:
    """The place of a node in the order in which its thread made them; None where torch does not tell."""
    number = getattr(node, "_sequence_nr", None)
    return None if number is None else number()


def _leaves_behind(values: Sequence[Tensor], before: int | None = None) -> list[Tensor]:
    """The leaves that values depend on.

    Raises
    ------
    InputError
        If the way to one leads through a node that is not younger than the one numbered ``before``.
    """
    waiting = [value.grad_fn for value in values if value.grad_fn is not None]
    leaves = {id(value): value for value in values if value.is_leaf and value.requires_grad}
    seen = set(waiting)
    while waiting:
        node: Any = waiting.pop()
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
            continue
        number = None if before is None else _number(node)
        if number is not None and before is not None and number <= before:
            raise InputError(
                "fn closes over a tensor that was computed from others that require gradients: hand it over as a "
                "parameter, blockwise(fn, x, y, tensor), or detach it"
            )
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return list(leaves.values())
