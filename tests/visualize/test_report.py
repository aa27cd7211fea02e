"""The report of a run: what it says, what it draws, and that a browser shows it."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

import otreg
from otreg.deformations import Affine
from otreg.errors import InputError
from otreg.registration import Registration, write_run
from otreg.surface import Landmarks, Surface
from otreg.visualize import report as report_module
from otreg.visualize import report_html, write_report
from otreg.visualize.charts import curves, histogram, length_axis, linear_axis
from tests.cli.support import refused, succeed
from tests.support import ROOT
from tests.visualize import browser
from tests.visualize.browser import Browser
from tests.visualize.test_web import Tags, array, check_self_contained, payload

FEW = {"points": 300, "fine_points": 600, "control_points": 20, "starts": 12}
MOVING, FIXED = ROOT / "data" / "metacarpal_1.vtk", ROOT / "data" / "metacarpal_2.stl"


@pytest.fixture(scope="module")
def result() -> Registration:
    """Two real bones of 5,002 vertices, registered in a hurry."""
    return otreg.register(otreg.read(MOVING), otreg.read(FIXED), "spline", settings=FEW, threads=1)


@pytest.fixture(scope="module")
def run(result: Registration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(copy.deepcopy(result), tmp_path_factory.mktemp("runs") / "run", MOVING, FIXED)


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return report_html(run)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures and scene, which take seconds, where words are looked at."""
    monkeypatch.setattr(report_module, "_pictures", lambda *_: "")
    monkeypatch.setattr(report_module, "_interactive", lambda *_: "")


def changed(result: Registration, **report: Any) -> Registration:
    """The same registration with another report."""
    return dataclasses.replace(result, report={**copy.deepcopy(result.report), **report})


def text_of(page: str) -> str:
    """What a reader sees, without tags; blanks as one."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def cells(page: str, name: str) -> list[str]:
    """Texts of the cells in the row that is called so."""
    found = re.search(rf'<tr><th scope="row">{re.escape(name)}</th>(.*?)</tr>', page)
    assert found, name
    return re.findall(r"<td[^>]*>(.*?)</td>", found[1])


def test_one_small_file_that_says_everything(page: str, result: Registration) -> None:
    check_self_contained(page)
    assert len(page) < 1_500_000
    text = text_of(page)
    assert "metacarpal_1.vtk onto metacarpal_2.stl" in text
    assert text.index("Passed the quality gate") < text.index("What was registered")
    before, after = (result.report["quality"][when] for when in ("before", "after"))
    assert cells(page, "mean of both ways (ASSD)") == [f"{before['assd']:.4g} mm", f"{after['assd']:.4g} mm"]
    largest = cells(page, "from fixed to moved, largest")
    assert largest == [f"{q['fixed_to_moved']['max']:.4g} mm" for q in (before, after)]
    assert cells(page, "log det J, mean") == ["–", f"{after['log_jacobian']['mean']:.4g}"]
    assert cells(page, "moving")[:3] == ["metacarpal_1.vtk", "5,002", "10,000"]
    for stage in result.report["stages"]:
        assert cells(page, stage["stage"])[0] == ("kept" if stage["kept"] else "<strong>dropped</strong>")
        if "residuals" in stage:
            assert cells(page, stage["stage"])[1] == str(len(stage["residuals"]))
    assert cells(page, "control points") == ["20"] and cells(page, "torch")
    names = {layer["name"]: layer for layer in payload(page)["layers"]}
    assert {"moving", "moved", "fixed", "grid"} <= set(names)
    assert names["moved"]["motion"]["times"] == names["grid"]["motion"]["times"] == 13


def test_tables_and_charts_can_be_read_without_eyes(page: str) -> None:
    tags = Tags(page).found
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags) >= 4
    for tag, attributes in tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col", "rowgroup")
        if tag == "svg":
            assert attributes["role"] == "img" and len(str(attributes["aria-label"])) > 20


def test_the_same_run_gives_the_same_bytes(page: str, run: Path) -> None:
    assert report_html(run) == page


def test_a_folder_and_a_registration_give_the_same_report(
    run: Path, result: Registration, words: None
) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report_html(dataclasses.replace(result, report=report)) == report_html(run)


def test_a_failed_gate_is_said_first_and_its_words_are_text(result: Registration, words: None) -> None:
    reason = "the map folds at 3.00% of the vertices (limit 0.1%) <script>alert(1)</script>"
    failed = changed(
        result, passed=False, gate={"passed": False, "reasons": [reason]}, warnings=["<b>mind</b> this"]
    )
    page = report_html(failed)
    text = text_of(page)
    check_self_contained(page)
    assert "Did not pass the quality gate" in text and "Passed the quality gate" not in text
    assert "The map folds at 3.00% of the vertices" in text
    assert "<script>alert" not in page and "<b>mind" not in page and "&lt;b&gt;mind&lt;/b&gt; this." in page
    assert "Stopped early" in text_of(report_html(changed(result, interrupted=True)))


def test_landmarks_and_labels_come_first_where_they_are_known(result: Registration, words: None) -> None:
    quality = copy.deepcopy(result.report["quality"])
    for when, size in (("before", 30.0), ("after", 1.25)):
        quality[when]["landmarks"] = {"count": 7, "mean": size, "median": size, "p95": size, "max": 2 * size}
        quality[when]["dice"] = {"labels": {"head <1>": 0.875, "base": 0.5}, "mean": 0.6875}
    page = report_html(changed(result, quality=quality), unit="")
    text = text_of(page)
    assert (
        text.index("Landmarks: distance") < text.index("Overlap of labels") < text.index("Distance between")
    )
    assert "The 7 landmarks are 1.25 from where they belong on average, at most 2.5." in text
    assert cells(page, "head &lt;1&gt;") == ["0.875", "0.875"]
    assert " mm" not in text


def test_reports_of_earlier_versions_and_rigid_maps(result: Registration) -> None:
    """Stages without distances of their steps, and a map that changes all volumes alike."""
    stages = [{k: v for k, v in stage.items() if k != "residuals"} for stage in result.report["stages"]]
    turned = Affine(1.1 * np.eye(3), np.zeros(3), "similarity")
    moved = turned(result.moving)
    page = report_html(dataclasses.replace(changed(result, stages=stages), transform=turned, moved=moved))
    text = text_of(page)
    assert "does not hold the distances of single steps" in text
    assert f"alike, by a factor of {1.1**3:.4g}" in text
    assert payload(page)["colouring"]["title"] == "displacement"


def test_big_meshes_are_decimated_and_said_so(result: Registration, monkeypatch: pytest.MonkeyPatch) -> None:
    # pictures show the whole meshes; what is looked at here is the scene
    monkeypatch.setattr(report_module, "_pictures", lambda *_: "")
    mesh = trimesh.creation.icosphere(subdivisions=6, radius=30.0)  # 81,920 triangles
    shape = Surface(mesh.vertices, mesh.faces)
    turned = Affine(np.eye(3), np.array([5.0, 0.0, 0.0]), "rigid")
    moved = turned(shape)
    moved = moved.with_data({"displacement": moved.points - shape.points})
    page = report_html(dataclasses.replace(result, moving=shape, fixed=shape, moved=moved, transform=turned))
    data = payload(page)
    layers = {layer["name"]: layer for layer in data["layers"]}
    for name in ("moving", "moved", "fixed"):
        assert layers[name]["cells"]["count"] <= 3 * 60_000
    assert layers["moving"]["cells"] == layers["moved"]["cells"]
    # vertices keep their numbers in the file
    rows, points = (array(data, layers["moved"][key]) for key in ("rows", "points"))
    assert points.reshape(-1, 3) + data["centre"] == pytest.approx(moved.points[rows], abs=1e-5)
    assert len(data["notes"]) == 2
    assert all(
        "of 81,920 triangles" in note and "All figures are of the whole shapes." in note
        for note in data["notes"]
    )


def test_clouds_of_points_have_a_report_too(tmp_path: Path) -> None:
    """No triangles anywhere, a moving file that is gone, and a map whose way is interpolated."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 3)) * [30.0, 20.0, 10.0]
    otreg.write(Surface(points + np.array([5.0, 0.0, 0.0])), tmp_path / "fixed.ply")
    moving, fixed = Surface(points), otreg.read(tmp_path / "fixed.ply")
    found = otreg.register(moving, fixed, "rigid", settings=FEW, threads=1)
    folder = write_run(found, tmp_path / "run", tmp_path / "moving.ply", tmp_path / "fixed.ply")
    page = report_html(folder)
    check_self_contained(page)
    text = text_of(page)
    assert "none: a cloud" in text and "rigid map: interpolated as a steady motion" in text
    assert {layer["kind"] for layer in payload(page)["layers"]} == {"points", "arrows", "lines"}
    assert "changes all volumes alike, by a factor of 1 " in text


def bars(svg: str) -> list[float]:
    """Heights of a histogram's outline above its base, in the chart's own unit."""
    path = re.search(r'class="line s0" d="M[\d.]+ ([\d.]+)V([\d.]+)(.*?)H[\d.]+V[\d.]+"', svg)
    assert path
    base, first = float(path[1]), float(path[2])
    return [base - first, *(base - float(top) for top in re.findall(r"V([\d.]+)", path[3]))]


def test_histograms_count_right() -> None:
    values = np.array([0.5] * 4 + [1.5] * 1 + [2.5] * 3 + [99.0] * 2)
    svg = histogram([("x", values)], title="x", limits=(0.0, 4.0), description="d", bins=4)
    heights = bars(svg)
    assert len(heights) == 4
    assert np.array(heights) / heights[0] == pytest.approx([1.0, 0.25, 0.75, 0.5], abs=2e-3)
    # 40 % is the highest, and the axis ends 8 % above
    assert heights[0] == pytest.approx((250 - 16 - 46) / 1.08, abs=0.1)


def test_curves_lie_where_their_axes_say() -> None:
    values = np.array([10.0, 1.0, 0.1])
    svg = curves(
        [("a", np.array([0.0, 1.0, 2.0]), values)],
        x=linear_axis("step", 0.0, 2.0),
        y=length_axis("distance", values),
        description="d",
    )
    dots = np.array(re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg), dtype=float)
    assert dots[:, 0] == pytest.approx([58.0, 58.0 + 243.0, 58.0 + 486.0], abs=0.1)
    assert dots[:, 1] == pytest.approx([16.0, 16.0 + 94.0, 204.0], abs=0.1)  # even steps: logarithmic
    assert [text for _, text in length_axis("d", np.array([0.13, 6.0])).ticks] == [
        "0.1",
        "0.2",
        "0.5",
        "1",
        "2",
        "5",
        "10",
    ]
    assert not length_axis("d", np.array([1.0, 1.5])).logarithmic


def test_the_command_writes_it(run: Path, tmp_path: Path, words: None) -> None:
    target = tmp_path / "report.html"
    assert succeed("report", run, "-o", target, "--unit", "cm", "--title", "Hand & bone") == f"{target}\n"
    page = target.read_text(encoding="utf-8")
    assert "<title>Hand &amp; bone</title>" in page and " cm" in text_of(page) and " mm" not in text_of(page)
    assert succeed("report", run, "-o", target, "--quiet") == ""


def test_what_cannot_be_reported_is_refused(run: Path, result: Registration, tmp_path: Path) -> None:
    assert "ends in .html" in refused("report", run, "-o", tmp_path / "report.txt")
    assert "is not the folder of a run" in refused("report", tmp_path, "-o", tmp_path / "report.html")
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    report = json.loads((broken / "report.json").read_text())
    for part, error in (("gate", "has no gate"), ("quality", "has no quality")):
        (broken / "report.json").write_text(json.dumps({k: v for k, v in report.items() if k != part}))
        assert error in refused("report", broken, "-o", tmp_path / "report.html")
    (broken / "report.json").write_text(json.dumps({**report, "stages": [{"stage": "rigid start"}]}))
    assert "damaged" in refused("report", broken, "-o", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(TypeError, match="Registration or a run's folder"):
        report_html(Landmarks(np.zeros((1, 3))))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ends in"):
        write_report(result, tmp_path / "report.pdf")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if browser.find() is None:
        pytest.skip("no Chromium here: the report is not looked at (apt-get install chromium)")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_it_and_the_slider_moves_it(
    chromium: Browser, page: str, tmp_path: Path, theme: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    chromium.open(path, prefers_color_scheme=theme)
    chromium.run("document.querySelector('.otreg-scene').scrollIntoView()")
    after = chromium.picture("canvas").astype(int)
    chromium.slide(".otreg-time input", 0.0)
    before = chromium.picture("canvas").astype(int)
    background = after[3, 3]
    drawn = [(np.abs(image - background).max(axis=2) > 60).mean() for image in (after, before)]
    assert drawn[0] > 0.08 and drawn[1] > 0.01
    # at first both bones are apart, so that all is seen from farther away
    assert drawn[1] < 0.8 * drawn[0]
    for name in ("fixed", "moved"):
        chromium.run(f"document.querySelector('.otreg-scene').otreg.toggle('{name}', false)")
    empty = chromium.picture("canvas").astype(int)
    assert (np.abs(empty - background).max(axis=2) > 60).mean() < 0.02  # legend and scale bar alone
    assert chromium.complaints() == []


def test_it_fits_a_phone_and_prints(chromium: Browser, page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    chromium.open(path, width=360, height=740)
    assert chromium.run("document.documentElement.scrollWidth") <= 360
    pdf = chromium("Page.printToPDF", printBackground=False)["data"]
    assert len(pdf) > 50_000
    assert chromium.complaints() == []
