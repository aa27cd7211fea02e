"""Displacement fields: a deformation sampled on a regular grid, for programs that know images only."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otreg.deformations.base import Deformation
from otreg.deformations.domain import Oriented, choose_grid, oriented
from otreg.errors import InputError, NotInvertibleError
from otreg.io.grids import Grid
from otreg.io.images import IMAGE_SUFFIXES, VectorImage, image_suffix, write_vectors
from otreg.io.itk_files import HDF5_SUFFIXES, write_itk_hdf5

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

_BLOCK = 1 << 16
"""Points that are mapped together: what is held beyond the result."""
_CHECKED = 1000
"""Random points at which the accuracy is measured, and about as many where the field bends most."""


class FieldAccuracy(NamedTuple):
    """Distance between the map and what linear interpolation makes of the samples, in the unit of the files.

    Attributes
    ----------
    mean : float
        Over random points, uniform in the grid; rounding to float32 is part of it.
    largest : float
        Over these and the middles of the cells around the grid points where the field bends most.
    points : int
        How many points that are together.
    """

    mean: float
    largest: float
    points: int


@dataclasses.dataclass(frozen=True, eq=False)
class DisplacementField:
    """Displacements ``phi(x) - x`` at the points x of a grid.

    Attributes
    ----------
    grid : Grid
        Where: origin, spacing, directions, shape.
    displacements : float32 array, shape (nz, ny, nx, 3)
        In the unit of the files. float32 keeps seven digits, far more than interpolation does.
    frame : {"RAS", "LPS", "tkRAS"} or None
        Of grid and displacements; ``None`` where nobody said.
    direction : {"points", "images"}
        What it is for.
    maps : str
        The same in words: ``"points of MOVING to FIXED"``.
    accuracy : FieldAccuracy
        How far :meth:`map` is from the deformation inside the grid.
    """

    grid: Grid
    displacements: NDArray[np.float32]
    frame: str | None
    direction: str
    maps: str
    accuracy: FieldAccuracy

    def map(self, points: ArrayLike) -> FloatArray:
        """Move points (N, 3) as ITK does with this field: linear interpolation, and no motion outside the grid."""
        given = np.asarray(points, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != 3:
            raise InputError(f"points must have shape (N, 3), got {given.shape}")
        return given + self.grid.interpolate(self.displacements, given)

    def image(self) -> VectorImage:
        """Return the field as the writers of :mod:`otreg.io.images` take it."""
        kind = "modeling" if self.direction == "points" else "resampling"
        # the second key is 3D Slicer's: it tells which way its Transforms module takes the vectors
        fields = {"otreg maps": self.maps, "displacement field type": kind}
        return VectorImage(self.grid, self.displacements, self.frame, self.maps, fields)

    def save(self, path: str | os.PathLike[str], *, compressed: bool = True) -> list[str]:
        """Write the field whole, or not at all, in the format that the suffix names.

        Parameters
        ----------
        path : str or path-like
            ``.nii.gz``, ``.nii``, ``.nrrd``: images with the vectors in LPS, as ITK, ANTs and 3D Slicer read them.
            ``.vti``: VTK image data, in :attr:`frame`. ``.h5``, ``.hdf5``: ITK's DisplacementFieldTransform, in
            LPS. See ``docs/fields.md``.
        compressed : bool, default True
            Not for NIfTI, where the suffix says it.

        Returns
        -------
        list of str
            What a reader of the file should be told: a line where the frame is not known.

        Raises
        ------
        InputError
            On another suffix, a frame that the format cannot have (tkRAS), or where it cannot be written.
        """
        name = str(path).lower()
        if name.endswith(HDF5_SUFFIXES):
            image = self.image().in_lps()
            write_itk_hdf5([image], path, image.headline, compressed=compressed)
        elif image_suffix(path) is None:
            known = ", ".join((*IMAGE_SUFFIXES, *HDF5_SUFFIXES))
            raise InputError(f"{path}: a field is written as {known}; choose such a name")
        else:
            write_vectors(self.image(), path, compressed=compressed)
        return frame_notes(self.frame, name.endswith(".vti"))


def sample_field(
    transform: Deformation,
    grid: Grid | None = None,
    *,
    bounds: ArrayLike | None = None,
    spacing: float | None = None,
    margin: float | None = None,
    direction: str = "points",
    inverse: bool = False,
    frame: str | None = None,
    grid_frame: str | None = None,
    progress: Progress | None = None,
) -> DisplacementField:
    """Sample a deformation on a regular grid.

    Parameters
    ----------
    transform : Deformation
        From MOVING to FIXED.
    grid : Grid, optional
        Where to sample, in the space in which the sampled map begins: MOVING's for points, FIXED's for images
        (the other way round with ``inverse``). :func:`otreg.io.grids.read_grid` gives that of an image.
    bounds : array_like, shape (2, 3), optional
        In place of a grid: the smallest and largest coordinates of the shape there. By default those of the shape
        that the transform was registered from, or of its control points.
    spacing : float, optional
        In the unit of the files; by default 1/64 of the diagonal of the box, or the grid's own.
    margin : float, optional
        What is added to the box on each side; by default a tenth of its diagonal, or none for a grid.
    direction : {"points", "images"}, default "points"
        ``"points"``: the map itself, which moves points of MOVING to FIXED. ``"images"``: its inverse, which who
        resamples an image of MOVING onto FIXED looks up at every voxel of FIXED: points move opposite to images.
    inverse : bool, default False
        Exchange MOVING and FIXED: the same for the inverse of the transform.
    frame : {"RAS", "LPS"}, optional
        Frame of a transform that does not say; refused where it says another.
    grid_frame : {"RAS", "LPS"}, optional
        Frame of ``grid`` or ``bounds``, where it may differ from the map's. If the map's is not known, it is
        taken for LPS beside a grid; bounds are then taken as they are.
    progress : callable, optional
        Called with the points done and all points, after each block.

    Returns
    -------
    DisplacementField
        With its accuracy. Memory beyond the result does not grow with the grid: 65,536 points at a time.

    Raises
    ------
    InputError
        On unknown words, a frame that contradicts the transform's, a transform that does not know its shape
        (give ``grid`` or ``bounds``), more than 100,000,000 points, or images that are not finite.
    NotInvertibleError
        Where an inverse is wanted at a point at which the map folds.
    """
    found = oriented(transform, direction, inverse, frame)
    where = choose_grid(found, grid, bounds, spacing, margin, grid_frame)
    return sampled(found, where, progress)


def sampled(found: Oriented, grid: Grid, progress: Progress | None = None) -> DisplacementField:
    """Sample an oriented map on a grid."""
    vectors = displacements(found.mapping, grid, progress)
    field = DisplacementField(
        grid, vectors, found.frame, found.direction, found.maps, FieldAccuracy(0.0, 0.0, 0)
    )
    points = checked_points(field)
    return dataclasses.replace(field, accuracy=measured(found.mapping, field.map, points))


def displacements(mapping: Deformation, grid: Grid, progress: Progress | None = None) -> NDArray[np.float32]:
    """Displacements at all points of a grid, float32 of shape (nz, ny, nx, 3), block by block."""
    vectors = np.empty((grid.count, 3), dtype=np.float32)
    for start in range(0, grid.count, _BLOCK):
        stop = min(start + _BLOCK, grid.count)
        points = grid.points(start, stop)
        vectors[start:stop] = _images(mapping, points) - points
        if progress is not None:
            progress(stop, grid.count)
    return vectors.reshape(*grid.shape[::-1], 3)


def measured(
    mapping: Deformation, approximation: Callable[[FloatArray], FloatArray], points: FloatArray
) -> FieldAccuracy:
    """Distance between a map and its approximation at :func:`checked_points`."""
    error = np.linalg.norm(approximation(points) - _images(mapping, points), axis=1)
    return FieldAccuracy(float(error[:_CHECKED].mean()), float(error.max()), len(points))


def checked_points(field: DisplacementField) -> FloatArray:
    """Random points in the grid, always the same ones, and after them those where linear interpolation errs most.

    Along an axis it errs by ``h² |u''| / 8`` in the middle between two points, and ``h² u''`` is the second
    difference of three: the points with the largest ones are found, and the middles of the cells around them taken.
    """
    grid, last = field.grid, np.array(field.grid.shape) - 1.0
    random = np.random.default_rng(0).random((_CHECKED, 3)) * last
    halves = 0.5 - np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(8, 3)
    bent = _most_bent(field.displacements, _CHECKED // 8)
    middles = np.clip((bent[:, None, :] + halves).reshape(-1, 3), 0.0, last)
    return grid.origin + (np.concatenate([random, middles]) * grid.spacing) @ grid.directions.T


def _most_bent(vectors: NDArray[np.float32], count: int) -> FloatArray:
    """Indices (i, j, k) of the points with the largest second differences, at most ``count``; plane by plane."""
    best, places = np.zeros(0), np.zeros((0, 3))
    for k, plane in enumerate(vectors):
        bend = np.zeros(plane.shape[:2])
        bend[:, 1:-1] += np.linalg.norm(plane[:, 2:] - 2.0 * plane[:, 1:-1] + plane[:, :-2], axis=2)
        bend[1:-1] += np.linalg.norm(plane[2:] - 2.0 * plane[1:-1] + plane[:-2], axis=2)
        if 0 < k < len(vectors) - 1:
            bend += np.linalg.norm(vectors[k + 1] - 2.0 * plane + vectors[k - 1], axis=2)
        j, i = np.unravel_index(np.argsort(bend, axis=None)[-count:], bend.shape)
        best = np.concatenate([best, bend[j, i]])
        places = np.concatenate([places, np.stack([i, j, np.full(len(i), k)], axis=1)])
        kept = np.argsort(best)[-count:]
        best, places = best[kept], places[kept]
    return places


def _images(mapping: Deformation, points: FloatArray) -> FloatArray:
    try:
        images = mapping.map(points)
    except NotInvertibleError as error:
        raise NotInvertibleError(
            f"{error}; sample a smaller box around the shape (a smaller margin)"
        ) from None
    wrong = ~(np.abs(images) <= np.finfo(np.float32).max).all(axis=1)
    if wrong.any():
        place = ", ".join(f"{value:.6g}" for value in points[wrong.argmax()])
        raise InputError(
            f"the map has no finite image at {int(wrong.sum())} points of the grid, as ({place})"
        )
    return images


def frame_notes(frame: str | None, any_frame: bool) -> list[str]:
    """Warn where a file's frame is fixed and that of the map not known."""
    if frame is not None or any_frame:
        return []
    return [
        "the transform does not say in which frame it is, and is written as LPS; if it is RAS, state that"
    ]
