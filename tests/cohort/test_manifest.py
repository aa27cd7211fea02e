"""Manifests: every form they come in, and everything that is wrong with them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otreg.cohort.manifest import Case, read_manifest
from otreg.cohort.pair import digest
from otreg.cohort.rows import distinct_names, safe_name, why_unsafe
from otreg.errors import InputError, ManifestError
from tests.cli.support import bean, write_landmarks, write_ply
from tests.cohort.shapes import write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


def in_short(cases: list[Case], folder: Path) -> list[tuple[str, str, str]]:
    return [(case.name, *(path.name for path in (case.moving, case.fixed))) for case in cases]


EXPECTED = [(f"s{number}", f"s{number}.ply", "fixed.ply") for number in range(3)]


def test_a_table_of_pairs(study: Path) -> None:
    cases = read_manifest(study / "pairs.csv", choices={"preset": "rigid"})
    assert in_short(cases, study) == EXPECTED
    assert [case.where for case in cases] == ["row 2", "row 3", "row 4"]
    assert cases[1].landmarks == (study / "s1.csv", study / "fixed.csv")
    assert cases[0].points == 2 * len(bean(2)[0])
    assert cases[0].choices["preset"] == "rigid" and cases[0].settings["control_points"] == 300


def test_semicolons_a_byte_order_mark_empty_lines_and_rows_with_their_own_settings(study: Path) -> None:
    text = (
        "\ufeffmoving;fixed;preset;partial;seed;points;strain\r\ns0.ply;fixed.ply;;;;;\r\n\r\n"
        "s1.ply; fixed.ply ;similarity;yes;7;500;0.25\r\n"
    )
    (study / "excel.csv").write_bytes(text.encode())
    first, second = read_manifest(study / "excel.csv", choices={"preset": "affine"}, settings={"points": 800})
    assert (first.name, first.choices["preset"], first.settings["points"]) == ("s0", "affine", 800)
    assert first.where == "row 2" and second.where == "row 4"
    assert second.choices["preset"] == "similarity" and second.choices["partial"] is True
    assert second.choices["seed"] == 7
    assert (second.settings["points"], second.settings["strain"]) == (500, 0.25)


def test_subjects_onto_one_surface(study: Path) -> None:
    (study / "subjects.csv").write_text("subject,surface,landmarks\nfirst,s0.ply,s0.csv\nsecond,s1.ply,\n")
    cases = read_manifest(
        study / "subjects.csv", fixed=study / "fixed.ply", fixed_landmarks=study / "fixed.csv"
    )
    assert [case.name for case in cases] == ["first", "second"]
    assert cases[0].landmarks == (study / "s0.csv", study / "fixed.csv") and cases[1].landmarks is None


def test_toml_and_rows_of_python(study: Path) -> None:
    (study / "study.toml").write_text(
        'fixed = "fixed.ply"\npreset = "affine"\n[settings]\npoints = 900\n'
        '[[pairs]]\nmoving = "s0.ply"\n[[pairs]]\nmoving = "s1.ply"\nseed = 4\nsettings = {points = 700}\n'
    )
    first, second = read_manifest(study / "study.toml")
    assert (first.settings["points"], second.settings["points"], second.choices["seed"]) == (900, 700, 4)
    assert second.where == "pair 2" and {first.choices["preset"], second.choices["preset"]} == {"affine"}
    rows = [{"moving": study / "s0.ply", "fixed": str(study / "fixed.ply"), "seed": 4}]
    (case,) = read_manifest(rows)
    assert case.name == "s0" and case.choices["seed"] == 4


def test_a_pattern_names_what_differs(tmp_path: Path) -> None:
    points, triangles = bean(1)
    for name in ("anna", "bert"):
        (tmp_path / "in" / name / "surf").mkdir(parents=True)
        write_ply(tmp_path / "in" / name / "surf" / "lh.ply", points, triangles)
    write_ply(tmp_path / "atlas.ply", points, triangles)
    cases = read_manifest(str(tmp_path / "in" / "*" / "surf" / "*.ply"), fixed=tmp_path / "atlas.ply")
    assert [case.name for case in cases] == ["anna", "bert"]
    with pytest.raises(InputError, match="matches no file"):
        read_manifest(str(tmp_path / "*.vtk"), fixed=tmp_path / "atlas.ply")


def test_names_come_from_the_files() -> None:
    assert distinct_names([Path("a/x.vtk"), Path("a/y.surf.gii.gz")]) == ["x", "y"]
    assert distinct_names([Path("a/lh.pial"), Path("b/lh.pial")]) == ["a", "b"]
    assert distinct_names([Path("q/a/1.vtk"), Path("q/b/2.vtk"), Path("q/a/2.vtk")]) == ["a-1", "b-2", "a-2"]
    assert distinct_names([Path("only/one.ply")]) == ["one"]


@given(st.text(max_size=300))
def test_safe_names_are_safe(text: str) -> None:
    name = safe_name(text)
    assert name and len(name) <= 101 and not set(name) & set('/\\:*?"<>|\0\n') and name.strip(". ") == name
    assert safe_name(name) == name and why_unsafe(name) is None


@pytest.mark.parametrize("name", ["../b", "a/b", ".hidden", "CON", "a:b", "x" * 200, "end.", "tab\tin"])
def test_unsafe_names_are_told_a_safe_one(name: str) -> None:
    assert why_unsafe(name) is not None


def test_everything_wrong_is_said_at_once_by_row(tmp_path: Path) -> None:
    write_study(tmp_path)
    points, triangles = bean(2)
    (tmp_path / "broken.ply").write_text("ply\nformat ascii 1.0\nelement vertex 5\n")
    for frame in ("LPS", "RAS"):
        path = write_ply(tmp_path / f"{frame}.ply", points, triangles)
        first = "format ascii 1.0\n"
        path.write_text(path.read_text().replace(first, f"{first}comment SPACE={frame}\n", 1))
    write_ply(tmp_path / "metres.ply", points / 1000, triangles)
    write_landmarks(tmp_path / "few.csv", points[:3])
    (tmp_path / "bad.csv").write_text(
        "moving,fixed,name,seed,preset,points,moving_landmarks,fixed_landmarks,labels,age\n"
        "s0.ply,fixed.ply,a,one,rigid,,,,,30\n"
        "none.ply,gone.ply,b,,,,,,,\n"
        "s1.ply,fixed.ply,A,,elastic,,,,,\n"
        "LPS.ply,RAS.ply,c,,,,,,,\n"
        "broken.ply,fixed.ply,d,,,,,,,\n"
        "s2.ply,fixed.ply,../e,,,5,,,,\n"
        "s2.ply,fixed.ply,f,,,,few.csv,fixed.csv,,\n"
        "s2.ply,fixed.ply,g,,,,few.csv,,,\n"
        "metres.ply,fixed.ply,h,,,,,,,\n"
        "s2.ply,fixed.ply,i,,,,,,region,\n"
        ",fixed.ply,j,,,,,,,\n"
        "s2.ply,fixed.ply,summary.csv,,,,,,,,,more\n"
    )
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "bad.csv", reserved=("summary.csv",))
    problems = caught.value.problems
    expected = [
        ("header", "unknown column 'age'"),
        ("row 2", "seed must be a whole number, not 'one'"),
        ("row 3", "none.ply: no such file"),
        ("row 3", "gone.ply: no such file"),
        ("row 4", "name 'A' is taken: row 2 has it too"),
        ("row 4", "unknown preset 'elastic'"),
        ("row 5", "LPS.ply is in LPS"),
        ("row 6", "broken.ply"),
        ("row 7", "name '../e' cannot be that of a folder"),
        ("row 7", "setting points must be at least 10"),
        ("row 8", "has 3 landmarks but"),
        ("row 9", "has landmarks on moving, but none on fixed"),
        ("row 10", "the units differ"),
        ("row 11", "no point data"),
        ("row 12", "names no moving surface"),
        ("row 13", "has 12 cells, but the header 10 columns"),
        ("row 13", "name 'summary.csv' is taken"),
    ]
    for where, words in expected:
        assert [line for line in problems if line.startswith(f"{where}: ") and words in line], (where, words)
    assert len(problems) == len(expected), problems
    assert f"{len(expected)} problems, nothing was run" in str(caught.value)


def test_the_same_problem_is_said_once(study: Path) -> None:
    rows = "".join(f"s{number % 3}.ply,none.ply,n{number}\n" for number in range(30))
    (study / "many.csv").write_text("moving,fixed,name\n" + rows)
    with pytest.raises(ManifestError) as caught:
        read_manifest(study / "many.csv")
    (line,) = caught.value.problems
    assert line.startswith("row 2, row 3, row 4, row 5 and 26 more: ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.csv", None, "no such file"),
        ("empty.csv", "", "lists nothing"),
        ("header.csv", "moving,fixed\n", "lists nothing"),
        ("twice.csv", "moving,moving,fixed\ns0.ply,s0.ply,fixed.ply\n", "'moving' comes more than once"),
        ("alias.csv", "moving,surface,fixed\ns0.ply,s0.ply,fixed.ply\n", "are the same"),
        ("x.toml", "pairs = 3", "holds no list"),
        ("y.toml", "pairs = [", "not a TOML file"),
        ("binary.csv", "\udcff\udcfe", "no text in UTF-8"),
    ],
)
def test_manifests_that_cannot_be_read(study: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (study / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        read_manifest(study / name)


def test_the_hash_is_of_contents_and_settings_alone(study: Path, tmp_path: Path) -> None:
    def identity(case: Case) -> str:
        return digest(case, lambda path: path.read_text())

    (case, other, _) = read_manifest(study / "pairs.csv")
    for path in study.glob("*.ply"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in study.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (elsewhere, _, _) = read_manifest(tmp_path / "pairs.csv")
    assert identity(case) == identity(elsewhere) != identity(other)
    for changed in ({"choices": {"seed": 1}}, {"settings": {"control_points": 50}}):
        (again, _, _) = read_manifest(study / "pairs.csv", **changed)  # type: ignore[arg-type]
        assert identity(again) != identity(case)
    write_landmarks(tmp_path / "s0.csv", bean(2)[0][1::20])
    (moved_landmarks, _, _) = read_manifest(tmp_path / "pairs.csv")
    assert identity(moved_landmarks) != identity(case)
