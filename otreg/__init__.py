"""otreg: register two surfaces or point clouds with optimal transport and smooth, invertible maps.

A map moves POINTS of the MOVING shape into the space of the FIXED one: ``phi(x_moving) ≈ y_fixed``.

Everything is imported where it is first used, so that ``import otreg`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module that holds it; submodules map to themselves
_LAZY = {
    "Surface": "otreg.surface",
    "Landmarks": "otreg.surface",
    "InputError": "otreg.errors",
    "OtregError": "otreg.errors",
    "read": "otreg.io",
    "write": "otreg.io",
    "read_landmarks": "otreg.io",
    "write_landmarks": "otreg.io",
    "load_transform": "otreg.deformations",
    "register": "otreg.registration",
    "Registration": "otreg.registration",
}
_SUBMODULES = (
    "attachments",
    "autodiff",
    "cohort",
    "deformations",
    "flows",
    "io",
    "kernels",
    "quality",
    "reductions",
    "registration",
    "transport",
    "visualize",
)

__all__ = ["__version__", *_LAZY, *_SUBMODULES]

if TYPE_CHECKING:
    from otreg import (
        attachments,
        deformations,
        flows,
        io,
        kernels,
        quality,
        reductions,
        registration,
        transport,
        visualize,
    )
    from otreg.deformations import load_transform
    from otreg.errors import InputError, OtregError
    from otreg.io import read, read_landmarks, write, write_landmarks
    from otreg.registration import Registration, register
    from otreg.surface import Landmarks, Surface


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"otreg.{name}")
    raise AttributeError(f"module 'otreg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
