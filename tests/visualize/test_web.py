"""Web pages of scenes, as text: what they hold, what they must not hold. Browsers look at them in test_browser.py."""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.visualize.colouring import Colouring
from otreg.visualize.scene import Layer, Panel, Scene
from otreg.visualize.web import inline_html, scene_html

EVIL = '</script><script>alert("1")</script><!-- & \u2028 é'


def ball(name: str = "ball", **more: Any) -> Layer:
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=10.0)
    return Layer(name, "surface", np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int64), **more)


def payload(page: str) -> dict[str, Any]:
    """What the viewer is given, read back."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    assert len(found) == 1
    return dict(json.loads(found[0]))


def array(data: dict[str, Any], item: dict[str, Any]) -> NDArray[Any]:
    """An array out of the packed block: planes of bytes, little-endian."""
    block = zlib.decompress(base64.b64decode(data["packed"]))
    kind = np.dtype(f"<{item['type']}")
    planes = np.frombuffer(block, np.uint8, kind.itemsize * item["count"], item["at"])
    return np.ascontiguousarray(planes.reshape(kind.itemsize, -1).T).view(kind).reshape(-1)


def motion(data: dict[str, Any], layer: dict[str, Any]) -> NDArray[np.float64]:
    """Positions over time (T, N, 3), in the scene's own coordinates."""
    item = layer["motion"]
    quanta = np.cumsum(array(data, item).astype(np.int64).reshape(item["times"], -1, 3), axis=0) % 65536
    return np.asarray(item["low"]) + np.asarray(item["step"]) * quanta + np.asarray(data["centre"])


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes, and checks that they are closed."""

    EMPTY = ("meta", "img", "input", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag


def check_self_contained(page: str) -> None:
    """Nothing refers to anything outside of the page, and browsers are told to fetch nothing."""
    tags = Tags(page).found
    for tag, attributes in tags:
        assert tag not in ("link", "base", "object", "embed"), tag
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:", "#")) or not value, (tag, value)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", page)
    policy = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in str(policy[0])


def test_a_page_holds_the_scene_and_nothing_from_elsewhere() -> None:
    coloured = ball(values=np.linspace(0.0, 1.0, 162), opacity=0.5)
    there = np.stack([coloured.points, coloured.points + np.array([5.0, 0.0, 0.0])])
    moved = ball("moved", motion=there)
    moved.points = there[1]
    scene = Scene([Panel("a", [coloured]), Panel("b", [moved])], Colouring("height"), title="Two balls")
    page = scene_html(scene)
    check_self_contained(page)
    assert "<title>Two balls</title>" in page and "<h1>Two balls</h1>" in page
    data = payload(page)
    first, second = data["layers"]
    centre = np.asarray(data["centre"])
    assert array(data, first["points"]).reshape(-1, 3) + centre == pytest.approx(coloured.points, abs=1e-5)
    assert array(data, first["cells"]).reshape(-1, 3).tolist() == coloured.cells.tolist()
    assert array(data, first["values"]) == pytest.approx(coloured.values, abs=1e-7)
    assert first["opacity"] == 0.5 and second["visible"] is True
    # the same triangles are stored once
    assert first["cells"] == second["cells"]
    assert motion(data, second) == pytest.approx(there, abs=25.0 / 65535)


def test_positions_far_from_the_origin_keep_their_precision() -> None:
    """float32 alone would lose a hundredth of a millimetre at 100 km; relative to the middle it does not."""
    far = ball()
    far.points = far.points + np.array([1e8, -1e8, 5e7])
    data = payload(scene_html(Scene([Panel("", [far])])))
    found = array(data, data["layers"][0]["points"]).reshape(-1, 3) + np.asarray(data["centre"])
    assert found == pytest.approx(far.points, abs=1e-5, rel=0)


def test_a_layer_in_several_panels_comes_once() -> None:
    scene = Scene([Panel("a", [ball("fixed")]), Panel("b", [ball("moved"), ball("fixed", outline=True)])])
    layers = payload(scene_html(scene))["layers"]
    assert [layer["name"] for layer in layers] == ["fixed", "moved"]
    assert not layers[0]["outline"]


@pytest.mark.parametrize("place", ["title", "layer", "note", "label", "unit"])
def test_names_cannot_break_out_of_the_page(place: str) -> None:
    layer = ball(EVIL if place == "layer" else "ball", values=np.ones(162, np.int64))
    colouring = Colouring(
        EVIL if place == "label" else "lobe",
        "categorical",
        codes=np.array([1]),
        names=[EVIL if place == "label" else "frontal"],
        label_colours=np.array([[1.0, 0.0, 0.0]]),
    )
    scene = Scene(
        [Panel("", [layer])],
        colouring,
        title=EVIL if place == "title" else None,
        unit=EVIL if place == "unit" else "mm",
        notes=[EVIL] if place == "note" else [],
    )
    plain = Tags(scene_html(Scene([Panel("", [ball()])], title="x" if place == "title" else None)))
    page = scene_html(scene)
    check_self_contained(page)
    # as many elements as without: nothing became markup
    assert [tag for tag, _ in Tags(page).found] == [tag for tag, _ in plain.found]
    text = json.dumps(payload(page), ensure_ascii=False)
    assert json.dumps(EVIL, ensure_ascii=False) in text


def test_the_same_scene_gives_the_same_bytes() -> None:
    pages = {
        scene_html(Scene([Panel("", [ball(values=np.arange(162.0))])], Colouring("x"))) for _ in range(2)
    }
    assert len(pages) == 1


def test_values_that_are_not_numbers_and_points_that_are_nowhere() -> None:
    """NaN values are grey (they stay NaN); points without a place are left out with what hangs on them."""
    values = np.linspace(0.0, 1.0, 162)
    values[5] = np.nan
    surface = ball(values=values)
    surface.points = surface.points.copy()
    surface.points[9] = np.nan
    cloud = Layer(
        "cloud", "points", np.array([[0.0, 0, 0], [np.inf, 0, 0], [3.0, 4, 5]]), values=np.arange(3.0)
    )
    data = payload(scene_html(Scene([Panel("", [surface, cloud])], Colouring("x"))))
    first, second = data["layers"]
    assert np.isnan(array(data, first["values"])).nonzero()[0].tolist() == [5]
    left = array(data, first["cells"])
    assert 9 not in left and len(left) == 3 * (320 - int((surface.cells == 9).any(axis=1).sum()))
    assert np.isfinite(array(data, first["points"])).all()
    assert array(data, second["values"]).tolist() == [0.0, 2.0]
    assert array(data, second["rows"]).tolist() == [0, 2]


def test_big_meshes_are_decimated_alike_and_the_page_says_so() -> None:
    mesh = trimesh.creation.icosphere(subdivisions=6, radius=10.0)  # 81,920 triangles
    points, cells = np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int64)
    still = Layer("moving", "surface", points, cells, values=points[:, 2])
    moved = Layer("moved", "surface", points + 4.0, cells.copy(), motion=np.stack([points, points + 4.0]))
    data = payload(scene_html(Scene([Panel("", [moved, still])], Colouring("z"))))
    first, second = data["layers"]
    assert first["rows"] == second["rows"] and first["cells"] == second["cells"]
    rows = array(data, first["rows"])
    count = first["cells"]["count"] // 3
    assert 45_000 < count <= 60_000
    said = f"shown with {count:,} of its 81,920 triangles"
    assert [note for note in data["notes"] if said in note] == data["notes"] and len(data["notes"]) == 2
    # values and motion are those of the vertices that are left
    assert array(data, second["values"]) == pytest.approx(points[rows, 2], abs=1e-5)
    assert motion(data, first)[1] == pytest.approx(points[rows] + 4.0, abs=1e-3)


def test_a_frame_in_a_notebook_holds_the_whole_page() -> None:
    scene = Scene([Panel("", [ball(EVIL)])], title=EVIL)
    ((tag, attributes),) = Tags(inline_html(scene)).found
    assert tag == "iframe" and attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == scene_html(scene, title=EVIL)
    assert scene._repr_html_() == inline_html(scene)
    assert html.escape(EVIL, quote=True) in inline_html(scene)


def test_a_scene_without_points_is_refused() -> None:
    for layers in (
        [],
        [Layer("none", "points", np.zeros((0, 3)))],
        [Layer("nan", "points", np.full((2, 3), np.nan))],
    ):
        with pytest.raises(InputError, match="no points to draw"):
            scene_html(Scene([Panel("", layers)]))
