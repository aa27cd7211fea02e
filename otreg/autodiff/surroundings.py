"""Where a loop runs: random-number states and autocast, to be entered again with its steps; transforms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor


def devices_of(tensors: Iterable[Tensor]) -> tuple[torch.device, ...]:
    """The CPU, the devices of the tensors, and the current CUDA device where CUDA is in use already."""
    found = {torch.device("cpu"): None}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found[torch.device("cuda", torch.cuda.current_device())] = None
    for tensor in tensors:
        found[tensor.device] = None
    return tuple(found)


class RandomState:
    """The states of torch's default generators on some devices, and of generators of the user's own."""

    def __init__(self, devices: Sequence[torch.device], generators: Sequence[torch.Generator] = ()) -> None:
        self._defaults = [(device, _read(device)) for device in devices]
        self._own = [(generator, generator.get_state()) for generator in generators]

    def moved(self) -> bool:
        """Whether a generator has drawn numbers since."""
        return any(
            state is not None and not torch.equal(state, _read(device))  # type: ignore[arg-type]
            for device, state in self._defaults
        ) or any(not torch.equal(state, generator.get_state()) for generator, state in self._own)

    def restore(self) -> None:
        """Set every generator back to what it was."""
        for device, state in self._defaults:
            _write(device, state)
        for generator, state in self._own:
            generator.set_state(state)


def _read(device: torch.device) -> Tensor | None:
    # torch itself holds the generator of the CPU; a device without random numbers has none, as "meta"
    module: Any = torch if device.type == "cpu" else getattr(torch, device.type, None)
    return module.get_rng_state(*_which(device)) if hasattr(module, "get_rng_state") else None


def _write(device: torch.device, state: Tensor | None) -> None:
    if state is not None:
        module: Any = torch if device.type == "cpu" else getattr(torch, device.type)
        module.set_rng_state(state, *_which(device))


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """How a device is named where there may be several of its type."""
    return () if device.type in ("cpu", "mps") or device.index is None else (device,)


class Autocast:
    """The autocast settings at the moment of construction, for some types of devices."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        types = [kind for kind in dict.fromkeys(device.type for device in devices) if kind != "meta"]
        self._settings: list[dict[str, Any]] = [
            {
                "device_type": kind,
                "enabled": torch.is_autocast_enabled(kind),
                "dtype": torch.get_autocast_dtype(kind),
                "cache_enabled": torch.is_autocast_cache_enabled(),
            }
            for kind in types
        ]

    @contextmanager
    def again(self, **changes: Any) -> Iterator[None]:
        """Run under the settings once more, with changes to them.

        With ``cache_enabled=False`` no cast of a parameter is taken from outside or left for later: each belongs to
        a graph, and graphs come and go.
        """
        with ExitStack() as stack:
            for setting in self._settings:
                stack.enter_context(torch.autocast(**{**setting, **changes}))
            yield


@contextmanager
def undisturbed(devices: Sequence[torch.device], generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Leave the random states afterwards as they were found."""
    found = RandomState(devices, generators)
    try:
        yield
    finally:
        found.restore()


def functional() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, is at work."""
    # neither has a public question; where a release drops these names, torch itself raises an error later
    level = getattr(torch._C._functorch, "maybe_current_level", lambda: None)()
    dual = getattr(torch.autograd.forward_ad, "_current_level", -1)
    return level is not None or dual >= 0


def transformed() -> bool:
    """Whether PyTorch has no saved-tensor hooks here: under torch.func, forward-mode and torch.compile."""
    return functional() or torch.compiler.is_compiling()
