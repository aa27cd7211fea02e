"""Pictures by their pixels: what is where, in which colour, and that nothing else happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.ndimage import binary_closing, label

from otreg import io
from otreg.errors import InputError
from otreg.frames import convert_frame
from otreg.surface import Surface
from otreg.visualize import render, render_registration, render_surfaces
from otreg.visualize.build import names_of
from otreg.visualize.run import read_run
from otreg.visualize.view import merged
from tests.support import shared_data

SIZE = (600, 240)
WIDTH = SIZE[0] // 3


def pixels(path: Path) -> np.ndarray:
    """Rows from the top, (height, width, 3), as whole numbers; read by VTK."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOImage import vtkPNGReader

    reader = vtkPNGReader()
    reader.SetFileName(str(path))
    reader.Update()
    width, height, _ = reader.GetOutput().GetDimensions()
    return (
        vtk_to_numpy(reader.GetOutput().GetPointData().GetScalars())
        .reshape(height, width, -1)[::-1]
        .astype(int)
    )


def inked(image: np.ndarray) -> np.ndarray:
    return (image < 240).any(axis=2)


def main_body(image: np.ndarray) -> tuple[float, float, int]:
    """Column and row of the middle of the largest connected thing, and its size in pixels.

    Gaps as narrow as the white rim of an outline do not divide a thing.
    """
    parts, count = label(binary_closing(inked(image), iterations=3))
    sizes = np.bincount(parts.ravel())[1:]
    assert count > 0
    rows, columns = np.nonzero(parts == 1 + sizes.argmax())
    return float(columns.mean()), float(rows.mean()), int(sizes.max())


def body_colours(image: np.ndarray) -> np.ndarray:
    parts, _ = label(inked(image))
    return image[parts == 1 + np.bincount(parts.ravel())[1:].argmax()]


def ball(radius: float = 10.0, centre: tuple[float, float, float] = (0, 0, 0), level: int = 4) -> Surface:
    mesh = trimesh.creation.icosphere(level, radius)
    return Surface(mesh.vertices + np.array(centre, float), mesh.faces)


def egg(axes: tuple[float, float, float]) -> Surface:
    return ball(1.0).with_points(ball(1.0).points * axes)


def with_displacement(moving: Surface, points: np.ndarray) -> Surface:
    return moving.with_points(points, displacement=points - moving.points)


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Moving 140 mm away, pushed up to 3 mm at one end."""
    path = tmp_path_factory.mktemp("sheet") / "sheet.png"
    moving, fixed = ball(10.0, (140.0, 5.0, -30.0)), ball(10.0)
    moved = with_displacement(moving, fixed.points)
    pushed = np.zeros_like(fixed.points)
    pushed[:, 0] = np.linspace(0, 3, len(fixed))
    moved.point_data["displacement"] = pushed
    render_registration(moving, fixed, moved, path, size=SIZE)
    return pixels(path)


def test_sheet_has_the_size_and_a_white_background(sheet: np.ndarray) -> None:
    assert sheet.shape == (SIZE[1], SIZE[0], 3)
    assert (sheet == 255).all(axis=2).mean() > 0.4
    border = np.concatenate(
        [sheet[:2].reshape(-1, 3), sheet[:, :2].reshape(-1, 3), sheet[:, -2:].reshape(-1, 3)]
    )
    assert (border == 255).all()


def test_each_panel_shows_its_ball_in_the_middle_at_one_scale(sheet: np.ndarray) -> None:
    bodies = [main_body(sheet[:, k * WIDTH : (k + 1) * WIDTH]) for k in range(3)]
    for column, row, size in bodies:
        assert column == pytest.approx(WIDTH / 2, abs=1.5)
        assert row == pytest.approx(bodies[0][1], abs=1.5)
        assert size == pytest.approx(bodies[1][2], rel=0.03)
        # The ball fills the panel but for the margin.
        assert 2 * np.sqrt(size / np.pi) > 0.85 * 0.7 * SIZE[1]


def test_fixed_is_neutral_and_moving_is_coloured(sheet: np.ndarray) -> None:
    saturation = [
        np.ptp(body_colours(sheet[:, k * WIDTH : (k + 1) * WIDTH]), axis=1).mean() for k in range(3)
    ]
    assert saturation[1] < 25
    assert saturation[0] > 60 and saturation[2] > 50


def test_scale_bar_has_its_length(sheet: np.ndarray) -> None:
    # Ball: 20 mm are as many pixels as it is wide. The bar is the long dark run at the bottom left.
    _, _, size = main_body(sheet[:, WIDTH : 2 * WIDTH])
    per_mm = 2 * np.sqrt(size / np.pi) / 20.0
    foot = (sheet[-40:, :WIDTH] < 100).all(axis=2)
    longest = max(len(run) for row in foot for run in "".join("#" if p else " " for p in row).split(" "))
    # A round length of at most 0.3 panels is 5 mm here.
    assert longest / per_mm == pytest.approx(5.0, rel=0.08)


def test_colour_bar_only_with_something_to_explain(sheet: np.ndarray, tmp_path: Path) -> None:
    render_registration(ball(level=3), ball(), ball(), tmp_path / "plain.png", size=SIZE)
    plain = pixels(tmp_path / "plain.png")
    foot = slice(-28, None)

    def hues(image: np.ndarray) -> int:
        part = image[foot, WIDTH:]
        return len(np.unique(part[np.ptp(part, axis=2) > 40], axis=0))

    assert hues(sheet) > 30
    assert hues(plain) == 0


def test_colours_follow_the_displacement(tmp_path: Path) -> None:
    from otreg.visualize.colours import sequential

    fixed = egg((20.0, 8.0, 4.0))  # seen along z, x across
    moved = fixed.with_data({"displacement": np.zeros_like(fixed.points)})
    moved.point_data["displacement"][:, 1] = 4.0 * (fixed.points[:, 0] > 0)
    render_registration(fixed, fixed, moved, tmp_path / "two.png", size=(1200, 300))
    first = pixels(tmp_path / "two.png")[:, :400]
    column, row, _ = main_body(first)
    across = 45
    halves = [first[int(row), int(column) + shift] for shift in (-across, across)]
    bar = 255 * sequential()

    def nearest(colour: np.ndarray) -> int:
        unit = bar / np.linalg.norm(bar, axis=1, keepdims=True)
        return int((unit @ (colour / np.linalg.norm(colour))).argmax())  # shading scales a colour

    left, right = sorted(nearest(colour) for colour in halves)
    assert left < 60 and right > 195


def test_translucent_fixed_shows_where_moved_falls_short(tmp_path: Path) -> None:
    fixed, moving = ball(10.0), ball(7.0)
    render_registration(
        moving, fixed, with_displacement(moving, moving.points), tmp_path / "a.png", size=SIZE
    )
    image = pixels(tmp_path / "a.png")
    column, row, size = main_body(image[:, 2 * WIDTH :])
    assert size == pytest.approx(main_body(image[:, WIDTH : 2 * WIDTH])[2], rel=0.05)  # the outline counts
    radius = np.sqrt(size / np.pi)
    ring = image[int(row), 2 * WIDTH + int(column + 0.85 * radius)]
    assert (ring > 120).all() and np.ptp(ring) < 40  # grey glass, not the colour of moved


def test_outline_of_fixed_is_seen_where_moved_hides_it(tmp_path: Path) -> None:
    fixed, moving = ball(7.0), ball(10.0)
    render_registration(
        moving, fixed, with_displacement(moving, moving.points), tmp_path / "a.png", size=SIZE
    )
    image = pixels(tmp_path / "a.png")
    column, row, size = main_body(image[:, WIDTH : 2 * WIDTH])
    radius = np.sqrt(size / np.pi)
    across = image[int(row), 2 * WIDTH + int(column) :]
    assert len(across) > 1.3 * radius and inked(image)[int(row), 2 * WIDTH + int(column + 1.3 * radius)]
    near = across[int(radius) - 8 : int(radius) + 8]
    darkest = int(near.sum(axis=1).argmin())
    assert abs(darkest - 8) <= 2 and near[darkest].max() < 60  # a dark line on the edge of fixed
    assert (near.min(axis=1) > 200).any()  # in a white rim
    assert not (across[: int(radius) - 8].min(axis=1) > 200).any()


def test_several_surfaces_are_named(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    for folder, x in (("one", 0.0), ("two", 25.0)):
        io.write(ball(level=2, centre=(x, 0, 0)), tmp_path / folder / "bone.ply")
    both = [io.read(tmp_path / folder / "bone.ply") for folder in ("one", "two")]
    assert names_of(both) == ["one/bone.ply", "two/bone.ply"]
    assert names_of([both[0], ball()]) == ["bone.ply", "surface 2"]
    render_surfaces(both, tmp_path / "named.png", size=(600, 300), unit="")
    render_surfaces([merged(both)], tmp_path / "plain.png", size=(600, 300), unit="")
    foot = np.s_[-26:, 250:]
    assert inked(pixels(tmp_path / "named.png")[foot]).sum() > 300
    assert inked(pixels(tmp_path / "plain.png")[foot]).sum() == 0


def test_same_input_same_pixels(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        render_surfaces([egg((3, 2, 1))], tmp_path / name, size=(300, 200))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_first_picture_of_a_process_is_not_empty(tmp_path: Path) -> None:
    run_quietly(
        "import numpy as np; from otreg import Surface; from otreg.visualize import render_surfaces;"
        f"render_surfaces([Surface(np.eye(3), [[0, 1, 2]])], {str(tmp_path / 'a.png')!r}, size=(300, 200))"
    )
    assert inked(pixels(tmp_path / "a.png")[:150]).mean() > 0.1


def run_quietly(code: str, **environment: str) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **environment}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout == ""


def test_wrong_display_is_no_matter(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    run_quietly(
        "from otreg.surface import Surface; from otreg.visualize import render_surfaces;"
        f"render_surfaces([Surface([[0,0,0],[1,0,0],[0,1,0],[0,0,1]])], {str(target)!r}, size=(300, 200))",
        DISPLAY=":987",
    )
    assert inked(pixels(target)).any()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="EGL is how Linux draws without a display")
def test_a_machine_that_cannot_draw_says_what_to_install(tmp_path: Path) -> None:
    run_quietly(
        "from otreg.errors import OtregError\n"
        "from otreg.surface import Surface\n"
        "from otreg.visualize import render_surfaces\n"
        "try:\n"
        f"    render_surfaces([Surface([[0,0,0],[1,1,1]])], {str(tmp_path / 'a.png')!r})\n"
        "except OtregError as error:\n"
        "    assert 'libegl1' in str(error), error\n",
        # Where OSMesa is installed as well, the picture is drawn all the same.
        __EGL_VENDOR_LIBRARY_FILENAMES="/dev/null",
    )


def test_stderr_works_again_afterwards(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    render_surfaces([ball(level=2)], tmp_path / "a.png", size=(300, 200))
    assert capfd.readouterr() == ("", "")
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"


def test_labels_get_one_colour_each(tmp_path: Path) -> None:
    fixed = egg((20.0, 8.0, 4.0))
    labelled = fixed.with_data({"part": np.digitize(fixed.points[:, 0], [-7, 7])})
    render_surfaces([labelled], tmp_path / "a.png", size=(600, 300), color_by="part")
    image = pixels(tmp_path / "a.png")
    column, row, _ = main_body(image)
    seen = [image[int(row), int(column + shift)] for shift in (-180, 0, 180)]
    tints = [colour / np.linalg.norm(colour) for colour in seen]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert np.linalg.norm(tints[one] - tints[other]) > 0.2


def test_labels_are_matched_by_name() -> None:
    from otreg.visualize.fields import colour_values

    points = np.eye(3)
    first = Surface(points, point_data={"part": [0, 1, 2]}, label_names={"part": {1: "head", 2: "tail"}})
    second = Surface(points, point_data={"part": [0, 1, 5]}, label_names={"part": {1: "tail", 5: "head"}})
    shapes = [first, second]
    colouring, values = colour_values(
        "part", shapes, [shape.point_data["part"] for shape in shapes], computed=False, unit="mm"
    )
    one, two = (colouring.colours(v) for v in values)
    np.testing.assert_array_equal(one[[0, 1, 2]], two[[0, 2, 1]])
    assert colouring.kind == "categorical" and colouring.names == ["head", "tail"]


def test_clouds_and_several_surfaces(tmp_path: Path) -> None:
    cloud = Surface(np.random.default_rng(0).normal(size=(500, 3)))
    render_surfaces([cloud], tmp_path / "cloud.png", size=(300, 300))
    assert 0.02 < inked(pixels(tmp_path / "cloud.png")).mean() < 0.6
    moved = cloud.with_points(cloud.points + 0.1, displacement=np.full((500, 3), 0.1))
    render_registration(cloud, cloud, moved, tmp_path / "clouds.png", size=SIZE)
    assert inked(pixels(tmp_path / "clouds.png")[:, :WIDTH]).any()
    # A small ball inside a larger one, named second, shines through nothing; named first it does.
    render_surfaces([ball(3.0), ball(9.0)], tmp_path / "nested.png", size=(300, 300))
    image = pixels(tmp_path / "nested.png")
    column, row, size = main_body(image)
    middle, side = image[int(row), int(column)], image[int(row), int(column + 0.7 * np.sqrt(size / np.pi))]
    assert np.abs(middle - side).max() > 15


def test_degenerate_shapes_are_drawn(tmp_path: Path) -> None:
    for number, shape in enumerate(
        [
            Surface([[1.0, 2.0, 3.0]]),
            Surface([[0, 0, 0], [5, 0, 0]]),
            Surface([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]]),
            Surface([[0, 0, 0], [1, 0, 0], [0, 1, 0], [np.nan, 0, 0]], [[0, 1, 2], [0, 1, 3]]),
        ]
    ):
        path = tmp_path / f"{number}.png"
        render_surfaces([shape], path, size=(300, 200))
        assert pixels(path).shape == (200, 300, 3)


# ---------- files and runs ----------
def write_run(folder: Path, *, keep_moving: bool = True) -> Path:
    moving, fixed = ball(10.0, (140.0, 0, 0), level=3), egg((12.0, 10.0, 8.0))
    io.write(moving, folder / "moving.ply")
    io.write(fixed, folder / "fixed.ply")
    run = folder / "run"
    run.mkdir()
    points = moving.points - [140.0, 0, 0]
    io.write(with_displacement(moving, points * [1.2, 1.0, 0.8]), run / "moved.ply")
    report = {
        "inputs": {role: {"path": str(folder / f"{role}.ply")} for role in ("moving", "fixed")},
        "outputs": {"moved": "moved.ply"},
    }
    (run / "report.json").write_text(json.dumps(report))
    if not keep_moving:
        (folder / "moving.ply").unlink()
    return run


def test_run_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    target = tmp_path / "run.png"
    assert render([run], target, size=SIZE) == target
    with_file = pixels(target)
    (tmp_path / "moving.ply").unlink()  # then it follows from the displacement
    render([run], target, size=SIZE)
    assert np.abs(pixels(target) - with_file).mean() < 1.0
    assert [main_body(with_file[:, k * WIDTH : (k + 1) * WIDTH])[0] for k in range(3)] == pytest.approx(
        [WIDTH / 2] * 3, abs=2.0
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "fixed.ply",
        "run",
        "run.png",
    ]  # nothing left behind


def test_a_moving_file_in_another_frame_is_brought_into_that_of_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    moving, moved = io.read(tmp_path / "moving.ply"), io.read(run / "moved.ply")
    displacement = moved.point_data.pop("displacement")
    io.write(replace(moved, frame="RAS"), run / "moved.ply")
    io.write(convert_frame(replace(moving, frame="RAS"), "LPS"), tmp_path / "moving.ply")
    found = read_run(run)
    assert found.moving.frame == "RAS"
    np.testing.assert_allclose(found.moving.points, moving.points)
    np.testing.assert_allclose(found.moved.point_data["displacement"], displacement)


def test_run_folder_that_was_moved_elsewhere(tmp_path: Path) -> None:
    write_run(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("run", "fixed.ply"):
        (tmp_path / name).rename(elsewhere / name)
    render([elsewhere / "run"], tmp_path / "a.png", size=SIZE)
    assert (tmp_path / "a.png").exists()


def test_surface_files(tmp_path: Path) -> None:
    io.write(ball(level=2), tmp_path / "a.ply")
    io.write(ball(level=2, centre=(25, 0, 0)), tmp_path / "b.ply")
    render(
        [tmp_path / "a.ply", tmp_path / "b.ply"],
        tmp_path / "two.png",
        size=(600, 300),
        unit="µm",
        title="Two",
    )
    parts, _ = label(inked(pixels(tmp_path / "two.png")))
    sizes = np.sort(np.bincount(parts.ravel())[1:])
    assert sizes[-2] == pytest.approx(sizes[-1], rel=0.1) and sizes[-2] > 10_000


def test_bad_input_is_refused_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    io.write(ball(level=1), tmp_path / "a.ply")
    (tmp_path / "empty").mkdir()
    surface, target = tmp_path / "a.ply", tmp_path / "out" / "a.png"
    target.parent.mkdir()
    cases: list[tuple[list[Path], Path, dict[str, object], str]] = [
        ([], target, {}, "nothing to draw"),
        ([tmp_path / "empty"], target, {}, "no report.json"),
        ([tmp_path / "empty", surface], target, {}, "is a folder"),
        ([tmp_path / "gone.ply"], target, {}, "gone.ply"),
        ([surface], target, {"color_by": "depth"}, "no point data 'depth'"),
        ([surface], target.with_suffix(".jpg"), {}, "ends in one of .png"),
        ([surface], target, {"size": (10, 10)}, "out of bounds"),
        ([surface], tmp_path / "nowhere" / "a.png", {}, "does not exist"),
    ]
    for inputs, output, options, words in cases:
        with pytest.raises(InputError, match=words) as caught:
            render(inputs, output, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_damaged_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    report = (run / "report.json").read_text()
    for damage, words in (("{", "damaged"), ("[]", "damaged"), ('{"inputs": {}}', "damaged")):
        (run / "report.json").write_text(damage)
        with pytest.raises(InputError, match=words):
            render([run], tmp_path / "a.png")
    (run / "report.json").write_text(report)
    with pytest.raises(InputError, match="no point data 'nothing'"):
        render([run], tmp_path / "a.png", color_by="nothing")
    (tmp_path / "fixed.ply").unlink()
    with pytest.raises(InputError, match=r"fixed surface .* is gone"):
        render([run], tmp_path / "a.png")
    (run / "moved.ply").unlink()
    with pytest.raises(InputError, match=r"moved\.ply"):
        render([run], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_real_cortex_is_seen_from_its_side(tmp_path: Path) -> None:
    from otreg.visualize.view import view_of

    cortex = io.read(shared_data("cortex/S1200.L.pial_MSMAll.32k_fs_LR.surf.gii"))
    view = view_of(cortex, 1.2)
    np.testing.assert_allclose(view.towards_viewer, [-1, 0, 0])  # a left hemisphere, from the left
    np.testing.assert_allclose(view.up, [0, 0, 1])
    render_surfaces([cortex], tmp_path / "a.png", size=(300, 240))
    assert 0.25 < inked(pixels(tmp_path / "a.png")).mean() < 0.8
