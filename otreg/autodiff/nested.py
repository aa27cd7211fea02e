"""Tensors, and tuples and dicts of them, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otreg.errors import InputError

Nested = Any
"""A Tensor, or a tuple, named tuple or dict of such, at any depth."""


class Structure(NamedTuple):
    """The shape of a nest without its tensors; equal where two nests can be added term by term.

    ``kind`` is None for a tensor, otherwise the tuple's or dict's type; ``keys`` are a dict's keys, sorted.
    """

    kind: Any
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    def __str__(self) -> str:
        if self.kind is None:
            return "Tensor"
        if issubclass(self.kind, dict):
            inner = ", ".join(
                f"{key!r}: {child}" for key, child in zip(self.keys, self.children, strict=True)
            )
            return f"{{{inner}}}"
        inner = ", ".join(map(str, self.children))
        return f"({inner})"


def flatten(nest: Nested, name: str = "state") -> tuple[list[Tensor], Structure]:
    """Tensors of a nest, depth first, and the structure they came in.

    Raises
    ------
    InputError
        For anything but tensors, tuples and dicts; the message calls the whole ``name``.
    """
    if isinstance(nest, Tensor):
        return [nest], Structure(None)
    if isinstance(nest, tuple):
        items: Sequence[Any] = nest
        keys: tuple[Any, ...] = ()
    elif isinstance(nest, dict):
        keys = tuple(sorted(nest, key=repr))  # the order in which a dict was filled does not matter
        items = [nest[key] for key in keys]
    else:
        raise InputError(
            f"{name} must be a Tensor, or a tuple or dict of Tensors, got {type(nest).__name__} inside it"
        )
    parts = [flatten(item, name) for item in items]
    leaves = [leaf for part, _ in parts for leaf in part]
    return leaves, Structure(type(nest), keys, tuple(structure for _, structure in parts))


def unflatten(leaves: Sequence[Tensor], structure: Structure) -> Nested:
    """Inverse of :func:`flatten`."""
    nest, used = _build(leaves, structure, 0)
    if used != len(leaves):
        raise ValueError(f"{len(leaves)} tensors for a structure of {used}")
    return nest


def _build(leaves: Sequence[Tensor], structure: Structure, position: int) -> tuple[Nested, int]:
    if structure.kind is None:
        return leaves[position], position + 1
    items = []
    for child in structure.children:
        item, position = _build(leaves, child, position)
        items.append(item)
    if issubclass(structure.kind, dict):
        return structure.kind(zip(structure.keys, items, strict=True)), position
    if hasattr(structure.kind, "_fields"):  # a named tuple takes its items one by one
        return structure.kind(*items), position
    return structure.kind(items), position


def stack(nests: Sequence[Nested], name: str = "state") -> Nested:
    """Nests of one structure as one nest, each tensor with a new first axis of ``len(nests)``."""
    flat = [flatten(nest, name) for nest in nests]
    structure = flat[0][1]
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    return unflatten([torch.stack(column) for column in columns], structure)


def combine(function: Callable[..., Tensor], *nests: Nested) -> Nested:
    """``function`` of the corresponding tensors of nests of one structure."""
    flat = [flatten(nest) for nest in nests]
    structure = flat[0][1]
    return unflatten([function(*row) for row in zip(*(leaves for leaves, _ in flat), strict=True)], structure)
