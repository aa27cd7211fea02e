"""Functions of all pairs, evaluated and differentiated tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from otreg.autodiff.destination import Destination, Out
from otreg.autodiff.nested import Nested, Structure, flatten
from otreg.autodiff.surroundings import transformed
from otreg.autodiff.tilewise import Evaluation, tied
from otreg.autodiff.tiling import Place, Tiling, enter, wide
from otreg.errors import InputError

NUMBERS_IN_A_TILE = 1 << 20
"""4 MB of float32: an intermediate of that size stays in the cache of most machines."""


def blockwise(
    fn: Callable[..., Tensor],
    x: Nested,
    y: Nested | None = None,
    *parameters: Nested,
    block: int | tuple[int, int] | None = None,
    sum_over: Literal["rows", "columns", "all"] | None = None,
    out: Out = None,
    symmetric: bool | None = None,
    device: torch.device | str | None = None,
    generators: Sequence[torch.Generator] = (),
) -> Tensor:
    """Evaluate a function of all pairs tile by tile; the backward pass computes each tile again.

    ``fn(x, y, *parameters)``, or its sum over rows, columns or both, with the gradients of plain autograd to
    rounding. What ``fn`` makes on the way exists for one tile at a time.

    Parameters
    ----------
    fn : callable
        ``fn(x_block, y_block, *parameters)`` with blocks of n and m items returns a Tensor of shape (n, m) or
        (n, m, ...), of which the entry (i, j) depends on items i and j and the parameters only. It must do the
        same when it is run again, and change nothing in place. Modules and leaf tensors that it closes over get
        their gradients too; a tensor with a history must be handed over as a parameter.
    x : Tensor, shape (N, ...), or nested tuples and dicts of such
        Points, images, anything with one item for each row.
    y : Tensor, shape (M, ...), or nested tuples and dicts of such, optional
        The same for columns. Without it, y is x.
    *parameters : Tensor, or nested tuples and dicts of Tensors
        Handed to each call whole.
    block : int or pair of int, optional
        Largest numbers of rows and columns of a tile. By default so many that a tile's pairs times the numbers
        of an item are about 2²⁰, or 4 MB of float32 for an intermediate of one number each.
    sum_over : {"rows", "columns", "all"}, optional
        Return the sum over rows, of shape (M, ...), over columns, (N, ...), or over all pairs. By default the
        whole array, (N, M, ...).
    out : optional
        Where the whole array is kept.

        - None (default): in memory where the tiles are computed;
        - "cpu" or a torch.device: there;
        - any other string or a path that ends in ".npy": in a file as a memory map, for ``numpy.load(path,
          mmap_mode="r")``. It is written aside and gets its name when it is whole. Writing into the Tensor that is
          returned changes the file;
        - a Tensor or a NumPy array (``numpy.memmap`` too) of the right shape and dtype: in it. It gets no
          history itself, the returned Tensor does.

        Sums go to a device only.
    symmetric : bool, optional
        Whether ``fn(a, b)`` is the transpose of ``fn(b, a)``: then each pair of tiles is computed once. By
        default so where y is left out. Tiles on the diagonal are computed in full; the first one is checked.
    device : torch.device or str, optional
        Where tiles are computed, by default where x is. Blocks of x, y, cotangents and the parameters are moved
        there tile by tile.
    generators : sequence of torch.Generator
        Generators of your own that ``fn`` draws from. As with those of torch itself, their states are put back
        before a tile that drew numbers is computed again, and left afterwards as they were.

    Returns
    -------
    Tensor
        In the dtype that ``fn`` returns. float16 and bfloat16 are summed over tiles in float32.

    Raises
    ------
    InputError
        For arguments that do not fit together, and an ``fn`` that does not return one entry for each pair, is
        not symmetric where it should be, or closes over a tensor with a history.
    ReplayError
        In the backward pass, if a tile used a parameter that was not found in the first.

    Notes
    -----
    Time: ``fn`` runs twice, once without and once with its graph; once each in a symmetric problem for half of
    the tiles. Memory: one tile's graph, what is returned, and in the backward pass the gradients of x, y and
    the parameters. A cotangent of the size of the array is read tile by tile, wherever it lies; an expanded one, as
    ``.sum()`` makes it, takes no memory.

    Where gradients are disabled, or nothing requires any, tiles are computed without a graph and nothing is
    kept. Derivatives of any order are computed tile by tile as well. Under ``torch.func`` transforms, forward-mode
    derivatives and ``torch.compile`` the tiles are computed plainly and put together, with nothing saved; ``out`` is
    refused there. Autocast settings are entered again for tiles that are computed again. Errors of ``fn`` come
    with their own traceback, from the backward pass too. Without rows or columns, ``fn`` is called with empty
    blocks to learn what it returns.
    """
    if sum_over not in (None, "rows", "columns", "all"):
        raise InputError(f"sum_over must be 'rows', 'columns', 'all' or None, got {sum_over!r}")
    rows, of_rows = _items(x, "x")
    columns, of_columns = (rows, of_rows) if y is None else _items(y, "y")
    same = len(rows) == len(columns) and all(one is two for one, two in zip(rows, columns, strict=True))
    if symmetric and not (same and of_rows == of_columns):
        raise InputError("symmetric=True needs y=None, or y made of the same tensors as x")
    symmetric = y is None if symmetric is None else bool(symmetric)
    nests = [flatten(nest, "a parameter of fn") for nest in parameters]
    inputs = [*rows, *columns, *(leaf for leaves, _ in nests for leaf in leaves)]
    places = [Place.ROWS] * len(rows) + [Place.COLUMNS] * len(columns)
    places += [Place.WHOLE] * (len(inputs) - len(places))
    counts = len(rows[0]), len(columns[0])
    size = _block(block, (*rows, *columns), symmetric)
    plain = transformed()
    tiling = Tiling(*counts, size, symmetric and not plain)
    where = rows[0].device if device is None else torch.empty(0, device=device).device
    if sum_over is not None and not (out is None or out == "cpu" or isinstance(out, torch.device)):
        raise InputError(
            "out must be None, 'cpu' or a torch.device for a sum: only the whole array can be large"
        )
    if out is not None and plain:
        raise InputError("out cannot be used under torch.func, forward-mode derivatives or torch.compile")
    structures = [of_rows, of_columns, *(structure for _, structure in nests)]
    evaluation = Evaluation(fn, structures, inputs, places, tiling, sum_over, where, tuple(generators))
    if plain:
        return _plainly(evaluation, inputs, sum_over)
    destination = Destination(out, where)
    try:
        outputs = _first_pass(evaluation, inputs, destination, sum_over)
    finally:
        destination.abandon()
    inputs += evaluation.closed
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        outputs = list(tied(evaluation, outputs, inputs))
    return outputs[0] if len(outputs) == 1 else outputs[0] + outputs[1]


def _first_pass(
    evaluation: Evaluation, inputs: Sequence[Tensor], destination: Destination, sum_over: str | None
) -> list[Tensor]:
    """The whole array, or its sums; the two halves of a symmetric one."""
    shape = evaluation.tiling.rows, evaluation.tiling.columns
    sums: list[Tensor] = []
    dtype = torch.float32
    for tile, values in evaluation.first_pass(inputs):
        if tile.number == 0:
            dtype = values[0].dtype
            if sum_over is None:
                destination.begin((*shape, *values[0].shape[2:]), dtype)
            else:
                sums = [
                    torch.zeros(_shape(place, shape, value), dtype=wide(dtype), device=value.device)
                    for place, value in zip(evaluation.outcomes, values, strict=True)
                ]
        with torch.no_grad():
            if sum_over is None:
                assert destination.target is not None
                enter(Place.PAIRS, destination.target, tile, values[0])
                continue
            for place, target, value in zip(evaluation.outcomes, sums, values, strict=True):
                enter(place, target, tile, value)
    if sum_over is None:
        return [destination.finish()]
    return [destination.place(target.to(dtype)) for target in sums]


def _shape(place: Place, counts: tuple[int, int], value: Tensor) -> tuple[int, ...]:
    if place is Place.WHOLE:
        return tuple(value.shape)
    return (counts[0] if place is Place.ROWS else counts[1], *value.shape[1:])


def _plainly(evaluation: Evaluation, inputs: Sequence[Tensor], sum_over: str | None) -> Tensor:
    """The same in operations of torch alone, which every transform knows."""
    bands: dict[int, list[Tensor]] = {}
    for tile in evaluation.tiling.tiles():
        (value,) = evaluation.plain(tile, inputs)
        bands.setdefault(tile.rows.start, []).append(value)
    if sum_over == "all":
        return torch.stack([value for band in bands.values() for value in band]).sum(dim=0)
    if sum_over == "columns":
        return torch.cat([torch.stack(band).sum(dim=0) for band in bands.values()])
    if sum_over == "rows":
        return torch.stack([torch.cat(band) for band in bands.values()]).sum(dim=0)
    return torch.cat([torch.cat(band, dim=1) for band in bands.values()])


def _items(nest: Nested, name: str) -> tuple[list[Tensor], Structure]:
    """Tensors with one item each, as many in all of them."""
    leaves, structure = flatten(nest, name)
    if not leaves or any(leaf.dim() == 0 for leaf in leaves):
        raise InputError(
            f"{name} must be made of tensors with a first axis of items, got none or a single number"
        )
    lengths = sorted({len(leaf) for leaf in leaves})
    if len(lengths) > 1:
        raise InputError(f"{name} must have the same number of items in all of its tensors, got {lengths}")
    return leaves, structure


def _block(block: int | tuple[int, int] | None, leaves: Sequence[Tensor], symmetric: bool) -> tuple[int, int]:
    if block is None:
        numbers = max(math.prod(leaf.shape[1:]) for leaf in leaves)
        side = max(1, math.isqrt(NUMBERS_IN_A_TILE // max(numbers, 1)))
        return side, side
    pair = block if isinstance(block, tuple) else (block, block)
    whole = [isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair]
    if len(pair) != 2 or not all(whole):
        raise InputError(f"block must be a positive whole number or a pair of them, got {block!r}")
    if symmetric and pair[0] != pair[1]:
        raise InputError(f"block must be square in a symmetric problem, got {block!r}")
    return pair
