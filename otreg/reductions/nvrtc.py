"""Compile CUDA code while the program runs, and launch it: what comes with every torch for CUDA is enough.

NVRTC, NVIDIA's compiler as a library, lies beside torch's own libraries; neither nvcc nor a C compiler is needed. Of
both it and the driver only a few functions are called, through ctypes: torch's own wrapper asks for a CUDA toolkit
that most installations lack.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Kernel:
    """A compiled function of one device."""

    def __init__(self, driver: ctypes.CDLL, function: ctypes.c_void_p, module: ctypes.c_void_p) -> None:
        self._driver, self._function, self._module = driver, function, module

    def __call__(self, grid: tuple[int, int], threads: int, *arguments: Tensor | int | float | None) -> None:
        """Launch on the current stream of the current device.

        Parameters
        ----------
        grid : tuple of int
            Blocks along x and y.
        threads : int
            Threads in a block.
        *arguments
            Tensors (contiguous, on this device) and None are passed as pointers, integers as int, floats as double.
        """
        values = [_as_argument(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        code = self._driver.cuLaunchKernel(
            self._function, grid[0], grid[1], 1, threads, 1, 1, 0, stream, pointers, None
        )
        _check_driver(self._driver, code, "launch")


def compile_kernels(
    source: str, names: Sequence[str], definitions: dict[str, str], device: int
) -> list[Kernel]:
    """Compile functions (declared ``extern "C"``) for a device.

    Parameters
    ----------
    source : str
        CUDA C++, without includes.
    names : sequence of str
        Functions wanted.
    definitions : dict
        Macros.
    device : int
        Index among torch's CUDA devices.

    Raises
    ------
    OSError
        When a library is missing.
    RuntimeError
        With the compiler's words, when it refuses.
    """
    major, minor = torch.cuda.get_device_capability(device)
    options = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17"]
    options += [f"-D{name}={value}" for name, value in definitions.items()]
    binary = to_binary(_compiler(), source, options)
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    module = ctypes.c_void_p()
    with torch.cuda.device(device):
        # torch makes its context current with its first work on a device
        torch.cuda.current_stream().synchronize()
        _check_driver(driver, driver.cuModuleLoadData(ctypes.byref(module), binary), "load")
        kernels = []
        for name in names:
            function = ctypes.c_void_p()
            found = driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode())
            _check_driver(driver, found, f"find {name}")
            kernels.append(Kernel(driver, function, module))
    return kernels


def to_binary(compiler: ctypes.CDLL, source: str, options: Sequence[str]) -> bytes:
    """What the compiler makes of a source: machine code for the architecture that the options name."""
    program = ctypes.c_void_p()
    _check_compiler(
        compiler, compiler.nvrtcCreateProgram(ctypes.byref(program), source.encode(), None, 0, None, None)
    )
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if compiler.nvrtcCompileProgram(program, len(options), given) != 0:
            raise RuntimeError(f"NVRTC: {_read(compiler, program, 'ProgramLog').decode(errors='replace')}")
        return _read(compiler, program, "CUBIN")
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


def _read(compiler: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check_compiler(compiler, getattr(compiler, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check_compiler(compiler, getattr(compiler, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _compiler() -> ctypes.CDLL:
    """NVRTC: the one that is loaded or in the library path, or the one installed beside torch."""
    major = str(torch.version.cuda).split(".")[0]
    names = (
        [f"nvrtc64_{major}0_0.dll"] if sys.platform == "win32" else [f"libnvrtc.so.{major}", "libnvrtc.so"]
    )
    root = Path(torch.__file__).parent
    beside = [root / "lib" / names[0], *sorted((root.parent / "nvidia").glob(f"*/lib/{names[0]}"))]
    for candidate in [*names, *(str(path) for path in beside if path.exists())]:
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise OSError(f"no {names[0]} in the library path or beside torch")


def _as_argument(argument: Tensor | int | float | None) -> Any:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int(argument) if isinstance(argument, int) else ctypes.c_double(argument)


def _check_compiler(compiler: ctypes.CDLL, code: int) -> None:
    if code != 0:
        compiler.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {compiler.nvrtcGetErrorString(code).decode()}")


def _check_driver(driver: ctypes.CDLL, code: int, doing: str) -> None:
    if code != 0:
        words = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(words))
        raise RuntimeError(f"CUDA driver, {doing}: {(words.value or b'unknown error').decode()}")
