"""Where an array of pairs is kept: on a device, in memory that the caller gives, or in a file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otreg.errors import InputError

Out = str | os.PathLike[str] | torch.device | Tensor | np.ndarray | None
"""None for where the tiles are computed, "cpu" or a device, a file, or what to write into."""


class Destination:
    """A place for a result whose shape and dtype are known only when the first of it is there."""

    def __init__(self, out: Out, device: torch.device) -> None:
        self._device = device
        self._path: Path | None = None
        self._aside: Path | None = None
        self._given: Tensor | None = None
        if isinstance(out, Tensor | np.ndarray):
            self._given = _as_tensor(out)
        elif isinstance(out, torch.device) or out == "cpu":
            self._device = torch.device(out)  # type: ignore[arg-type]
        elif isinstance(out, str | os.PathLike):
            self._path = _checked(Path(out))
        elif out is not None:
            raise InputError(
                "out must be None, 'cpu', a torch.device, a path, a Tensor or a NumPy array, "
                f"got {type(out).__name__}"
            )
        self.target: Tensor | None = None

    def begin(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Make ``target``, to be written into."""
        if self._path is not None:
            self._aside = self._path.with_name(f".{secrets.token_hex(4)}.{self._path.name}")
            self.target = _new_file(self._aside, shape, dtype)
        elif self._given is None:
            self.target = torch.empty(shape, dtype=dtype, device=self._device)
        elif (tuple(self._given.shape), self._given.dtype) != (shape, dtype):
            raise InputError(
                f"out must have the shape {shape} and {dtype} of the result, got {tuple(self._given.shape)} and "
                f"{self._given.dtype}"
            )
        else:
            self.target = self._given

    def place(self, tensor: Tensor) -> Tensor:
        """A tensor that is there already, brought to the device."""
        return tensor.to(self._device)

    def finish(self) -> Tensor:
        """The whole result; a file gets its name only now."""
        target, self.target = self.target, None
        assert target is not None
        if self._aside is None or self._path is None:
            return target
        shape = tuple(target.shape)
        target = None  # some systems do not rename a file that is mapped
        os.replace(self._aside, self._path)
        self._aside = None
        if 0 in shape:
            return torch.from_numpy(np.load(self._path, allow_pickle=False))
        return torch.from_numpy(np.lib.format.open_memmap(self._path, mode="r+"))

    def abandon(self) -> None:
        """Remove what was written aside, if it did not become whole."""
        self.target = None
        if self._aside is not None:
            self._aside.unlink(missing_ok=True)
            self._aside = None


def _as_tensor(out: Tensor | np.ndarray) -> Tensor:
    if isinstance(out, Tensor):
        if out.requires_grad:
            raise InputError("out must not require gradients: it is written into")
        return out.detach()
    if not out.flags.writeable:
        raise InputError("out must be writeable; open a memory map with mode 'r+' or 'w+'")
    try:
        return torch.from_numpy(out)
    except (TypeError, ValueError) as error:
        raise InputError(f"out must be an array that torch can share, got {out.dtype}: {error}") from error


def _checked(path: Path) -> Path:
    if path.suffix != ".npy":
        raise InputError(f"out must be a file that ends in .npy, the format of numpy.load, got {path}")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"out must be a file in a folder that exists, got {path}")
    return path


def _new_file(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A memory map of a new file, on space that the disk has set aside for it."""
    try:
        kind: Any = torch.empty(0, dtype=dtype, device="cpu").numpy().dtype
    except TypeError as error:
        raise InputError(f"{dtype} cannot be kept in a file of NumPy's; let fn return float32") from error
    if 0 in shape:
        array = np.empty(shape, dtype=kind)
        np.save(path, array)
        return torch.from_numpy(array)
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # a full disk is an error here; later it would be a signal that ends the process
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return torch.from_numpy(mapped)
