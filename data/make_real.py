"""Make the real surfaces of this folder from the PyPI packages that carry them, byte for byte.

    pip download --no-deps gias3-examples==3.0.0 suitpy==2.1.2 -d packages
    python data/make_real.py packages data                # needs numpy, vtk, nibabel

Nothing is installed: the files are read out of the archives, whose SHA-256 sums are checked. The surfaces are
decimated (quadric decimation) to keep the repository small, and otherwise left as they are: no smoothing, no
alignment. README.md beside this file gives origin, licence, counts and truth.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from plain_files import Array, Integers, write_landmarks, write_stl, write_vtk

GIAS3 = "gias3.examples-3.0.0-py3-none-any.whl"
SUITPY = "suitpy-2.1.2.tar.gz"
ARCHIVES = {
    GIAS3: "760bfb7fae8f0ec34020f992d4ada96f938358b578615c33a7d59f043d530502",
    SUITPY: "38b034cfb3f90757ebbf5d4aa31293f25361663abb438e234728973a25e17aa6",
}
METACARPALS = {
    "metacarpal_1.vtk": "gias3/examples/fieldwork/data/BN00104_E14727_S01_mc1 4_001.wrl",
    "metacarpal_2.stl": "gias3/examples/fieldwork/data/BN00105_E15006_S01_mc1 8_001.wrl",
}
CEREBELLA = {"cerebellum_suit.surf.gii": "PIAL_SUIT", "cerebellum_mnisymc.surf.gii": "PIAL_MNISymC"}
METACARPAL_TRIANGLES = 10_000
CEREBELLUM_TRIANGLES = 18_000
PATCHES = 24
LANDMARKS = 100


def archive_member(archive: Path, member: str) -> bytes:
    """Read one file out of a wheel or source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as source:
        stream = source.extractfile(member)
        if stream is None:
            raise SystemExit(f"{archive.name} has no file {member}")
        return stream.read()


def read_vrml(content: bytes) -> tuple[Array, Integers]:
    """Read the one triangle set of a VRML 2 file; its numbers are tenths of a micrometre, returned in mm."""
    text = re.sub(r"#.*", "", content.decode("latin-1"))
    blocks = [re.search(rf"\b{key}\s*\[([^\]]*)\]", text) for key in ("point", "coordIndex")]
    if None in blocks:
        raise SystemExit("the VRML file has no indexed triangles")
    coordinates, corners = (np.array(block[1].replace(",", " ").split(), float) for block in blocks if block)
    # every triangle is closed by a -1
    return coordinates.reshape(-1, 3) / 1e4, corners.reshape(-1, 4)[:, :3].astype(np.int64)


def decimate(points: Array, triangles: Integers, target: int) -> tuple[Array, Integers]:
    """Quadric decimation to about ``target`` triangles."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

    mesh, corners, cells = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray()
    corners.SetData(numpy_to_vtk(np.ascontiguousarray(points), deep=1))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.ascontiguousarray(triangles.ravel()), deep=1))
    mesh.SetPoints(corners)
    mesh.SetPolys(cells)
    reduce = vtk.vtkQuadricDecimation()
    reduce.SetInputData(mesh)
    reduce.SetTargetReduction(1.0 - target / len(triangles))
    reduce.Update()
    out = reduce.GetOutput()
    kept = vtk_to_numpy(out.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)
    return vtk_to_numpy(out.GetPoints().GetData()).astype(np.float64), kept


def farthest_points(points: Array, count: int) -> Integers:
    """Indices of ``count`` points spread over a shape: each one farthest from those before it."""
    chosen = [int(np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


def nearest(queries: Array, points: Array) -> Integers:
    """Index of the nearest point for each query, in chunks."""
    found = [
        np.argmin(((part[:, None] - points) ** 2).sum(-1), axis=1) for part in np.array_split(queries, 200)
    ]
    return np.concatenate(found)


def write_gifti(path: Path, points: Array, triangles: Integers, patch: Integers, folding: Array) -> None:
    """Write points, triangles, labels and folding as one GIFTI file, in its origin's coordinate system."""
    import nibabel
    from nibabel.gifti import GiftiCoordSystem, GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable

    table = GiftiLabelTable()
    colours = np.random.default_rng(0).random((PATCHES + 1, 3)).round(3)
    for key, (red, green, blue) in enumerate(colours):
        label = GiftiLabel(key, *(float(value) for value in (red, green, blue)), float(key > 0))
        label.label = f"patch_{key:02d}" if key else "none"
        table.labels.append(label)
    system = GiftiCoordSystem("NIFTI_XFORM_TALAIRACH", "NIFTI_XFORM_TALAIRACH")
    arrays = [
        GiftiDataArray(points.astype("f4"), "NIFTI_INTENT_POINTSET", "NIFTI_TYPE_FLOAT32", coordsys=system),
        GiftiDataArray(triangles.astype("i4"), "NIFTI_INTENT_TRIANGLE", "NIFTI_TYPE_INT32"),
        GiftiDataArray(patch.astype("i4"), "NIFTI_INTENT_LABEL", "NIFTI_TYPE_INT32", meta={"Name": "patch"}),
        GiftiDataArray(
            folding.astype("f4"), "NIFTI_INTENT_SHAPE", "NIFTI_TYPE_FLOAT32", meta={"Name": "folding"}
        ),
    ]
    nibabel.save(GiftiImage(darrays=arrays, labeltable=table), path)


def make_metacarpals(packages: Path, out: Path) -> None:
    """Two first metacarpals of different people."""
    for name, member in METACARPALS.items():
        points, triangles = read_vrml(archive_member(packages / GIAS3, member))
        points, triangles = decimate(points, triangles, METACARPAL_TRIANGLES)
        (write_vtk if name.endswith(".vtk") else write_stl)(out / name, points, triangles)


def make_cerebella(packages: Path, out: Path) -> None:
    """The cerebellar pial surface in two template spaces, with truth from their common vertex order."""
    import nibabel

    folder = "suitpy-2.1.2/SUITPy/surfaces"
    archive = packages / SUITPY

    def arrays(name: str) -> list[np.ndarray]:
        image = nibabel.GiftiImage.from_bytes(archive_member(archive, f"{folder}/{name}"))
        return [array.data for array in image.darrays]

    folding = arrays("SUIT.shape.gii")[0].astype(np.float64)
    full = {name: arrays(f"{origin}.surf.gii") for name, origin in CEREBELLA.items()}
    first = full["cerebellum_suit.surf.gii"][0].astype(np.float64)
    used = np.unique(full["cerebellum_suit.surf.gii"][1])
    patch = 1 + nearest(first, first[used[farthest_points(first[used], PATCHES)]])
    landmarks = np.sort(used[farthest_points(first[used], LANDMARKS)])
    for name, (points, triangles, *_) in full.items():
        points, triangles = points.astype(np.float64), triangles.astype(np.int64)
        few, kept = decimate(points, triangles, CEREBELLUM_TRIANGLES)
        origin = used[nearest(few, points[used])]
        write_gifti(out / name, few, kept, patch[origin], folding[origin])
        write_landmarks(out / name.replace(".surf.gii", "_landmarks.csv"), points[landmarks])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, help="folder with the downloaded archives")
    parser.add_argument("out", type=Path, help="folder to write to")
    options = parser.parse_args()
    for name, expected in ARCHIVES.items():
        found = hashlib.sha256((options.packages / name).read_bytes()).hexdigest()
        if found != expected:
            raise SystemExit(f"{name} is another file than the one used before (SHA-256 {found})")
    make_metacarpals(options.packages, options.out)
    make_cerebella(options.packages, options.out)


if __name__ == "__main__":
    main()
