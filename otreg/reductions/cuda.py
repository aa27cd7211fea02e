"""The fast engine on CUDA: a kernel of our own (softmin.cu), compiled at its first use for the size that is wanted.

The work is bound by the dozen instructions of each pair, one of them an exponential. Nothing leaves the registers
between them, and no tensor core is asked, whose short floats would cost the digits that a small blur needs. Where the
compiler is missing, and above 16 dimensions, plain torch takes over.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from otreg.reductions import blocks, nvrtc
from otreg.reductions.padding import padded, size_for
from otreg.reductions.remembering import RememberingOrder

DIMENSIONS = (3, 6, 16)
CHANNELS = (0, 1, 4, 16)
"""Sizes that points and values are padded to: each pair of sizes is compiled by itself, in about half a second."""

TILE = 128
"""Columns in shared memory at a time."""

THREADS = 128

TILES_AT_MOST = 4096
"""Tiles that one block looks at: bounds its shared memory."""

BLOCKS_FOR_EACH_UNIT = 8
"""Blocks for each multiprocessor of the device, so that all are busy to the end."""

SMALLEST_TO_SORT = 1 << 27
"""Pairs below which sorting the points costs more than it saves."""

SMALLEST_TO_SKIP = 1 << 30
"""Pairs below which looking for tiles of no consequence costs more than it saves."""

LARGEST_TILE_TO_BLUR = 24.0
"""Largest radius of tiles, of rows and columns together, against the blur, at which expanded squares are exact enough:
in float32 their rounding is of the order of that of the points themselves."""

MARGIN = {torch.float32: 25.0, torch.float64: 54.0}
"""Tiles left out add less than 2 to this negative power of what a row sums up to, all of them together."""


@dataclasses.dataclass(frozen=True)
class Sorting:
    """Places of rows and columns in what is given and wanted, and the boxes of tiles: what makes squares local."""

    rows: Tensor
    columns: Tensor
    tile_boxes: Tensor
    local: bool


@dataclasses.dataclass(frozen=True)
class Skipping:
    """What tells tiles that do not matter: boxes of rows, highest log-weights of tiles, least sums of rows."""

    row_boxes: Tensor
    tile_highest: Tensor
    row_floors: Tensor
    row_least: Tensor
    margin: float


@dataclasses.dataclass(frozen=True)
class Sorted:
    """Points in the order of a tree.

    ``radius`` is half the diagonal of the largest box of :data:`TILE` consecutive points.
    """

    points: Tensor
    order: Tensor
    places: Tensor
    boxes: Tensor
    radius: float


def log_sum_exp_mean(
    x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Reduce over j; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
    if not usable(x, y):
        return blocks.log_sum_exp_mean(x, y, h, eps, values)
    return _reduce(x, y, h, eps, values, _rows(x, values))


def usable(x: Tensor, y: Tensor) -> bool:
    """Whether the kernel takes these points."""
    some = len(x) > 0 and len(y) > 0 and x.shape[1] <= DIMENSIONS[-1]
    return some and is_available(x.device.index or 0)


@cache
def is_available(device: int) -> bool:
    """Whether the kernel can be compiled for this device and gives the right answer on a small known case."""
    if not torch.cuda.is_available():
        return False
    try:
        with torch.cuda.device(device):
            for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
                # deterministic, without touching the caller's random state; several tiles, and a part of one
                x = torch.linspace(-1.0, 1.0, 150 * 3, dtype=dtype, device="cuda").sin().reshape(150, 3)
                y = torch.linspace(-9.0, 2.0, 300 * 3, dtype=dtype, device="cuda").cos().reshape(300, 3)
                h = y[:, 0].double() * 30.0
                found = _reduce(x, y, h, 0.01, y, _rows(x, y))
                wanted = blocks.log_sum_exp_mean(x.double(), y.double(), h, 0.01, y.double())
                for one, other in zip(found, wanted, strict=True):
                    assert one is not None and other is not None
                    if not torch.allclose(one.double(), other, rtol=tolerance, atol=10 * tolerance):
                        raise RuntimeError("it gives wrong sums on a known case")
    except torch.cuda.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, AttributeError) as error:
        warnings.warn(
            f"sums over pairs run in plain torch, many times slower: their CUDA kernel cannot be used ({error})",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


class SortedEngine(RememberingOrder[Sorted]):
    """The engine for one large problem: tiles of near points, of which those of no consequence are left out.

    Points are put into the order of a tree, so that tiles are compact: squares can be expanded about their centres,
    which halves the work, as long as tiles are small against the blur. Of very many points, a first pass over one of
    each tile of columns gives, for all rows, a lower bound of their log-sums; a tile whose best score for a group of
    rows, by their boxes and its largest log-weight, lies below the least of these by a margin is not summed. Nothing
    is remembered but the order of the points: the choice is made anew, and right, for any log-weights.
    """

    def __call__(
        self, x: Tensor, y: Tensor, h: Tensor, eps: float, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Reduce over j; see :func:`otreg.reductions.blocks.log_sum_exp_mean` for the contract."""
        if len(x) * len(y) < SMALLEST_TO_SORT or not usable(x, y):
            return log_sum_exp_mean(x, y, h, eps, values)
        rows, columns, count = self.in_order(x), self.in_order(y), _rows(x, values)
        small = rows.radius + columns.radius <= LARGEST_TILE_TO_BLUR * math.sqrt(eps)
        local = small or x.dtype == torch.float64
        sorting = Sorting(rows.places, columns.places, columns.boxes, local)
        skipping = None
        if len(x) * len(y) >= SMALLEST_TO_SKIP and len(y) > TILE:
            skipping = _skipping(rows, columns, h[columns.order], eps, 32 * count)
        return _reduce(rows.points, columns.points, h, eps, values, count, sorting, skipping)

    def _put_in_order(self, points: Tensor) -> Sorted:
        tree = self.tree(points)
        order = tree.order[~tree.repeated]
        in_order = _in_sizes(points.detach()[order], DIMENSIONS)
        boxes = _boxes(in_order, TILE)
        radius = 0.5 * float((boxes[:, 1] - boxes[:, 0]).norm(dim=1).max())
        return Sorted(in_order, order, order.int(), boxes, radius)


def _skipping(rows: Sorted, columns: Sorted, h: Tensor, eps: float, group: int) -> Skipping:
    """What a pass over the middle of each tile tells; h in the order of the columns, groups of so many rows."""
    middles = torch.arange(TILE // 2, len(h), TILE, device=h.device)
    least, _ = _reduce(rows.points, columns.points[middles], h[middles], eps, None, _rows(rows.points, None))
    return Skipping(
        _boxes(rows.points, group),
        _in_groups(h, TILE).amax(dim=1),
        _in_groups(least, group).amin(dim=1),
        least,
        MARGIN[rows.points.dtype] + math.log2(len(h)),
    )


def _boxes(points: Tensor, size: int) -> Tensor:
    """Low and high corners of each so many points, shape (groups, 2, D)."""
    groups = _in_groups(points, size)
    return torch.stack([groups.amin(dim=1), groups.amax(dim=1)], dim=1)


def _rows(points: Tensor, values: Tensor | None) -> int:
    """Rows that a thread holds: as many as its registers take."""
    dimension = size_for(points.shape[1], DIMENSIONS)
    channels = 0 if values is None else size_for(min(values.shape[1], CHANNELS[-1]), CHANNELS)
    if dimension <= 3:
        return 4 if channels <= 4 else 2
    return 2 if dimension <= 6 and channels <= 4 else 1


def _reduce(
    x: Tensor,
    y: Tensor,
    h: Tensor,
    eps: float,
    values: Tensor | None,
    rows: int,
    sorting: Sorting | None = None,
    skipping: Skipping | None = None,
) -> tuple[Tensor, Tensor | None]:
    if values is not None and values.shape[1] > CHANNELS[-1]:
        parts = [
            _reduce(x, y, h, eps, part, rows, sorting, skipping) for part in values.split(CHANNELS[-1], dim=1)
        ]
        return parts[0][0], torch.cat([mean for _, mean in parts if mean is not None], dim=1)
    with torch.cuda.device(x.device):
        device = torch.cuda.current_device()
        padded_x, padded_y = _in_sizes(x.detach(), DIMENSIONS), _in_sizes(y.detach(), DIMENSIONS)
        padded_values = None if values is None else _in_sizes(values.detach(), CHANNELS)
        dimension = padded_x.shape[1]
        channels = 0 if padded_values is None else padded_values.shape[1]
        local = sorting is not None and sorting.local
        reduce, combine = _kernels(device, x.dtype, dimension, channels, rows, local, skipping is not None)
        height, tiles = -(-len(x) // (THREADS * rows)), -(-len(y) // TILE)
        wanted = -(-_multiprocessors(device) * BLOCKS_FOR_EACH_UNIT // height)
        each = min(-(-tiles // min(wanted, tiles)), TILES_AT_MOST)
        splits = -(-tiles // each)
        h = h.detach().contiguous()
        shift = h.amax()
        partial = x.new_empty(splits, len(x), 3 + channels)
        log_sum = h.new_empty(len(x))
        mean = None if padded_values is None else x.new_empty(len(x), channels)
        row_places, column_places, boxes = (
            (None, None, None) if sorting is None else (sorting.rows, sorting.columns, sorting.tile_boxes)
        )
        hints: tuple[Tensor | float | None, ...] = (None, None, None, None, 0.0)
        if skipping is not None:
            hints = tuple(getattr(skipping, field.name) for field in dataclasses.fields(skipping))
        reduce(
            (height, splits), THREADS, padded_x, padded_y, h, shift, padded_values, column_places, len(x), len(y),
            each, 1.0 / (2.0 * eps * math.log(2.0)), partial, boxes, *hints,
        )  # fmt: skip
        combine(
            (-(-len(x) // THREADS), 1), THREADS, partial, shift, row_places, len(x), splits, log_sum, mean
        )
    return log_sum, None if mean is None or values is None else mean[:, : values.shape[1]]


@cache
def _kernels(
    device: int, dtype: torch.dtype, dimension: int, channels: int, rows: int, local: bool, skips: bool
) -> list[nvrtc.Kernel]:
    source = files("otreg.reductions").joinpath("softmin.cu").read_text(encoding="utf-8")
    definitions = {"D": dimension, "V": channels, "ROWS": rows, "TILE": TILE, "THREADS": THREADS}
    definitions["FLAGS"] = TILES_AT_MOST
    # measured on an H200: where there is room for it, more blocks at a time hide more waiting
    definitions["BLOCKS"] = 6 if dtype == torch.float32 and dimension <= 3 and channels <= 1 else 1
    if dtype == torch.float64:
        definitions["DOUBLE"] = 1
    if local:
        definitions["LOCAL"] = 1
    if skips:
        definitions["CULL"] = 1
    return nvrtc.compile_kernels(
        source, ("reduce", "combine"), {name: str(value) for name, value in definitions.items()}, device
    )


@cache
def _multiprocessors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _in_groups(rows: Tensor, size: int) -> Tensor:
    """``(N, ...)`` to ``(groups, size, ...)``; the last row is repeated to fill the last group."""
    missing = -len(rows) % size
    if missing:
        rows = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
    return rows.reshape(-1, size, *rows.shape[1:])


def _in_sizes(rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
    return padded(rows, size_for(rows.shape[1], sizes))
