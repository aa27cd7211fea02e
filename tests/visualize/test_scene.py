"""Scenes: what panels, sides, colours and options show, by pixels and by numbers that are known."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from otreg import io
from otreg.deformations import Affine, Spline
from otreg.errors import InputError
from otreg.surface import Surface
from otreg.visualize import scene
from otreg.visualize.run import Run
from otreg.visualize.scene import Layer, Panel, Scene
from otreg.visualize.view import VIEWS, axes_of
from tests.visualize.test_pictures import ball, egg, main_body, pixels

REFERENCE = Path(__file__).parent / "reference"
BUMP = Spline(np.array([[8.0, 0.0, 0.0]]), np.array([[6.0, 0.0, 0.0]]), 8.0)
"""Pushes what lies around (8, 0, 0) by 6 to the right."""


def run_of(moving: Surface, transform: object, fixed: Surface | None = None) -> Run:
    moved = transform(moving)  # type: ignore[operator]
    return Run(moving, moved if fixed is None else fixed, moved, transform)  # type: ignore[arg-type]


def squares(image: np.ndarray) -> np.ndarray:
    return image.astype(int)


def colour_at_main_body(image: np.ndarray) -> np.ndarray:
    column, row, _ = main_body(squares(image))
    return image[round(row), round(column)].astype(int)


# Sides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("frame", [None, "RAS", "LPS", "tkRAS"])
def test_sides_are_right_handed(name: str, frame: str | None) -> None:
    axes = axes_of(name, frame)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("frame", "nose", "left_ear"),
    [("RAS", (0, 9, 0), (-9, 0, 0)), ("tkRAS", (0, 9, 0), (-9, 0, 0)), ("LPS", (0, -9, 0), (9, 0, 0))],
)
def test_a_head_is_seen_from_the_side_that_is_named(
    frame: str, nose: tuple[int, int, int], left_ear: tuple[int, int, int]
) -> None:
    """A head with a nose (orange) and a left ear (blue): where the picture shows them, for each side."""

    def spot(centre: tuple[int, int, int], colour: tuple[float, float, float]) -> Layer:
        small = ball(3.0, centre, 2)
        return Layer("spot", "surface", small.points, small.triangles, colour=colour)

    skull = ball(8.0, level=3)
    layers = [
        Layer("skull", "surface", skull.points, skull.triangles, colour=(1.0, 1.0, 1.0)),
        spot(nose, (1.0, 0.4, 0.0)),
        spot(left_ear, (0.0, 0.2, 1.0)),
    ]

    def seen(view: str, blue: bool) -> tuple[float, float] | None:
        """Column and row of the spot from the middle, in half sizes of the picture."""
        image = squares(Scene([Panel("", layers)], views=[view], frame=frame, size=(300, 300)).image())
        image = image[:260]  # the names below have colours too
        red, _, blueness = image[..., 0], image[..., 1], image[..., 2]
        mask = (blueness - red > 60) if blue else (red - blueness > 60)
        if mask.sum() < 30:
            return None
        rows, columns = np.nonzero(mask)
        return columns.mean() / 150 - 1, rows.mean() / 140 - 1

    ear, front = seen("front", blue=True), seen("front", blue=False)
    assert ear is not None and ear[0] > 0.5  # facing us, its left is on our right
    assert front is not None and abs(front[0]) < 0.25
    assert seen("back", blue=False) is None
    side = seen("left", blue=False)
    assert seen("left", blue=True) is not None and seen("right", blue=True) is None
    assert side is not None and side[0] < -0.5  # seen from its left, it looks to the left
    above = seen("top", blue=False)
    assert above is not None and above[1] < -0.4  # from above, the nose is up
    assert seen("anterior", blue=False) == front


def test_anatomical_sides_need_a_frame() -> None:
    with pytest.raises(InputError, match=r"anterior.*front"):
        scene(ball(), views=["anterior"])
    with pytest.raises(InputError, match="unknown view 'sideways'"):
        scene(ball(), views=["sideways"])


def test_each_side_has_a_row_of_its_own() -> None:
    image = squares(scene(egg((10, 5, 2)), views=["top", "front"], size=(400, 640)).image())
    half = image.shape[0] // 2
    wide = [
        np.ptp(np.nonzero((part[:, 40:] < 200).any(axis=2))[0]) for part in (image[30:half], image[half:-60])
    ]
    assert wide[0] == pytest.approx(wide[1] * 5 / 2, rel=0.1)


# Colours ----------------------------------------------------------------------------------------------------


def test_growth_is_orange_and_shrinkage_is_blue() -> None:
    for factor, sign in ((1.5, 1), (0.6, -1)):
        grown = run_of(ball(), Affine(np.eye(3) * factor, np.zeros(3)))
        made = scene(grown, color_by="log_det", panels=["moved"], size=(300, 300))
        np.testing.assert_allclose(made.layer("moved").values, 3 * np.log(factor))
        red, _, blue = colour_at_main_body(made.image())
        assert np.sign(red - blue) == sign
        assert made.colouring is not None and made.colouring.kind == "diverging"
        assert made.colouring.limits[0] == -made.colouring.limits[1]


def test_curvature_of_known_surfaces() -> None:
    from otreg.visualize.fields import mean_curvature

    assert np.nanmax(abs(mean_curvature(ball(4.0)) - 0.25)) < 0.01
    inside_out = ball(4.0)
    inside_out = Surface(inside_out.points, inside_out.triangles[:, ::-1])
    assert np.nanmax(abs(mean_curvature(inside_out) + 0.25)) < 0.01
    # A tube of radius 2 has 1/(2r) on its side; its rims are open, so they have none.
    around, along = np.meshgrid(np.linspace(0, 2 * np.pi, 81)[:-1], np.linspace(0, 8, 60), indexing="ij")
    points = np.stack([2 * np.cos(around), 2 * np.sin(around), along], axis=-1).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(80), np.arange(59), indexing="ij")
    a, b = (row * 60 + column).ravel(), ((row + 1) % 80 * 60 + column).ravel()
    tube = Surface(points, np.concatenate([np.stack([a, b, b + 1], 1), np.stack([a, b + 1, a + 1], 1)]))
    values = mean_curvature(tube)
    rim = np.isin(np.arange(len(points)) % 60, (0, 59))
    assert np.isnan(values[rim]).all()
    np.testing.assert_allclose(values[~rim], 0.25, atol=0.005)


def test_deformation_leaves_the_rigid_motion_out() -> None:
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    shape = egg((10, 5, 3))
    made = scene(run_of(shape, Affine(turn, np.array([40.0, 0, 0]))), color_by="deformation")
    np.testing.assert_allclose(made.layer("moved").values, 0.0, atol=1e-9)
    made = scene(run_of(shape, Affine(turn, np.array([40.0, 0, 0]))))
    expected = np.linalg.norm(shape.points @ turn.T + [40.0, 0, 0] - shape.points, axis=1)
    np.testing.assert_allclose(made.layer("moved").values, expected)
    assert made.colouring is not None and made.colouring.unit == "mm"


def test_distance_is_to_the_other_surface() -> None:
    made = scene(ball(10.0), ball(12.0), color_by="distance")
    first, second = made.panels[0].layers
    np.testing.assert_allclose(first.values, 2.0, atol=0.03)
    np.testing.assert_allclose(second.values, 2.0, atol=0.03)


def test_values_with_two_signs_are_drawn_around_zero() -> None:
    shape = ball().with_data({"depth": ball().points[:, 2], "height": ball().points[:, 2] + 50})
    signed, unsigned = scene(shape, color_by="depth").colouring, scene(shape, color_by="height").colouring
    assert signed is not None and signed.kind == "diverging" and signed.limits[0] == -signed.limits[1]
    assert unsigned is not None and unsigned.kind == "sequential"
    given = scene(shape, color_by="height", limits=(0.0, 55.0)).colouring
    assert given is not None and given.limits == (0.0, 55.0)
    with pytest.raises(InputError, match="limits"):
        scene(shape, color_by="height", limits=(5.0, 5.0))


def test_a_fold_is_grey() -> None:
    flat = run_of(ball(), Affine(np.diag([1.0, 1.0, -1.0]), np.zeros(3)))
    values = scene(flat, color_by="log_det", panels=["moved"]).layer("moved").values
    assert values is not None and np.isnan(values).all()


# Panels -----------------------------------------------------------------------------------------------------


def test_as_many_arrows_as_asked_for_and_spread_evenly() -> None:
    disc = ball(20.0, level=3)
    made = scene(
        run_of(disc, Affine(np.eye(3), np.array([0.0, 0.0, 6.0]))),
        panels=["arrows"],
        arrows=9,
        size=(500, 500),
    )
    # The pose is left out of the arrows, so a translation alone has none to show.
    np.testing.assert_allclose(made.layer("arrows").vectors, 0.0, atol=1e-12)
    push = Spline(np.zeros((1, 3)), np.array([[0.0, 0.0, 6.0]]), 1000.0)
    made = scene(run_of(disc, push), panels=["arrows"], arrows=9, views=["front"], size=(600, 600))
    arrows = made.layer("arrows")
    assert arrows.points.shape == (9, 3)
    np.testing.assert_allclose(arrows.vectors, [[0, 0, 6.0]] * 9, rtol=1e-3, atol=1e-3)
    gaps = np.linalg.norm(arrows.points[:, None] - arrows.points[None], axis=2) + 1e9 * np.eye(9)
    assert gaps.min() > 15.0
    made.layer("moved").visible = False
    arrows.points = np.stack([np.arange(9) * 5.0, np.zeros(9), np.zeros(9)], axis=1)  # none behind another
    assert label((squares(made.image())[20:-60] < 200).any(axis=2))[1] == 9


def test_arrows_can_be_longer_and_say_so() -> None:
    made = scene(run_of(ball(), BUMP), panels=["arrows"], arrows=30, arrow_scale=3.0)
    arrows = made.layer("arrows")
    np.testing.assert_allclose(arrows.vectors, 3.0 * (BUMP.map(arrows.points) - arrows.points), atol=1e-9)
    assert made.panels[0].caption == "Displacement by the map, 3 times as long"


def test_the_grid_is_regular_and_moves_as_the_map_says() -> None:
    still = scene(run_of(ball(), Affine.identity()), panels=["grid"], cells=8, views=["top"]).layer("grid")
    # One plane that faces the viewer: all lines lie in it, straight, at even distances.
    assert np.ptp(still.points[:, 2]) < 1e-9
    step = np.ptp(still.points[:, 0]) / 8
    offsets = (still.points[:, :2] - still.points[:, :2].min(axis=0)) / step
    on_line = np.abs(offsets - np.rint(offsets)).min(axis=1)
    assert on_line.max() < 1e-9
    bent = scene(run_of(ball(), BUMP), panels=["grid"], cells=8, views=["top"]).layer("grid")
    np.testing.assert_allclose(bent.points, BUMP.map(still.points), atol=1e-9)
    lattice = scene(run_of(ball(), BUMP), panels=["lattice"], cells=8).layer("grid")
    assert min(np.ptp(lattice.points, axis=0)) > 20.0


def test_grid_lines_are_seen() -> None:
    made = scene(run_of(ball(), Affine.identity()), panels=["grid"], cells=6, views=["top"], size=(600, 600))
    made.layer("moved").visible = False
    image = squares(made.image())
    row = (image[round(0.40 * 600)] < 190).all(axis=1)
    assert label(row)[1] == 7


def test_threads_join_corresponding_points() -> None:
    made = scene(run_of(ball(), BUMP), panels=["threads"], threads=20, views=["front"])
    threads, beside = made.layer("threads"), made.layer("moving")
    assert len(threads.cells) == 20
    offset = beside.points - ball().points
    np.testing.assert_allclose(offset, np.broadcast_to(offset[0], offset.shape), atol=1e-9)
    starts = threads.points[threads.cells[:, 0]] - offset[0]
    np.testing.assert_allclose(threads.points[threads.cells[:, 1]], BUMP.map(starts), atol=1e-9)
    # Side by side: the two shapes do not touch in the picture.
    right = axes_of("front", None)[0]
    assert (beside.points @ right).max() < (made.layer("moved").points @ right).min()


def test_contours_run_around_the_fixed_shape() -> None:
    made = scene(run_of(ball(level=3), Affine.identity()), panels=["contours"], contours=5, views=["front"])
    lines = made.layer("contours of fixed")
    lengths = np.linalg.norm(lines.points[lines.cells[:, 1]] - lines.points[lines.cells[:, 0]], axis=1)
    heights = 20 * ((np.arange(5) + 0.5) / 5 - 0.5)
    assert lengths.sum() == pytest.approx(2 * np.pi * np.sqrt(100 - heights**2).sum(), rel=0.03)
    made.layer("moved").values = None
    image = squares(made.image())
    # Across the longer side of the picture, on the upper half, which is well lit.
    row = image[round(0.35 * image.shape[0]), 250:-270]
    assert label((row < 70).all(axis=1))[1] == 5


def test_panels_that_cannot_be_shown_say_why() -> None:
    pair = Run(ball(level=2), ball(level=3), ball(level=3), None)
    with pytest.raises(InputError, match="transform"):
        scene(Run(ball(), ball(), ball(), None), panels=["grid"])
    with pytest.raises(InputError, match="vertices of moving"):
        scene(pair, panels=["arrows"])
    with pytest.raises(InputError, match="unknown panel 'magic'"):
        scene(pair, panels=["magic"])
    with pytest.raises(InputError, match="panels are those of a run"):
        scene(ball(), panels=["moved"])
    with pytest.raises(InputError, match="triangles"):
        scene(Run(ball(), Surface(ball().points), ball(), None), panels=["contours"])
    with pytest.raises(InputError, match="nothing to draw"):
        scene()
    with pytest.raises(TypeError, match="float"):
        scene(3.0)  # type: ignore[arg-type]


def test_everything_in_one_space_and_over_time() -> None:
    shape = ball()
    made = scene(run_of(shape, BUMP), panels=["all"], times=5)
    assert [layer.name for layer in made.layers] == ["fixed", "moved", "moving", "arrows", "grid"]
    moved = made.layer("moved")
    assert moved.motion is not None and moved.motion.shape == (5, len(shape), 3)
    np.testing.assert_allclose(made.at(0.0).layer("moved").points, shape.points, atol=1e-9)
    np.testing.assert_allclose(made.at(1.0).layer("moved").points, moved.points, atol=1e-9)
    with pytest.raises(InputError, match=r"no layer 'skin'.*fixed, moved"):
        made.layer("skin")


def test_the_grid_waits_for_the_pose() -> None:
    from otreg.deformations import compose

    away = Affine(np.eye(3), np.array([30.0, 0.0, 0.0]))
    start = ball(10.0, (-30.0, 0.0, 0.0))
    made = scene(run_of(start, compose(away, BUMP)), panels=["all"], times=9)
    halfway = made.at(0.5)
    grid = made.layer("grid")
    assert grid.motion is not None
    np.testing.assert_allclose(halfway.layer("grid").points, grid.motion[0], atol=1e-9)
    np.testing.assert_allclose(halfway.layer("moved").points, ball().points, atol=1e-6)
    np.testing.assert_allclose(made.at(1.0).layer("grid").points, grid.points, atol=1e-9)


def test_the_camera_stands_still_over_time() -> None:
    made = scene(run_of(ball(), Affine(np.eye(3), np.array([60.0, 0, 0]))), panels=["moved"], times=3)
    made.size, made.views = (600, 300), ["front"]
    places = [main_body(squares(made.at(time).image())[20:-60])[0] for time in (0.0, 0.5, 1.0)]
    assert places[2] - places[1] == pytest.approx(places[1] - places[0], abs=2.0)
    assert places[2] - places[0] > 200


# Files ------------------------------------------------------------------------------------------------------


def test_transparent_pictures_are_the_opaque_ones_without_their_background(tmp_path: Path) -> None:
    made = scene(ball(), size=(300, 260), transparent=True)
    image = made.image()
    assert image.shape == (260, 300, 4)
    column, row, _ = main_body(
        squares(image[..., :3] * (image[..., 3:] > 128) + 255 * (image[..., 3:] <= 128))
    )
    assert image[0, 0, 3] == 0 and image[round(row), round(column), 3] == 255
    made.transparent = False
    alpha = image[..., 3:] / 255.0
    back = image[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(back - made.image()).max() <= 2


def test_text_stands_out_from_a_dark_background() -> None:
    image = squares(scene(ball(), size=(300, 260), background=(0.0, 0.0, 0.0)).image())
    assert (image[0] == 0).all()
    assert (image[-40:] > 200).all(axis=2).any()


def test_svg_has_its_text_as_text(tmp_path: Path) -> None:
    path = scene(run_of(ball(), BUMP), title="A < B & C", size=(900, 400)).save(tmp_path / "a.svg")
    root = ElementTree.fromstring(path.read_text())
    space = "{http://www.w3.org/2000/svg}"
    words = [item.text for item in root.iter(f"{space}text")]
    assert "A < B & C" in words and "Moving" in words and "displacement (mm)" in words
    assert len(list(root.iter(f"{space}image"))) == 4  # three panels and the colour bar
    assert root.get("width") == "900"


def test_pdf_is_whole(tmp_path: Path) -> None:
    path = scene(run_of(ball(), BUMP), title="A (small) bump", size=(900, 400)).save(tmp_path / "a.pdf")
    data = path.read_bytes()
    start = int(re.findall(rb"startxref\s+(\d+)", data)[0])
    assert data[start : start + 4] == b"xref"
    offsets = [int(item) for item in re.findall(rb"(\d{10}) 00000 n", data[start:])]
    for number, offset in enumerate(offsets, start=1):
        assert data[offset:].startswith(f"{number} 0 obj".encode())
    streams = [
        zlib.decompress(data[found.end() : found.end() + int(found[1])])
        for found in re.finditer(rb"/Length (\d+) >>\nstream\n", data)
    ]
    assert b"(A \\(small\\) bump) Tj" in streams[0] and streams[0].count(b" Do Q") == 4
    assert {len(stream) for stream in streams[1:4]} == {300 * 3 * (len(streams[1]) // 900)}
    assert b"/MediaBox [0 0 675.0 300.0]" in data


def test_a_registration_plots_itself(tmp_path: Path) -> None:
    import otreg

    result = otreg.register(egg((10, 6, 4)), egg((11, 6, 4)), preset="rigid")
    figure = result.plot(title="Eggs")
    figure.size = (600, 240)
    assert figure._repr_png_().startswith(b"\x89PNG") and "srcdoc" in figure._repr_html_()
    assert repr(figure) == "Scene(moving; fixed; moved, fixed, coloured by displacement)"
    assert repr(figure.layer("moved")) == "Layer('moved', surface, 2562 points, 5120 triangles)"
    assert [panel.caption for panel in figure.panels][:2] == ["Moving", "Fixed"]
    figure.save(tmp_path / "eggs.png")
    assert pixels(tmp_path / "eggs.png").shape == (240, 600, 3)


# Reference pictures -----------------------------------------------------------------------------------------


def references() -> dict[str, Scene]:
    """Scenes whose pictures are kept beside the tests."""
    bone = io.read(Path(__file__).parents[2] / "data" / "metacarpal_1.vtk")
    bend = Spline(bone.points[[200]], np.array([[4.0, 3.0, 2.0]]), 8.0)
    run = run_of(bone, bend)
    return {
        "bone": scene(run, size=(480, 200)),
        "grid": scene(run, panels=["grid", "arrows"], arrows=60, color_by="log_det", size=(400, 240)),
        "sides": scene(bone, views=["front", "left"], color_by="curvature", size=(260, 400)),
    }


def perceived(image: np.ndarray) -> np.ndarray:
    """What an eye at some distance sees: lightness and two colour differences, blurred over two pixels."""
    red, green, blue = (gaussian_filter(image[..., k].astype(float), 2.0) for k in range(3))
    return np.stack(
        [0.30 * red + 0.59 * green + 0.11 * blue, 0.5 * (red - green), 0.25 * (red + green) - 0.5 * blue]
    )


@pytest.mark.parametrize("name", ["bone", "grid", "sides"])
def test_pictures_look_as_they_did(name: str) -> None:
    """Drivers differ in single pixels, so pictures are compared as they are perceived.

    ``python -m tests.visualize.test_scene`` writes them anew; look at them before they are committed.
    """
    difference = perceived(references()[name].image()) - perceived(pixels(REFERENCE / f"{name}.png"))
    assert np.abs(difference).mean() < 1.0
    assert np.percentile(np.abs(difference), 99.5) < 25.0


if __name__ == "__main__":
    for key, made in references().items():
        print(made.save(REFERENCE / f"{key}.png"))
