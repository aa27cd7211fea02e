"""Scenes as web pages: one file each, which needs no network and no other program than a browser."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files

from otreg.surface import IntArray
from otreg.visualize.payload import scene_json
from otreg.visualize.scene import Scene

_SCRIPTS = ("gl.js", "panel.js", "viewer.js")
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""Browsers hold the page to it: nothing is fetched from anywhere."""


def scene_html(scene: Scene, *, title: str | None = None) -> str:
    """Write a scene as one web page in which it can be turned, its layers switched, its deformation scrubbed.

    Parameters
    ----------
    scene : Scene
        Layers that are in several panels are shown once, all in one space. Meshes of more than 60,000 triangles
        are decimated, and the page says so.
    title : str, optional
        Default: the scene's, or "otreg".

    Returns
    -------
    str
        HTML, the same for the same scene. Browsers need WebGL2; without it the page says so.

    Raises
    ------
    InputError
        If there is nothing to show.
    """
    name = title if title is not None else scene.title or "otreg"
    heading = f"<h1>{escape(name)}</h1>\n" if title is not None or scene.title else ""
    return page(name, f'<main class="otreg-page">\n{heading}{scene_figure(scene, whole=True)}\n</main>')


def inline_html(scene: Scene, *, height: int = 520) -> str:
    """Write a scene for the output cell of a notebook: the page in a frame of its own, so that styles stay apart.

    Parameters
    ----------
    scene : Scene
    height : int, default 520
        Of the frame, in pixels.

    Raises
    ------
    InputError
        If there is nothing to show.
    """
    content = escape(scene_html(scene, title=scene.title), quote=True)
    name = escape(scene.title or "interactive 3-D scene", quote=True)
    return (
        f'<iframe title="{name}" sandbox="allow-scripts" srcdoc="{content}" '
        f'style="width:100%;height:{int(height)}px;border:0"></iframe>'
    )


def scene_figure(scene: Scene, *, whole: bool = False, numbers: Mapping[str, IntArray] | None = None) -> str:
    """Write a scene as a ``<figure>`` for a page that has :func:`page`'s styles and scripts.

    Parameters
    ----------
    scene : Scene
    whole : bool, default False
        The page shows nothing else, so that the wheel always zooms.
    numbers : mapping of str to int array (N,), optional
        By name of a layer: what its points are called where they are read. Default: their rows.
    """
    mark = ' data-whole="yes"' if whole else ""
    return (
        f'<figure class="otreg-scene"{mark}>'
        f'<script type="application/json">{scene_json(scene, numbers)}</script>'
        "<noscript><p>The 3-D scene needs JavaScript, which is switched off here.</p></noscript></figure>"
    )


def page(title: str, body: str, *, styles: tuple[str, ...] = ("style.css",)) -> str:
    """Put a body into a page that holds the viewer's styles and scripts and may fetch nothing.

    Parameters
    ----------
    title : str
        Plain text.
    body : str
        HTML.
    styles : tuple of str
        Names of files beside the viewer's.
    """
    style = "\n".join(_asset(name) for name in styles)
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="otreg">
<title>{escape(title)}</title>
<style>
{style}</style>
<script>
{script}</script>
</head>
<body>
{body}
</body>
</html>
"""


@cache
def _asset(name: str) -> str:
    return files("otreg.visualize").joinpath("page", name).read_text(encoding="utf-8")
