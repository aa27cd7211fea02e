"""Weighted sums of kernels, so that one kernel works at several scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import Tensor

from otreg.errors import InputError
from otreg.kernels.base import Kernel, Parameter
from otreg.reductions.checks import as_parameter


@dataclasses.dataclass(frozen=True)
class Sum(Kernel):
    """``k = Σ_s a_s k_s``.

    Parameters
    ----------
    kernels : sequence of Kernel
        At least one, of any kinds.
    amplitudes : sequence of float, or Tensor of shape (S,), optional
        a, positive, one for each kernel; 1 each by default. Gradients reach tensors.

    Raises
    ------
    InputError
        On no kernel, something else than a kernel, another number of amplitudes, or one that is not positive.
    """

    kernels: tuple[Kernel, ...]
    amplitudes: tuple[Parameter, ...]

    def __init__(
        self, kernels: Iterable[Kernel], amplitudes: Iterable[Parameter] | Tensor | None = None
    ) -> None:
        kernels = tuple(kernels)
        if not kernels:
            raise InputError("a sum of kernels needs at least one kernel, got none")
        for kernel in kernels:
            if not isinstance(kernel, Kernel):
                raise InputError(
                    f"kernels must be kernels such as Gaussian(5.0), got {type(kernel).__name__}"
                )
        given = (1.0,) * len(kernels) if amplitudes is None else tuple(amplitudes)
        if len(given) != len(kernels):
            raise InputError(
                f"amplitudes must be one for each of the {len(kernels)} kernels, got {len(given)}"
            )
        object.__setattr__(self, "kernels", kernels)
        object.__setattr__(self, "amplitudes", tuple(as_parameter(each, "amplitudes") for each in given))

    @property
    def widths(self) -> tuple[Parameter, ...]:
        """The widths of all its kernels, in their order."""
        return tuple(width for kernel in self.kernels for width in kernel.widths)

    def parameters(self) -> dict[str, Parameter]:
        """Return the parameters and amplitudes of its kernels, as ``0.width``, ``0.amplitude``, …"""
        named: dict[str, Parameter] = {}
        for index, (kernel, amplitude) in enumerate(zip(self.kernels, self.amplitudes, strict=True)):
            named |= {f"{index}.{name}": parameter for name, parameter in kernel.parameters().items()}
            named[f"{index}.amplitude"] = amplitude
        return named

    def _sum(self, x: Tensor, y: Tensor, v: Tensor, engine: str) -> Tensor:
        first, *others = zip(self.kernels, self.amplitudes, strict=True)
        total = first[1] * first[0]._sum(x, y, v, engine)
        for kernel, amplitude in others:
            total = total + amplitude * kernel._sum(x, y, v, engine)
        return total

    def _matrix(self, x: Tensor, y: Tensor) -> Tensor:
        first, *others = zip(self.kernels, self.amplitudes, strict=True)
        total = first[1] * first[0]._matrix(x, y)
        for kernel, amplitude in others:
            total = total + amplitude * kernel._matrix(x, y)
        return total
