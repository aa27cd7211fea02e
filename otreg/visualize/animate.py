"""Animations of a registration: the way from moving to moved as a loop, a film, numbered pictures or a series."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otreg.deformations import Leg, legs, split_pose, trajectory
from otreg.errors import InputError
from otreg.io import atomic_path
from otreg.registration import Registration
from otreg.registration.progress import Progress
from otreg.surface import FloatArray, Surface
from otreg.visualize.build import scene as build_scene
from otreg.visualize.film import FILM_SUFFIXES, find_encoder, write_film
from otreg.visualize.gif import write_gif
from otreg.visualize.run import Run, read_run
from otreg.visualize.scene import Layer, Scene
from otreg.visualize.screen import Image
from otreg.visualize.sequence import frame_name, write_sequence
from otreg.visualize.series import check_series, write_series
from otreg.visualize.timing import HOLD, Timing, timing

SIZE = (960, 720)
"""Of an animation in pixels, where none is asked for: GIF grows with every pixel."""
_FASTEST_GIF = 50.0


class Animation(NamedTuple):
    """What was written.

    Attributes
    ----------
    path : Path
        The file; of numbered pictures the first one.
    frames : int
        Pictures, or times of a series, on the way from the beginning to the end.
    seconds : float
        How long it takes, with its stay at both ends and the way back; 0 for pictures and series.
    legs : list of Leg
        Which part of the way is integrated and which interpolated; empty for a scene, which does not know.
    warnings : list of str
        What the format could not hold.
    """

    path: Path
    frames: int
    seconds: float
    legs: list[Leg]
    warnings: list[str]


def animate(
    what: Scene | Registration | Run | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    frames: int | None = None,
    seconds: float | None = None,
    fps: float | None = None,
    bounce: bool = False,
    hold: float = HOLD,
    skip_pose: bool = False,
    panels: Sequence[str] = ("overlay",),
    color_by: str | None = None,
    views: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    title: str | None = None,
    unit: str = "mm",
    progress: Callable[[Any], object] | None = None,
) -> Animation:
    """Show how a map carries the moving shape to the fixed one.

    Camera, scale and colours are the same in all frames. Flows are shown on their own way (integrated), other
    maps on a way that is chosen: see :func:`otreg.deformations.trajectory`.

    Parameters
    ----------
    what : Registration, path of a run's folder, or Scene
        A scene with layers that move, made with ``otreg.visualize.scene(..., times=...)``; the options from
        ``skip_pose`` to ``unit`` are its own then.
    output : path
        By its suffix: ``.gif``, an endless loop; ``.mp4`` or ``.webm``, by ffmpeg; ``.png`` with a number in its
        name (``frame-%03d.png``), or a folder: numbered pictures; ``.pvd``: a series for ParaView, with all point
        data and ``displacement`` up to each time. Whole or not at all.
    frames, seconds, fps, bounce, hold
        See :func:`otreg.visualize.timing.timing`. Pictures and series have ``frames`` of them and no hold.
    skip_pose : bool, default False
        Begin after the affine stages that come first, to show the change of shape alone.
    panels, color_by, views, size, title, unit
        See :func:`otreg.visualize.scene`. Default: moved over the outline of fixed, 960x720.
    progress : callable, optional
        Called with a :class:`~otreg.registration.progress.ProgressEvent` after each frame.

    Returns
    -------
    Animation

    Raises
    ------
    InputError
        On another suffix, no encoder, timing that is out of bounds, a run without its transform, nothing that
        moves.
    OtregError
        If the machine cannot draw, or ffmpeg fails.
    """
    target = Path(output)
    plan = timing(frames, seconds, fps, bounce=bounce, hold=hold)
    check_target(target, plan)
    if isinstance(what, Scene):
        return _of_scene(what, target, plan, [], progress)
    run, parts = _moving_run(what, skip_pose)
    if target.suffix.lower() == ".pvd":
        return _series_of_run(run, target, plan, parts, progress)
    made = build_scene(
        run,
        panels=panels,
        color_by=color_by,
        views=views,
        times=len(plan.moments),
        unit=unit,
        title=title,
        size=SIZE if size is None else size,
    )
    return _of_scene(made, target, plan, parts, progress)


def check_target(target: Path, plan: Timing) -> None:
    """Refuse, before any work, what cannot be written.

    Raises
    ------
    InputError
        On an unknown suffix, a folder that is missing, no encoder, more than 50 frames a second in a GIF.
    """
    suffix = target.suffix.lower()
    if suffix in FILM_SUFFIXES:
        find_encoder(suffix)
    elif suffix == ".gif":
        if plan.frames_per_second > _FASTEST_GIF:
            raise InputError(
                f"{target}: GIF shows at most {_FASTEST_GIF:g} frames a second, got "
                f"{plan.frames_per_second:g}; ask for fewer frames or more seconds, or write .mp4"
            )
    elif suffix == ".pvd":
        check_series(target)
    elif suffix == ".png":
        frame_name(target, 0, len(plan.shown))
    elif suffix and not target.is_dir():
        raise InputError(
            f"{target}: animations are .gif, .mp4, .webm, .pvd, numbered pictures (frame-%03d.png) or a folder"
        )
    if suffix and not target.is_dir() and not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist; create it first")


def _moving_run(what: Any, skip_pose: bool) -> tuple[Run, list[Leg]]:
    """Shapes and map of what is to be shown, and the parts of the way."""
    if isinstance(what, Registration):
        run = Run(what.moving, what.fixed, what.moved, what.transform)
    elif isinstance(what, Run):
        run = what
    elif isinstance(what, str | os.PathLike):
        run = read_run(Path(what))
    else:
        raise TypeError(f"animate takes a scene, a registration or a run's folder, got {type(what).__name__}")
    name = what if isinstance(what, str | os.PathLike) else "the run"
    if run.transform is None:
        raise InputError(f"{name}: has no transform.h5, so the way of its points is not known")
    if len(run.moving) != len(run.moved):
        raise InputError(f"{name}: the moving surface has changed since; its vertices are not those of moved")
    if not skip_pose:
        return run, legs(run.transform)
    pose, rest = split_pose(run.transform)
    if rest is None:
        raise InputError(
            f"{name}: the map is affine from end to end; without its pose nothing is left to show"
        )
    if pose is None:
        return run, legs(rest)
    posed = run.moving.with_points(pose.map(run.moving.points))
    moved = run.moved.with_data({"displacement": run.moved.points - posed.points})
    return Run(posed, run.fixed, moved, rest), legs(rest)


def _of_scene(
    made: Scene, target: Path, plan: Timing, parts: list[Leg], progress: Callable[[Any], object] | None
) -> Animation:
    if all(layer.motion is None for layer in made.layers):
        raise InputError("nothing moves in this scene: make it with times=, of a run with its transform")
    suffix = target.suffix.lower()
    if suffix == ".pvd":
        return _series_of_scene(made, target, plan, parts, progress)
    made = dataclasses.replace(made, transparent=False)
    counter = Progress(len(plan.moments), progress, None)
    drawn: set[int] = set()

    def draw(number: int) -> Image:
        image = made.at(plan.moments[number]).image()
        if number not in drawn:  # some are drawn again, to save memory
            drawn.add(number)
            counter.step("frames")
        return image

    count, long = len(plan.moments), sum(plan.seconds)
    if suffix == ".gif":
        with atomic_path(target) as temporary:
            write_gif(temporary, draw, count, plan.shown, plan.seconds)
    elif suffix in FILM_SUFFIXES:
        first = draw(0)
        with atomic_path(target) as temporary:
            size = first.shape[1], first.shape[0]
            write_film(temporary, _film(draw, first, plan), size, plan.frames_per_second)
        long = sum(plan.repeats) / plan.frames_per_second
    else:
        return Animation(write_sequence(target, draw, plan.shown, len(plan.shown)), count, 0.0, parts, [])
    return Animation(target, count, long, parts, [])


def _film(draw: Callable[[int], Image], first: Image, plan: Timing) -> Iterator[Image]:
    """Every picture of a film, those that stay repeated."""
    for place, (number, times) in enumerate(zip(plan.shown, plan.repeats, strict=True)):
        image = draw(number) if place else first
        for _ in range(times):
            yield image


def _series_of_run(
    run: Run, target: Path, plan: Timing, parts: list[Leg], progress: Callable[[Any], object] | None
) -> Animation:
    assert run.transform is not None
    way: FloatArray = np.asarray(trajectory(run.transform, run.moving.points, plan.moments))
    # Normals would have to be turned at each time; viewers make their own.
    kept = {name: data for name, data in run.moved.point_data.items() if name.lower() != "normals"}
    plain = dataclasses.replace(run.moved, point_data=kept, landmarks=None)

    def at(number: int) -> Surface:
        return plain.with_points(way[number], displacement=way[number] - way[0])

    counter = Progress(len(way), progress, None)
    lost = write_series(
        target, plan.moments, {"moved": at}, {"fixed": run.fixed}, lambda _: counter.step("times")
    )
    return Animation(target, len(way), 0.0, parts, lost)


def _series_of_scene(
    made: Scene, target: Path, plan: Timing, parts: list[Leg], progress: Callable[[Any], object] | None
) -> Animation:
    """Surfaces and clouds of a scene; lines and arrows are left out."""
    layers = {layer.name: layer for layer in made.layers if layer.kind in ("surface", "points")}
    title = "values" if made.colouring is None else made.colouring.title

    def surface(layer: Layer, time: float) -> Surface:
        data = {} if layer.values is None else {title: layer.values}
        return Surface(layer.at(time).points, layer.cells, data, made.frame)

    moving = {
        name: (lambda number, layer=layer: surface(layer, plan.moments[number]))
        for name, layer in layers.items()
        if layer.motion is not None
    }
    still = {name: surface(layer, 0.0) for name, layer in layers.items() if layer.motion is None}
    counter = Progress(len(plan.moments), progress, None)
    lost = write_series(target, plan.moments, moving, still, lambda _: counter.step("times"))
    others = [layer.name for layer in made.layers if layer.name not in layers]
    lost += [f"{name}: lines and arrows are left out of a series" for name in dict.fromkeys(others)]
    return Animation(target, len(plan.moments), 0.0, parts, lost)
