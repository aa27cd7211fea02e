"""Coordinate frames: against hand-computed coordinates, and there and back again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otreg.errors import InputError
from otreg.frames import convert_frame, is_vector, scale_units
from otreg.surface import FRAMES, Landmarks, Surface

C_RAS = np.array([1.0, -20.0, 300.0])


def make(frame: str | None = "RAS") -> Surface:
    rng = np.random.default_rng(0)
    points = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [-7.0, 8.0, 9.5], [0.0, 1.0, 0.0]])
    return Surface(
        points,
        [[0, 1, 2], [0, 2, 3]],
        {
            "vector": rng.normal(size=(4, 3)).astype(np.float32),
            "rgb": rng.random((4, 3)),
            "Colors": rng.integers(0, 255, (4, 3)).astype(np.uint8),
            "scalar": rng.random(4),
        },
        frame,
        landmarks=Landmarks(points[:2], ("a", "b"), frame),
        metadata={"c_ras": C_RAS},
    )


def test_ras_to_lps_negates_x_and_y_of_points_vectors_and_landmarks() -> None:
    before = make("RAS")
    after = convert_frame(before, "LPS")
    np.testing.assert_array_equal(after.points[0], [-1.0, -2.0, 3.0])
    np.testing.assert_array_equal(after.point_data["vector"], before.point_data["vector"] * [-1, -1, 1])
    assert after.point_data["vector"].dtype == np.float32
    for name in ("rgb", "Colors", "scalar"):
        np.testing.assert_array_equal(after.point_data[name], before.point_data[name])
    assert after.frame == "LPS"
    assert after.landmarks is not None and after.landmarks.frame == "LPS"
    assert after.landmarks.names == ("a", "b")
    np.testing.assert_array_equal(after.landmarks.points[1], [-4.0, -5.0, 6.0])


def test_orientation_of_triangles_is_kept() -> None:
    before = make("RAS")
    after = convert_frame(before, "LPS")
    np.testing.assert_allclose(after.triangle_normals, before.triangle_normals * [-1, -1, 1], atol=1e-15)


def test_tkras_is_ras_less_c_ras() -> None:
    points = make("RAS").points
    np.testing.assert_allclose(convert_frame(make("RAS"), "tkRAS").points, points - C_RAS)
    np.testing.assert_allclose(convert_frame(make("tkRAS"), "RAS").points, points + C_RAS)
    np.testing.assert_allclose(convert_frame(make("tkRAS"), "LPS").points, (points + C_RAS) * [-1, -1, 1])
    np.testing.assert_allclose(convert_frame(make("LPS"), "tkRAS").points, points * [-1, -1, 1] - C_RAS)


def test_offset_can_be_given_for_landmarks() -> None:
    marks = Landmarks([[1.0, 2.0, 3.0]], frame="tkRAS")
    np.testing.assert_allclose(convert_frame(marks, "RAS", c_ras=C_RAS).points, [[2.0, -18.0, 303.0]])
    with pytest.raises(InputError, match="c_ras"):
        convert_frame(marks, "RAS")
    with pytest.raises(InputError, match="three finite numbers"):
        convert_frame(marks, "RAS", c_ras=[1.0, np.nan, 0.0])


@given(source=st.sampled_from(FRAMES), through=st.sampled_from(FRAMES))
def test_there_and_back_is_where_it_was(source: str, through: str) -> None:
    before = make(source)
    after = convert_frame(convert_frame(before, through), source)
    np.testing.assert_allclose(after.points, before.points, atol=1e-12)
    np.testing.assert_array_equal(after.point_data["vector"], before.point_data["vector"])
    assert after.landmarks is not None and before.landmarks is not None
    np.testing.assert_allclose(after.landmarks.points, before.landmarks.points, atol=1e-12)
    assert after.frame == source


def test_unknown_frames_are_refused() -> None:
    with pytest.raises(InputError, match="does not say which frame"):
        convert_frame(make(None), "RAS")
    with pytest.raises(InputError, match="unknown frame 'ras'"):
        convert_frame(make("RAS"), "ras")


def test_scaling_takes_lengths_with_it() -> None:
    before = make("tkRAS").with_data({"displacement": np.ones((4, 3)), "thickness": np.ones(4)})
    after = scale_units(before, 1000.0)
    np.testing.assert_allclose(after.points, before.points * 1000)
    np.testing.assert_allclose(after.point_data["displacement"], 1000.0)
    np.testing.assert_allclose(after.point_data["thickness"], 1.0)
    np.testing.assert_allclose(after.metadata["c_ras"], C_RAS * 1000)
    assert after.landmarks is not None
    np.testing.assert_allclose(after.landmarks.points, before.points[:2] * 1000)
    np.testing.assert_allclose(before.metadata["c_ras"], C_RAS)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
def test_scales_that_mirror_or_flatten_are_refused(factor: float) -> None:
    with pytest.raises(InputError, match="positive"):
        scale_units(Landmarks([[1.0, 2.0, 3.0]]), factor)


def test_what_counts_as_a_vector() -> None:
    assert is_vector("displacement", np.zeros((2, 3), np.float32))
    assert not is_vector("colour", np.zeros((2, 3)))
    assert not is_vector("labels", np.zeros((2, 3), np.int32))
    assert not is_vector("scalar", np.zeros(3))
