"""A headless Chromium that tests drive over a pipe: pages, scripts, the mouse, screenshots, the console."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
SECONDS = 60.0


def find() -> str | None:
    """Where a Chromium is, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab, driven by the DevTools protocol over file descriptors 3 and 4: JSON that ends in a zero byte.

    Parameters
    ----------
    profile : Path
        A new folder for the browser's own files.
    """

    def __init__(self, profile: Path) -> None:
        program = find()
        assert program is not None
        down_read, down_write = os.pipe()
        up_read, up_write = os.pipe()
        arguments = [*OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        # The shell puts the two ends where the browser looks for them, whatever their numbers are here.
        shell = f'exec "$0" "$@" 3<&{down_read} 4>&{up_write}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", shell, program, *arguments],
            pass_fds=(down_read, up_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down_read)
        os.close(up_write)
        self._down, self._up = down_write, up_read
        self._rest = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._down, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return dict(found["result"])
            self._events.append(found)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready = select.select([self._up], [], [], max(end - time.monotonic(), 0.0))[0]
            assert ready, f"the browser said nothing for {SECONDS} seconds"
            some = os.read(self._up, 1 << 20)
            assert some, "the browser has ended"
            self._rest += some
        line, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(line))

    def open(
        self, path: Path, fragment: str = "", *, width: int = 900, height: int = 700, **media: str
    ) -> None:
        """Load a page of a file and wait until its scenes have been drawn; ``media`` features such as a theme."""
        self._events.clear()
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": key.replace("_", "-"), "value": value} for key, value in media.items()]
        self("Emulation.setEmulatedMedia", media="", features=features)
        self("Page.navigate", url="about:blank")
        self("Page.navigate", url=path.as_uri() + fragment)
        ready = (
            "document.readyState === 'complete' && location.protocol === 'file:' && "
            "[...document.querySelectorAll('.otreg-scene')].every(scene => scene.dataset.ready)"
        )
        end = time.monotonic() + SECONDS
        while not self.run(ready):
            assert time.monotonic() < end, "the scene did not become ready"
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        """Value of an expression in the page."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def settle(self) -> None:
        """Wait until what was asked for is on the screen."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def picture(self, selector: str | None = None, path: Path | None = None) -> NDArray[np.uint8]:
        """What is seen of an element, or of the window: (height, width, 3) bytes."""
        self.settle()
        clip = {}
        if selector is not None:
            box = self.run(
                "(b => [b.x + scrollX, b.y + scrollY, b.width, b.height])"
                f"({self._find(selector)}.getBoundingClientRect())"
            )
            clip = {"clip": dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"scale": 1}}
        data = base64.b64decode(self("Page.captureScreenshot", format="png", **clip)["data"])
        if path is not None:
            path.write_bytes(data)
        return decoded(data)

    def click(self, selector: str, x: float | None = None, y: float | None = None) -> None:
        """Press and release the mouse on an element: in its middle, or at pixels from its corner."""
        self.drag(selector, (x, y))

    def drag(
        self, selector: str, start: tuple[float | None, float | None], by: tuple[float, float] = (0, 0)
    ) -> None:
        """Press the mouse on an element, move it, and release it."""
        self.run(f"{self._find(selector)}.scrollIntoView({{block: 'center'}})")
        left, top, wide, high = self.run(
            f"(b => [b.x, b.y, b.width, b.height])({self._find(selector)}.getBoundingClientRect())"
        )
        at = [
            left + (wide / 2 if start[0] is None else start[0]),
            top + (high / 2 if start[1] is None else start[1]),
        ]
        press = {"button": "left", "clickCount": 1}
        self("Input.dispatchMouseEvent", type="mousePressed", x=at[0], y=at[1], **press)
        if by != (0, 0):
            at = [at[0] + by[0], at[1] + by[1]]
            self("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1], button="left", buttons=1)
        self("Input.dispatchMouseEvent", type="mouseReleased", x=at[0], y=at[1], **press)
        self.settle()

    def slide(self, selector: str, value: float) -> None:
        """Move a slider, as a user's hand does."""
        self.run(
            f"(s => {{ s.value = {value}; s.dispatchEvent(new Event('input')); }})({self._find(selector)})"
        )
        self.settle()

    @staticmethod
    def _find(selector: str) -> str:
        return f"document.querySelector({json.dumps(selector)})"

    def complaints(self) -> list[str]:
        """Errors and warnings of the page since it was opened, and what it asked the network for."""
        self.settle()
        found = []
        for event in self._events:
            method, said = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown" or (
                method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert")
            ):
                found.append(json.dumps(said)[:500])
            elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                # software rendering is slow to read back, says the driver; that is so
                if "GPU stall due to ReadPixels" not in said["entry"]["text"]:
                    found.append(said["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                url = said["request"]["url"]
                if not url.startswith(("file:", "about:", "data:", "blob:")):
                    found.append(f"asked for {url}")
        return found

    def close(self) -> None:
        """End the browser."""
        os.close(self._down)
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._up)


def decoded(png: bytes) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) of a PNG."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOImage import vtkPNGReader

    reader = vtkPNGReader()
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(png)
        file.flush()
        reader.SetFileName(file.name)
        reader.Update()
    image = reader.GetOutput()
    width, height, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)
    return np.ascontiguousarray(pixels[::-1, :, :3])
