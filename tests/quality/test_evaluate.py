"""Quality figures against closed forms and against what other libraries say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from otreg.deformations import Affine
from otreg.errors import InputError
from otreg.io import read
from otreg.overlap import check_labels
from otreg.quality import evaluate, format_table, gate
from otreg.surface import Landmarks, Surface
from tests.support import shared_data

SAMPLES = 4000


def sphere(radius: float = 1.0, level: int = 4) -> Surface:
    mesh = trimesh.creation.icosphere(level, radius)
    return Surface(mesh.vertices, mesh.faces)


def sheet(height: float = 0.0, side: float = 1.0, cells: int = 8) -> Surface:
    axis = np.linspace(0.0, side, cells + 1)
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
    corner = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    lower = np.stack([corner, corner + cells + 1, corner + cells + 2], axis=1)
    upper = np.stack([corner, corner + cells + 2, corner + 1], axis=1)
    return Surface(np.stack([x, y, np.full_like(x, height)], axis=1), np.concatenate([lower, upper]))


def vtk_distances(points: np.ndarray, surface: Surface) -> np.ndarray:
    """Distances to the triangles according to VTK's cell locator."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

    data, coordinates, cells = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray()
    locator = vtk.vtkStaticCellLocator()
    coordinates.SetData(numpy_to_vtk(surface.points, deep=1))
    cells.SetData(3, numpy_to_vtkIdTypeArray(surface.triangles.ravel(), deep=1))
    data.SetPoints(coordinates)
    data.SetPolys(cells)
    locator.SetDataSet(data)
    locator.BuildLocator()
    foot, cell, part, squared = [0.0] * 3, vtk.reference(0), vtk.reference(0), vtk.reference(0.0)
    distances = []
    for point in points:
        locator.FindClosestPoint(point, foot, cell, part, squared)
        distances.append(np.sqrt(squared.get()))
    return np.array(distances)


def test_concentric_spheres() -> None:
    quality = evaluate(sphere(1.0), sphere(1.5), samples=SAMPLES)
    for way in ("moved_to_fixed", "fixed_to_moved"):
        assert quality[way]["mean"] == pytest.approx(0.5, rel=0.01)
        assert quality[way]["rms"] == pytest.approx(0.5, rel=0.01)
        assert quality[way]["p95"] == pytest.approx(0.5, rel=0.01)
        assert quality[way]["max"] == pytest.approx(0.5, rel=0.01)
    assert quality["assd"] == pytest.approx(0.5, rel=0.01)
    assert quality["normal_angle_degrees"]["mean"] < 3.0


def test_parallel_sheets_are_exact_and_means_are_weighted_by_area() -> None:
    quality = evaluate(sheet(0.0), sheet(0.25), samples=SAMPLES)
    for way in ("moved_to_fixed", "fixed_to_moved"):
        assert all(value == pytest.approx(0.25, abs=1e-12) for value in quality[way].values())
    # A sheet twice as long: half of its area is 0 away, the other half 0 to 1, evenly. The triangles of the
    # far half are 64 times as many, which must not count.
    near, fine = sheet(), sheet(cells=64)
    far = Surface(fine.points + np.array([1.0, 0, 0]), fine.triangles)
    both = Surface(
        np.concatenate([near.points, far.points]),
        np.concatenate([near.triangles, far.triangles + len(near)]),
    )
    quality = evaluate(both, near, samples=20_000)
    assert quality["moved_to_fixed"]["mean"] == pytest.approx(0.25, abs=0.01)
    assert quality["moved_to_fixed"]["rms"] == pytest.approx(np.sqrt(1 / 6), abs=0.01)
    assert quality["moved_to_fixed"]["p95"] == pytest.approx(0.9, abs=0.02)
    assert quality["moved_to_fixed"]["max"] == pytest.approx(1.0, abs=1e-12)
    assert quality["fixed_to_moved"]["max"] == pytest.approx(0.0, abs=1e-12)
    assert quality["assd"] == pytest.approx(0.125, abs=0.005)


def test_max_counts_a_single_far_vertex() -> None:
    flat = sheet(cells=20)
    points = flat.points.copy()
    points[np.argmin(np.linalg.norm(points - [0.5, 0.5, 0], axis=1)), 2] = 3.0
    assert evaluate(flat.with_points(points), flat, samples=10)["moved_to_fixed"]["max"] == 3.0


@pytest.mark.parametrize("angle", [0.0, 20.0, 90.0, 180.0])
def test_angle_of_normals(angle: float) -> None:
    flat = sheet()
    turned = flat.with_points(flat.points @ Rotation.from_euler("x", angle, degrees=True).as_matrix().T)
    measured = evaluate(turned, flat, samples=500)["normal_angle_degrees"]
    assert measured["mean"] == pytest.approx(angle, abs=1e-6)
    assert measured["p95"] == pytest.approx(angle, abs=1e-6)


def test_clouds() -> None:
    rng = np.random.default_rng(0)
    cloud = Surface(rng.normal(size=(300, 3)))
    shifted = cloud.with_points(cloud.points + np.array([1e-3, 0, 0]))
    quality = evaluate(shifted, cloud, moving=cloud, samples=1000)
    assert quality["assd"] == pytest.approx(1e-3, rel=1e-6)
    assert quality["normal_angle_degrees"] is None and quality["triangles"] is None
    mixed = evaluate(cloud, sphere(level=3), samples=1000)
    assert mixed["normal_angle_degrees"] is None
    exact = np.abs(np.linalg.norm(cloud.points, axis=1) - 1.0)
    assert mixed["moved_to_fixed"]["max"] == pytest.approx(exact.max(), rel=0.02)


def test_landmarks() -> None:
    moved = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 2.0]])
    fixed = Landmarks(moved + np.array([[3, 4, 0], [0, 0, 1], [0, 2, 0]]))
    errors = evaluate(sphere(), sphere(), landmarks=(moved, fixed), samples=10)["landmarks"]
    assert errors == {
        "count": 3,
        "mean": pytest.approx(8 / 3),
        "median": 2.0,
        "p95": pytest.approx(4.7),
        "max": 5.0,
    }


def test_dice_by_value_and_by_name() -> None:
    # 10 points on a line: moved has 6 of label 1 and 4 of label 2, fixed has 4 and 6, at the same places.
    line = np.stack([np.arange(10.0), np.zeros(10), np.zeros(10)], axis=1)
    first, second = np.repeat([1, 2], [6, 4]), np.repeat([1, 2], [4, 6])
    moved, fixed = Surface(line, point_data={"part": first}), Surface(line, point_data={"part": second})
    dice = evaluate(moved, fixed, labels="part", samples=10)["dice"]
    assert dice["labels"] == {"1": pytest.approx(8 / 10), "2": pytest.approx(8 / 10)}
    assert dice["mean"] == pytest.approx(0.8)

    # The same in other codes: the names say which is which.
    moved.label_names["part"] = {1: "head", 2: "tail"}
    fixed = Surface(
        line, point_data={"part": np.repeat([7, 1], [4, 6])}, label_names={"part": {7: "head", 1: "tail"}}
    )
    dice = evaluate(moved, fixed, labels="part", samples=10)["dice"]
    assert dice["labels"] == {"head": pytest.approx(0.8), "tail": pytest.approx(0.8)}


def test_dice_leaves_out_background_and_labels_of_one_side() -> None:
    line = np.stack([np.arange(9.0), np.zeros(9), np.zeros(9)], axis=1)
    moved = Surface(line, point_data={"part": np.repeat([0.0, 1.0, 5.0], 3)})
    fixed = Surface(line, point_data={"part": np.array([0, 0, 0, 1, 1, 9, 9, 9, 9])})
    dice = evaluate(moved, fixed, labels="part", samples=10)["dice"]
    assert dice["labels"] == {"0": 1.0, "1": pytest.approx(4 / 5)}
    assert dice["mean"] == pytest.approx(4 / 5)
    only = evaluate(Surface(line, point_data={"part": np.zeros(9, int)}), fixed, labels="part", samples=10)[
        "dice"
    ]
    assert only["mean"] is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_dice_against_direct_count(seed: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    moved = Surface(rng.normal(size=(40, 3)), point_data={"part": rng.integers(0, kinds + 1, 40)})
    fixed = Surface(rng.normal(size=(30, 3)), point_data={"part": rng.integers(0, kinds + 1, 30)})
    nearest = np.linalg.norm(fixed.points[:, None] - moved.points[None], axis=2).argmin(axis=1)
    carried, own = moved.point_data["part"][nearest], fixed.point_data["part"]
    common = set(moved.point_data["part"].tolist()) & set(own.tolist())
    if not common:
        return
    dice = evaluate(moved, fixed, labels="part", samples=5)["dice"]
    expected = {
        str(k): 2 * np.sum((carried == k) & (own == k)) / (np.sum(carried == k) + np.sum(own == k))
        for k in common
    }
    assert dice["labels"] == pytest.approx(expected)


def test_flipped_triangles_whatever_the_pose() -> None:
    moving = sphere(level=3)
    motion = Rotation.from_rotvec([2.0, 1.0, -0.5]).as_matrix()
    posed = moving.with_points(3.0 * moving.points @ motion.T + [5, 0, 0])
    assert evaluate(posed, moving, moving=moving, samples=10)["triangles"]["flipped"] == 0.0
    # Push one vertex through the opposite side of its ring: its triangles turn over.
    points = posed.points.copy()
    ring = np.flatnonzero((moving.triangles == 100).any(axis=1))
    neighbours = np.setdiff1d(moving.triangles[ring], [100])
    centre = points[neighbours].mean(axis=0)
    points[100] = centre + 3.0 * (points[neighbours[0]] - centre)
    broken = posed.with_points(points)
    motioned = moving.triangle_normals @ motion.T
    expected = np.mean(np.sum(broken.triangle_normals * motioned, axis=1) < 0)
    flipped = evaluate(broken, moving, moving=moving, samples=10)["triangles"]["flipped"]
    assert flipped > 0 and flipped == pytest.approx(expected)


def test_a_mirror_image_is_not_taken_for_a_rotation() -> None:
    moving = sphere(level=3).with_points(sphere(level=3).points * [1.0, 2.0, 3.0])
    mirrored = moving.with_points(moving.points * [-1.0, 1.0, 1.0])
    # The best rotation is none at all, and a normal n has become (n_x, -n_y, -n_z).
    expected = np.mean(moving.triangle_normals[:, 0] ** 2 < 0.5)
    flipped = evaluate(mirrored, moving, moving=moving, samples=10)["triangles"]["flipped"]
    assert flipped == pytest.approx(expected) and flipped > 0.3


def test_degenerate_triangles() -> None:
    moving = sheet(cells=4)
    flat = moving.with_points(np.where(moving.points[:, :1] < 0.6, moving.points * [0, 1, 1], moving.points))
    # Columns 0, 1 and 2 (x up to 0.5) lie on one line: the two strips between them have no area.
    shares = evaluate(flat, moving, moving=moving, samples=10)["triangles"]
    assert shares == {
        "count": 32,
        "flipped": 0.0,
        "degenerate": 0.5,
        "needles": 0.0,
        "needles_flipped": 0.0,
    }


@pytest.mark.parametrize(("height", "needles"), [(2e-3, 0.0), (5e-4, 1.0)])
def test_needles_are_counted_apart(height: float, needles: float) -> None:
    """Strips of such triangles, whose middle row a bend of the map lifts over the last."""
    x = np.arange(5.0)
    rows = [np.stack([x, np.full(5, row * height), np.zeros(5)], axis=1) for row in range(3)]
    a, b = np.arange(4), np.arange(1, 5)
    strip = np.concatenate([np.stack([a, b, b + 5], axis=1), np.stack([a, b + 5, a + 5], axis=1)])
    moving = Surface(np.concatenate(rows), np.concatenate([strip, strip + 5]))
    bent = moving.points.copy()
    bent[5:10, 1] = 3.0 * height
    shares = evaluate(moving.with_points(bent), moving, moving=moving, samples=10)["triangles"]
    assert shares["needles"] == needles
    assert shares["flipped"] == (0.0 if needles else 0.5)
    assert shares["needles_flipped"] == (0.5 if needles else 0.0)


def test_log_jacobian_of_an_affine_map() -> None:
    moving = sphere(level=2)
    matrix = np.diag([2.0, 1.5, 0.5])
    statistics = evaluate(moving, moving, moving=moving, transform=Affine(matrix, [1, 2, 3]), samples=10)[
        "log_jacobian"
    ]
    for name in ("min", "mean", "p01", "p99"):
        assert statistics[name] == pytest.approx(np.log(1.5), abs=1e-6)
    assert statistics["std"] == pytest.approx(0.0, abs=1e-6) and statistics["folded"] == 0.0


class HalfFolded:
    def jacobian_determinant(self, points: np.ndarray) -> np.ndarray:
        return np.where(points[:, 0] > 0, np.exp(points[:, 0]), -1.0)


def test_log_jacobian_where_a_map_folds() -> None:
    moving = sphere(level=3)
    statistics = evaluate(moving, moving, moving=moving, transform=HalfFolded(), samples=10)["log_jacobian"]
    right = moving.points[moving.points[:, 0] > 0, 0]
    assert statistics["folded"] == pytest.approx(1 - len(right) / len(moving))
    assert statistics["mean"] == pytest.approx(right.mean())
    assert statistics["std"] == pytest.approx(right.std())


def test_seed_repeats_and_json_is_strict() -> None:
    a, b = sphere(level=3), sphere(1.1, level=3)
    first, again, other = (evaluate(a, b, moving=a, samples=500, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first["assd"] != other["assd"]
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert first["assd"] == 0.5 * (first["moved_to_fixed"]["mean"] + first["fixed_to_moved"]["mean"])
    assert set(first) == {
        "assd", "moved_to_fixed", "fixed_to_moved", "normal_angle_degrees", "landmarks", "dice", "triangles",
        "log_jacobian", "log_jacobian_around", "inverse_error", "unit",
    }  # fmt: skip


def test_bad_input() -> None:
    good, empty = sphere(level=1), Surface([])
    with pytest.raises(InputError, match="the moved surface: no points"):
        evaluate(empty, good)
    with pytest.raises(InputError, match="the fixed surface: point 2 is not finite"):
        evaluate(good, Surface([[0, 0, 0], [1, 0, 0], [np.nan, 0, 0]]))
    with pytest.raises(InputError, match="2 moved landmarks but 1 fixed"):
        evaluate(good, good, landmarks=(np.zeros((2, 3)), np.zeros((1, 3))), samples=5)
    with pytest.raises(InputError, match="not finite"):
        evaluate(good, good, landmarks=(np.full((1, 3), np.nan), np.zeros((1, 3))), samples=5)
    with pytest.raises(InputError, match="is not what became the moved surface"):
        evaluate(good, good, moving=sphere(level=2))
    flat = Surface(np.arange(9.0).reshape(3, 3), [[0, 1, 2]])
    with pytest.raises(InputError, match="the fixed surface: all triangles have no area"):
        evaluate(good, flat)
    with pytest.raises(InputError, match="the moved surface is in RAS and the fixed surface in LPS"):
        evaluate(replace(good, frame="RAS"), replace(good, frame="LPS"))
    still = Affine(np.eye(3), [0, 0, 0], moving_frame="LPS")
    with pytest.raises(InputError, match="the moving surface is in RAS and the transform begins in LPS"):
        evaluate(good, good, moving=replace(good, frame="RAS"), transform=still, samples=5)
    with pytest.raises(InputError, match=r"^/data/a\.vtk: no point data 'part'"):
        check_labels(replace(good, metadata={"path": "/data/a.vtk"}), good, "part")
    with pytest.raises(InputError, match="samples"):
        evaluate(good, good, samples=0)
    labelled = good.with_data({"part": np.ones(len(good), int), "depth": np.linspace(0, 1, len(good))})
    with pytest.raises(InputError, match="the fixed surface: no point data 'part'; it has: none"):
        evaluate(labelled, good, labels="part", samples=5)
    with pytest.raises(InputError, match="no point data 'parts'; it has: depth, part"):
        evaluate(labelled, labelled, labels="parts", samples=5)
    with pytest.raises(InputError, match="are not labels"):
        evaluate(labelled, labelled, labels="depth", samples=5)
    with pytest.raises(InputError, match="nothing in common"):
        evaluate(labelled, good.with_data({"part": np.full(len(good), 2)}), labels="part", samples=5)


def test_labels_are_listed_in_their_order() -> None:
    ball = sphere(level=1)
    names = {0: "insula", 1: "cuneus", 2: "bankssts"}
    labelled = ball.with_data({"part": np.arange(len(ball)) % 3, "code": np.arange(len(ball)) % 11})
    labelled.label_names = {"part": names}
    found = evaluate(labelled, labelled, labels="part", samples=5)["dice"]["labels"]
    assert list(found) == ["bankssts", "cuneus", "insula"]
    found = evaluate(labelled, labelled, labels="code", samples=5)["dice"]["labels"]
    assert list(found) == [str(code) for code in range(11)]


def test_gate() -> None:
    a, b = sphere(level=3), sphere(1.02, level=3)
    close = evaluate(a, b, moving=a, samples=500)
    far = evaluate(a.with_points(a.points + np.array([0.5, 0, 0])), b, moving=a, samples=500)
    assert gate(close, far, diameter=b.diameter) == []
    assert gate(close, close, diameter=b.diameter) == []  # below 1 % of the size: nothing left to gain
    assert len(gate(close, close)) == 1 and "no closer" in gate(close, close)[0]
    assert any("no closer" in reason for reason in gate(far, close, diameter=b.diameter))
    assert any("apart" in reason for reason in gate(far, diameter=b.diameter))
    assert gate(far) == []
    for key, name in (("triangles", "flipped"), ("log_jacobian", "folded")):
        bad = {**close, key: {"flipped": 0.0, "folded": 0.0, name: 0.0011}}
        assert len(gate(bad, diameter=b.diameter)) == 1
        assert gate({**close, key: {name: 0.001}}, diameter=b.diameter) == []
    assert "assd is not a finite number" in gate({**close, "assd": float("nan")})


def test_table_shows_what_was_measured() -> None:
    a = sphere(level=2).with_data({"part": (sphere(level=2).points[:, 2] > 0).astype(int)})
    marks = (np.zeros((1, 3)), np.ones((1, 3)))
    still = Affine(np.eye(3), [0, 0, 0])
    quality = evaluate(a, a, moving=a, labels="part", landmarks=marks, transform=still, samples=50)
    table = format_table({**quality, "unit": "mm"})
    for words in (
        "distance (mm)",
        "moved to fixed",
        "angle",
        "1 landmarks (mm)",
        "1.732",
        "Dice",
        "turned",
        "Jacobian                 mean        std        min",
    ):
        assert words in table
    assert max(map(len, table.splitlines())) <= 80
    short = format_table(evaluate(a, a, samples=50))
    assert "Dice" not in short and "landmarks" not in short and "Jacobian" not in short


def test_real_knees_agree_with_another_library() -> None:
    one = read(shared_data("knee_femur/1_RIGHT_femur_Nov_02_2021.vtk"))
    two = read(shared_data("knee_femur/2_RIGHT_femur_Nov_02_2021.vtk"))
    moved = one.with_points(one.points - one.points.mean(axis=0) + two.points.mean(axis=0))
    quality = evaluate(moved, two, labels="Cartilage Region", samples=3000)
    mesh = trimesh.Trimesh(moved.points, moved.triangles, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, 1500, seed=9)
    distances = vtk_distances(points, two)
    assert quality["moved_to_fixed"]["mean"] == pytest.approx(distances.mean(), rel=0.05)
    assert quality["moved_to_fixed"]["p95"] == pytest.approx(np.percentile(distances, 95), rel=0.06)
    # 0.73 was measured once for these two at their centroids; label 0 is bone.
    assert quality["dice"]["mean"] == pytest.approx(0.73, abs=0.01)
    assert set(quality["dice"]["labels"]) >= {"0", "11", "12", "13", "14", "15"}
