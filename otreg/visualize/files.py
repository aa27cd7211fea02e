"""Scenes as files: PNG, SVG and PDF with real text, web pages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from otreg.errors import InputError
from otreg.io import atomic_path

if TYPE_CHECKING:
    from otreg.visualize.scene import Scene

SUFFIXES = (".png", ".svg", ".pdf", ".html")


def check_target(path: str | os.PathLike[str]) -> Path:
    """The path of a picture to write; refuses other suffixes."""
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{target}: pictures are written as {', '.join(s[1:].upper() for s in SUFFIXES)}; give a name that "
            f"ends in one of {', '.join(SUFFIXES)}"
        )
    return target


def save(scene: Scene, path: str | os.PathLike[str]) -> Path:
    """Write a scene; see :meth:`Scene.save`."""
    from otreg.visualize.draw import draw_sheet
    from otreg.visualize.screen import png_bytes
    from otreg.visualize.vector import pdf_bytes, svg_text

    target = check_target(path)
    kind = target.suffix.lower()
    if kind == ".png":
        content = png_bytes(scene.image())
    elif kind == ".html":
        from otreg.visualize.web import scene_html

        content = scene_html(scene).encode()
    elif kind == ".svg":
        content = svg_text(draw_sheet(scene), transparent=scene.transparent).encode()
    else:
        content = pdf_bytes(draw_sheet(scene), title=scene.title or target.stem)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return target
