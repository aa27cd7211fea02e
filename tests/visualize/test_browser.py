"""What a real browser shows of a scene's page: pixels, the slider, switches, picking, and a clean console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from otreg.surface import FloatArray
from otreg.visualize.colouring import Colouring
from otreg.visualize.scene import Colour, Layer, Panel, Scene
from otreg.visualize.web import inline_html, page, scene_figure, scene_html
from tests.visualize import browser
from tests.visualize.browser import Browser

pytestmark = pytest.mark.skipif(
    browser.find() is None, reason="no Chromium here: pages are not looked at (apt-get install chromium)"
)

RED, BLUE, GREEN = (0.85, 0.1, 0.1), (0.1, 0.2, 0.85), (0.1, 0.7, 0.2)
CENTRE = np.array([1000.0, -500.0, 250.0])
"""Scenes are far from the origin, as scanners' coordinates are."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def ball(name: str, centre: FloatArray, radius: float, colour: Colour, **more: object) -> Layer:
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    points = np.asarray(mesh.vertices) + CENTRE + centre
    return Layer(name, "surface", points, np.asarray(mesh.faces, np.int64), colour=colour, **more)  # type: ignore[arg-type]


def frame(half: float = 60.0) -> Layer:
    """A wire square in the plane of x and z that is always the largest thing, so that the camera stays."""
    corners = half * np.array([[-1.5, 0, -1], [1.5, 0, -1], [1.5, 0, 1], [-1.5, 0, 1]]) + CENTRE
    return Layer("frame", "lines", corners, np.array([[0, 1], [1, 2], [2, 3], [3, 0]]), colour=GREEN)


def travelling() -> Scene:
    """A red ball that goes 60 to the right while time goes from 0 to 1, and a blue one that stays."""
    red = ball("red", np.array([30.0, 0.0, 20.0]), 12.0, RED)
    red.motion = np.stack([red.points - [60.0, 0.0, 0.0], red.points - [30.0, 0.0, 0.0], red.points])
    return Scene([Panel("", [frame(), red, ball("blue", np.array([0.0, 0.0, -30.0]), 12.0, BLUE)])])


def write(folder: Path, scene: Scene) -> Path:
    path = folder / "scene.html"
    path.write_text(scene_html(scene), encoding="utf-8")
    return path


def where(image: NDArray[np.uint8], channel: int) -> NDArray[np.bool_]:
    """Pixels in which one channel is far above the other two."""
    others = [image[..., k].astype(int) for k in range(3) if k != channel]
    return np.asarray(image[..., channel].astype(int) > 60 + np.maximum(*others))


def middle(mask: NDArray[np.bool_]) -> FloatArray:
    """Centre of mass of pixels: x, y from the top left corner."""
    rows, columns = np.nonzero(mask)
    assert len(rows), "nothing is there"
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


def pixels_per_unit(chromium: Browser) -> float:
    return float(
        chromium.run(
            "(v => v.canvas.clientHeight / 2 / v.camera.half)(document.querySelector('.otreg-scene').otreg)"
        )
    )


def on_canvas(chromium: Browser, point: FloatArray, image: NDArray[np.uint8]) -> FloatArray:
    """Where a point is seen from the front (x to the right, z up): around the middle of the picture."""
    height, width = image.shape[:2]
    return np.array([width / 2, height / 2]) + pixels_per_unit(chromium) * point[[0, 2]] * [1.0, -1.0]


def test_balls_are_drawn_where_they_are_and_move_as_they_should(chromium: Browser, tmp_path: Path) -> None:
    path = write(tmp_path, travelling())
    chromium.open(path, "#view=front")
    after = chromium.picture("canvas")
    blue = middle(where(after, 2))
    assert blue == pytest.approx(on_canvas(chromium, np.array([0.0, 0.0, -30.0]), after), abs=1.5)
    # a ball of radius 12: its disc, but for the dark edge at the bottom
    scale = pixels_per_unit(chromium)
    assert where(after, 2).sum() == pytest.approx(np.pi * (12.0 * scale) ** 2, rel=0.06)
    places = {1.0: middle(where(after, 0))}
    for time in (0.0, 0.25, 0.75):
        chromium.slide(".otreg-time input", time)
        image = chromium.picture("canvas")
        places[time] = middle(where(image, 0))
        assert middle(where(image, 2)) == pytest.approx(blue, abs=0.5)
    for time, place in places.items():
        point = np.array([-30.0 + 60.0 * time, 0.0, 20.0])
        assert place == pytest.approx(on_canvas(chromium, point, after), abs=1.5), time
    assert chromium.run("document.querySelector('.otreg-time output').textContent") == "0.75"
    assert chromium.complaints() == []


def test_the_address_sets_time_view_and_layers(chromium: Browser, tmp_path: Path) -> None:
    path = write(tmp_path, travelling())
    chromium.open(path, "#time=0&view=front&hide=blue")
    image = chromium.picture("canvas")
    assert middle(where(image, 0)) == pytest.approx(
        on_canvas(chromium, np.array([-30.0, 0, 20]), image), abs=1.5
    )
    assert not where(image, 2).any()
    # from behind, left and right are exchanged; from above, both balls are in the middle row
    chromium.click('[data-view="back"]')
    image = chromium.picture("canvas")
    assert middle(where(image, 0)) == pytest.approx(
        on_canvas(chromium, np.array([30.0, 0, 20]), image), abs=1.5
    )
    chromium.click('[data-view="top"]')
    image = chromium.picture("canvas")
    assert middle(where(image, 0))[1] == pytest.approx(image.shape[0] / 2, abs=1.5)


def test_switches_and_sliders_of_layers(chromium: Browser, tmp_path: Path) -> None:
    path = write(tmp_path, travelling())
    chromium.open(path, "#view=front")
    there = where(chromium.picture("canvas"), 2).sum()
    assert there > 1000
    chromium.click(".otreg-layers li:nth-child(3) label")
    assert not where(chromium.picture("canvas"), 2).any()
    chromium.click(".otreg-layers li:nth-child(3) label")
    assert where(chromium.picture("canvas"), 2).sum() == there
    solid = chromium.picture("canvas")
    chromium.slide(".otreg-layers li:nth-child(3) input[type=range]", 0.3)
    clear = chromium.picture("canvas")
    x, y = (int(v) for v in middle(where(solid, 2)))
    assert clear[y, x].astype(int).sum() > solid[y, x].astype(int).sum() + 100
    assert chromium.complaints() == []


def test_a_click_reads_the_point_that_is_nearest_to_the_viewer(chromium: Browser, tmp_path: Path) -> None:
    """Coordinates are those of the file, and values come with their unit; behind it lies another ball."""
    near = ball("near", np.array([0.0, -40.0, 0.0]), 20.0, RED)
    far = ball("far", np.array([0.0, 40.0, 0.0]), 30.0, BLUE)
    near.values = near.points[:, 2] - 250.0
    scene = Scene([Panel("", [near, far])], Colouring("height", limits=(-20.0, 20.0), unit="mm"))
    chromium.open(write(tmp_path, scene), "#view=front")
    wanted = int(np.argmin(np.linalg.norm(near.points - (CENTRE + np.array([6.0, -58.0, 9.0])), axis=1)))
    x, y, _ = chromium.run(f"document.querySelector('.otreg-scene').otreg.place('near', {wanted})")
    chromium.click("canvas", x, y)
    name, place, value = chromium.run(
        "[...document.querySelectorAll('.otreg-readout div')].map(line => line.textContent)"
    )
    assert name == f"near · vertex {wanted}"
    numbers = [float(part) for part in place.removeprefix("at ").removesuffix(" mm").split(",")]
    assert numbers == pytest.approx(near.points[wanted], abs=0.01)
    assert float(value.removeprefix("height: ").removesuffix(" mm")) == pytest.approx(
        near.values[wanted], abs=0.01
    )
    # beside both there is nothing
    chromium.click("canvas", 5.0, 5.0)
    assert chromium.run("document.querySelector('.otreg-readout').textContent") == ""


def test_colours_are_those_of_the_colouring(chromium: Browser, tmp_path: Path) -> None:
    """A flat square facing the viewer has, left and right, the hues of the two ends; NaN is grey."""
    square = (
        np.array([[-40.0, 0, -20], [0, 0, -20], [40, 0, -20], [-40, 0, 20], [0, 0, 20], [40, 0, 20]]) + CENTRE
    )
    cells = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]])
    values = np.array([-1.0, 0.0, 1.0, -1.0, 0.0, 1.0])
    colouring = Colouring("growth", "diverging", (-1.0, 1.0))
    layer = Layer("square", "surface", square, cells, values=values)
    chromium.open(write(tmp_path, Scene([Panel("", [layer])], colouring)), "#view=front")
    image = chromium.picture("canvas").astype(int)
    left, centre, right = (on_canvas(chromium, np.array([x, 0.0, 0.0]), image) for x in (-38.0, 0.0, 38.0))
    low, middle_, high = (image[int(at[1]), int(at[0])] for at in (left, centre, right))
    assert low[2] > low[0] + 60 and high[0] > high[2] + 60
    assert np.ptp(middle_) < 25
    layer.values = np.full(6, np.nan)
    chromium.open(write(tmp_path, Scene([Panel("", [layer])], colouring)), "#view=front")
    image = chromium.picture("canvas").astype(int)
    assert np.ptp(image[int(centre[1]), int(left[0])]) < 6
    assert chromium.complaints() == []


def test_points_lines_arrows_ghosts_and_both_themes(chromium: Browser, tmp_path: Path) -> None:
    tails = CENTRE + np.array([[-40.0, 0.0, 30.0], [-40.0, 0.0, 20.0]])
    arrows = Layer("arrows", "arrows", tails, vectors=np.array([[50.0, 0, 0], [20.0, 0, 0]]), colour=RED)
    cloud = Layer("cloud", "points", CENTRE + np.array([[-20.0, 0, -20], [20.0, 0, -20]]), colour=BLUE)
    ghost = ball("ghost", np.zeros(3), 15.0, (0.3, 0.33, 0.38), ghost=True)
    scene = Scene([Panel("", [frame(), arrows, cloud, ghost])])
    path = write(tmp_path, scene)
    chromium.open(path, "#view=front", prefers_color_scheme="light")
    light = chromium.picture("canvas")
    red = where(light, 0)
    scale = pixels_per_unit(chromium)
    columns = np.nonzero(red.any(axis=0))[0]
    assert np.ptp(columns) + 1 == pytest.approx(50.0 * scale, abs=2.5)
    # heads point right: the thickest column of the long arrow is near its right end
    rows = slice(0, int(light.shape[0] / 2 - 25.0 * scale))
    thickest = int(red[rows].sum(axis=0).argmax())
    assert thickest > columns[0] + 0.6 * 50.0 * scale
    blue = middle(where(light, 2))
    assert blue == pytest.approx(on_canvas(chromium, np.array([0.0, 0.0, -20.0]), light), abs=1.5)
    assert where(light, 1).sum() == pytest.approx(2 * 1.5 * (180.0 + 120.0) * scale, rel=0.35)
    x, y = light.shape[1] // 2, light.shape[0] // 2
    rim = light[y, int(x + 14.6 * scale)].astype(int).sum()
    assert rim < light[y, x].astype(int).sum() - 60  # clear in the middle, dark where it turns away
    chromium.open(path, "#view=front", prefers_color_scheme="dark")
    dark = chromium.picture()
    assert dark.mean() < 90 < light.mean()
    chromium.click("canvas", *(on_canvas(chromium, np.array([-30.0, 0.0, 30.0]), light)))
    said = chromium.run("document.querySelector('.otreg-readout').textContent")
    assert said.startswith("arrows · arrow 0") and said.endswith("length 50 mm")
    assert chromium.complaints() == []


def test_turning_zooming_playing_and_the_scale_bar(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(write(tmp_path, travelling()), "#view=front")
    before = chromium.picture("canvas")
    length = float(
        chromium.run("document.querySelector('.otreg-scale span').textContent").removesuffix(" mm")
    )
    width = chromium.run("document.querySelector('.otreg-scale').getBoundingClientRect().width")
    assert width == pytest.approx(length * pixels_per_unit(chromium), abs=1.0)
    chromium.drag("canvas", (300.0, 200.0), (80.0, 0.0))
    turned = chromium.picture("canvas")
    assert np.abs(turned.astype(int) - before).max() > 100
    axes = np.array(chromium.run("document.querySelector('.otreg-scene').otreg.camera.axes"))
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-6)
    chromium.click('[data-view="front"]')
    scale = pixels_per_unit(chromium)
    box = chromium.run(
        "(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector('canvas').getBoundingClientRect())"
    )
    chromium("Input.dispatchMouseEvent", type="mouseWheel", x=box[0], y=box[1], deltaX=0, deltaY=-120)
    chromium.settle()
    assert pixels_per_unit(chromium) == pytest.approx(scale * np.exp(0.18), rel=1e-3)
    chromium.click(".otreg-play")
    chromium.run("new Promise(done => setTimeout(done, 400))")
    early = float(chromium.run("document.querySelector('.otreg-time output').textContent"))
    assert 0.0 < early < 1.0
    chromium.click(".otreg-play")
    stopped = chromium.run("document.querySelector('.otreg-time output').textContent")
    chromium.run("new Promise(done => setTimeout(done, 200))")
    assert chromium.run("document.querySelector('.otreg-time output').textContent") == stopped
    assert chromium.complaints() == []


def test_names_are_text_and_a_notebook_frame_works(chromium: Browser, tmp_path: Path) -> None:
    evil = "<img src=x onerror=\"document.title='broken'\"></script><script>document.title='broken'</script>"
    scene = Scene([Panel("", [ball(evil, np.zeros(3), 10.0, RED)])], title=evil, notes=[evil])
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{inline_html(scene)}</body>", encoding="utf-8")
    chromium.open(path)
    chromium.run("new Promise(done => setTimeout(done, 1500))")
    image = chromium.picture("iframe")
    assert where(image, 0).sum() > 10_000  # the ball is drawn inside the frame
    chromium.open(write(tmp_path, scene))
    assert chromium.run("document.title") == evil
    assert chromium.run("document.querySelector('.otreg-layers span').textContent") == evil
    assert chromium.run("document.querySelectorAll('img').length") == 0
    assert chromium.complaints() == []


def test_two_scenes_in_one_page_and_a_browser_without_webgl(chromium: Browser, tmp_path: Path) -> None:
    figures = scene_figure(travelling()) + scene_figure(
        Scene([Panel("", [ball("one", np.zeros(3), 9.0, BLUE)])])
    )
    path = tmp_path / "two.html"
    path.write_text(page("two", figures), encoding="utf-8")
    chromium.open(path, height=1700)
    assert chromium.run("document.querySelectorAll('canvas').length") == 2
    image = chromium.picture(".otreg-scene:last-of-type canvas")
    assert where(image, 2).sum() > 10_000 and not where(image, 0).any()
    broken = page("none", figures).replace('getContext("webgl2"', 'getContext("nothing"')
    path.write_text(broken, encoding="utf-8")
    chromium.open(path)
    assert "lacks WebGL2" in chromium.run("document.querySelector('[role=alert]').textContent")
