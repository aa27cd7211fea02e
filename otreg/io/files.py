"""Files as a whole: writing without halves, opening what may be compressed."""

from __future__ import annotations

import gzip
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from otreg.errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes ``path`` when the block ends well.

    The temporary file lies in the same folder and ends in the same name, so that writers which look at the
    suffix choose the same format and the final rename cannot cross file systems. When the block raises, the
    temporary file is removed and an older file at ``path`` stays as it was.

    Parameters
    ----------
    path : str or path-like
        The file to write.

    Yields
    ------
    pathlib.Path
        Where to write. Nothing exists there yet.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written to, or ``path`` is a folder.
    """
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        raise InputError(f"{target}: is a folder; give the name of a file to write")
    if not folder.is_dir():
        raise InputError(f"{target}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{target}: the folder {folder} cannot be written to; choose another one")
    # The full name comes last: "lh.pial" and "x.gii.gz" keep every suffix.
    temporary = folder / f".{secrets.token_hex(4)}.{target.name}"
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: could not be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def compress(path: Path) -> None:
    """Replace the content of a file by its gzip form, which is the same whenever it is made."""
    path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def load_bytes(path: str | os.PathLike[str]) -> bytes:
    """Whole content of a file, decompressed where it is gzip, whatever its name says.

    Raises
    ------
    InputError
        If the file is missing, is a folder, is empty, cannot be opened, or is damaged gzip.
    """
    source = Path(path)
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{source}: no such file; check the name and the folder") from None
    except IsADirectoryError:
        raise InputError(f"{source}: is a folder; name a file in it") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be opened ({error.strerror or error}); check the path") from None
    if not content:
        raise InputError(f"{source}: the file is empty; export or copy it again")
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise InputError(f"{source}: truncated or damaged gzip; copy or export it again") from None
    return content
