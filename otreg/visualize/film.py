"""MP4 and WebM, by the program ffmpeg where it is at hand."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from otreg.errors import InputError, OtregError
from otreg.visualize.screen import Image

FILM_SUFFIXES = (".mp4", ".webm")
# Best first; each with what makes its picture good enough to be looked at closely.
_ENCODERS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    ".mp4": (
        ("libx264", ("-crf", "18", "-preset", "medium")),
        ("libopenh264", ("-b:v", "8M")),
        ("mpeg4", ("-q:v", "2")),
    ),
    ".webm": (
        ("libvpx-vp9", ("-crf", "24", "-b:v", "0", "-row-mt", "1", "-cpu-used", "4")),
        ("libvpx", ("-crf", "8", "-b:v", "8M")),
        (
            "libsvtav1",
            (
                "-crf",
                "28",
            ),
        ),
    ),
}


def find_encoder(suffix: str) -> tuple[str, list[str]]:
    """The ffmpeg program and its arguments for an encoder of ``.mp4`` or ``.webm``.

    Looked for on the PATH, then in the package imageio-ffmpeg where that is installed.

    Raises
    ------
    InputError
        If there is none, with what to install and that GIF needs nothing.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        try:
            program = str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
        except (ImportError, RuntimeError):
            raise InputError(
                f"writing {suffix} needs the program ffmpeg, which is not here: install it (Debian and Ubuntu: apt "
                "install ffmpeg; or pip install imageio-ffmpeg), or write a .gif, which needs nothing"
            ) from None
    listed = subprocess.run(
        [program, "-hide_banner", "-encoders"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    ).stdout.split()
    for name, options in _ENCODERS[suffix]:
        if name in listed:
            return program, ["-c:v", name, *options]
    wanted = ", ".join(name for name, _ in _ENCODERS[suffix])
    raise InputError(
        f"{program} has no encoder for {suffix} (wanted: {wanted}): install a full ffmpeg, or write a .gif"
    )


def write_film(path: Path, images: Iterable[Image], size: tuple[int, int], fps: float) -> None:
    """Encode images of one size.

    Parameters
    ----------
    path : Path
        Ends in ``.mp4`` or ``.webm``.
    images : iterable of arrays (height, width, 3) of bytes
        Taken one at a time.
    size : (width, height)
        Of the images. Players want even numbers: an odd one gets a line of its border's colour more.
    fps : float
        Frames a second.

    Raises
    ------
    InputError
        Without an encoder.
    OtregError
        If ffmpeg fails, with what it says.
    """
    program, encoder = find_encoder(path.suffix.lower())
    width, height = size
    even = width + width % 2, height + height % 2
    command = [
        program, "-hide_banner", "-loglevel", "error", "-nostats", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{even[0]}x{even[1]}", "-framerate", f"{fps:.6g}", "-i", "pipe:0",
        # Without a tag players guess the matrix by the size, and colours shift.
        "-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p",
        "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv",
        *encoder,
        *(["-movflags", "+faststart"] if path.suffix.lower() == ".mp4" else []),
        "-an", str(path),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as complaints:
        # In a process group of its own: Ctrl-C is for us, who then end it.
        encoding = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints, process_group=0
        )
        try:
            assert encoding.stdin is not None
            try:
                for image in images:
                    encoding.stdin.write(_padded(image, even).tobytes())
                encoding.stdin.close()
            except BrokenPipeError:
                pass  # it has ended, and says below why
            code = encoding.wait()
        finally:
            if encoding.poll() is None:
                encoding.kill()
                encoding.wait()
        if code != 0:
            complaints.seek(0)
            words = complaints.read().decode(errors="replace").strip().splitlines()
            raise OtregError(f"{path.name}: ffmpeg failed ({words[-1] if words else f'exit code {code}'})")


def _padded(image: Image, size: tuple[int, int]) -> Image:
    height, width = image.shape[:2]
    return np.pad(image[..., :3], ((0, size[1] - height), (0, size[0] - width), (0, 0)), mode="edge")
