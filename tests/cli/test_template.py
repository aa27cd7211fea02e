"""``otreg template`` and ``otreg statistics`` as a user starts them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import otreg as package
from tests.cli.support import bean, otreg, refused, write_ply

QUICK = [
    word
    for name in ("points=600", "fine_points=800", "control_points=20", "starts=10")
    for word in ("--set", name)
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five beans that differ in bending along one line, which goes with their age."""
    folder = tmp_path_factory.mktemp("study")
    points, triangles = bean(2)
    rng = np.random.default_rng(0)
    subjects, covariates = ["subject,surface"], ["subject,age,sex"]
    for number in range(5):
        bent = points.copy()
        # always to the side that it is bent to already: through the straight one, it would come back turned over
        bent[:, 2] += 0.003 * number * points[:, 0] ** 2
        write_ply(folder / f"s{number}.ply", bent + rng.normal(scale=20.0, size=3), triangles)
        subjects.append(f"s{number},s{number}.ply")
        covariates.append(f"s{number},{20 + 5 * number},{'f' if number % 2 else 'm'}")
    (folder / "subjects.csv").write_text("\n".join(subjects) + "\n")
    (folder / "covariates.csv").write_text("\n".join(covariates) + "\n")
    done = otreg(
        "template", "subjects.csv", "-o", "atlas", "--iterations", 1, "--control-points", 10, "--workers", 1,
        "--threads", 1, *QUICK, "--json", cwd=folder, fresh=True,
    )  # fmt: skip
    # one iteration is not enough to say that it has converged: written, and said so
    assert done.returncode == 3, done.stderr
    assert "not converged after 1 iterations; allow more with --iterations" in done.stderr
    (folder / "template.json").write_text(done.stdout)
    return folder


def test_template_writes_what_it_says(study: Path) -> None:
    report = json.loads((study / "template.json").read_text())
    assert report["subjects"] == 5 and report["failed"] == {} and not report["converged"]
    assert report["ratio"] < 0.05
    assert report["figures"]["rms"] < 0.5 * report["figures"]["before"]
    atlas = study / "atlas"
    for name in ("template.vtk", "template.h5", "summary.csv", "report.json", "subjects/s3/transform.h5"):
        assert (atlas / name).is_file()
    assert "spread" in package.read(atlas / "template.vtk").point_data
    done = otreg("render", atlas / "subjects" / "s0", "-o", study / "s0.png", "--size", "300x200")
    assert done.returncode == 0 and (study / "s0.png").stat().st_size > 1000


def test_statistics_find_the_line(study: Path) -> None:
    done = otreg(
        "statistics", "atlas", "--covariates", "covariates.csv", "--on", "age", "--groups", "sex",
        "--statistic", "difference", "--modes", 2, "--permutations", 199, cwd=study, fresh=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "on age" in done.stdout and "m against f" in done.stdout
    folder = study / "atlas" / "statistics"
    report = json.loads((folder / "statistics.json").read_text())
    # one rough iteration leaves about a fifth of the variance to correspondences that slide
    explained = report["components"]["explained"]
    assert explained[1] <= explained[0] and 0.7 < explained[0] < 1.0
    assert 0.7 < report["regression"]["r_squared"] < 1.0 and report["regression"]["p_value"] < 0.05
    # the sexes take turns along the line
    assert report["groups"]["p_value"] > 0.2
    rows = [line.split(",") for line in (folder / "scores.csv").read_text().splitlines()[1:]]
    scores = np.array([float(row[1]) for row in rows])
    assert len(scores) == 5 and abs(scores.mean()) < 1e-3 * scores.std()
    assert abs(np.corrcoef(scores, np.arange(5))[0, 1]) > 0.85
    matrix = np.loadtxt(folder / "distances.csv", delimiter=",", skiprows=1, usecols=range(1, 6))
    np.testing.assert_allclose(matrix, matrix.T)
    assert (matrix[~np.eye(5, dtype=bool)] > 0).all()
    assert set(package.read(folder / "groups.vtk").point_data) >= {"difference", "p_vertex", "p_corrected"}
    done = otreg("render", folder / "modes" / "mode_01", "-o", study / "mode.png", "--size", "300x200")
    assert done.returncode == 0, done.stderr


def test_bad_input_is_refused_in_one_line(study: Path, tmp_path: Path) -> None:
    assert "is not the folder of a finished template" in refused("statistics", tmp_path)
    assert "--on names a column of --covariates" in refused("statistics", study / "atlas", "--on", "age")
    assert "what is it for?" in refused(
        "statistics", study / "atlas", "--covariates", study / "covariates.csv"
    )
    assert "no subject 'nobody'" in refused(
        "template", study / "subjects.csv", "-o", tmp_path / "out", "--start", "nobody"
    )
    assert "unknown setting 'nonsense'" in refused(
        "template", study / "subjects.csv", "-o", tmp_path / "out", "--set", "nonsense=1"
    )
    assert "holds files" in refused("template", study / "subjects.csv", "-o", study)
    assert not (tmp_path / "out").exists()


def test_every_problem_of_a_table_is_listed(study: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("subject,surface,colour\na,none.ply,red\na,,\n")
    done = otreg("template", tmp_path / "bad.csv", "-o", tmp_path / "out")
    assert done.returncode == 2 and done.stdout == ""
    for wanted in (
        "unknown column 'colour'",
        "none.ply: no such file",
        "is that of row 2",
        "row 3: no surface",
    ):
        assert wanted in done.stderr
    (tmp_path / "ages.csv").write_text("subject,age\ns0,old\ns0,3\ns1,4\n")
    done = otreg(
        "statistics",
        study / "atlas",
        "-o",
        tmp_path / "out",
        "--covariates",
        tmp_path / "ages.csv",
        "--on",
        "age",
    )
    assert done.returncode == 2
    assert "age 'old' is no number" in done.stderr and "comes a second time" in done.stderr
    assert not (tmp_path / "out").exists()
