"""Numbers out of text, in C and never fewer than were promised."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import DTypeLike, NDArray


def parse_numbers(text: bytes, dtype: DTypeLike = np.float64) -> NDArray:
    """Whitespace-separated numbers of some text, up to the first word that is none.

    Parameters
    ----------
    text : bytes
        ASCII; ``nan`` and ``inf`` are numbers.
    dtype : dtype, default float64
        An integer type keeps integers beyond 2**53 exact.

    Returns
    -------
    array, shape (n,)
        The caller compares ``n`` with the number that it expects: a shorter array means damaged text.
    """
    return parse_all(text, dtype)[0]


def parse_all(text: bytes, dtype: DTypeLike = np.float64) -> tuple[NDArray, bool]:
    """Like :func:`parse_numbers`, and whether the text is numbers to its end."""
    if not text.strip():
        return np.zeros(0, dtype), True
    with warnings.catch_warnings(record=True) as caught:
        # numpy warns where it meets a word that is no number
        warnings.simplefilter("always", DeprecationWarning)
        try:
            values = np.fromstring(text.decode("latin-1"), dtype=dtype, sep=" ")
        except ValueError:
            values = _parse_words(text, np.dtype(dtype))
            return values, len(values) == len(text.split())
    return values, not caught


def _parse_words(text: bytes, dtype: np.dtype) -> NDArray:
    """Same, word by word, for a numpy that refuses text with a bad word in it."""
    convert = int if dtype.kind in "iu" else float
    numbers = []
    for word in text.split():
        try:
            numbers.append(convert(word))
        except ValueError:
            break
    return np.array(numbers, dtype)
