"""Permutation tests: how often chance alone gives what was seen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from otreg.errors import InputError
from otreg.surface import FloatArray, IntArray

_AT_ONCE = 256
"""Permutations that one product of matrices carries."""


def check_permutations(count: int) -> int:
    """Refuse what is no number of permutations."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"permutations must be a whole number of 1 or more, got {count!r}")
    return count


def orders(subjects: int, count: int, seed: int) -> Iterator[IntArray]:
    """``count`` random orders of the subjects, in blocks (B, N); the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    for first in range(0, count, _AT_ONCE):
        size = min(_AT_ONCE, count - first)
        yield np.stack([rng.permutation(subjects) for _ in range(size)])


def p_value(observed: float, permuted: FloatArray) -> float:
    """Share of the values, the observed one among them, that are as large: never 0, and honest.

    ``(1 + #{permuted ≥ observed}) / (1 + P)`` (Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9). Values that
    are equal but for rounding count as equal: where few permutations exist, many give the same value.
    """
    close = observed - 1e-10 * max(abs(observed), 1e-300)
    return float((1 + int((permuted >= close).sum())) / (1 + len(permuted)))
