"""The formulas once more, as dense NumPy in float64 on what a Surface says of itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from otreg import Surface

Array = NDArray[np.float64]

KERNELS: dict[str, Callable[[Array, float], Array]] = {
    "gaussian": lambda r, w: np.exp(-(r**2) / (2 * w**2)),
    "cauchy": lambda r, w: 1 / (1 + r**2 / w**2),
    "inverse_multiquadric": lambda r, w: 1 / np.sqrt(1 + r**2 / w**2),
    "laplacian": lambda r, w: np.exp(-r / w),
}

GAMMAS: dict[str, Callable[[Array], Array]] = {
    "current": lambda t: t,
    "square": lambda t: t**2,
    "linear": lambda t: (1 + t) / 2,
    "exponential": lambda t: np.exp((t - 1) / 0.5**2),
    "none": np.ones_like,
}


def kernel_value(
    moving: Surface,
    fixed: Surface,
    width: float,
    gamma: str,
    kernel: str = "gaussian",
    unit_mass: bool = False,
) -> float:
    """½ width² |μ - ν|² / (norm of the fixed areas)."""

    def product(first: Surface, second: Surface, name: str) -> float:
        r = np.linalg.norm(first.triangle_centres[:, None] - second.triangle_centres[None], axis=2)
        cosine = first.triangle_normals @ second.triangle_normals.T
        masses = [
            shape.triangle_areas / (shape.triangle_areas.sum() if unit_mass else 1)
            for shape in (first, second)
        ]
        return float(masses[0] @ (KERNELS[kernel](r, width) * GAMMAS[name](cosine)) @ masses[1])

    own = product(moving, moving, gamma) + product(fixed, fixed, gamma)
    return 0.5 * width**2 * (own - 2 * product(moving, fixed, gamma)) / product(fixed, fixed, "none")
