"""The window: what its layers, slider, keys and clicks do, off screen and on a display of X's own."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from otreg import InputError, OtregError, write
from otreg.surface import Surface
from otreg.visualize.colouring import Colouring
from otreg.visualize.controls import Controls
from otreg.visualize.display import no_display
from otreg.visualize.scene import Layer, Panel, Scene
from otreg.visualize.window import Window, show

WIDTH, HEIGHT = 640, 480
RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)


def ball(x: float, radius: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(3, radius)
    return np.asarray(mesh.vertices) + np.array([x, 0.0, 0.0]), np.asarray(mesh.faces)


def scene(panels: int = 1, **more: Any) -> Scene:
    """A red ball that moves 40 mm to the right, coloured or not, and a blue one 60 mm to the right of its start."""
    (red, triangles), (blue, _) = ball(0.0), ball(60.0)
    way = np.linspace(0.0, 1.0, 3)[:, None, None] * np.array([40.0, 0.0, 0.0]) + red
    moved = Layer("moved", "surface", way[-1], triangles, colour=RED, motion=way)
    fixed = Layer("fixed", "surface", blue, triangles, colour=BLUE)
    made = [Panel(f"{number}", [moved, fixed]) for number in range(panels)]
    return Scene(made, views=["front"], size=(WIDTH, HEIGHT), **more)


@pytest.fixture
def window() -> Iterator[Window]:
    found = Window(scene(), size=(WIDTH, HEIGHT), off_screen=True)
    yield found
    found.close()


def middle(image: np.ndarray, colour: tuple[float, float, float]) -> tuple[float, float] | None:
    """Column and row, from the lower left, of what has a colour; None where there is nothing."""
    pixels = image.astype(int)
    main = int(np.argmax(colour))
    others = [channel for channel in range(3) if channel != main]
    rows, columns = np.nonzero(np.all([pixels[..., main] > pixels[..., c] + 60 for c in others], axis=0))
    return (float(columns.mean()), HEIGHT - 1 - float(rows.mean())) if len(rows) > 50 else None


# The window itself ----------------------------------------------------------------------------------------


def test_layers_are_switched(window: Window) -> None:
    assert window.names == ["moved", "fixed"]
    assert middle(window.image(), RED) and middle(window.image(), BLUE)
    assert window.toggle("moved") is False and not window.is_visible("moved")
    assert middle(window.image(), RED) is None and middle(window.image(), BLUE)
    window.set_time(0.5)  # a layer that is off stays off
    assert middle(window.image(), RED) is None
    assert window.toggle("moved") is True
    assert middle(window.image(), RED)
    with pytest.raises(InputError, match="no layer 'other'"):
        window.toggle("other")


def test_time_moves_what_moves(window: Window) -> None:
    columns = []
    for moment in (0.0, 0.5, 1.0):
        window.set_time(moment)
        columns.append(middle(window.image(), RED)[0])  # type: ignore[index]
    blue = middle(window.image(), BLUE)[0]  # type: ignore[index]
    # The camera stands still: 20 mm are a third of the way to the blue ball, each time.
    assert np.diff(columns) == pytest.approx([(blue - columns[0]) / 3.0] * 2, rel=0.05)
    window.set_time(7.0)
    assert window.time == 1.0


def test_sides_are_looked_from(window: Window) -> None:
    first = image = window.image()
    assert middle(image, RED)[0] < middle(image, BLUE)[0]  # type: ignore[index]
    window.look("back")
    image = window.image()
    assert middle(image, RED)[0] > middle(image, BLUE)[0]  # type: ignore[index]
    window.look("left")  # low x: the red ball hides the blue one
    assert middle(window.image(), RED) and middle(window.image(), BLUE) is None
    window.look(None)
    assert np.abs(window.image().astype(int) - first.astype(int)).max() <= 2
    with pytest.raises(InputError, match="unknown view"):
        window.look("inside")


def test_picked_point_is_the_vertex_that_is_seen() -> None:
    """Coordinates, number and value of the vertex in front, which follows the motion; nothing beside the ball."""
    made = scene()
    made.panels[0].layers[0].values = np.arange(len(ball(0.0)[0]), dtype=float)
    made.colouring = Colouring("thickness", limits=(0.0, 700.0), unit="mm")
    window = Window(made, size=(WIDTH, HEIGHT), off_screen=True)
    window.toggle("fixed")
    pixels = np.argwhere((window.image() != 255).any(axis=2))
    row, column = pixels.mean(axis=0)
    found = window.pick(round(column), HEIGHT - 1 - round(row))
    assert found is not None and found.layer == "moved"
    points = ball(40.0)[0]
    assert np.array_equal(found.point, points[found.vertex])
    # Seen from the front the nearest point has the least y: within a triangle's side of the true pole.
    assert np.linalg.norm(found.point - [40.0, -10.0, 0.0]) < 2.0
    assert found.value == found.vertex
    words = [f"moved, vertex {found.vertex}", "mm", f"thickness {found.vertex:.4g} mm"]
    assert all(word in found.text for word in words)
    window.set_time(0.0)
    assert window.picked is not None
    assert np.array_equal(window.picked.point, ball(0.0)[0][found.vertex])
    assert window.pick(3, 3) is None and window.picked is None
    window.close()


def test_picked_label_is_named() -> None:
    made = scene()
    for layer in made.layers:
        layer.values = np.full(len(layer.points), 7)
    made.colouring = Colouring(
        "region",
        "categorical",
        codes=np.array([7]),
        names=["thalamus"],
        label_colours=np.array([[0, 0.5, 0]]),
    )
    window = Window(made, size=(WIDTH, HEIGHT), off_screen=True)
    column, row = middle(window.image(), (0, 0.5, 0))  # type: ignore[misc]
    found = window.pick(round(column * 1.25), round(row)) or window.pick(round(column * 0.75), round(row))
    assert found is not None and found.value == "thalamus" and "region thalamus" in found.text
    Controls(window)  # with the names of labels
    assert middle(window.image()[300:, :150], (0, 0.5, 0))
    window.close()


def test_panels_lie_side_by_side_and_turn_together() -> None:
    window = Window(scene(panels=2), size=(WIDTH, HEIGHT), off_screen=True)
    halves = [window.image()[:, :320], window.image()[:, 320:]]
    assert middle(halves[0], RED) == pytest.approx(middle(halves[1], RED), abs=1.0)
    window.look("top")
    assert window.renderers[0].GetActiveCamera() is window.renderers[1].GetActiveCamera()
    column, row = middle(window.image()[:, 320:], BLUE)  # type: ignore[misc]
    found = window.pick(320 + round(column), round(row))
    assert found is not None and found.layer == "fixed"
    assert np.linalg.norm(found.point - [60.0, 0.0, 10.0]) < 2.0
    window.close()


def test_a_picture_is_saved_under_a_new_name(window: Window, tmp_path: Path) -> None:
    assert window.save(tmp_path).name == "otreg-view-001.png"
    assert window.save(tmp_path).name == "otreg-view-002.png"
    from PIL import Image

    saved = np.asarray(Image.open(tmp_path / "otreg-view-001.png"))
    assert np.array_equal(saved, window.image())


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(InputError, match="no points"):
        Window(Scene([Panel("", [])]), off_screen=True)


# Its controls ---------------------------------------------------------------------------------------------


def press(controls: Controls, name: str) -> None:
    """A key, as the interactor hears it."""
    controls.interactor.SetKeySym(name)
    controls.interactor.InvokeEvent("KeyPressEvent")


def click(controls: Controls, x: float, y: float) -> None:
    controls.interactor.SetEventInformation(round(x), round(y))
    controls.interactor.InvokeEvent("LeftButtonPressEvent")
    controls.interactor.InvokeEvent("LeftButtonReleaseEvent")


def test_keys(window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    controls = Controls(window)
    press(controls, "2")
    assert window.is_visible("moved") and not window.is_visible("fixed")
    press(controls, "9")  # no such layer
    press(controls, "Left")
    assert window.time == pytest.approx(0.95)
    assert controls.slider.GetRepresentation().GetValue() == pytest.approx(0.95)
    press(controls, "Right")
    press(controls, "Right")
    assert window.time == 1.0
    camera = window.renderers[0].GetActiveCamera()
    for key, towards in (("l", [-1, 0, 0]), ("r", [1, 0, 0]), ("f", [0, -1, 0]), ("k", [0, 1, 0]),
                         ("t", [0, 0, 1]), ("b", [0, 0, -1]), ("0", [0, -1, 0])):  # fmt: skip
        press(controls, key)
        assert np.array(camera.GetDirectionOfProjection()) == pytest.approx(
            -np.array(towards, float), abs=1e-9
        )
    before = window.image()
    press(controls, "h")
    assert (window.image() != before).any()
    press(controls, "h")
    assert (window.image() == before).all()
    press(controls, "s")
    assert [path.name for path in tmp_path.iterdir()] == ["otreg-view-001.png"]
    assert str(tmp_path / "otreg-view-001.png") in controls.hint.GetInput()


def test_clicks_on_names_points_and_the_slider(window: Window) -> None:
    controls = Controls(window)
    left, bottom = controls.buttons["fixed"].GetPosition()
    click(controls, left + 20, bottom + 6)
    assert not window.is_visible("fixed") and window.picked is None
    assert controls.button_at(WIDTH // 2, HEIGHT // 2) is None
    column, row = middle(window.image(), RED)  # type: ignore[misc]
    click(controls, column, row)
    assert window.picked is not None and window.picked.layer == "moved"
    assert controls.values.GetInput() == window.picked.text
    # The slider is dragged from its end to its middle: the ball goes back half of the way.
    slider = controls.interactor
    slider.SetEventInformation(round(0.7 * WIDTH) - 6, round(0.05 * HEIGHT))
    slider.InvokeEvent("LeftButtonPressEvent")
    slider.SetEventInformation(WIDTH // 2, round(0.05 * HEIGHT))
    slider.InvokeEvent("MouseMoveEvent")
    slider.InvokeEvent("LeftButtonReleaseEvent")
    assert window.time == pytest.approx(0.5, abs=0.06)
    assert window.picked is not None  # the point is still marked, further left
    assert middle(window.image(), RED)[0] < column - 50  # type: ignore[index]


def test_a_drag_turns_and_picks_nothing(window: Window) -> None:
    controls = Controls(window)
    before = np.array(window.renderers[0].GetActiveCamera().GetPosition())
    mouse = controls.interactor
    mouse.SetEventInformation(320, 240)
    mouse.InvokeEvent("LeftButtonPressEvent")
    for x in (350, 380, 420):
        mouse.SetEventInformation(x, 240)
        mouse.InvokeEvent("MouseMoveEvent")
    mouse.InvokeEvent("LeftButtonReleaseEvent")
    assert window.picked is None
    assert np.linalg.norm(window.renderers[0].GetActiveCamera().GetPosition() - before) > 1.0


# Displays -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="X is asked for on Linux")
def test_no_display_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert no_display() == "there is no display here"
    with pytest.raises(OtregError, match="no display here: no window"):
        show(scene())
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert "X11" in (no_display() or "")
    monkeypatch.setenv("DISPLAY", ":9987")
    assert no_display() in ("the display :9987 cannot be opened", "the library libX11 is missing")


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A display of X's own, without a screen."""
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("no Xvfb here (apt install xvfb)")
    command = [program, "-displayfd", "1", "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    number = server.stdout.readline().strip()
    if not number:
        pytest.skip("Xvfb does not start here")
    yield f":{number}"
    server.terminate()
    server.wait()


def start(display: str, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Otreg view on a display, started in a folder."""
    environment = {**os.environ, "DISPLAY": display, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "otreg_cli.main", "view", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


class Fingers:
    """Mouse and keys of a display, by X's own test extension."""

    def __init__(self, display: str) -> None:
        try:
            self.x11, self.test = ctypes.CDLL("libX11.so.6"), ctypes.CDLL("libXtst.so.6")
        except OSError as error:
            pytest.skip(f"no fingers for X here: {error}")
        self.x11.XOpenDisplay.restype = ctypes.c_void_p
        self.display = ctypes.c_void_p(self.x11.XOpenDisplay(display.encode()))
        self.x11.XStringToKeysym.restype = ctypes.c_ulong
        self.x11.XKeysymToKeycode.restype = ctypes.c_ubyte
        self.x11.XDefaultRootWindow.restype = ctypes.c_ulong

    def window(self) -> int:
        """Number of windows on the display."""
        root, parent = ctypes.c_ulong(), ctypes.c_ulong()
        children, count = ctypes.POINTER(ctypes.c_ulong)(), ctypes.c_uint()
        top = ctypes.c_ulong(self.x11.XDefaultRootWindow(self.display))
        self.x11.XQueryTree(
            self.display, top, *(ctypes.byref(part) for part in (root, parent, children, count))
        )
        return count.value

    def key(self, name: str) -> None:
        code = self.x11.XKeysymToKeycode(
            self.display, ctypes.c_ulong(self.x11.XStringToKeysym(name.encode()))
        )
        self.test.XTestFakeMotionEvent(self.display, -1, 400, 300, 0)
        for down in (1, 0):
            self.test.XTestFakeKeyEvent(self.display, code, down, 0)
        self.x11.XFlush(self.display)


@pytest.fixture
def surface(tmp_path: Path) -> Path:
    points, triangles = ball(0.0)
    path = tmp_path / "ball.ply"
    write(Surface(points, triangles), path)
    return path


def wait_for(condition: Any, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def test_window_on_a_display_saves_and_quits_by_keys(display: str, surface: Path, tmp_path: Path) -> None:
    fingers = Fingers(display)
    before = fingers.window()
    process = start(display, tmp_path, surface)
    try:
        assert wait_for(lambda: fingers.window() > before), process.communicate(timeout=5)
        saved = tmp_path / "otreg-view-001.png"
        # Keys before the window listens are lost.
        assert wait_for(lambda: (fingers.key("s"), time.sleep(0.5), saved.exists())[-1])
        from PIL import Image

        pixels = np.asarray(Image.open(saved).convert("RGB")).astype(int)
        assert pixels.shape == (860, 1280, 3)
        assert 0.1 < (pixels < 240).any(axis=2).mean() < 0.9
        fingers.key("q")
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()


def test_window_on_a_display_closes_on_ctrl_c(display: str, surface: Path, tmp_path: Path) -> None:
    fingers = Fingers(display)
    before = fingers.window()
    process = start(display, tmp_path, surface)
    try:
        assert wait_for(lambda: fingers.window() > before), process.communicate(timeout=5)
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
    finally:
        process.kill()
