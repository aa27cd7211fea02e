"""Which engine reduces over pairs, and why."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import Tensor

from otreg.errors import InputError
from otreg.reductions import blocks, compiled, cuda, keops

Engine = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], tuple[Tensor, Tensor | None]]
"""``(x, y, h, eps, values) -> (log_sum, mean)``: see :func:`otreg.reductions.blocks.log_sum_exp_mean`."""

ENGINES = ("auto", "fused", "keops", "blocks")

FUSED = ("cpu", "cuda")
"""Where the fused engine runs."""


def choose(engine: str, device_type: str) -> str:
    """Name the engine to use on this kind of device.

    ``auto`` takes the environment variable ``OTREG_ENGINE`` if it is set; else ``fused`` on a CPU and on CUDA, and
    ``blocks`` elsewhere.

    Raises
    ------
    InputError
        When the engine is unknown or cannot run here; the message says why and what to do.
    """
    asked = f"engine {engine!r}"
    if engine == "auto":
        engine = os.environ.get("OTREG_ENGINE") or "auto"
        asked = f"engine {engine!r} (from OTREG_ENGINE)"
    if engine not in ENGINES:
        raise InputError(f"unknown {asked}: use one of {', '.join(ENGINES)}")
    if engine == "auto":
        return "fused" if device_type in FUSED else "blocks"
    if engine == "fused" and device_type not in FUSED:
        raise InputError(
            f"{asked} runs on CPUs and CUDA only, but the points are on {device_type}: use 'auto'"
        )
    if engine == "keops":
        keops.require()
    return engine


def get_engine(engine: str, device_type: str) -> Engine:
    """Return the reduction of the engine that :func:`choose` names."""
    name = choose(engine, device_type)
    return {
        "fused": cuda.log_sum_exp_mean if device_type == "cuda" else compiled.log_sum_exp_mean,
        "keops": keops.log_sum_exp_mean,
        "blocks": blocks.log_sum_exp_mean,
    }[name]
