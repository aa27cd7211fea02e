"""Small shapes that the tests of input and output share."""

from __future__ import annotations

import numpy as np

from otreg.surface import Surface

TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def tetrahedron() -> Surface:
    """Four points in a deliberate order, coordinates that need every digit of double precision."""
    points = np.array(
        [[0.1, 1 / 3, -2.7e-8], [12.25, np.pi, 1e5 / 7], [-3.0, 1e3 + 1e-10, 0.5], [7.7, -np.e, 2.0]]
    )
    return Surface(points, TETRAHEDRON)


def with_data(surface: Surface | None = None) -> Surface:
    """The tetrahedron with scalars, vectors, labels and names that need encoding."""
    surface = surface or tetrahedron()
    count = len(surface)
    labelled = surface.with_points(
        surface.points,
        **{
            "thickness (mm)": np.linspace(0.1, 0.9, count),
            "displacement": surface.points * 0.125,
            "pair": np.arange(2.0 * count, dtype=np.float32).reshape(count, 2),
            "Cartilage Region": np.arange(count, dtype=np.int64) % 3 + 10,
            "x": np.arange(count, dtype=np.int16),
            "mask": (np.arange(count) % 2).astype(np.uint8),
        },
    )
    labelled.label_names = {"Cartilage Region": {10: "bone", 11: "medial, front", 12: "Übergang"}}
    return labelled


def cloud(count: int = 7) -> Surface:
    """A point cloud."""
    return Surface(np.random.default_rng(3).normal(size=(count, 3)))
