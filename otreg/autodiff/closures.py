"""Tensors that a function closes over and that need gradients, found in the graph it builds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from otreg.errors import InputError

_LEAF = "torch::autograd::AccumulateGrad"


def moment() -> int:
    """A number that every node made so far is at or below, and every later one of this thread above."""
    with torch.enable_grad():
        node: Any = torch.empty(0, device="cpu", requires_grad=True).clone().grad_fn
    return node._sequence_nr()  # nothing public tells the age of a node


def edge_of(tensor: Tensor) -> tuple[Any, int]:
    """The node of the graph that receives a tensor's gradient, and at which place."""
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def nodes_behind(value: Tensor, listed: Iterable[Tensor]) -> Iterator[Any]:
    """The nodes of the graph that made ``value``, each once, up to those that receive the listed tensors' gradients."""
    known = {edge_of(tensor) for tensor in listed}
    waiting = [edge_of(value)]
    seen = set()
    while waiting:
        edge = waiting.pop()
        node = edge[0]
        if node is None or edge in known or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += node.next_functions


def leaves_used(value: Tensor, since: int, listed: Iterable[Tensor], name: str) -> list[Tensor]:
    """Leaves that need gradients, among the tensors used to make ``value`` since a :func:`moment`.

    Parameters
    ----------
    value : Tensor
        It requires a gradient.
    since : int
    listed : iterable of Tensor
        Known already: the search ends at them, and does not return them.
    name : str
        Of the function, for the error.

    Raises
    ------
    InputError
        If the function used a tensor with a history of its own that is not listed: following it would run, and
        free, a part of somebody else's graph.
    """
    found: list[Tensor] = []
    for node in nodes_behind(value, listed):
        if node.name() == _LEAF:
            found.append(node.variable)
        elif node._sequence_nr() <= since:
            raise InputError(
                f"{name} uses a tensor with a history of its own (made by {node.name()}): "
                "name it in parameters, or detach it"
            )
    return found


@contextmanager
def cut_off(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Let no gradient through to what the tensors were made from; their own gradients can be asked for."""

    def nothing(gradients: Any) -> tuple[None, ...]:
        return tuple(None for _ in gradients)

    nodes: list[Any] = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    handles = [node.register_prehook(nothing) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
