"""Results on disk: HDF5 files of named arrays beside one JSON text. Nothing in them is executed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.io.files import atomic_path

VERSION = 1


def save_archive(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]
) -> None:
    """Write arrays and what is to be known of them, whole or not at all.

    Parameters
    ----------
    path : str or path-like
    kind : str
        What the file holds; :func:`load_archive` refuses another kind.
    arrays : mapping of str to array
        Numbers only.
    about : mapping
        Whatever JSON knows.
    """
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = f"otreg-{kind}"
        file.attrs["version"] = VERSION
        text = json.dumps(about, allow_nan=False).encode("utf-8")
        file.create_dataset("about", data=np.frombuffer(text, np.uint8), track_times=False)
        for name, values in arrays.items():
            file.create_dataset(f"arrays/{name}", data=np.asarray(values), track_times=False)


def load_archive(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read back what :func:`save_archive` wrote.

    Raises
    ------
    InputError
        If the file is missing, damaged, or of another kind; one line that names it.
    """
    import h5py

    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such file; check the name and the folder")
    try:
        if not h5py.is_hdf5(source):
            raise InputError("not HDF5")
        with h5py.File(source, "r") as file:
            found = file.attrs.get("format")
            if found != f"otreg-{kind}":
                raise InputError(f"holds {found}, not an otreg-{kind}")
            if int(file.attrs["version"]) > VERSION:
                raise InputError("was written by a newer otreg: update otreg")
            about = json.loads(bytes(np.asarray(file["about"], np.uint8)).decode("utf-8"))
            arrays = {}
            for name, dataset in file.get("arrays", {}).items():
                if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf":
                    raise InputError(f"/arrays/{name} must hold numbers")
                arrays[name] = np.asarray(dataset[()])
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{source}: the file is damaged ({reason}): make it again") from None
    if not isinstance(about, dict):
        raise InputError(f"{source}: the file is damaged: make it again")
    return arrays, about


@contextlib.contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill, which takes the place of ``folder`` when the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{secrets.token_hex(4)}.{folder.name}")
    aside.mkdir()
    try:
        yield aside
        if folder.exists():
            old = aside.with_name(aside.name + ".old")
            folder.rename(old)
            aside.rename(folder)
            shutil.rmtree(old)
        else:
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
