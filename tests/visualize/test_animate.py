"""Animations: what moves where in them, read back by other programs."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh
from PIL import Image

from otreg import InputError, OtregError, Surface, read
from otreg.deformations import Affine, Composite, Diffeomorphism, trajectory
from otreg.visualize import animate
from otreg.visualize.film import find_encoder
from otreg.visualize.gif import whole_hundredths
from otreg.visualize.run import Run
from otreg.visualize.scene import Layer, Panel, Scene
from otreg.visualize.timing import timing

WIDTH, HEIGHT = 321, 240
RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)
needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="no ffmpeg here (apt install ffmpeg)"
)


def ball(
    radius: float = 10.0, centre: tuple[float, float, float] = (0.0, 0.0, 0.0), level: int = 3
) -> Surface:
    mesh = trimesh.creation.icosphere(level, radius)
    return Surface(mesh.vertices + np.array(centre), mesh.faces)


def moving_ball(steps: int = 5) -> Scene:
    """A red ball that goes 60 mm to the right, beneath a blue one that stands still."""
    red, blue = ball(), ball(8.0, (30.0, 0.0, 30.0))
    way = np.linspace(0.0, 1.0, steps)[:, None, None] * np.array([60.0, 0.0, 0.0]) + red.points
    layers = [
        Layer("moved", "surface", way[-1], red.triangles, colour=RED, motion=way),
        Layer("fixed", "surface", blue.points, blue.triangles, colour=BLUE),
    ]
    return Scene([Panel("", layers)], views=["front"], size=(WIDTH, HEIGHT))


def curved_run() -> Run:
    """A turned ball, bent by a flow after its pose; with labels and normals on it."""
    moving = ball()
    data = {"part": (moving.points[:, 0] > 0).astype(np.int32), "Normals": moving.points / 10.0}
    moving = dataclasses.replace(moving, point_data=data)
    turn = Affine([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [60.0, 0.0, 0.0], "rigid")
    flow = Diffeomorphism([[60.0, 0.0, 0.0]], [[0.0, 0.0, 20.0]], width=15.0, steps=4)
    transform = Composite([turn, flow])
    moved = transform(moving)
    moved = moved.with_points(moved.points, displacement=moved.points - moving.points)
    return Run(moving, ball(10.0, (60.0, 0.0, 10.0)), moved, transform)


def gif_frames(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Frames (height, width, 3) and how long each is shown, in milliseconds."""
    found = Image.open(path)
    frames, times = [], []
    for number in range(getattr(found, "n_frames", 1)):
        found.seek(number)
        frames.append(np.asarray(found.convert("RGB")).astype(int))
        times.append(int(found.info["duration"]))
    return frames, times


def reddish(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] > image[..., 2] + 60) & (image[..., 0] > image[..., 1] + 60)


def middle_of(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    assert len(rows) > 50
    return float(columns.mean()), float(rows.mean())


def columns_of(frames: list[np.ndarray]) -> np.ndarray:
    return np.array([middle_of(reddish(frame))[0] for frame in frames])


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# When what is shown ---------------------------------------------------------------------------------------


def test_timing_from_any_two_of_three() -> None:
    plain = timing()
    assert len(plain.moments) == 48 and plain.frames_per_second == 24.0
    assert plain.moments[0] == 0.0 and plain.moments[-1] == 1.0
    assert np.allclose(np.diff(plain.moments), 1 / 47)
    assert timing(frames=30, seconds=1.5).frames_per_second == pytest.approx(20.0)
    assert len(timing(seconds=2.0, fps=10.0).moments) == 20
    assert sum(timing(frames=10, fps=5.0, hold=0.0).seconds) == pytest.approx(2.0)
    assert sum(timing(frames=10, fps=5.0, hold=1.0).seconds) == pytest.approx(4.0)


def test_timing_back_and_forth_shows_each_end_once() -> None:
    plan = timing(frames=4, fps=10.0, bounce=True, hold=0.5)
    assert plan.shown == [0, 1, 2, 3, 2, 1]
    assert plan.seconds == pytest.approx([0.6, 0.1, 0.1, 0.6, 0.1, 0.1])
    assert plan.repeats == [6, 1, 1, 6, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 10, "seconds": 1.0, "fps": 10.0},
        {"frames": 1},
        {"frames": 2.5},
        {"frames": True},
        {"seconds": 0.0},
        {"fps": -1.0},
        {"fps": float("nan")},
        {"seconds": 1e9},
        {"frames": 500, "seconds": 1.0},
        {"hold": -1.0},
    ],
)
def test_timing_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"frames|seconds|fps|hold"):
        timing(**wrong)


def test_hundredths_add_up() -> None:
    lengths = whole_hundredths([1 / 24] * 240)
    assert set(lengths) == {4, 5} and sum(lengths) == 1000
    assert whole_hundredths([0.001] * 3) == [2, 2, 2]


# GIF ------------------------------------------------------------------------------------------------------


def test_gif_moves_what_moves_and_nothing_else(tmp_path: Path) -> None:
    scene, path = moving_ball(), tmp_path / "ball.gif"
    made = animate(scene, path, frames=5, fps=10.0, hold=0.5)
    assert (made.path, made.frames, made.seconds) == (path, 5, pytest.approx(1.5))
    frames, times = gif_frames(path)
    assert times == [600, 100, 100, 100, 600]
    assert Image.open(path).info["loop"] == 0
    assert all(frame.shape == (HEIGHT, WIDTH, 3) for frame in frames)
    # Evenly to the right; the scale follows from the ball's own size.
    columns = columns_of(frames)
    radius = np.sqrt(reddish(frames[0]).sum() / np.pi)
    assert np.diff(columns) == pytest.approx([15.0 / 10.0 * radius] * 4, rel=0.03)
    rows = [middle_of(reddish(frame))[1] for frame in frames]
    assert np.ptp(rows) < 1.0
    # Nothing flickers: what is the same in all pictures is the same in all frames, and white is white.
    pictures = [scene.at(time).image().astype(int) for time in np.linspace(0.0, 1.0, 5)]
    still = np.all([picture == pictures[0] for picture in pictures], axis=(0, 3))
    assert 0.5 < still.mean() < 0.95
    for picture, frame in zip(pictures, frames, strict=True):
        assert np.array_equal(frame[still], frames[0][still])
        assert (frame[(picture == 255).all(axis=2)] == 255).all()
        assert np.abs(picture - frame).mean() < 1.5
        assert np.percentile(np.abs(picture - frame), 99) < 24


def test_gif_goes_back_the_same_way(tmp_path: Path) -> None:
    animate(moving_ball(), tmp_path / "ball.gif", frames=4, fps=20.0, bounce=True)
    frames, times = gif_frames(tmp_path / "ball.gif")
    assert len(frames) == 6 and times[0] == times[3] == 850
    assert np.array_equal(frames[2], frames[4]) and np.array_equal(frames[1], frames[5])


def test_gif_too_fast_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 50"):
        animate(moving_ball(), tmp_path / "a.gif", fps=60.0)


# Films ----------------------------------------------------------------------------------------------------


@needs_ffmpeg
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_film_is_decoded_to_the_same_motion(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ball{suffix}"
    made = animate(moving_ball(), path, frames=5, fps=10.0, hold=0.3)
    assert made.seconds == pytest.approx(1.1)  # five frames, the first and the last three more each
    command = ["ffmpeg", "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH + 1, 3).astype(int)  # even width
    assert len(frames) == 11
    columns = columns_of(list(frames))
    assert np.ptp(columns[:4]) < 0.5 and np.ptp(columns[-4:]) < 0.5
    assert np.diff(columns[3:8]) == pytest.approx([np.ptp(columns) / 4] * 4, rel=0.05)
    picture = moving_ball().at(0.0).image().astype(int)
    assert np.abs(frames[0][:, :WIDTH] - picture).mean() < 3.0
    assert (frames[0][:5] > 250).all()


def test_film_without_ffmpeg_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"ffmpeg.*install.*\.gif"):
        animate(moving_ball(), tmp_path / "a.mp4")
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("encoders", "words"), [("libx264", "ffmpeg failed .no such luck"), ("h263", "no encoder")]
)
def test_film_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoders: str, words: str
) -> None:
    """A program that calls itself ffmpeg, lists an encoder and fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\nif [ "$2" = "-encoders" ]; then echo {encoders}; exit 0; fi\n'
        'for last; do :; done; echo half > "$last"; echo "no such luck" >&2; exit 1\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(OtregError, match=words):
        animate(moving_ball(), tmp_path / "a.mp4", frames=3)
    assert left_over(tmp_path) == ["bin"]


@needs_ffmpeg
def test_encoders_are_found() -> None:
    assert find_encoder(".mp4")[1][0] == "-c:v"


# Numbered pictures ----------------------------------------------------------------------------------------


def test_pictures_are_numbered_and_older_ones_do_not_stay(tmp_path: Path) -> None:
    for number in (3, 4, 6):
        (tmp_path / f"ball-{number:02d}.png").write_bytes(b"old")
    made = animate(moving_ball(), tmp_path / "ball-%02d.png", frames=3)
    assert made.path == tmp_path / "ball-00.png" and made.seconds == 0.0
    # 6 does not follow what was written, so nobody takes it for a frame; 3 and 4 would have.
    assert left_over(tmp_path) == ["ball-00.png", "ball-01.png", "ball-02.png", "ball-06.png"]
    frames = [np.asarray(Image.open(tmp_path / f"ball-{k:02d}.png")).astype(int) for k in range(3)]
    assert np.array_equal(frames[1], moving_ball().at(0.5).image())
    assert np.diff(columns_of(frames)) == pytest.approx([np.ptp(columns_of(frames)) / 2] * 2, rel=0.02)


def test_pictures_in_a_folder(tmp_path: Path) -> None:
    made = animate(moving_ball(), tmp_path / "frames", frames=2, bounce=True)
    assert made.path == tmp_path / "frames" / "frame-000.png"
    assert left_over(tmp_path / "frames") == ["frame-000.png", "frame-001.png"]
    assert left_over(tmp_path) == ["frames"]


# ParaView -------------------------------------------------------------------------------------------------


def collection(path: Path) -> dict[tuple[float, str], Path]:
    """Files of a series by time and name."""
    root = ElementTree.parse(path).getroot()
    assert root.attrib["type"] == "Collection"
    entries = [entry.attrib for entry in root.iter("DataSet")]
    assert not any(Path(entry["file"]).is_absolute() for entry in entries)
    return {(float(e["timestep"]), e["name"]): path.parent / e["file"] for e in entries}


def test_series_holds_the_integrated_way_and_all_data(tmp_path: Path) -> None:
    run = curved_run()
    made = animate(run, tmp_path / "run.pvd", frames=5)
    assert [leg.kind for leg in made.legs] == ["interpolated", "integrated"] and made.warnings == []
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for item in ("run.pvd", "run_frames"):
        shutil.move(tmp_path / item, elsewhere)
    files = collection(elsewhere / "run.pvd")
    assert sorted({time for time, _ in files}) == [0.0, 0.25, 0.5, 0.75, 1.0]
    way = trajectory(run.transform, run.moving.points, [0.0, 0.25, 0.5, 0.75, 1.0])
    for number, time in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        surface = read(files[time, "moved"])
        assert np.array_equal(surface.points, way[number])
        assert np.array_equal(surface.triangles, run.moving.triangles)
        assert np.array_equal(surface.point_data["part"], run.moving.point_data["part"])
        assert np.array_equal(surface.point_data["displacement"], way[number] - run.moving.points)
        assert "Normals" not in surface.point_data
        assert np.array_equal(read(files[time, "fixed"]).points, run.fixed.points)
    assert np.array_equal(read(files[1.0, "moved"]).points, run.moved.points)


def test_series_is_read_by_vtk(tmp_path: Path) -> None:
    """The files themselves, by VTK's reader of polygons (only ParaView has one of collections)."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

    run = curved_run()
    animate(run, tmp_path / "run.pvd", frames=3)
    half = trajectory(run.transform, run.moving.points, [0.5])[0]
    reader = vtkXMLPolyDataReader()
    reader.SetFileName(str(collection(tmp_path / "run.pvd")[0.5, "moved"]))
    reader.Update()
    found = reader.GetOutput()
    assert np.array_equal(vtk_to_numpy(found.GetPoints().GetData()), half)
    assert found.GetNumberOfPolys() == len(run.moving.triangles)
    moved = vtk_to_numpy(found.GetPointData().GetArray("displacement"))
    assert np.array_equal(moved, half - run.moving.points)


def test_series_of_a_scene(tmp_path: Path) -> None:
    scene = moving_ball()
    scene.panels[0].layers.append(Layer("threads", "lines", np.zeros((2, 3)), np.array([[0, 1]])))
    made = animate(scene, tmp_path / "ball.pvd", frames=3)
    assert made.warnings == ["threads: lines and arrows are left out of a series"]
    files = collection(tmp_path / "ball.pvd")
    assert np.allclose(read(files[0.5, "moved"]).points, ball().points + np.array([30.0, 0.0, 0.0]))
    assert len({path for (_, name), path in files.items() if name == "fixed"}) == 1


def test_series_does_not_replace_other_files(tmp_path: Path) -> None:
    (tmp_path / "run_frames").mkdir()
    (tmp_path / "run_frames" / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="run_frames"):
        animate(curved_run(), tmp_path / "run.pvd", frames=3)
    assert left_over(tmp_path) == ["run_frames"]


# Runs -----------------------------------------------------------------------------------------------------


def test_run_without_its_pose_begins_where_the_pose_ends(tmp_path: Path) -> None:
    whole, alone = tmp_path / "whole.gif", tmp_path / "alone.gif"
    made = animate(curved_run(), whole, frames=3, size=(320, 240), views=["top"])
    assert [leg.name for leg in made.legs] == ["rigid map", "flow"]
    made = animate(curved_run(), alone, frames=3, size=(320, 240), skip_pose=True, views=["front"])
    assert [str(leg) for leg in made.legs] == ["flow: integrated in 4 steps of rk4"]
    assert made.legs[0].start == 0.0 and made.legs[0].end == 1.0

    def coloured(frame: np.ndarray) -> float:
        above_legend = frame[30:190]
        return middle_of(np.ptp(above_legend, axis=2) > 40)[0]

    frames, _ = gif_frames(whole)
    assert coloured(frames[1]) - coloured(frames[0]) > 50  # the pose: 60 mm, halfway in time
    frames, _ = gif_frames(alone)
    assert abs(coloured(frames[1]) - coloured(frames[0])) < 10
    rows = [middle_of(np.ptp(frame[30:190], axis=2) > 40)[1] for frame in frames]
    assert rows[0] > rows[1] > rows[2]  # the flow lifts it


def test_what_cannot_be_animated_is_refused(tmp_path: Path) -> None:
    run, path = curved_run(), tmp_path / "a.gif"
    still = moving_ball()
    for layer in still.layers:
        layer.motion = None
    rigid = Run(run.moving, run.fixed, run.moved, Affine(np.eye(3), [1.0, 0.0, 0.0], "rigid"))
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("transform.h5", lambda: animate(run._replace(transform=None), path)),
        ("nothing moves", lambda: animate(still, path)),
        ("nothing is left", lambda: animate(rigid, path, skip_pose=True)),
        ("vertices", lambda: animate(run._replace(moving=ball(10.0, level=2)), path)),
        ("run", lambda: animate(tmp_path, path)),
        (r"\.avi", lambda: animate(run, tmp_path / "a.avi")),
        ("%03d", lambda: animate(run, tmp_path / "a.png")),
        ("%03d", lambda: animate(run, tmp_path / "a-%d-%d.png")),
        ("does not exist", lambda: animate(run, tmp_path / "none" / "a.gif")),
        ("size", lambda: animate(run, path, size=(10, 10))),
    ]
    for words, call in cases:
        with pytest.raises(InputError, match=words):
            call()
    with pytest.raises(TypeError, match="animate takes"):
        animate(3, path)  # type: ignore[arg-type]
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["a.gif", "a-%03d.png", "frames", "a.pvd", pytest.param("a.mp4", marks=needs_ffmpeg)]
)
def test_stopped_halfway_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    """Ctrl-C after the second frame: nothing new, and an older result is still whole."""
    first = animate(curved_run(), tmp_path / name, frames=2, size=(240, 160)).path
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert first in before
    seen = []

    def stop(event: Any) -> None:
        seen.append(event.step)
        assert event.steps == 4 and event.stage in ("frames", "times")
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        animate(curved_run(), tmp_path / name, frames=4, size=(240, 160), progress=stop)
    assert seen == [1, 2]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
