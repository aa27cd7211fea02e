"""Regular grids of points in space, as images have them, and the grids of NIfTI and NRRD files."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otreg.errors import InputError
from otreg.io.files import load_bytes

FloatArray = NDArray[np.float64]

MOST_POINTS = 100_000_000
"""Points of a grid at most: 1.2 GB of float32 vectors."""

HALF_TURN = np.array([-1.0, -1.0, 1.0])
"""What turns coordinates between RAS and LPS, both ways."""

_LONGEST_HEADER = 1 << 20

_NRRD_FRAMES = {
    "right-anterior-superior": "RAS",
    "ras": "RAS",
    "left-posterior-superior": "LPS",
    "lps": "LPS",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """Points ``origin + directions @ (spacing * (i, j, k))``, i running fastest.

    Parameters
    ----------
    origin : array_like, shape (3,)
        The point (0, 0, 0), in the unit of the files.
    spacing : array_like, shape (3,)
        Distances between neighbours along each axis, positive, in the unit of the files.
    shape : tuple of int, length 3
        Numbers of points along each axis, at least 1.
    directions : array_like, shape (3, 3), optional
        Unit vectors of the axes in its columns, at right angles to each other (to 1e-4, since files keep few
        digits); by default those of the coordinates.

    Raises
    ------
    InputError
        On other shapes, numbers that are not finite, axes that are not at right angles, or more than
        100,000,000 points.
    """

    origin: FloatArray
    spacing: FloatArray
    shape: tuple[int, int, int]
    directions: FloatArray = dataclasses.field(default_factory=lambda: np.eye(3))

    def __post_init__(self) -> None:
        for name, wanted in (("origin", (3,)), ("spacing", (3,)), ("directions", (3, 3))):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != wanted or not np.isfinite(values).all():
                raise InputError(
                    f"the {name} of a grid must be finite numbers of shape {wanted}, got {values}"
                )
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if not (self.spacing > 0).all():
            raise InputError(f"the spacing of a grid must be positive, got {self.spacing.tolist()}")
        if np.abs(self.directions.T @ self.directions - np.eye(3)).max() > 1e-4:
            raise InputError("the axes of a grid must be unit vectors at right angles (no shear)")
        shape = tuple(int(count) for count in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"the shape of a grid must be three counts of at least 1, got {self.shape}")
        object.__setattr__(self, "shape", shape)
        if self.count > MOST_POINTS:
            raise InputError(
                f"a grid of {' x '.join(map(str, shape))} points is too large ({MOST_POINTS:,} at most): "
                "choose a larger spacing"
            )

    @classmethod
    def around(cls, bounds: ArrayLike, spacing: ArrayLike) -> Grid:
        """Return the grid along the coordinates that covers a box, with the box in its middle.

        Parameters
        ----------
        bounds : array_like, shape (2, 3)
            Smallest and largest coordinates.
        spacing : float or array_like, shape (3,)
        """
        low, high = np.asarray(bounds, dtype=np.float64)
        step = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,))
        if not (np.isfinite(step).all() and (step > 0).all()):
            raise InputError(f"the spacing of a grid must be positive, got {step.tolist()}")
        counts = np.maximum(np.ceil((high - low) / step - 1e-9) + 1.0, 2.0)
        if not (counts < 1e9).all():
            raise InputError(f"a spacing of {step.min():g} is too small for a box from {low} to {high}")
        origin = 0.5 * (low + high) - 0.5 * (counts - 1.0) * step
        return cls(origin, step, (int(counts[0]), int(counts[1]), int(counts[2])))

    @property
    def count(self) -> int:
        """Number of points."""
        return math.prod(self.shape)

    @property
    def corners(self) -> FloatArray:
        """The eight outermost points, (8, 3)."""
        far = np.array(self.shape, dtype=np.float64) - 1.0
        return self._at(
            np.stack(np.meshgrid([0.0, 1.0], [0.0, 1.0], [0.0, 1.0]), axis=-1).reshape(8, 3) * far
        )

    @property
    def bounds(self) -> FloatArray:
        """Smallest and largest coordinates of its points, (2, 3)."""
        corners = self.corners
        return np.stack([corners.min(axis=0), corners.max(axis=0)])

    @property
    def affine(self) -> FloatArray:
        """Matrix (4, 4) from indices (i, j, k, 1) to coordinates (x, y, z, 1)."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.directions * self.spacing
        matrix[:3, 3] = self.origin
        return matrix

    def points(self, start: int = 0, stop: int | None = None) -> FloatArray:
        """Return points ``start`` to ``stop`` (default: all), i running fastest, then j, then k: (N, 3)."""
        number = np.arange(start, self.count if stop is None else stop)
        return self._at(np.stack(np.unravel_index(number, self.shape, order="F"), axis=1).astype(np.float64))

    def turned(self) -> Grid:
        """Return the same grid in the other of RAS and LPS."""
        return Grid(self.origin * HALF_TURN, self.spacing, self.shape, HALF_TURN[:, None] * self.directions)

    def adapted(self, spacing: float | None = None, margin: float = 0.0) -> Grid:
        """Return a grid along the same axes over the same box, widened by a margin on each side.

        Parameters
        ----------
        spacing : float, optional
            Of the new grid; the present one by default.
        margin : float, default 0
            In the unit of the files.
        """
        length = (np.array(self.shape) - 1.0) * self.spacing
        step = self.spacing if spacing is None else np.full(3, float(spacing))
        along = Grid.around(np.stack([np.full(3, -margin), length + margin]), step)
        return Grid(self.origin + self.directions @ along.origin, step, along.shape, self.directions)

    def interpolate(self, values: NDArray[Any], points: ArrayLike) -> FloatArray:
        """Interpolate linearly along each axis, as ITK does.

        Parameters
        ----------
        values : array, shape (nz, ny, nx, 3)
        points : array_like, shape (N, 3)

        Returns
        -------
        array, shape (N, 3)
            Beyond the outermost points the outermost values count for half a spacing; further out it is 0.
        """
        place = (np.asarray(points, dtype=np.float64) - self.origin) @ self.directions / self.spacing
        last = np.array(self.shape) - 1
        inside: NDArray[np.bool_] = np.all((place >= -0.5) & (place <= last + 0.5), axis=1)
        place = np.clip(np.where(inside[:, None], place, 0.0), 0.0, last)
        low = np.minimum(np.floor(place).astype(np.int64), np.maximum(last - 1, 0))
        share = place - low
        result = np.zeros((len(place), 3))
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(np.array(corner) == 1, share, 1.0 - share), axis=1)
            i, j, k = np.minimum(low + corner, last).T
            result += weight[:, None] * values[k, j, i]
        return np.where(inside[:, None], result, 0.0)

    def _at(self, places: FloatArray) -> FloatArray:
        return self.origin + (places * self.spacing) @ self.directions.T


def read_grid(path: str | os.PathLike[str]) -> tuple[Grid, str | None]:
    """Read the grid of an image, not its values.

    Parameters
    ----------
    path : str or path-like
        NIfTI (.nii, .nii.gz) or NRRD (.nrrd, .nhdr), of 3 dimensions in space.

    Returns
    -------
    grid : Grid
    frame : "RAS" (NIfTI), the frame that an NRRD file states ("RAS" or "LPS"), or None where it states none

    Raises
    ------
    InputError
        One line that names the file: it is missing, of another kind, or its axes are sheared.
    """
    source = Path(path)
    name = source.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            return _nifti_grid(source), "RAS"
        if name.endswith((".nrrd", ".nhdr")):
            return _nrrd_grid(source)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(source)) else f"{source}: {text}") from None
    raise InputError(f"{source}: not an image that otreg reads; known are .nii, .nii.gz, .nrrd and .nhdr")


def is_image(path: Path) -> bool:
    """Whether :func:`read_grid` reads files of this name."""
    return path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".nhdr"))


def _nifti_grid(path: Path) -> Grid:
    import nibabel

    if not path.is_file():
        load_bytes(path)  # says what is wrong
    try:
        image: Any = nibabel.load(path)
        affine, shape = np.asarray(image.affine, dtype=np.float64), image.shape
    except (OSError, ValueError, EOFError, TypeError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"no NIfTI image, or damaged ({' '.join(str(error).split())[:120]})") from None
    if len(shape) < 3 or affine.shape != (4, 4):
        raise InputError(f"an image of three dimensions is wanted, got {shape}")
    return _grid(affine[:3, 3], affine[:3, :3], shape[:3])


def _nrrd_grid(path: Path) -> tuple[Grid, str | None]:
    if not path.is_file():
        load_bytes(path)  # says what is wrong
    with path.open("rb") as file:
        head, _, _ = file.read(_LONGEST_HEADER).replace(b"\r\n", b"\n").partition(b"\n\n")
    if not head.startswith(b"NRRD"):
        raise InputError("no NRRD image; export it again")
    lines = head.decode("utf-8", "replace").splitlines()
    fields = dict(re.findall(r"^([\w ]+): *(.*?)\s*$", "\n".join(lines), re.MULTILINE))
    try:
        frame = _NRRD_FRAMES.get(fields["space"].lower()) if "space" in fields else None
        if "space" in fields and frame is None:
            raise InputError(f"its space is {fields['space']}; right-anterior-superior or LPS is wanted")
        vectors = re.findall(r"none|\(([^)]*)\)", fields["space directions"])
        rows = [[float(number) for number in text.split(",")] for text in vectors if text]
        sizes = [int(text) for text in fields["sizes"].split()]
        sizes = [size for size, text in zip(sizes, vectors, strict=True) if text]
        origin = [float(number) for number in fields["space origin"].strip("()").split(",")]
        return _grid(np.array(origin), np.array(rows).T, sizes), frame
    except KeyError as error:
        raise InputError(
            f"its header does not say {error.args[0]!r}: no image with a place in space"
        ) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"its header is damaged ({error})") from None


def _grid(origin: FloatArray, steps: FloatArray, shape: Any) -> Grid:
    """Grid from the step along each axis, in the columns of a (3, 3) matrix."""
    if steps.shape != (3, 3):
        raise InputError(f"an image of three dimensions in space is wanted, got {steps.shape[-1]}")
    spacing = np.linalg.norm(steps, axis=0)
    if not (spacing > 0).all():
        raise InputError("the distance of its voxels is zero along an axis")
    directions = steps / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4:
        raise InputError("its axes are not at right angles (shear): resample the image first")
    # the nearest exact ones: files keep seven digits, and what is written must be read as no shear
    left, _, right = np.linalg.svd(directions)
    return Grid(origin, spacing, (int(shape[0]), int(shape[1]), int(shape[2])), left @ right)
