"""A deformation as an ITK transform: affine parts exactly, the rest as a displacement field between them."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otreg.deformations.affine import Affine
from otreg.deformations.base import Deformation
from otreg.deformations.composite import Composite
from otreg.deformations.domain import choose_grid, oriented
from otreg.deformations.field import (
    DisplacementField,
    FieldAccuracy,
    Progress,
    checked_points,
    frame_notes,
    measured,
    sampled,
)
from otreg.errors import InputError
from otreg.io.grids import HALF_TURN, Grid
from otreg.io.images import VectorImage
from otreg.io.itk_files import HDF5_SUFFIXES, TEXT_SUFFIXES, AffinePart, write_itk_hdf5, write_itk_text


@dataclasses.dataclass(frozen=True, eq=False)
class ItkTransform:
    """The map ``after(field(before(x)))``, as ITK's transform files hold it.

    Attributes
    ----------
    before, after : Affine
        The affine stages at the beginning and at the end of the deformation, multiplied out.
    field : DisplacementField or None
        What lies between them, sampled; ``None`` for an affine map.
    frame : {"RAS", "LPS", "tkRAS"} or None
    direction : {"points", "images"}
    maps : str
        The direction in words.
    accuracy : FieldAccuracy
        How far the whole is from the deformation inside the grid; zero for an affine map.
    """

    before: Affine
    field: DisplacementField | None
    after: Affine
    frame: str | None
    direction: str
    maps: str
    accuracy: FieldAccuracy

    def map(self, points: ArrayLike) -> NDArray[np.float64]:
        """Move points (N, 3) as ITK does; outside the grid by the affine parts alone."""
        moved = self.before.map(np.asarray(points, dtype=np.float64))
        return self.after.map(moved if self.field is None else self.field.map(moved))

    def save(self, path: str | os.PathLike[str], *, compressed: bool = True) -> list[str]:
        """Write the transform in LPS, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            ``.tfm``, ``.txt``: text, for affine maps alone. ``.h5``, ``.hdf5``: HDF5, a CompositeTransform where
            there is more than one part.
        compressed : bool, default True
            Whether HDF5 is.

        Returns
        -------
        list of str
            What a reader of the file should be told: a line where the frame is not known.

        Raises
        ------
        InputError
            On another suffix, text for a map that is not affine, a frame that ITK cannot have (tkRAS), or where
            the file cannot be written.
        """
        name = str(path).lower()
        if not name.endswith(TEXT_SUFFIXES + HDF5_SUFFIXES):
            raise InputError(f"{path}: ITK transforms are written as .tfm, .txt or .h5; choose such a name")
        if name.endswith(TEXT_SUFFIXES) and self.field is not None:
            raise InputError(
                f"{path}: {name[-4:]} holds affine maps alone, and this one bends; choose .h5 (or .nii.gz, .nrrd)"
            )
        if self.frame == "tkRAS":
            raise InputError(
                f"{path}: ITK's files are in LPS, and tkRAS differs from it by an offset that the transform does not "
                "know: register surfaces converted to RAS (otreg convert --frame RAS)"
            )
        about = f"otreg, {'LPS' if self.frame else 'frame unknown'}: {self.maps}"
        if self.field is None:
            whole = self._in_lps(self.after.after(self.before))
            if name.endswith(TEXT_SUFFIXES):
                write_itk_text(whole, path, about)
            else:
                write_itk_hdf5([whole], path, about)
        else:
            parts: list[AffinePart | VectorImage] = [self.field.image().in_lps()]
            if not _is_identity(self.before):
                parts.insert(0, self._in_lps(self.before))
            if not _is_identity(self.after):
                parts.append(self._in_lps(self.after))
            write_itk_hdf5(parts, path, about, compressed=compressed)
        return frame_notes(self.frame, any_frame=False)

    def _in_lps(self, affine: Affine) -> AffinePart:
        matrix = affine.matrix.detach().cpu().numpy()
        translation = affine.translation.detach().cpu().numpy()
        if self.frame == "RAS":
            matrix, translation = HALF_TURN[:, None] * matrix * HALF_TURN, HALF_TURN * translation
        return AffinePart(matrix, translation)


def itk_transform(
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
) -> ItkTransform:
    """Turn a deformation into an ITK transform: affine where it is affine, sampled where it is not.

    Parameters
    ----------
    transform, grid, bounds, spacing, margin, direction, inverse, frame, grid_frame, progress
        See :func:`otreg.deformations.sample_field`. The grid is named where the map begins; the field between
        the affine parts is sampled where these carry the grid: on the grid moved along where they turn and scale
        it, else on a grid around it. For an affine map no grid is needed, and none is looked at.

    Returns
    -------
    ItkTransform

    Raises
    ------
    InputError, NotInvertibleError
        See :func:`otreg.deformations.sample_field`.
    """
    found = oriented(transform, direction, inverse, frame)
    mapping = found.mapping
    stages = list(mapping.stages) if isinstance(mapping, Composite) else [mapping]
    before, after = Affine.identity(), Affine.identity()
    while stages and isinstance(stages[0], Affine):
        before = _plain(stages.pop(0)).after(before)
    while stages and isinstance(stages[-1], Affine):
        after = after.after(_plain(stages.pop()))
    about = (found.frame, found.direction, found.maps)
    if not stages:
        return ItkTransform(before, None, after, *about, FieldAccuracy(0.0, 0.0, 0))
    where = choose_grid(found, grid, bounds, spacing, margin, grid_frame)
    inner = Composite(stages) if len(stages) > 1 else stages[0]
    field = sampled(found._replace(mapping=inner), _carried(where, before), progress)
    whole = ItkTransform(before, field, after, *about, field.accuracy)
    # the field knows where it bends most; the map begins before the affine part that leads there
    points = before.inverse.map(checked_points(field))
    return dataclasses.replace(whole, accuracy=measured(mapping, whole.map, points))


def _plain(stage: Deformation) -> Affine:
    """An affine stage without frames and metadata."""
    assert isinstance(stage, Affine)
    return Affine(stage.matrix.detach(), stage.translation.detach(), stage.kind)


def _carried(grid: Grid, before: Affine) -> Grid:
    """A grid that covers where an affine map carries the points of another."""
    if _is_identity(before):
        return grid
    scale = before.scale
    if before.kind == "affine":
        corners = before.map(grid.corners)
        return Grid.around(np.stack([corners.min(axis=0), corners.max(axis=0)]), grid.spacing.min() * scale)
    directions = before.matrix.cpu().numpy() @ grid.directions / scale
    return Grid(before.map(grid.origin[None])[0], grid.spacing * scale, grid.shape, directions)


def _is_identity(affine: Affine) -> bool:
    return (
        np.array_equal(affine.matrix.cpu().numpy(), np.eye(3)) and not affine.translation.cpu().numpy().any()
    )
