"""Motion for ParaView: a ``.pvd`` file that says which ``.vtp`` belongs to which time."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from otreg.errors import InputError
from otreg.io import atomic_path, write
from otreg.surface import Surface


def series_folder(output: Path) -> Path:
    """Where the ``.vtp`` files of ``name.pvd`` lie: ``name_frames`` beside it."""
    return output.with_name(f"{output.stem}_frames")


def check_series(output: Path) -> None:
    """Refuse a folder that holds anything but the frames of an earlier series."""
    folder = series_folder(output)
    if folder.is_dir() and any(item.suffix != ".vtp" for item in folder.iterdir()):
        raise InputError(
            f"{folder}: holds other files and would be replaced; choose another name for {output}"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file where the frames have to go; choose another name for {output}")


def write_series(
    output: Path,
    times: Sequence[float],
    moving: Mapping[str, Callable[[int], Surface]],
    still: Mapping[str, Surface],
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Write surfaces over time, whole or not at all.

    Parameters
    ----------
    output : Path
        A ``.pvd`` file; the surfaces go into :func:`series_folder`, named by relative paths, so that both can be
        moved together.
    times : sequence of float
        Of the frames.
    moving : mapping from names to callables
        Number of a frame -> surface at that time.
    still : mapping from names to surfaces
        Written once, and named at every time.
    progress : callable, optional
        Told after each frame how many are done.

    Returns
    -------
    list of str
        What the format could not hold.

    Raises
    ------
    InputError
        If the folder of the frames holds something else, or nothing can be written.
    """
    check_series(output)
    folder = series_folder(output)
    fresh = folder.with_name(f".{secrets.token_hex(4)}.{folder.name}")
    old = folder.with_name(f".{secrets.token_hex(4)}.{folder.name}")
    digits = max(3, len(str(len(times) - 1)))
    lost: list[str] = []
    lines = ['<?xml version="1.0"?>', '<VTKFile type="Collection" version="0.1">', "  <Collection>"]

    def entry(time: float, part: int, name: str, file: str) -> str:
        about = f'timestep="{time:.9g}" group="" part="{part}" name={quoteattr(name)}'
        return f"    <DataSet {about} file={quoteattr(f'{folder.name}/{file}')}/>"

    try:
        fresh.mkdir()
        for name, surface in still.items():
            lost += write(surface, fresh / f"{name}.vtp")
        for number, time in enumerate(times):
            for part, (name, at) in enumerate(moving.items()):
                file = f"{name}_{number:0{digits}d}.vtp"
                lost += write(at(number), fresh / file)
                lines.append(entry(time, part, name, file))
            for part, name in enumerate(still, start=len(moving)):
                lines.append(entry(time, part, name, f"{name}.vtp"))
            progress(number + 1)
        lines += ["  </Collection>", "</VTKFile>", ""]
        with atomic_path(output) as temporary:
            temporary.write_text("\n".join(lines), encoding="utf-8")
            if folder.exists():
                os.replace(folder, old)
            try:
                os.replace(fresh, folder)
            except OSError:
                if old.exists():
                    os.replace(old, folder)
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return list(dict.fromkeys(lost))
