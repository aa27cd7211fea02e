"""Drawing without a display: an off-screen window, quiet whatever the graphics libraries have to say."""

from __future__ import annotations

import ctypes.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otreg.errors import OtregError
from otreg.visualize.view import View

if TYPE_CHECKING:
    from vtkmodules.vtkRenderingCore import vtkProp, vtkRenderer, vtkRenderWindow

Image = NDArray[np.uint8]


class Screen:
    """An off-screen window that draws props, seen under a :class:`View`, into arrays."""

    def __init__(self) -> None:
        from vtkmodules.vtkRenderingCore import vtkRenderer

        self._window = off_screen_window()
        self._renderer = vtkRenderer()
        self._renderer.SetBackground(1.0, 1.0, 1.0)
        self._renderer.UseDepthPeelingOn()  # translucent layers in their true order
        self._renderer.SetMaximumNumberOfPeels(8)
        self._renderer.SetOcclusionRatio(0.0)
        self._window.AddRenderer(self._renderer)
        add_lights(self._renderer)

    def draw(
        self,
        props: Sequence[vtkProp],
        view: View,
        size: tuple[int, int],
        smoothing: int,
        background: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> Image:
        """Draw props, ``smoothing`` times too large, and average: (height, width, 3) bytes."""
        from vtkmodules.util.numpy_support import vtk_to_numpy
        from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

        width, height = size
        self._renderer.SetBackground(*background)
        self._window.SetSize(width * smoothing, height * smoothing)
        for prop in props:
            self._renderer.AddViewProp(prop)
        camera = self._renderer.GetActiveCamera()
        camera.ParallelProjectionOn()
        camera.SetFocalPoint(*view.centre)
        camera.SetPosition(*(view.centre + view.towards_viewer * 4.0 * view.half_height))
        camera.SetViewUp(*view.up)
        camera.SetParallelScale(view.half_height)
        self._renderer.ResetCameraClippingRange()
        self._window.Render()
        grab = vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.ShouldRerenderOff()
        grab.Update()
        pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars())
        image = pixels.reshape(height * smoothing, width * smoothing, -1)[..., :3]
        for prop in props:
            self._renderer.RemoveViewProp(prop)
        total = np.zeros((height, width, 3), np.uint16)  # five times as quick as a mean over two axes
        for row in range(smoothing):
            for column in range(smoothing):
                total += image[row::smoothing, column::smoothing]
        return np.rint(total[::-1] / np.float32(smoothing**2)).astype(np.uint8)

    def close(self) -> None:
        """Free the graphics context."""
        self._window.Finalize()


def add_lights(renderer: vtkRenderer) -> None:
    """A key light from the upper left, a weak fill from the right, one from the eye: soft relief."""
    from vtkmodules.vtkRenderingCore import vtkLight

    renderer.AutomaticLightCreationOff()
    for position, intensity in (((-0.7, 0.9, 1.0), 0.66), ((1.0, -0.2, 0.7), 0.25), ((0, 0, 1), 0.36)):
        light = vtkLight()
        light.SetLightTypeToCameraLight()
        light.SetPosition(*position)
        light.SetFocalPoint(0, 0, 0)
        light.SetIntensity(intensity)
        renderer.AddLight(light)


@contextmanager
def off_screen() -> Iterator[Screen]:
    """A :class:`Screen` for the time of a ``with`` block, during which nothing reaches the user's stderr.

    Raises
    ------
    OtregError
        If this machine has no way to draw, with what to install.
    """
    with quiet():
        screen = Screen()
        try:
            yield screen
        finally:
            screen.close()


def off_screen_window() -> vtkRenderWindow:
    """A window that has been seen to work: VTK ends the process when it draws into one that does not."""
    import vtkmodules.vtkRenderingOpenGL2 as opengl
    from vtkmodules.vtkRenderingCore import vtkRenderWindow

    choices: list[Any] = []
    if sys.platform.startswith("linux"):
        choices.append(getattr(opengl, "vtkEGLRenderWindow", None))
        if os.environ.get("DISPLAY"):
            choices.append(getattr(opengl, "vtkXOpenGLRenderWindow", None))
        if any(ctypes.util.find_library(name) for name in ("OSMesa", "OSMesa6")):
            choices.append(getattr(opengl, "vtkOSOpenGLRenderWindow", None))
    else:
        choices.append(vtkRenderWindow)
    for choice in choices:
        if choice is None:
            continue
        window = choice()
        window.SetOffScreenRendering(True)
        window.SetMultiSamples(0)  # the averaging smooths edges, and depth peeling wants single samples
        window.SetAlphaBitPlanes(True)
        if window.SupportsOpenGL():
            return window
    raise OtregError(
        "this machine cannot draw pictures: no OpenGL for off-screen windows;"
        " install EGL and Mesa (Debian and Ubuntu: apt install libegl1 libgl1-mesa-dri)"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep VTK, EGL and drivers, which write to the process's stderr directly, from doing so.

    Python's own ``sys.stderr`` is flushed before and after, and works again when the block ends.
    """
    from vtkmodules.vtkCommonCore import vtkObject

    warnings = vtkObject.GetGlobalWarningDisplay()
    saved = None
    with tempfile.TemporaryFile() as sink:
        try:
            sys.stderr.flush()
            saved = os.dup(2)
            os.dup2(sink.fileno(), 2)
        except (OSError, AttributeError, ValueError):
            vtkObject.SetGlobalWarningDisplay(
                0
            )  # no stderr to turn aside: at least VTK's own can be silenced
        try:
            yield
        finally:
            if saved is not None:
                os.dup2(saved, 2)
                os.close(saved)
            vtkObject.SetGlobalWarningDisplay(warnings)


def png_bytes(image: Image) -> bytes:
    """Encode an image (height, width, 3 or 4) as PNG."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkIOImage import vtkPNGWriter

    height, width, channels = image.shape
    data = vtkImageData()
    data.SetDimensions(width, height, 1)
    flat = np.ascontiguousarray(image[::-1]).reshape(-1, channels)
    data.GetPointData().SetScalars(numpy_to_vtk(flat, deep=1))
    writer = vtkPNGWriter()
    writer.SetInputData(data)
    writer.WriteToMemoryOn()
    writer.Write()
    return vtk_to_numpy(writer.GetResult()).tobytes()
