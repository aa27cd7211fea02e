"""The public entry: register two shapes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from otreg.errors import InputError
from otreg.registration.checks import check_device, check_pair
from otreg.registration.pipeline import AFFINE_BLURS, Pipeline
from otreg.registration.progress import Interrupted, Progress
from otreg.registration.report import finish
from otreg.registration.result import Registration
from otreg.registration.settings import COARSE, FINE, PRESETS, Settings
from otreg.registration.symmetric import SymmetricPipeline, in_order
from otreg.surface import Landmarks, Surface


def register(
    moving: Surface,
    fixed: Surface,
    preset: str = "diffeo",
    *,
    landmarks: tuple[Landmarks, Landmarks] | None = None,
    settings: Mapping[str, Any] | Settings | None = None,
    symmetric: bool = False,
    partial: bool = False,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    labels: str | None = None,
    progress: Callable[[Any], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Registration:
    """Find the map that carries ``moving`` onto ``fixed``.

    Parameters
    ----------
    moving, fixed : Surface
        Meshes or point clouds, in the same unit, at any pose.
    preset : {"rigid", "similarity", "affine", "spline", "diffeo"}
        How freely ``moving`` may deform. ``spline`` adds one displacement to each point, ``diffeo`` is a flow, which
        cannot fold; it takes longer.
    landmarks : pair of Landmarks, optional
        Corresponding points. Three or more give the rigid start; all of them guide the affine map, the spline and the
        flow, which come as close as ``settings.landmark_error`` says. Their error is reported.
    settings : mapping or Settings, optional
        Overrides of :class:`Settings`.
    symmetric : bool
        Favour neither shape: both flow to where they meet, and exchanging them gives the inverse map exactly. For the
        preset ``diffeo``; takes twice the time.
    partial : bool
        One shape shows only a part of the other: the size is not fitted before shapes deform, what has no partner does
        not count against a pose, and the report says which share of either was left unmatched.
    device : {"auto", "cpu", "cuda"}
        Where the matches over all pairs are computed.
    threads : int, optional
        Threads of torch while this runs; the number before is restored.
    seed : int
        Seed of the sampling: the same seed, the same result on the same machine.
    labels : str, optional
        Point data that both carry as labels; their overlap is reported.
    progress, stop : callables, optional
        Told of every step with a :class:`ProgressEvent`; asked after each whether to stop, keeping the best so far.

    Returns
    -------
    Registration

    Raises
    ------
    InputError
        On shapes that cannot be registered, frames or sizes that differ wildly, unknown settings.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}: use one of {', '.join(PRESETS)}")
    chosen = settings if isinstance(settings, Settings) else Settings.from_mapping(settings)
    if symmetric and preset != "diffeo":
        raise InputError(f"symmetric needs the preset diffeo, got {preset!r}")
    check_pair(moving, fixed, preset, landmarks)
    fine = sum(level.steps for level in FINE)
    total = 1 + (len(AFFINE_BLURS) if preset == "affine" else 0)
    if symmetric:
        total += 2 * COARSE.steps + 2 * fine
    elif preset in ("spline", "diffeo"):
        flows = preset == "diffeo"
        # fits from two starts, and for flows one with other residuals and softer fine levels
        total += len(AFFINE_BLURS) + (3 if flows else 2) * COARSE.steps + (2 if flows else 1) * fine
    watch = Progress(total, progress, stop)
    exchanged = symmetric and not in_order(moving, fixed)
    shapes = (fixed, moving) if exchanged else (moving, fixed)
    pair = landmarks[::-1] if landmarks is not None and exchanged else landmarks
    kind = SymmetricPipeline if symmetric else Pipeline
    with _threads(threads):
        pipeline = kind(*shapes, chosen, check_device(device), seed, watch, pair, partial)
        try:
            pipeline.run(preset, pair)
        except Interrupted:
            pipeline.interrupted = True
        transform = pipeline.transform()
        report = {
            "preset": preset,
            "seed": seed,
            "symmetric": symmetric,
            "partial": partial,
            "labels": labels,
            "device": device,
            "threads": threads,
            "settings": chosen.as_dict(),
            "absolute": pipeline.absolute(),
            "stages": pipeline.stages,
            "interrupted": pipeline.interrupted,
        }
        if partial:
            shares = pipeline.unmatched()
            report["unmatched"] = dict(
                zip(("moving", "fixed"), shares[::-1] if exchanged else shares, strict=True)
            )
        transform = transform.inverse if exchanged else transform
        return finish(moving, fixed, transform, report, landmarks, labels, seed)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
