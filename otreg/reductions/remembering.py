"""Engines that live as long as one problem, and know its points again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Generic, TypeVar

from torch import Tensor

from otreg.reductions.tree import Tree, build_tree

Order = TypeVar("Order")


class Remembering(ABC):
    """Tells clouds of points apart by their place in memory, which it keeps from being used again."""

    def __init__(self) -> None:
        self._points: dict[tuple[int, ...], Tensor] = {}

    def key(self, points: Tensor) -> tuple[int, ...]:
        """A name for these points, as long as nobody writes to them."""
        key = (points.data_ptr(), *points.shape, *points.stride(), points._version)
        # kept, so that no other points take the same place in memory
        self._points.setdefault(key, points.detach())
        return key

    def dropped(self, clouds: Iterable[Tensor]) -> set[tuple[int, ...]]:
        """The names of these points, which from now on are not kept."""
        gone = {self.key(points) for points in clouds}
        for key in gone:
            self._points.pop(key)
        return gone

    @abstractmethod
    def tree(self, points: Tensor) -> Tree:
        """The tree of these points, built once."""

    @abstractmethod
    def release(self, *clouds: Tensor) -> None:
        """Free what is known of these points: for those not asked for again."""

    def forget(self) -> None:  # noqa: B027
        """Free what makes a second sum over the same pairs quicker."""


class RememberingOrder(Remembering, Generic[Order]):
    """Keeps what it takes to sum over points in an order in which neighbours are near, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._trees: dict[tuple[int, ...], Tree] = {}
        self._orders: dict[tuple[int, ...], Order] = {}

    def tree(self, points: Tensor) -> Tree:
        """The tree of these points, built once."""
        key = self.key(points)
        if key not in self._trees:
            self._trees[key] = build_tree(points.detach())
        return self._trees[key]

    def in_order(self, points: Tensor) -> Order:
        """The order of these points, made once."""
        key = self.key(points)
        if key not in self._orders:
            self._orders[key] = self._put_in_order(points)
        return self._orders[key]

    def release(self, *clouds: Tensor) -> None:
        """Free what is known of these points."""
        for key in self.dropped(clouds):
            self._trees.pop(key, None)
            self._orders.pop(key, None)

    @abstractmethod
    def _put_in_order(self, points: Tensor) -> Order:
        """Make the order of these points."""
