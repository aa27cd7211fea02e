"""Transform files of ITK, which ANTs, 3D Slicer and SimpleITK read: text (.tfm, .txt) and HDF5 (.h5)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.files import atomic_path
from otreg.io.images import VectorImage

TEXT_SUFFIXES = (".tfm", ".txt")
HDF5_SUFFIXES = (".h5", ".hdf5")

_CHUNK = 1 << 16


@dataclasses.dataclass(frozen=True, eq=False)
class AffinePart:
    """The map ``y = matrix @ x + translation`` of points in LPS: (3, 3) and (3,), float64."""

    matrix: NDArray[np.float64]
    translation: NDArray[np.float64]

    def parameters(self) -> NDArray[np.float64]:
        """Return ITK's twelve parameters: the matrix row by row, then the translation."""
        return np.concatenate([self.matrix.ravel(), self.translation])


def write_itk_text(part: AffinePart, path: str | os.PathLike[str], about: str) -> None:
    """Write an affine map as ITK's text file, whole or not at all; ``about`` becomes a comment."""
    numbers = " ".join(repr(float(value)) for value in part.parameters())
    text = (
        "#Insight Transform File V1.0\n"
        f"# {about}\n"
        "#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\n"
        "FixedParameters: 0 0 0\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="ascii")


def write_itk_hdf5(
    parts: Sequence[AffinePart | VectorImage],
    path: str | os.PathLike[str],
    about: str,
    *,
    compressed: bool = True,
) -> None:
    """Write maps as ITK's HDF5 transform file, whole or not at all.

    Parameters
    ----------
    parts : sequence of AffinePart and VectorImage
        In LPS, the one that is applied first at the beginning. A single one is written as itself, several as a
        CompositeTransform (in which ITK applies the last one first).
    path : str or path-like
    about : str
        Kept as the attribute ``about`` of the file, which ITK does not look at.
    compressed : bool, default True

    Raises
    ------
    InputError
        Without any part, or where the file cannot be written.
    """
    import h5py

    if not parts:
        raise InputError("a transform file needs at least one map")
    composite = ["CompositeTransform_double_3_3"] if len(parts) > 1 else []
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["about"] = about
        for number, part in enumerate([*composite, *reversed(parts)]):
            group = file.create_group(f"TransformGroup/{number}")
            if isinstance(part, str):
                _write_text(group, "TransformType", part)
            elif isinstance(part, AffinePart):
                _write_text(group, "TransformType", "AffineTransform_double_3_3")
                _write_numbers(group, "TransformFixedParameters", np.zeros(3))
                _write_numbers(group, "TransformParameters", part.parameters())
            else:
                grid = part.grid
                fixed = np.concatenate([grid.shape, grid.origin, grid.spacing, grid.directions.ravel()])
                _write_text(group, "TransformType", "DisplacementFieldTransform_double_3_3")
                _write_numbers(group, "TransformFixedParameters", fixed)
                _write_vectors(group, "TransformParameters", part, compressed)


def _write_numbers(group: Any, name: str, values: NDArray[Any]) -> None:
    group.create_dataset(name, data=values, track_times=False)


def _write_vectors(group: Any, name: str, image: VectorImage, compressed: bool) -> None:
    """Write the vectors one after the other, plane by plane."""
    size = image.vectors.size
    how: dict[str, Any] = {}
    if compressed:
        how = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "chunks": (min(size, _CHUNK),)}
    numbers = group.create_dataset(name, (size,), "<f4", track_times=False, **how)
    start = 0
    for plane in image.planes():
        numbers[start : start + plane.size] = plane.ravel()
        start += plane.size


def _write_text(group: Any, name: str, text: str) -> None:
    import h5py

    group.create_dataset(
        name, data=[text.encode("ascii")], dtype=h5py.string_dtype("ascii"), track_times=False
    )
