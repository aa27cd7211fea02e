"""Several attachments as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from otreg.attachments.base import Attachment
from otreg.errors import InputError


class Combined(Attachment):
    """Weighted sum of attachments: ``Σ_k w_k A_k(points, triangles)``.

    Parameters
    ----------
    terms : iterable of (float, Attachment)
        Weights, finite and not negative, and what they weigh. Since all values are squared lengths of like
        size, weights are plain numbers. A term of weight 0 is not computed. Anything that is called like an
        attachment and returns a number will do; a Combined too.

    Raises
    ------
    InputError
        On no terms, a bad weight, something that cannot be called.

    Examples
    --------
    >>> Combined([(1.0, Varifold(fixed, width=4.0)), (0.1, Transport(fixed))])  # doctest: +SKIP
    """

    def __init__(self, terms: Iterable[tuple[float, Callable[..., Tensor]]]) -> None:
        checked = []
        for place, term in enumerate(terms):
            if not isinstance(term, tuple | list) or len(term) != 2:
                raise InputError(f"terms[{place}] must be a pair (weight, attachment), got {term!r}")
            checked.append((_weight(term[0], place), term[1]))
            if not callable(term[1]):
                raise InputError(f"terms[{place}] must hold an attachment, got {type(term[1]).__name__}")
        if not checked:
            raise InputError("terms must hold at least one pair (weight, attachment)")
        self.terms: tuple[tuple[float, Callable[..., Tensor]], ...] = tuple(checked)

    def __call__(self, points: Any, triangles: Any = None, weights: Any = None) -> Tensor:
        """Return the weighted sum, in squared length units."""
        return torch.stack(self.parts(points, triangles, weights)).sum()

    def parts(self, points: Any, triangles: Any = None, weights: Any = None) -> list[Tensor]:
        """The weighted value of each term, in their order; 0 for a term of weight 0."""
        given = {} if weights is None else {"weights": weights}
        values = [
            weight * attachment(points, triangles, **given) if weight else None
            for weight, attachment in self.terms
        ]
        like = next((value for value in values if value is not None), torch.zeros(()))
        return [torch.zeros_like(like) if value is None else value for value in values]

    @property
    def scale(self) -> float:
        """The smallest scale of its terms."""
        return min(float(getattr(attachment, "scale", 0.0)) for _, attachment in self.terms)

    def reset(self) -> None:
        """Reset every term."""
        for _, attachment in self.terms:
            getattr(attachment, "reset", lambda: None)()

    def __repr__(self) -> str:
        return f"Combined([{', '.join(f'({weight:g}, {term!r})' for weight, term in self.terms)}])"


def _weight(given: Any, place: int) -> float:
    try:
        weight = float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0.0):
        raise InputError(f"the weight of terms[{place}] must be finite and not negative, got {given!r}")
    return weight
