"""The parts of a picture: colours, ticks, text and points of view."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from otreg.surface import Surface
from otreg.visualize.colouring import Colouring
from otreg.visualize.colours import (
    categorical,
    colour_range,
    lch_to_rgb,
    round_length,
    sequential,
    ticks,
)
from otreg.visualize.sheet import Sheet, text_mask, tick_labels
from otreg.visualize.view import centred_views, view_of


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..1 to CIE Lab by the standard's formulas, written apart from the ones under test."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    scaled = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(scaled > 216 / 24389, np.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def test_map_is_even_and_rises_in_lightness() -> None:
    colours = lab(sequential(65))
    assert np.all(np.diff(colours[:, 0]) > 0.5)
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() < 3.0 * steps.min()


def test_map_keeps_its_order_without_red_or_green() -> None:
    # Viénot, Brettel and Mollon (1999): what protanopes and deuteranopes see, in linear sRGB.
    colours = sequential(17)
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for matrix in (
        [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
        [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
    ):
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        gamma = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        steps = np.linalg.norm(np.diff(lab(gamma), axis=0), axis=1)
        assert np.all(np.diff(lab(gamma)[:, 0]) > 0) and steps.min() > 2.0


def test_lch_conversion_comes_back() -> None:
    wanted = np.array([[50.0, 20.0, 30.0], [70.0, 30.0, 200.0], [0.0, 0.0, 0.0], [100.0, 0.0, 0.0]])
    seen = lab(lch_to_rgb(wanted))
    np.testing.assert_allclose(seen[:, 0], wanted[:, 0], atol=0.05)
    np.testing.assert_allclose(np.hypot(seen[:, 1], seen[:, 2]), wanted[:, 1], atol=0.05)
    vivid = lch_to_rgb(np.array([[50.0, 500.0, 200.0]]))  # out of reach: lightness stays
    assert np.all((vivid >= 0) & (vivid <= 1))
    assert lab(vivid)[0, 0] == pytest.approx(50.0, abs=0.5)


def test_label_colours_differ() -> None:
    colours = lab(categorical(12))
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1e3 * np.eye(12)
    assert apart.min() > 12
    assert min(np.linalg.norm(np.diff(colours, axis=0), axis=1)) > 30


def test_colour_range() -> None:
    values = np.linspace(2.0, 10.0, 1001)
    assert colour_range(values, from_zero=True) == (0.0, pytest.approx(9.96))
    assert colour_range(values, from_zero=False) == pytest.approx((2.04, 9.96))
    assert colour_range(values + 130, from_zero=True)[0] == pytest.approx(132.04)  # an offset of frames
    assert colour_range(np.zeros(5), from_zero=True) == (0.0, 1.0)
    assert colour_range(np.full(5, 3.0), from_zero=False) == (0.0, 3.0)
    assert colour_range(np.array([np.nan]), from_zero=True) == (0.0, 1.0)
    grey = Colouring("", limits=(0.0, 9.0)).colours(np.array([np.nan, 0.0, 9.0, 1e9]))
    assert np.ptp(grey[0]) == 0
    np.testing.assert_array_equal(grey[2], grey[3])


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e6))
def test_round_length(longest: float) -> None:
    found = round_length(longest)
    assert found <= longest * (1 + 1e-9) < 2.5 * found * (1 + 1e-9)
    assert float(f"{found:.0e}") == pytest.approx(found) and f"{found:.0e}"[0] in "125"


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_ticks(low: float, span: float) -> None:
    marks = ticks(low, low + span)
    assert 1 <= len(marks) <= 7
    assert all(low - 1e-6 * span <= mark <= low + span * (1 + 1e-6) for mark in marks)
    words = tick_labels(marks)
    assert len(set(words)) == len(words)
    if len(marks) > 2:
        np.testing.assert_allclose(np.diff(marks), marks[1] - marks[0], rtol=1e-6)


def test_ticks_of_a_usual_range() -> None:
    assert ticks(0.0, 17.4) == [0.0, 5.0, 10.0, 15.0]
    assert tick_labels([0.0, 0.05, 0.1]) == ["0.00", "0.05", "0.10"]
    assert tick_labels([0.0, 5.0, 10.0]) == ["0", "5", "10"]


def test_text_is_whole_and_lies_where_asked() -> None:
    sheet = Sheet(200, 60)
    sheet.text("gj|Ñ µ°", 100, 30, 20, anchor="centre")
    rows, columns = np.nonzero((sheet.image < 128).all(axis=2))
    assert columns.mean() == pytest.approx(100, abs=6)
    assert 10 <= rows.min() < 26 and 34 < rows.max() <= 48
    assert text_mask("g", 20).max() > 0.9 and text_mask("wide", 20).shape[1] > text_mask("i", 20).shape[1]
    # Descenders are not cut off: the last rows of "gp" have ink that those of "no" lack.
    assert text_mask("gp", 24)[-4:].max() > 0.5 > text_mask("no", 24)[-3:].max()


def test_text_is_the_same_whatever_else_is_loaded() -> None:
    """VTK's whole package draws "|" and "$" with matplotlib, where that is installed."""
    code = "from otreg.visualize.sheet import text_mask; print(text_mask('a | $b$', 20).shape)"
    shapes = {
        subprocess.run(
            [sys.executable, "-c", start + code], capture_output=True, text=True, check=True
        ).stdout
        for start in ("", "import vtk; ")
    }
    assert len(shapes) == 1


def test_text_beyond_the_border_is_cut() -> None:
    sheet = Sheet(40, 20)
    for x, y in ((-10, 10), (35, 10), (20, 0), (20, 19), (-500, -500), (500, 500)):
        sheet.text("words", x, y, 14)
    assert sheet.image.shape == (20, 40, 3)


def box(size: tuple[float, float, float]) -> Surface:
    mesh = trimesh.creation.box(size).subdivide().subdivide()
    return Surface(mesh.vertices, mesh.faces)


@pytest.mark.parametrize("seed", range(4))
def test_view_is_along_the_flattest_axis(seed: int) -> None:
    rotation = Rotation.random(random_state=seed).as_matrix()
    shape = box((10.0, 6.0, 1.0))
    view = view_of(shape.with_points(shape.points @ rotation.T + 50.0), 1.0)
    assert abs(view.towards_viewer @ rotation[:, 2]) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(view.axes @ view.axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view.axes) == pytest.approx(1.0)  # never a mirror image
    np.testing.assert_allclose((view.centre - 50.0) @ view.axes.T, 0.0, atol=1e-9)


def test_long_shape_lies_along_the_picture() -> None:
    shape = box((1.0, 2.0, 20.0))  # z is up by custom, but lying down it is twice as large here
    wide, tall = view_of(shape, 3.0), view_of(shape, 0.3)
    assert abs(wide.right[2]) == pytest.approx(1.0)
    assert abs(tall.up[2]) == pytest.approx(1.0)
    assert wide.half_height < 0.5 * 20 < tall.half_height


def test_open_surface_is_seen_from_outside() -> None:
    sphere = trimesh.creation.icosphere(4, 10.0)
    centres = sphere.triangles_center
    for side in (1.0, -1.0):
        mask = Surface(sphere.vertices, sphere.faces[side * centres[:, 1] > 6.0])  # a cap, like a face
        assert view_of(mask, 1.0).towards_viewer[1] == pytest.approx(side, abs=1e-3)


def test_views_of_several() -> None:
    small, large = box((2.0, 1.5, 1.0)), box((8.0, 6.0, 4.0))
    away = large.with_points(large.points + 100.0)
    view = view_of(small, 1.5)
    first, second = centred_views([small.points, away.points], view, 1.5)
    assert first.half_height == second.half_height
    np.testing.assert_allclose(second.centre, 100.0, atol=1e-9)
    both = centred_views([np.concatenate([small.points, away.points])], view, 1.5)[0]
    assert both.half_height > 40
