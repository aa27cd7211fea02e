"""Windows on a display, and whether there is one."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Any, cast

from otreg.errors import OtregError

if TYPE_CHECKING:
    from vtkmodules.vtkRenderingCore import vtkRenderWindow


def no_display() -> str | None:
    """Why no window can be opened here, or None where one can.

    VTK ends the process when it opens a window on a display that is not there, so it is asked first.
    """
    if not sys.platform.startswith("linux"):
        return None
    name = os.environ.get("DISPLAY")
    if not name:
        if os.environ.get("WAYLAND_DISPLAY"):
            return "windows need X11 (Xwayland), and this Wayland session has none"
        return "there is no display here"
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return "the library libX11 is missing"
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XOpenDisplay.argtypes = [ctypes.c_char_p]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    found = x11.XOpenDisplay(None)
    if not found:
        return f"the display {name} cannot be opened"
    x11.XCloseDisplay(found)
    return None


def on_screen_window() -> vtkRenderWindow:
    """A window for a display.

    Raises
    ------
    OtregError
        If there is no display, or no OpenGL on it.
    """
    import vtkmodules.vtkRenderingOpenGL2 as opengl
    from vtkmodules.vtkRenderingCore import vtkRenderWindow

    reason = no_display()
    if reason is not None:
        raise OtregError(f"{reason}: no window can be opened")
    kind: Any = getattr(opengl, "vtkXOpenGLRenderWindow", None) if sys.platform.startswith("linux") else None
    window: Any = vtkRenderWindow() if kind is None else kind()
    window.SetMultiSamples(4)
    window.SetAlphaBitPlanes(True)
    if not window.SupportsOpenGL():
        raise OtregError("this display cannot draw: no OpenGL; no window can be opened")
    return cast("vtkRenderWindow", window)
