"""Displacement fields and ITK transforms, read back by SimpleITK, nibabel and VTK, against the maps themselves."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from otreg.deformations import (
    Affine,
    Composite,
    Deformation,
    Diffeomorphism,
    DisplacementField,
    Spline,
    itk_transform,
    sample_field,
)
from otreg.errors import InputError, NotInvertibleError
from otreg.io.grids import Grid
from tests.autodiff.memory import peaks

Matrix = NDArray[np.float64]
HALF_TURN = np.array([-1.0, -1.0, 1.0])
# about no axis of the coordinates: a turn about z would look the same in RAS and LPS
ROTATION = np.array([[0.64, -0.6, -0.48], [0.48, 0.8, -0.36], [0.6, 0.0, 0.8]])
FRAMES = (None, "RAS", "LPS")
DIRECTIONS = ("points", "images")


def spline(seed: int = 0) -> Spline:
    rng = np.random.default_rng(seed)
    return Spline(rng.uniform(-30.0, 30.0, (20, 3)), rng.normal(size=(20, 3)), 25.0)


def flow() -> Diffeomorphism:
    rng = np.random.default_rng(1)
    return Diffeomorphism(rng.uniform(-30.0, 30.0, (20, 3)), rng.normal(size=(20, 3)), 25.0, steps=4)


def affine() -> Affine:
    return Affine(ROTATION @ np.diag([1.1, 0.9, 1.2]), [12.0, -7.0, 30.0])


def rigid() -> Affine:
    return Affine(ROTATION, [12.0, -7.0, 30.0], "rigid")


MAPS = {
    "affine": affine,
    "spline": spline,
    "flow": flow,
    "rigid, spline": lambda: Composite([rigid(), spline()]),
    "affine, flow, spline, rigid": lambda: Composite([affine(), flow(), spline(2), rigid()]),
}


def framed(name: str, frame: str | None) -> Deformation:
    made = MAPS[name]()
    made.moving_frame = made.fixed_frame = frame
    return made


def asked(mapping: Deformation, direction: str) -> Deformation:
    """The map that a file of this direction should hold."""
    return mapping if direction == "points" else mapping.inverse


def in_lps(points: Matrix, frame: str | None) -> Matrix:
    """Coordinates that ITK knows a point by; those of an unknown frame are taken as they are."""
    return points * HALF_TURN if frame == "RAS" else points


def grid_around(name: str, direction: str) -> Grid:
    """A box of 80 around the middle of the control points, or of their image."""
    middle = np.zeros(3)
    if direction == "images" and name != "spline" and name != "flow":
        middle = MAPS[name]().map(middle[None])[0]
    return Grid.around([middle - 40.0, middle + 40.0], 4.0)


def inner_points(grid: Grid, count: int = 60) -> Matrix:
    low, high = grid.bounds
    return np.random.default_rng(3).uniform(low, high, (count, 3))


def moved_by(transform: SimpleITK.Transform, points: Matrix) -> Matrix:
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def read_field(path: Path) -> SimpleITK.Transform:
    image = SimpleITK.ReadImage(str(path))
    assert image.GetNumberOfComponentsPerPixel() == 3 and image.GetDimension() == 3
    return SimpleITK.DisplacementFieldTransform(SimpleITK.Cast(image, SimpleITK.sitkVectorFloat64))


CASES = [
    pytest.param(*case, id="-".join(map(str, case))) for case in itertools.product(MAPS, FRAMES, DIRECTIONS)
]


@pytest.mark.parametrize(("name", "frame", "direction"), CASES)
def test_itk_moves_points_as_we_do(name: str, frame: str | None, direction: str, tmp_path: Path) -> None:
    """Images and transform files: equal to the map within the accuracy that the result promises."""
    transform = framed(name, frame)
    grid = grid_around(name, direction)
    field = sample_field(transform, grid, direction=direction)
    points = inner_points(grid)
    wanted = in_lps(asked(transform, direction).map(points), frame)
    assert field.frame == frame
    for file in ("f.nii.gz", "f.nii", "f.nrrd", "f.h5"):
        notes = field.save(tmp_path / file)
        assert bool(notes) == (frame is None)
        reader = SimpleITK.ReadTransform if file == "f.h5" else read_field
        found = moved_by(
            reader(tmp_path / file if file != "f.h5" else str(tmp_path / file)), in_lps(points, frame)
        )
        error = np.linalg.norm(found - wanted, axis=1)
        assert error.max() <= 1.05 * field.accuracy.largest + 1e-5
        assert error.max() < 0.15  # 4 apart, of a width of 25
        # and as the result itself says that a reader moves them
        np.testing.assert_allclose(found, in_lps(field.map(points), frame), atol=1e-4)

    whole = itk_transform(transform, grid, direction=direction)
    whole.save(tmp_path / "whole.h5")
    found = moved_by(SimpleITK.ReadTransform(str(tmp_path / "whole.h5")), in_lps(points, frame))
    error = np.linalg.norm(found - wanted, axis=1)
    assert error.max() <= 1.05 * whole.accuracy.largest + 1e-5
    assert error.max() < 0.15
    np.testing.assert_allclose(found, in_lps(whole.map(points), frame), atol=1e-4)
    if name == "affine":
        assert whole.field is None and error.max() < 1e-10


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".h5"])
def test_affine_files_are_exact(frame: str | None, direction: str, suffix: str, tmp_path: Path) -> None:
    transform = Composite([affine(), rigid()], moving_frame=frame, fixed_frame=frame)
    path = tmp_path / f"a{suffix}"
    assert bool(itk_transform(transform, direction=direction).save(path)) == (frame is None)
    read = SimpleITK.ReadTransform(str(path))
    assert read.GetName() == "AffineTransform"
    points = inner_points(grid_around("affine", "points"))
    wanted = asked(transform, direction).map(points)
    np.testing.assert_allclose(moved_by(read, in_lps(points, frame)), in_lps(wanted, frame), atol=1e-11)


def test_an_image_is_resampled_where_the_points_go(tmp_path: Path) -> None:
    """SimpleITK's resampling with the file of direction images carries a blob to where the map carries its centre."""
    transform = framed("rigid, spline", "LPS")
    centre = np.array([5.0, -8.0, 3.0])
    target = transform.map(centre[None])[0]
    moving = Grid.around([centre - 30.0, centre + 30.0], 1.5)
    blob = np.exp(-((moving.points() - centre) ** 2).sum(axis=1) / (2 * 4.0**2))
    image = SimpleITK.GetImageFromArray(blob.reshape(moving.shape[::-1]))
    image.SetOrigin(moving.origin.tolist())
    image.SetSpacing(moving.spacing.tolist())
    fixed = Grid.around([target - 30.0, target + 30.0], 1.5)
    reference = SimpleITK.Image(*fixed.shape, SimpleITK.sitkFloat64)
    reference.SetOrigin(fixed.origin.tolist())
    reference.SetSpacing(fixed.spacing.tolist())
    sample_field(transform, fixed, direction="images").save(tmp_path / "f.nii.gz")
    itk_transform(transform, fixed, direction="images").save(tmp_path / "f.h5")
    for read in (read_field(tmp_path / "f.nii.gz"), SimpleITK.ReadTransform(str(tmp_path / "f.h5"))):
        out = SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, reference, read)).ravel()
        reached = (out[:, None] * fixed.points()).sum(axis=0) / out.sum()
        np.testing.assert_allclose(reached, target, atol=0.6)  # the blob bends as well
        assert np.linalg.norm(reached - centre) > 20.0


def test_nifti_header_and_vectors() -> None:
    """Intent, shape, the grid in RAS, and vectors in LPS beside it: the convention of ITK and ANTs."""
    import tempfile

    transform = Affine(np.eye(3), [1.0, 2.0, 3.0], "rigid", moving_frame="RAS", fixed_frame="RAS")
    grid = Grid([10.0, 20.0, 30.0], [1.0, 2.0, 3.0], (4, 5, 6))
    field = sample_field(transform, grid)
    with tempfile.TemporaryDirectory() as folder:
        field.save(Path(folder) / "f.nii.gz")
        image = nibabel.load(Path(folder) / "f.nii.gz")
        assert isinstance(image, nibabel.Nifti1Image)
        values = np.asarray(image.dataobj)
        header = image.header
    assert values.shape == (4, 5, 6, 1, 3) and values.dtype == np.float32
    assert int(header["intent_code"]) == 1007 and int(header["qform_code"]) == int(header["sform_code"]) == 1
    assert header["descrip"].item().decode() == "otreg, vectors LPS: points of MOVING to FIXED"
    np.testing.assert_allclose(image.affine, grid.affine, atol=1e-6)
    np.testing.assert_allclose(header.get_qform(), grid.affine, atol=1e-5)
    np.testing.assert_allclose(values.reshape(-1, 3), np.tile([-1.0, -2.0, 3.0], (120, 1)))


def test_nrrd_header_says_what_it_holds(tmp_path: Path) -> None:
    grid = Grid([10.0, 20.0, 30.0], [1.0, 2.0, 3.0], (4, 5, 6))
    for frame, space in (("RAS", "space: left-posterior-superior"), (None, "space dimension: 3")):
        for direction, kind in (("points", "modeling"), ("images", "resampling")):
            for compressed in (True, False):
                path = tmp_path / "f.nrrd"
                field = sample_field(framed("spline", frame), grid, direction=direction)
                field.save(path, compressed=compressed)
                head = path.read_bytes().split(b"\n\n")[0].decode()
                assert space in head and f"displacement field type:={kind}" in head
                assert f"encoding: {'gzip' if compressed else 'raw'}" in head
                assert "kinds: vector domain domain domain" in head
                image = SimpleITK.ReadImage(str(path))
                assert image.GetMetaData("otreg maps") == field.maps
                turn = HALF_TURN if frame else np.ones(3)
                found = SimpleITK.GetArrayFromImage(image)
                np.testing.assert_array_equal(found, field.displacements * turn.astype(np.float32))
                np.testing.assert_allclose(image.GetOrigin(), turn * grid.origin)


@pytest.mark.parametrize("compressed", [True, False])
def test_vtk_reads_image_data(tmp_path: Path, compressed: bool) -> None:
    """The same numbers, in the frame of the map, on a turned grid; VTK's own probe interpolates as we do."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOXML import vtkXMLImageDataReader

    grid = Grid([-20.0, -30.0, -10.0], [4.0, 5.0, 6.0], (7, 8, 9), ROTATION)
    field = sample_field(framed("flow", "RAS"), grid)
    assert field.save(tmp_path / "f.vti", compressed=compressed) == []
    reader = vtkXMLImageDataReader()
    reader.SetFileName(str(tmp_path / "f.vti"))
    reader.Update()
    data = reader.GetOutput()
    assert data.GetDimensions() == grid.shape
    vectors = vtk_to_numpy(data.GetPointData().GetArray("displacement"))
    np.testing.assert_array_equal(vectors, field.displacements.reshape(-1, 3))
    corners = np.array([data.GetPoint(index) for index in range(0, grid.count, 17)])
    np.testing.assert_allclose(corners, grid.points()[::17], atol=1e-9)
    texts = data.GetFieldData()
    assert texts.GetAbstractArray("SPACE").GetValue(0) == "RAS"
    assert texts.GetAbstractArray("otreg maps").GetValue(0) == "points of MOVING to FIXED"


def test_frames_that_differ_are_brought_together(tmp_path: Path) -> None:
    """A map from RAS to LPS: x in RAS coordinates, y in LPS; ITK has both in LPS."""
    base = spline()
    mixed = Composite(
        [base, Affine(np.diag(HALF_TURN), np.zeros(3), "rigid")], moving_frame="RAS", fixed_frame="LPS"
    )
    grid = grid_around("spline", "points")
    points = inner_points(grid)
    wanted = mixed.map(points)
    for direction in DIRECTIONS:
        field = sample_field(mixed, grid if direction == "points" else grid.turned(), direction=direction)
        field.save(tmp_path / "f.nrrd")
        itk_transform(mixed, grid if direction == "points" else grid.turned(), direction=direction).save(
            tmp_path / "f.h5"
        )
        reads = (read_field(tmp_path / "f.nrrd"), SimpleITK.ReadTransform(str(tmp_path / "f.h5")))
        for read in reads:
            if direction == "points":
                found, goal = moved_by(read, points * HALF_TURN), wanted
            else:
                found, goal = moved_by(read, wanted), points * HALF_TURN
                inside = np.all((wanted * HALF_TURN > -38) & (wanted * HALF_TURN < 38), axis=1)
                found, goal = found[inside], goal[inside]
            assert len(goal) > 30
            assert np.linalg.norm(found - goal, axis=1).max() < 0.15


def test_inverse_exchanges_the_names_and_the_map() -> None:
    transform = framed("rigid, spline", "RAS")
    grid = grid_around("rigid, spline", "images")
    swapped = sample_field(transform, grid, inverse=True)
    images = sample_field(transform, grid, direction="images")
    np.testing.assert_array_equal(swapped.displacements, images.displacements)
    assert swapped.maps == "points of FIXED to MOVING"
    assert images.maps == "points of FIXED to MOVING (resamples MOVING onto FIXED)"
    both = sample_field(transform, grid, inverse=True, direction="images")
    assert both.maps == "points of MOVING to FIXED (resamples FIXED onto MOVING)"
    np.testing.assert_array_equal(both.displacements, sample_field(transform, grid).displacements)


def test_accuracy_is_that_of_linear_interpolation() -> None:
    """Halving the spacing quarters the error; it is the error that an independent dense measure finds."""
    transform = flow()
    errors = []
    for spacing in (8.0, 4.0):
        field = sample_field(transform, bounds=[[-30.0] * 3, [30.0] * 3], spacing=spacing, margin=2.0)
        points = inner_points(field.grid, 4000)
        error = np.linalg.norm(field.map(points) - transform.map(points), axis=1)
        assert field.accuracy.mean == pytest.approx(error.mean(), rel=0.1)
        assert 0.98 * error.max() <= field.accuracy.largest < 1.5 * error.max()
        errors.append(field.accuracy.mean)
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.15)


def test_interpolation_and_the_outside_are_those_of_itk(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    grid = Grid([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], (4, 5, 3), ROTATION)
    values = rng.normal(size=(3, 5, 4, 3)).astype(np.float32)
    field = DisplacementField(grid, values, "LPS", "points", "points of MOVING to FIXED", (0.0, 0.0, 0))  # type: ignore[arg-type]
    field.save(tmp_path / "f.nrrd")
    places = rng.uniform(-1.0, np.array(grid.shape), (500, 3))
    points = grid.origin + (places * grid.spacing) @ grid.directions.T
    found = moved_by(read_field(tmp_path / "f.nrrd"), points)
    np.testing.assert_allclose(field.map(points), found, atol=1e-5)
    outside = (found == points).all(axis=1)
    assert 50 < outside.sum() < 450


def test_default_grid_covers_the_shape() -> None:
    points = spline().control_points.numpy()
    for transform, around in (
        (spline(), points),
        (Composite([rigid(), spline()]), rigid().inverse.map(points)),
        (spline().inverse, spline().map(points)),
    ):
        grid = sample_field(transform).grid
        low, high = around.min(axis=0), around.max(axis=0)
        diameter = np.linalg.norm(high - low)
        np.testing.assert_allclose(grid.spacing, diameter / 64)
        assert (grid.bounds[0] <= low - 0.0999 * diameter).all()
        assert (grid.bounds[1] <= high + 0.1 * diameter + grid.spacing).all()
    noted = spline()
    noted.metadata["moving_bounds"] = "0.0 10.0 -5.0 5.0 1.0 2.0"
    noted.metadata["fixed_bounds"] = "100.0 110.0 -5.0 5.0 1.0 2.0"
    low, high = sample_field(noted, margin=0.0, spacing=1.0).grid.bounds
    np.testing.assert_allclose([low, high], [[0.0, -5.0, 1.0], [10.0, 5.0, 2.0]])
    low, high = sample_field(noted, margin=0.0, spacing=1.0, direction="images").grid.bounds
    np.testing.assert_allclose([low[0], high[0]], [100.0, 110.0])


def test_grids_in_another_frame_are_turned() -> None:
    transform = framed("spline", "RAS")
    grid = Grid([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], (3, 4, 5))
    field = sample_field(transform, grid, grid_frame="LPS")
    np.testing.assert_allclose(field.grid.points(), grid.points() * HALF_TURN)
    np.testing.assert_allclose(
        field.displacements.reshape(-1, 3),
        transform.map(field.grid.points()) - field.grid.points(),
        atol=1e-5,
    )
    box = sample_field(
        transform, bounds=[[1, 2, 3], [4, 6, 9]], grid_frame="LPS", margin=0.0, spacing=1.0
    ).grid.bounds
    np.testing.assert_allclose(box, [[-4, -6, 3], [-1, -2, 9]])
    unknown = sample_field(framed("spline", None), grid, grid_frame="RAS")
    np.testing.assert_allclose(unknown.grid.points(), grid.points() * HALF_TURN)


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    grid = Grid([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], (3, 3, 3))
    for wrong, words in (
        ({"direction": "sideways"}, "points or images"),
        ({"frame": "XYZ"}, "RAS or LPS"),
        ({"bounds": [[0, 0, 0], [1, 1, 1]], "grid": grid}, "not both"),
        ({"bounds": [[0, 0, 0], [-1, 1, 1]]}, "in that order"),
        ({"spacing": -1.0}, "spacing"),
        ({"margin": float("nan")}, "margin"),
        ({"spacing": 1e-6}, "too (large|small)"),
    ):
        with pytest.raises(InputError, match=words):
            sample_field(spline(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="says that it is in RAS, not LPS"):
        sample_field(framed("spline", "RAS"), grid, frame="LPS")
    with pytest.raises(InputError, match="does not know which shape"):
        sample_field(affine())
    with pytest.raises(InputError, match="affine maps alone"):
        itk_transform(spline(), grid).save(tmp_path / "s.tfm")
    offset = Affine(np.eye(3), np.zeros(3), "rigid", moving_frame="tkRAS", fixed_frame="tkRAS")
    for name in ("f.nii.gz", "f.nrrd", "f.h5"):
        with pytest.raises(InputError, match="tkRAS"):
            sample_field(offset, grid).save(tmp_path / name)
    with pytest.raises(InputError, match="tkRAS"):
        itk_transform(offset).save(tmp_path / "f.tfm")
    mixed = Affine(np.eye(3), np.zeros(3), "rigid", moving_frame="tkRAS", fixed_frame="RAS")
    with pytest.raises(InputError, match="offset"):
        sample_field(mixed, grid)
    with pytest.raises(InputError, match="choose such a name"):
        sample_field(spline(), grid).save(tmp_path / "f.png")
    huge = Affine(1e300 * np.eye(3), np.zeros(3))
    with pytest.raises(InputError, match="no finite image"):
        sample_field(huge, grid)
    fold = Spline([[0.0, 0.0, 0.0]], [[50.0, 0.0, 0.0]], 5.0)
    with pytest.raises(NotInvertibleError, match="smaller margin"):
        sample_field(fold, Grid.around([[-10, -10, -10], [60, 10, 10]], 2.0), direction="images")
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_beyond_the_result() -> None:
    """Sampling and writing hold the field once, and a fixed amount beside it."""
    preparation = """
import tempfile, pathlib
from otreg.deformations import Affine, sample_field
from otreg.io.grids import Grid
transform = Affine(torch.eye(3, dtype=torch.float64), [1.0, 2.0, 3.0], "rigid", moving_frame="RAS")
def measured(size, suffix):
    field = sample_field(transform, Grid([0.0] * 3, [1.0] * 3, (size, size, size)))
    with tempfile.TemporaryDirectory() as folder:
        field.save(pathlib.Path(folder) / ("f" + suffix))
"""
    cases = [(size, suffix) for suffix in (".nii", ".nrrd", ".h5", ".vti") for size in (64, 112)]
    found = iter(peaks(preparation, cases))
    field = [12.0 * size**3 / 2**20 for size in (64, 112)]
    for small, large in zip(found, found, strict=True):
        assert large - small < 1.25 * (field[1] - field[0]) + 4.0
        assert small < field[0] + 40.0
