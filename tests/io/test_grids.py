"""Grids: their points, and those of images, against SimpleITK's and nibabel's idea of them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from otreg.errors import InputError
from otreg.io.grids import Grid, read_grid
from otreg.io.images import VectorImage, write_vectors

HALF_TURN = np.array([-1.0, -1.0, 1.0])
ROTATION = np.array([[0.64, -0.6, -0.48], [0.48, 0.8, -0.36], [0.6, 0.0, 0.8]])
DIRECTIONS = {"straight": np.eye(3), "turned": ROTATION, "left-handed": ROTATION @ np.diag([1.0, -1.0, 1.0])}


def image(directions: np.ndarray, vectors: bool) -> SimpleITK.Image:
    kind = SimpleITK.sitkVectorFloat32 if vectors else SimpleITK.sitkInt16
    made = SimpleITK.Image([4, 5, 6], kind, 3 if vectors else 1)
    made.SetOrigin([10.0, -20.0, 30.0])
    made.SetSpacing([1.0, 2.5, 0.7])
    made.SetDirection(directions.ravel().tolist())
    return made


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=list(DIRECTIONS))
@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr"])
def test_grid_of_an_image_is_that_of_itk(
    directions: np.ndarray, vectors: bool, name: str, tmp_path: Path
) -> None:
    made = image(directions, vectors)
    SimpleITK.WriteImage(made, str(tmp_path / name))
    grid, frame = read_grid(tmp_path / name)
    assert frame == ("RAS" if ".nii" in name else "LPS")
    assert grid.shape == (4, 5, 6)
    points = grid.points().reshape(6, 5, 4, 3) * (HALF_TURN if frame == "RAS" else 1.0)
    for index in ((0, 0, 0), (3, 0, 0), (1, 4, 2), (3, 4, 5)):
        wanted = made.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(points[index[::-1]], wanted, atol=1e-4)


@given(
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.floats(0.1, 10.0)] * 3),
    st.tuples(*[st.floats(-100.0, 100.0)] * 3),
    st.sampled_from(list(DIRECTIONS)),
)
def test_points_and_interpolation(
    shape: tuple[int, int, int], spacing: tuple[float, ...], origin: tuple[float, ...], name: str
) -> None:
    """The points follow nibabel's affine; linear functions are interpolated without error."""
    grid = Grid(np.array(origin), np.array(spacing), shape, DIRECTIONS[name])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).transpose(2, 1, 0, 3)
    wanted = nibabel.affines.apply_affine(grid.affine, index)
    points = grid.points()
    np.testing.assert_allclose(points, wanted.reshape(-1, 3), atol=1e-9)
    np.testing.assert_allclose(grid.bounds, [points.min(axis=0), points.max(axis=0)], atol=1e-9)
    half = grid.count // 2
    np.testing.assert_array_equal(np.concatenate([grid.points(0, half), grid.points(half)]), points)
    np.testing.assert_allclose(grid.turned().points(), points * HALF_TURN, atol=1e-9)
    matrix = np.array([[1.0, 0.5, 0.0], [0.0, 2.0, -1.0], [0.3, 0.0, 1.0]])
    values = (points @ matrix + 1.0).reshape(*shape[::-1], 3)
    places = np.random.default_rng(0).random((20, 3)) * (np.array(shape) - 1)
    inner = grid.origin + (places * grid.spacing) @ grid.directions.T
    np.testing.assert_allclose(grid.interpolate(values, inner), inner @ matrix + 1.0, atol=1e-9)


def test_boxes_are_covered_and_widened() -> None:
    grid = Grid.around([[0.0, 0.0, 0.0], [10.0, 4.0, 0.0]], 3.0)
    assert grid.shape == (5, 3, 2)
    assert (grid.bounds[0] <= 0.0).all() and (grid.bounds[1] >= [10.0, 4.0, 0.0]).all()
    np.testing.assert_allclose(grid.bounds.mean(axis=0), [5.0, 2.0, 0.0])
    turned = Grid([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], (5, 4, 3), ROTATION)
    finer = turned.adapted(0.5, 2.0)
    assert finer.shape == (4 * 2 + 1 + 8, 6 * 2 + 1 + 8, 6 * 2 + 1 + 8)
    np.testing.assert_allclose(finer.bounds.mean(axis=0), turned.bounds.mean(axis=0))
    np.testing.assert_allclose(finer.directions, ROTATION)


def test_what_is_no_grid_is_refused(tmp_path: Path) -> None:
    for arguments, words in (
        (([0.0, 0.0], [1.0] * 3, (2, 2, 2)), "origin"),
        (([0.0] * 3, [1.0, 0.0, 1.0], (2, 2, 2)), "positive"),
        (([0.0] * 3, [1.0] * 3, (2, 0, 2)), "shape"),
        (([0.0] * 3, [1.0] * 3, (2, 2, 2), np.ones((3, 3))), "right angles"),
        (([0.0] * 3, [1.0] * 3, (1000, 1000, 1000)), "too large"),
    ):
        with pytest.raises(InputError, match=words):
            Grid(*arguments)  # type: ignore[arg-type]
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), sheared), tmp_path / "sheared.nii")
    (tmp_path / "broken.nii").write_bytes(b"nothing of the kind")
    (tmp_path / "broken.nrrd").write_bytes(b"NRRD0004\ndimension: 3\n\n")
    (tmp_path / "foreign.nrrd").write_bytes(b"something else\n\n")
    (tmp_path / "text.nrrd").write_bytes(
        b"NRRD0004\nspace: LPS\nsizes: 2 2 2\nspace directions: (a,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    )
    for name, words in (
        ("sheared.nii", "shear"),
        ("broken.nii", "NIfTI"),
        ("broken.nrrd", "does not say"),
        ("foreign.nrrd", "no NRRD"),
        ("text.nrrd", "damaged"),
        ("none.nii.gz", "no such file"),
        ("none.nrrd", "no such file"),
        ("a.png", "not an image"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            read_grid(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


def test_writers_refuse_what_a_format_cannot_hold(tmp_path: Path) -> None:
    long = Grid([0.0] * 3, [1.0] * 3, (40000, 1, 1))
    vectors = np.zeros((1, 1, 40000, 3), np.float32)
    with pytest.raises(InputError, match="32,767"):
        write_vectors(VectorImage(long, vectors, "LPS", "x"), tmp_path / "a.nii")
    with pytest.raises(InputError, match="float32"):
        VectorImage(long, vectors.astype(np.float64), "LPS", "x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not exist"):
        write_vectors(VectorImage(long, vectors, "LPS", "x"), tmp_path / "none" / "a.nrrd")
    with pytest.raises(InputError, match="choose such a name"):
        write_vectors(VectorImage(long, vectors, "LPS", "x"), tmp_path / "a.mha")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.vti"])
def test_a_writer_that_fails_leaves_the_older_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("otreg.io.files.os.replace", full)
    grid = Grid([0.0] * 3, [1.0] * 3, (2, 2, 2))
    with pytest.raises(InputError, match="No space left"):
        write_vectors(VectorImage(grid, np.zeros((2, 2, 2, 3), np.float32), "LPS", "x"), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"older"


def test_the_same_content_gives_the_same_file(tmp_path: Path) -> None:
    grid = Grid([0.0] * 3, [1.0] * 3, (2, 3, 4))
    vectors = np.arange(72, dtype=np.float32).reshape(4, 3, 2, 3)
    for name in ("a.nii.gz", "a.nrrd", "a.vti"):
        contents = []
        for _ in range(2):
            write_vectors(VectorImage(grid, vectors, "LPS", "x"), tmp_path / name)
            contents.append((tmp_path / name).read_bytes())
        assert contents[0] == contents[1]
