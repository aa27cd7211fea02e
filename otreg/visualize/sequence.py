"""Numbered pictures: the frames of an animation as PNG files."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from otreg.errors import InputError
from otreg.visualize.screen import Image, png_bytes

_NUMBER = re.compile(r"%0?\d*d")


def frame_name(output: Path, number: int, count: int) -> Path:
    """Path of a frame: from a pattern with ``%03d`` in its name, or ``frame-000.png`` and so on in a folder.

    Raises
    ------
    InputError
        If the name of a ``.png`` has no place for a number, or more than one.
    """
    if output.suffix.lower() != ".png":
        digits = max(3, len(str(count - 1)))
        return output / f"frame-{number:0{digits}d}.png"
    if len(_NUMBER.findall(output.name)) != 1 or "%" in _NUMBER.sub("", output.name):
        raise InputError(
            f"{output}: frames need a number in their name, such as {output.stem.replace('%', '')}-%03d.png; "
            "or give a folder, or otreg render for one picture"
        )
    return output.with_name(output.name % number)


def write_sequence(output: Path, draw: Callable[[int], Image], shown: Iterable[int], count: int) -> Path:
    """Write the frames ``shown``; all of them or none.

    Frames of a longer animation of the same name, which would follow the last one, are removed.

    Parameters
    ----------
    output : Path
        See :func:`frame_name`. A folder is made where there is none.
    draw : callable
        Number of a frame -> image.
    shown : iterable of int
        Numbers of the frames in their order, ``count`` of them.
    count : int

    Returns
    -------
    Path
        The first frame.
    """
    folder = frame_name(output, 0, count).parent
    above = folder
    while not above.exists():
        above = above.parent
    with tempfile.TemporaryDirectory(prefix=".frames.", dir=above) as unfinished:
        drawn: dict[int, Path] = {}
        for place, number in enumerate(shown):
            part = Path(unfinished) / f"{place}.png"
            if number in drawn:
                shutil.copyfile(drawn[number], part)
            else:
                part.write_bytes(png_bytes(draw(number)))
                drawn[number] = part
        folder.mkdir(parents=True, exist_ok=True)
        for place in range(count):
            os.replace(Path(unfinished) / f"{place}.png", frame_name(output, place, count))
    number = count
    while (later := frame_name(output, number, count)).is_file():
        later.unlink()
        number += 1
    return frame_name(output, 0, count)
