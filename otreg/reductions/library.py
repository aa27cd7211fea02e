"""The library in C that is built with the package (native/library.c) where there is a compiler: found and described."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

TYPES = {torch.float32: "f32", torch.float64: "f64"}

_WHOLE, _NUMBER, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class Mixture(ctypes.Structure):
    """``mixture`` of problem.h."""

    _fields_ = (
        *((name, _POINTER) for name in ("x", "y", "values", "result")),
        *((name, _WHOLE) for name in ("m", "channels", "widths", "orders")),
        *((name, _POINTER) for name in ("exponents", "factors", "squarings", "order_of")),
    )


class NearProblem(ctypes.Structure):
    """``near_problem`` of near.h."""

    _fields_ = (
        *((name, _POINTER) for name in ("x", "axes", "columns", "first")),
        ("low", _NUMBER * 2),
        ("width", _NUMBER),
        ("across", _WHOLE * 2),
        ("counts", _WHOLE * 2),
        *((name, _WHOLE) for name in ("along", "dimension", "places")),
        *((name, ctypes.c_float) for name in ("radius", "limit")),
        *((name, _POINTER) for name in ("starts", "few", "few_squared", "found", "squared")),
    )


class ClosestProblem(ctypes.Structure):
    """``closest_problem`` of closest.h."""

    _fields_ = (
        *((name, _POINTER) for name in ("points", "triangles", "names", "boxes")),
        *((name, _WHOLE) for name in ("count", "leaves")),
        *((name, _NUMBER) for name in ("limit", "enough")),
        ("found", _POINTER),
        ("squared", _POINTER),
    )


@cache
def find() -> ctypes.CDLL | None:
    """The library, or None where it was not built."""
    found = find_spec("otreg.reductions._library")
    return None if found is None or found.origin is None else load(found.origin)


def load(path: str) -> ctypes.CDLL | None:
    """The library of this file; None where it was built for another machine, or from other sources."""
    try:
        library = ctypes.CDLL(path)
        for name in TYPES.values():
            prepare, release, add, order, mix = (
                getattr(library, f"otreg_{verb}_{name}")
                for verb in ("prepare", "release", "sum", "order", "mix")
            )
            prepare.restype = _POINTER
            prepare.argtypes = [_POINTER] * 6 + [_WHOLE] * 3 + [_NUMBER] * 3 + [_POINTER] * 2
            release.restype, release.argtypes = None, [_POINTER]
            add.restype, add.argtypes = None, [_POINTER, _WHOLE, _WHOLE, _WHOLE]
            order.restype, order.argtypes = None, [_POINTER, _WHOLE, _WHOLE, _POINTER]
            mix.restype, mix.argtypes = None, [ctypes.POINTER(Mixture), _WHOLE, _WHOLE]
        library.otreg_farthest.restype = ctypes.c_int
        library.otreg_farthest.argtypes = [_POINTER, _WHOLE, _WHOLE, *[_POINTER] * 3, _WHOLE, _POINTER]
        library.otreg_near.restype = None
        library.otreg_near.argtypes = [ctypes.POINTER(NearProblem), _WHOLE, _WHOLE]
        library.otreg_closest.restype = None
        library.otreg_closest.argtypes = [ctypes.POINTER(ClosestProblem), _WHOLE, _WHOLE]
        library.otreg_closest_leaf.restype = library.otreg_unordered.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return library


def pointer(tensor: Tensor | None) -> int | None:
    """Where the numbers of a contiguous tensor on a CPU lie."""
    return None if tensor is None else tensor.data_ptr()
