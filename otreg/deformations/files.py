"""Transform files, ``transform.h5``: one self-contained HDF5 file per map.

The layout (version 1: a numbered group per stage, each with its kind, its float64 arrays and its frames) is laid
down in ``docs/transform_file.md``. Nothing in a file is executed, and what departs from the layout is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otreg.deformations import affine
from otreg.deformations.affine import Affine
from otreg.deformations.base import Deformation
from otreg.deformations.composite import Composite
from otreg.deformations.diffeomorphism import Diffeomorphism, InverseFlow
from otreg.deformations.inverse import InverseDeformation
from otreg.deformations.spline import Spline
from otreg.errors import InputError
from otreg.io.files import atomic_path

FORMAT = "otreg-transform"
VERSION = 1
DIRECTION = "points of MOVING to FIXED"

_MOST_STEPS = 100_000
"""Steps of a flow that a file may ask for: a damaged number must not keep a computer busy for days."""


# Writing ----------------------------------------------------------------------------------------------------


def save_transform(transform: Deformation, path: str | os.PathLike[str]) -> None:
    """Write a transform file whole, or not at all.

    Parameters
    ----------
    transform : Deformation
    path : str or path-like
        An older file there is replaced at the end.

    Raises
    ------
    InputError
        When the folder is missing or cannot be written to, or for a kind of map that files do not know.
    """
    import h5py

    stages = transform.stages if isinstance(transform, Composite) else (transform,)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["direction"] = DIRECTION
        if len(stages) > 1:
            _write_about(file, transform)
        for number, stage in enumerate(stages):
            # A composite of one stage is read back as that stage, which then carries what the composite says.
            _write_stage(
                file.create_group(f"stages/{number:04d}"), stage, transform if len(stages) == 1 else stage
            )
        file.attrs["sha256"] = _checksum(file)


def _write_about(group: Any, transform: Deformation) -> None:
    for name in ("moving_frame", "fixed_frame"):
        if getattr(transform, name) is not None:
            group.attrs[name] = getattr(transform, name)
    if transform.metadata:
        text = json.dumps(transform.metadata, sort_keys=True, allow_nan=False)
        if len(text) > 60_000:  # an HDF5 attribute holds 64 kB
            raise InputError("the metadata of a transform must fit in 60,000 characters")
        group.attrs["metadata"] = text


def _write_stage(group: Any, stage: Deformation, about: Deformation) -> None:
    _write_about(group, about)
    if isinstance(stage, Affine):
        group.attrs["kind"] = stage.kind
    elif isinstance(stage, Spline | Diffeomorphism):
        group.attrs["kind"] = "spline" if isinstance(stage, Spline) else "diffeomorphism"
        group.attrs["kernel"] = stage.kernel
        if isinstance(stage, Diffeomorphism):
            group.attrs["steps"] = stage.steps
            group.attrs["method"] = stage.method
        _write_numbers(group, "width", torch.tensor(stage.widths, dtype=torch.float64))
        _write_numbers(group, "amplitude", torch.tensor(stage.amplitudes, dtype=torch.float64))
    elif isinstance(stage, InverseDeformation):
        group.attrs["kind"] = "inverse"
        group.attrs["tolerance"] = stage.tolerance
        group.attrs["max_iterations"] = stage.max_iterations
        group.attrs["on_failure"] = stage.on_failure
        if not isinstance(stage.original, Spline | Diffeomorphism):
            raise InputError(
                f"a file cannot keep the inverse of a {type(stage.original).__name__}: use its .inverse"
            )
        _write_stage(group.create_group("original"), stage.original, stage.original)
        return
    else:
        raise InputError(
            f"a transform file cannot keep a {type(stage).__name__}: known are {', '.join(_READERS)}"
        )
    for name, tensor in stage.parameters().items():
        _write_numbers(group, name, tensor)


def _write_numbers(group: Any, name: str, tensor: Tensor) -> None:
    values = tensor.detach().cpu().numpy().astype("<f8")
    group.create_dataset(name, data=values, track_times=False)


# Reading ----------------------------------------------------------------------------------------------------


def load_transform(path: str | os.PathLike[str]) -> Deformation:
    """Read a transform file.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Deformation
        The map of the only stage, or a :class:`~otreg.deformations.Composite` of several.

    Raises
    ------
    InputError
        When the file is missing, is no HDF5 file, is damaged, comes from a newer otreg, or departs from the
        layout in any way; one line that names the file.
    """
    import h5py

    source = Path(path)
    if not source.exists():
        raise InputError(f"{source}: no such file; check the name and the folder")
    if source.is_dir():
        raise InputError(f"{source}: is a folder; name a transform file in it")
    try:
        if not h5py.is_hdf5(source):
            raise InputError(
                "is not a transform file (not HDF5): give one that otreg wrote, such as transform.h5"
            )
        with h5py.File(source, "r") as file:
            return _read_file(file)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        # h5py raises any of these when the inside of a file does not make sense.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{source}: the file is damaged ({reason}): copy or write it again") from None


def _read_file(file: Any) -> Deformation:
    if "format" not in file.attrs:
        raise InputError("is HDF5, but no transform file: give one that otreg wrote, such as transform.h5")
    _expect_text(file, "format", (FORMAT,))
    version = _whole_number(file, "version")
    if version != VERSION:
        newer = "written by a newer otreg: update otreg" if version > VERSION else "no such version exists"
        raise InputError(f"transform file version {version}, this otreg reads {VERSION}: {newer}")
    _expect_text(file, "direction", (DIRECTION,))
    _expect_members(file, {"stages"}, {"format", "version", "direction", "sha256", *_ABOUT})
    stages = _member(file, "stages", "group")
    names = sorted(stages.keys())
    if not names or names != [f"{number:04d}" for number in range(len(names))] or len(stages.attrs):
        raise InputError("/stages must hold the groups 0000, 0001, … and nothing else")
    parts = [_read_stage(_member(stages, name, "group")) for name in names]
    about = _read_about(file)
    # Only now: all that the checksum reads is known to be of a sensible size.
    if "sha256" in file.attrs and _text(file, "sha256") != _checksum(file):
        raise InputError("the checksum does not fit the content, the file is damaged: copy or write it again")
    if len(parts) > 1:
        return Composite(parts, **about)
    if any(about.values()):
        raise InputError("frames and metadata of a single stage belong to /stages/0000")
    return parts[0]


_ABOUT = ("moving_frame", "fixed_frame", "metadata")


def _read_about(group: Any) -> dict[str, Any]:
    about: dict[str, Any] = {}
    for name in ("moving_frame", "fixed_frame"):
        about[name] = _text(group, name) if name in group.attrs else None
    about["metadata"] = {}
    if "metadata" in group.attrs:
        metadata = json.loads(_text(group, "metadata"))
        if not isinstance(metadata, dict):
            raise InputError(f"attribute metadata of {group.name} must be a JSON object")
        about["metadata"] = metadata
    return about


def _read_stage(group: Any) -> Deformation:
    kind = _expect_text(group, "kind", tuple(_READERS))
    return _READERS[kind](group, kind)


def _read_affine(group: Any, kind: str) -> Deformation:
    _expect_members(group, {"matrix", "translation"}, {"kind", *_ABOUT})
    matrix, translation = _numbers(group, "matrix", (3, 3)), _numbers(group, "translation", (3,))
    return Affine(matrix, translation, kind, **_read_about(group))


def _read_spline(group: Any, kind: str) -> Deformation:
    members = {"control_points", "coefficients", "width", "amplitude"}
    _expect_members(group, members, {"kind", "kernel", *_ABOUT})
    control_points = _numbers(group, "control_points", (None, 3))
    coefficients = _numbers(group, "coefficients", (len(control_points), 3))
    widths = _numbers(group, "width", (None,)).tolist()
    amplitudes = _numbers(group, "amplitude", (len(widths),)).tolist()
    kernel = _text(group, "kernel")
    return Spline(control_points, coefficients, widths, kernel, amplitudes, **_read_about(group))


def _read_diffeomorphism(group: Any, kind: str) -> Deformation:
    members = {"control_points", "momenta", "width", "amplitude"}
    _expect_members(group, members, {"kind", "kernel", "steps", "method", *_ABOUT})
    control_points = _numbers(group, "control_points", (None, 3))
    shape = (len(control_points), 3)
    varying = len(getattr(_member(group, "momenta", "dataset"), "shape", None) or ()) == 3
    momenta = _numbers(group, "momenta", (None, *shape) if varying else shape)
    widths = _numbers(group, "width", (None,)).tolist()
    amplitudes = _numbers(group, "amplitude", (len(widths),)).tolist()
    kernel, method = _text(group, "kernel"), _text(group, "method")
    steps = _whole_number(group, "steps")
    if steps > _MOST_STEPS:
        raise InputError(f"attribute steps of {group.name} must be at most {_MOST_STEPS}, got {steps}")
    about = _read_about(group)
    return Diffeomorphism(control_points, momenta, widths, kernel, amplitudes, steps, method, **about)


def _read_inverse(group: Any, kind: str) -> Deformation:
    names = ("tolerance", "max_iterations", "on_failure")
    _expect_members(group, {"original"}, {"kind", *names, *_ABOUT})
    nested = _member(group, "original", "group")
    tolerance, iterations = _number(group, "tolerance"), _whole_number(group, "max_iterations")
    settings: dict[str, Any] = {
        "tolerance": tolerance,
        "max_iterations": iterations,
        "on_failure": _text(group, "on_failure"),
    }
    original = _READERS[_expect_text(nested, "kind", ("spline", "diffeomorphism"))](nested, "")
    inverse = (
        InverseFlow(original, **settings)
        if isinstance(original, Diffeomorphism)
        else InverseDeformation(original, **settings)
    )
    about = _read_about(group)
    inverse.moving_frame, inverse.fixed_frame = about["moving_frame"], about["fixed_frame"]
    inverse.metadata = about["metadata"]
    return inverse


_READERS: dict[str, Callable[[Any, str], Deformation]] = {
    **dict.fromkeys(affine.KINDS, _read_affine),
    "spline": _read_spline,
    "diffeomorphism": _read_diffeomorphism,
    "inverse": _read_inverse,
}


# Checks -----------------------------------------------------------------------------------------------------


def _expect_members(group: Any, members: set[str], attributes: set[str]) -> None:
    for found, known, what in (
        (set(group.keys()), members, "member"),
        (set(group.attrs.keys()), attributes, "attribute"),
    ):
        unknown = sorted(found - known)
        if unknown:
            raise InputError(
                f"unknown {what} {unknown[0]!r} in {group.name}: known are {', '.join(sorted(known))}"
            )


def _member(group: Any, name: str, kind: str) -> Any:
    """Return a "group" or "dataset" that lies in this very file."""
    import h5py

    path = f"{group.name.rstrip('/')}/{name}"
    if name not in group:
        raise InputError(f"{path} is missing")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{path} is a link: a transform file must hold everything itself")
    found = group[name]
    if not isinstance(found, h5py.Group if kind == "group" else h5py.Dataset):
        raise InputError(f"{path} must be a {kind}")
    return found


def _numbers(group: Any, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Content of a dataset of floats; its shape is compared with what is stored before memory is taken."""
    dataset = _member(group, name, "dataset")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (4, 8):
        raise InputError(f"{dataset.name} must hold float64 numbers, got {dataset.dtype}")
    wanted = "(" + ", ".join("N" if length is None else str(length) for length in shape) + ")"
    found = dataset.shape
    if (
        found is None
        or len(found) != len(shape)
        or any(want not in (None, have) for have, want in zip(found, shape, strict=True))
    ):
        raise InputError(f"{dataset.name} must have shape {wanted}, got {found}")
    if dataset.is_virtual or dataset.external or dataset.id.get_storage_size() != dataset.nbytes:
        raise InputError(f"{dataset.name} is not stored whole and uncompressed in the file")
    values = np.asarray(dataset[()], dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{dataset.name} holds numbers that are not finite")
    return values


def _attribute(group: Any, name: str) -> str | int | float:
    """Value of an attribute that is one text or number."""
    import h5py

    if name not in group.attrs:
        raise InputError(f"attribute {name} of {group.name} is missing")
    stored = group.attrs.get_id(name)
    if stored.shape != () or not (stored.dtype.kind in "iuf" or h5py.check_string_dtype(stored.dtype)):
        raise InputError(f"attribute {name} of {group.name} must be one text or number")
    value = group.attrs[name]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value if isinstance(value, str) else value.item()


def _text(group: Any, name: str) -> str:
    value = _attribute(group, name)
    if not isinstance(value, str):
        raise InputError(f"attribute {name} of {group.name} must be text, got {value}")
    return value


def _expect_text(group: Any, name: str, known: tuple[str, ...]) -> str:
    value = _text(group, name)
    if value not in known:
        choices = " or ".join(
            [", ".join(map(repr, known[:-1])), repr(known[-1])] if known[1:] else [repr(known[0])]
        )
        raise InputError(f"attribute {name} of {group.name} must be {choices}, got {value[:60]!r}")
    return value


def _number(group: Any, name: str) -> int | float:
    value = _attribute(group, name)
    if isinstance(value, str) or not math.isfinite(value):
        raise InputError(f"attribute {name} of {group.name} must be a finite number, got {value!r}")
    return value


def _whole_number(group: Any, name: str) -> int:
    value = _number(group, name)
    if value != int(value):
        raise InputError(f"attribute {name} of {group.name} must be a whole number, got {value!r}")
    return int(value)


def _checksum(file: Any) -> str:
    """SHA-256 of a file's content, as the layout describes."""
    import h5py

    objects: dict[str, Any] = {"/": file}
    file.visititems(lambda name, found: objects.__setitem__(f"/{name}", found))
    digest = hashlib.sha256()
    for path, found in sorted(objects.items()):
        attributes = {name: _attribute(found, name) for name in found.attrs if name != "sha256"}
        digest.update(f"{path}\n{json.dumps(attributes, sort_keys=True)}\n".encode())
        if isinstance(found, h5py.Dataset):
            digest.update(f"{list(found.shape)}\n".encode())
            digest.update(np.asarray(found[()], dtype="<f8").tobytes())
    return digest.hexdigest()
