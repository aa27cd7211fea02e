"""Pictures of surfaces and registrations as files, drawn without a display."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otreg.surface import Surface
from otreg.visualize.build import scene
from otreg.visualize.files import check_target
from otreg.visualize.run import Run


def render(inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], **options: Any) -> Path:
    """Draw a run of ``otreg register``, or surface files, into a file.

    Parameters
    ----------
    inputs : sequence of paths
        Either one run folder or one or more surface files.
    output : path
        ``.png``, ``.svg``, ``.pdf`` or ``.html``; written as a whole or not at all.
    **options
        Those of :func:`otreg.visualize.scene`.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    InputError
        What :func:`otreg.visualize.scene` refuses, or a name that ends in something else.
    """
    target = check_target(output)
    return scene(*inputs, **options).save(target)


def render_registration(
    moving: Surface, fixed: Surface, moved: Surface, path: str | os.PathLike[str], **options: Any
) -> Path:
    """Draw moving, fixed, and moved over fixed, side by side, into a file.

    All panels look in one direction, along the fixed shape's flattest axis, and have one scale. Moving and
    moved are coloured by how far each point went.

    Parameters
    ----------
    moving, fixed, moved : Surface
        ``moved`` has the vertices of ``moving``; otherwise both are drawn plain.
    path, **options
        See :func:`render`.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        See :func:`render`.
    """
    target = check_target(path)
    return scene(Run(moving, fixed, moved, None), **options).save(target)


def render_surfaces(surfaces: Sequence[Surface], path: str | os.PathLike[str], **options: Any) -> Path:
    """Draw one surface, or several where they are in space, into a file.

    Several plain ones get a colour each, named below, all but the first translucent. With ``color_by``, those
    that lack the data are translucent.

    Parameters
    ----------
    surfaces : sequence of Surface
    path, **options
        See :func:`render`.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        See :func:`render`.
    """
    target = check_target(path)
    return scene(*surfaces, **options).save(target)
