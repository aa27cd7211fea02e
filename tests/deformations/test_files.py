"""Transform files: what is written, and how anything else is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from otreg import InputError, load_transform
from otreg.deformations import Affine, Composite, Deformation, InverseDeformation, Spline
from tests.deformations.cases import (
    affine,
    constant_momenta,
    gaussian,
    points,
    rigid,
    shooting_several_widths,
    shooting_wendland,
    wendland,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with an affine, a spline and an inverse."""
    composite = Composite([affine(), gaussian(), gaussian().inverse], metadata={"diameter": 2.0})
    composite.save(tmp_path / "transform.h5")
    return tmp_path / "transform.h5"


def refused(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as caught:
        load_transform(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 400
    return message


def test_the_reader_of_the_documentation_moves_points_alike(tmp_path: Path) -> None:
    """Run as its own program, which knows the page alone."""
    page = Path(__file__).parents[2] / "docs" / "transform_file.md"
    if not page.exists():
        pytest.skip("the documentation does not come with the installed package")
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    flows = [shooting_several_widths(), shooting_wendland(), constant_momenta()]
    transform = Composite([rigid(), gaussian(), wendland(), *flows, affine()])
    transform.save(tmp_path / "t.h5")
    np.save(tmp_path / "points.npy", points())
    code += "\nnp.save('moved.npy', move('t.h5', np.load('points.npy')))\n"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "moved.npy"), transform.map(points()), atol=1e-12)


def test_layout(path: Path) -> None:
    """What the module promises to whoever reads a file without otreg."""
    with h5py.File(path) as file:
        assert (
            dict(file.attrs.items()).items()
            >= {
                "format": "otreg-transform",
                "version": 1,
                "direction": "points of MOVING to FIXED",
                "metadata": '{"diameter": 2.0}',
            }.items()
        )
        stages = file["stages"]
        assert list(stages) == ["0000", "0001", "0002"]
        assert [stage.attrs["kind"] for stage in stages.values()] == ["affine", "spline", "inverse"]
        assert np.array_equal(stages["0000/matrix"][()], affine().matrix.numpy())
        assert stages["0001"].attrs["kernel"] == "gaussian" and stages["0001/width"][()] == [0.7]
        assert stages["0001/control_points"].shape == stages["0001/coefficients"].shape == (12, 3)
        assert stages["0002/original"].attrs["kind"] == "spline"
        # Applied by hand, as another program would.
        x = points() @ stages["0000/matrix"][()].T + stages["0000/translation"][()]
        r = np.linalg.norm(x[:, None] - stages["0001/control_points"][()][None], axis=2)
        x = x + np.exp(-(r**2) / (2 * 0.7**2)) @ stages["0001/coefficients"][()]
    spline_part = Composite(load_transform(path).stages[:2])  # type: ignore[attr-defined]
    assert np.abs(spline_part.map(points()) - x).max() < 1e-12


def test_files_written_by_others_are_read(tmp_path: Path) -> None:
    """Without a checksum, with fixed-length text and float32 numbers."""
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.attrs["format"] = np.bytes_("otreg-transform")
        file.attrs["version"] = np.int32(1)
        file.attrs["direction"] = "points of MOVING to FIXED"
        stage = file.create_group("stages/0000")
        stage.attrs["kind"] = "rigid"
        stage["matrix"] = np.eye(3, dtype=">f4")
        stage["translation"] = np.arange(3, dtype=np.float32)
    loaded = load_transform(tmp_path / "t.h5")
    assert isinstance(loaded, Affine) and np.array_equal(loaded.map(np.zeros((1, 3))), [[0.0, 1.0, 2.0]])


def attribute(name: str, value: object, where: str = "/") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[where].attrs[name] = value

    return change


def no_attribute(name: str, where: str = "/") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[where].attrs[name]

    return change


def dataset(name: str, value: object, **options: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file.create_dataset(name, data=value, **options)

    return change


def link(name: str, target: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return change


def unwritten(file: h5py.File) -> None:
    """A dataset that claims 24 TB and stores nothing."""
    for name in ("control_points", "coefficients"):
        del file[f"stages/0001/{name}"]
        file.create_dataset(f"stages/0001/{name}", shape=(10**12, 3), dtype="<f8")


def object_numbers(file: h5py.File) -> None:
    del file["stages/0000/matrix"]
    file.create_dataset("stages/0000/matrix", (3, 3), h5py.vlen_dtype(np.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("format", "other"), "attribute format of / must be 'otreg-transform', got 'other'"),
        (attribute("format", 3), "attribute format of / must be text"),
        (attribute("format", np.arange(3)), "attribute format of / must be one text or number"),
        (attribute("format", h5py.Empty("S3")), "must be one text or number"),
        (no_attribute("format"), "is HDF5, but no transform file"),
        (no_attribute("version"), "attribute version of / is missing"),
        (attribute("version", 2), "written by a newer otreg: update otreg"),
        (attribute("version", 0), "no such version exists"),
        (attribute("version", 1.5), "must be a whole number"),
        (attribute("version", "1"), "must be a finite number"),
        (attribute("version", np.nan), "must be a finite number"),
        (attribute("direction", "points of FIXED to MOVING"), "attribute direction of / must be"),
        (attribute("sha256", "0" * 64), "checksum does not fit"),
        (attribute("extra", 1), "unknown attribute 'extra' in /"),
        (dataset("extra", [1.0]), "unknown member 'extra' in /"),
        (no_attribute("kind", "stages/0001"), "attribute kind of /stages/0001 is missing"),
        (
            attribute("kind", "demons", "stages/0001"),
            "must be 'rigid', 'similarity', 'affine', 'spline', 'diffeomorphism' or 'inverse', got 'demons'",
        ),
        (attribute("kind", "rigid", "stages/0000"), "must be orthogonal"),
        (attribute("kernel", "cubic", "stages/0001"), "unknown kernel 'cubic'"),
        (attribute("metadata", "[1]", "stages/0001"), "must be a JSON object"),
        (attribute("metadata", "{", "stages/0001"), "damaged"),
        (attribute("metadata", '{"a": [1]}', "stages/0001"), "must be a string or a number"),
        (attribute("metadata", '{"a": NaN}', "stages/0001"), "must be finite"),
        (attribute("metadata", "[" * 50_000, "stages/0001"), "damaged"),
        (attribute("moving_frame", "XYZ", "stages/0001"), "unknown frame 'XYZ'"),
        (attribute("tolerance", -1.0, "stages/0002"), "tolerance of an inverse must be positive"),
        (attribute("tolerance", "small", "stages/0002"), "must be a finite number"),
        (attribute("max_iterations", 0, "stages/0002"), "at least one iteration"),
        (attribute("on_failure", "ignore", "stages/0002"), "unknown on_failure"),
        (attribute("kind", "rigid", "stages/0002/original"), "must be 'spline' or 'diffeomorphism'"),
        (dataset("stages/0000/matrix", None), "/stages/0000/matrix is missing"),
        (dataset("stages/0000/matrix", np.eye(4)), r"must have shape (3, 3), got (4, 4)"),
        (dataset("stages/0000/matrix", np.eye(3, dtype=int)), "must hold float64 numbers, got int64"),
        (dataset("stages/0000/matrix", np.full((3, 3), np.nan)), "not finite"),
        (dataset("stages/0000/matrix", h5py.Empty("<f8")), "must have shape"),
        (dataset("stages/0000/matrix", np.array([b"x"])), "must hold float64 numbers"),
        (dataset("stages/0000/matrix", np.eye(3), chunks=(3, 3), compression="gzip"), "stored whole"),
        (dataset("stages/0001/coefficients", np.zeros((11, 3))), r"must have shape (12, 3), got (11, 3)"),
        (dataset("stages/0001/width", [-1.0]), "width of a kernel must be positive"),
        (dataset("stages/0001/width", 1.0), "must have shape (N), got ()"),
        (dataset("stages/0001/control_points", np.zeros((0, 3))), "must have shape (0, 3)"),
        (dataset("stages/0003", np.eye(3)), "/stages/0003 must be a group"),
        (dataset("stages/0004", np.eye(3)), "must hold the groups 0000"),
        (dataset("stages", None), "/stages is missing"),
        (link("stages/0001", h5py.SoftLink("/stages/0000")), "/stages/0001 is a link"),
        (link("stages/0000/matrix", h5py.ExternalLink("other.h5", "/m")), "/stages/0000/matrix is"),
        (link("stages/0000/matrix", np.dtype("f8")), "must be a dataset"),
        (object_numbers, "must hold float64 numbers, got object"),
        (unwritten, "not stored whole"),
    ],
)
def test_wrong_content_is_refused(path: Path, change: Callable[[h5py.File], None], message: str) -> None:
    with h5py.File(path, "a") as file:
        change(file)
    assert message in refused(path)


def test_changed_numbers_are_noticed(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["stages/0001/coefficients"][3, 1] += 1e-12
    assert "checksum" in refused(path)


def test_truncated_files_are_refused(path: Path) -> None:
    content = path.read_bytes()
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        refused(path)


def test_damaged_bytes_are_refused_or_harmless(path: Path) -> None:
    """Any single byte changed: the file is refused in one line, or is still the very same map."""
    original = load_transform(path).map(points())
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(content), 60, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(damaged))
        try:
            moved = load_transform(path).map(points())
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert np.array_equal(moved, original)


@pytest.mark.parametrize(
    "content", [b"", b"solid mesh\n", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\xff" * 500]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.h5").write_bytes(content)
    refused(tmp_path / "t.h5")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "t.h5")
    assert "is a folder" in refused(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        rigid().save(tmp_path / "none" / "t.h5")


def test_other_hdf5_files_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["TransformGroup/0/TransformType"] = "AffineTransform_double_3_3"
    assert "is HDF5, but no transform file" in refused(tmp_path / "t.h5")


def test_what_files_do_not_know_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    class Other(Affine):
        pass

    class Strange(Spline):
        @property
        def inverse(self) -> InverseDeformation:
            return InverseDeformation(InverseDeformation(self, tolerance=1e-9), tolerance=1e-9)

    Other(np.eye(3), np.zeros(3)).save(tmp_path / "kept.h5")
    before = (tmp_path / "kept.h5").read_bytes()
    unknown: list[Deformation] = [Strange(points(3), points(3), 1.0).inverse]
    unknown.append(Composite([rigid(), unknown[0]]))
    long = rigid()
    long.metadata = {"a": "x" * 70_000}
    for deformation in (*unknown, long):
        with pytest.raises(InputError):
            deformation.save(tmp_path / "kept.h5")
    assert (tmp_path / "kept.h5").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["kept.h5"]


def test_composite_of_one_stage_becomes_that_stage(tmp_path: Path) -> None:
    Composite([gaussian()], moving_frame="RAS", metadata={"diameter": 1.0}).save(tmp_path / "t.h5")
    loaded = load_transform(tmp_path / "t.h5")
    assert (
        isinstance(loaded, Spline) and loaded.moving_frame == "RAS" and loaded.metadata == {"diameter": 1.0}
    )
