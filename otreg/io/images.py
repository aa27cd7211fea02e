"""Images of vectors on regular grids, written as NIfTI, NRRD and VTK files."""

from __future__ import annotations

import dataclasses
import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.files import atomic_path
from otreg.io.grids import HALF_TURN, Grid
from otreg.io.vtp import collected_messages

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".vti")
"""Suffixes of the images that :func:`write_vectors` writes."""


@dataclasses.dataclass(frozen=True, eq=False)
class VectorImage:
    """A vector at each point of a grid.

    Attributes
    ----------
    grid : Grid
    vectors : float32 array, shape (nz, ny, nx, 3)
        In the frame and the unit of the grid's points.
    frame : {"RAS", "LPS", "tkRAS"} or None
        ``None`` where it is not known.
    about : str
        What the vectors are, in plain ASCII.
    fields : dict of str to str
        More of that: key and value for NRRD and VTK, which have a place for them.
    turned : bool
        Whether ``vectors`` are still in the other of RAS and LPS: :meth:`planes` turns them one by one, so that no
        second copy of all is held.
    """

    grid: Grid
    vectors: NDArray[np.float32]
    frame: str | None
    about: str
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    turned: bool = False

    def __post_init__(self) -> None:
        wanted = (*self.grid.shape[::-1], 3)
        if self.vectors.shape != wanted or self.vectors.dtype != np.float32:
            raise InputError(
                f"vectors must be float32 of shape {wanted}, got {self.vectors.dtype} of {self.vectors.shape}"
            )

    @property
    def headline(self) -> str:
        """What goes into the header of a file: frame and meaning, cut at the 79 characters that NIfTI holds."""
        return f"otreg, {f'vectors {self.frame}' if self.frame else 'frame unknown'}: {self.about}"[:79]

    def in_lps(self) -> VectorImage:
        """Return the image with grid and vectors in LPS; where the frame is not known, as it is.

        Raises
        ------
        InputError
            For tkRAS, whose offset from RAS is not known here.
        """
        if self.frame == "tkRAS":
            raise InputError(
                "tkRAS differs from RAS by an offset that the transform does not know: write .vti, or register "
                "surfaces converted to RAS (otreg convert --frame RAS)"
            )
        if self.frame != "RAS":
            return self
        return dataclasses.replace(self, grid=self.grid.turned(), frame="LPS", turned=not self.turned)

    def planes(self) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of each plane k, (ny, nx, 3), in :attr:`frame`, little-endian and contiguous."""
        for plane in self.vectors:
            turned = plane * HALF_TURN.astype(np.float32) if self.turned else plane
            yield np.ascontiguousarray(turned, dtype="<f4")


def image_suffix(path: str | os.PathLike[str]) -> str | None:
    """Which of :data:`IMAGE_SUFFIXES` a name ends in, or ``None``."""
    name = Path(path).name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), None)


def write_vectors(image: VectorImage, path: str | os.PathLike[str], *, compressed: bool = True) -> None:
    """Write a vector image whole, or not at all, in the format that the suffix names.

    Parameters
    ----------
    image : VectorImage
    path : str or path-like
        ``.nii`` and ``.nii.gz``: NIfTI-1 of five dimensions (nx, ny, nz, 1, 3), intent 1007 (vector), as ITK and
        ANTs have it: the place of the grid is in RAS, as NIfTI demands, but the vectors are in LPS. A frame that
        is not known is taken for LPS.
        ``.nrrd``: kinds ``vector domain domain domain``, grid and vectors in LPS; where the frame is not known
        no space is stated.
        ``.vti``: VTK XML image data with the point vectors ``displacement``, in the frame of the image.
    compressed : bool, default True
        Whether .nrrd and .vti are compressed; NIfTI is where its suffix says so.

    Raises
    ------
    InputError
        On another suffix, a frame that the format cannot have, too many points along an axis for NIfTI
        (32,767), or where the file cannot be written.
    """
    suffix = image_suffix(path)
    if suffix is None:
        raise InputError(f"{path}: images are written as {', '.join(IMAGE_SUFFIXES)}; choose such a name")
    try:
        ready = image if suffix == ".vti" else image.in_lps()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if suffix.startswith(".nii") and max(image.grid.shape) > 32767:
        raise InputError(f"{path}: NIfTI holds 32,767 points along an axis at most: choose .nrrd")
    with atomic_path(path) as temporary:
        if suffix == ".vti":
            _write_vti(ready, temporary, compressed)
        elif suffix == ".nrrd":
            _write_nrrd(ready, temporary, compressed)
        else:
            _write_nifti(ready, temporary, suffix == ".nii.gz")


@contextmanager
def _gzipped(file: IO[bytes], compressed: bool) -> Iterator[IO[bytes]]:
    if not compressed:
        yield file
        return
    # no time, no name: the same content gives the same file
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as stream:
        yield stream  # type: ignore[misc]


def _write_nifti(image: VectorImage, path: Path, compressed: bool) -> None:
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype("<f4")
    header.set_data_shape((*image.grid.shape, 1, 3))
    affine = image.grid.turned().affine  # from LPS to NIfTI's RAS
    header.set_qform(affine, "scanner")
    header.set_sform(affine, "scanner")
    header.set_intent("vector")
    header.set_xyzt_units("mm")
    header["descrip"] = image.headline.encode("ascii")
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    with path.open("wb") as file, _gzipped(file, compressed) as stream:
        stream.write(header.binaryblock + b"\0\0\0\0")
        for component in range(3):
            for plane in image.planes():
                stream.write(np.ascontiguousarray(plane[..., component]).data)


def _write_nrrd(image: VectorImage, path: Path, compressed: bool) -> None:
    def vector(values: NDArray[np.float64]) -> str:
        return "(" + ",".join(repr(float(value)) for value in values) + ")"

    grid = image.grid
    steps = " ".join(vector(column) for column in (grid.directions * grid.spacing).T)
    lines = [
        "NRRD0005",
        f"# {image.headline}",
        "type: float",
        "dimension: 4",
        "space: left-posterior-superior" if image.frame else "space dimension: 3",
        f"sizes: 3 {' '.join(map(str, grid.shape))}",
        f"space directions: none {steps}",
        "kinds: vector domain domain domain",
        "endian: little",
        f"encoding: {'gzip' if compressed else 'raw'}",
        f"space origin: {vector(grid.origin)}",
        *(f"{key}:={value}" for key, value in image.fields.items()),
    ]
    with path.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode("ascii"))
        with _gzipped(file, compressed) as stream:
            for plane in image.planes():
                stream.write(plane.data)


def _write_vti(image: VectorImage, path: Path, compressed: bool) -> None:
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonCore import vtkStringArray
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkIOXML import vtkXMLImageDataWriter

    data: Any = vtkImageData()
    data.SetDimensions(*image.grid.shape)
    data.SetOrigin(*image.grid.origin)
    data.SetSpacing(*image.grid.spacing)
    data.SetDirectionMatrix(*image.grid.directions.ravel())
    vectors = numpy_to_vtk(np.ascontiguousarray(image.vectors).reshape(-1, 3))
    vectors.SetName("displacement")
    data.GetPointData().SetVectors(vectors)
    about = {"SPACE": image.frame, "about": image.headline, **image.fields}
    for name, value in about.items():
        if value:
            text = vtkStringArray()
            text.SetName(name)
            text.InsertNextValue(value)
            data.GetFieldData().AddArray(text)
    writer: Any = vtkXMLImageDataWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(data)
    if not compressed:
        writer.SetCompressorTypeToNone()
    with collected_messages(writer) as messages:
        done = writer.Write()
    if not done or messages:
        raise OSError(messages[0] if messages else "VTK could not write it")
