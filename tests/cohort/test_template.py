"""Templates of small cohorts whose middle is known, and what happens when things go wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import otreg
from otreg.cohort import Template, TemplateSettings, template
from otreg.cohort.finish import most_frequent
from otreg.cohort.subjects import joined, parts_of
from otreg.deformations import load_transform, trajectory
from otreg.errors import InputError, ManifestError, OtregError
from otreg.proximity import closest_points
from otreg.registration.pose import procrustes
from otreg.surface import Surface
from tests.cohort.phantoms import bean_space, bean_surface, momenta_across, random_momenta, shot, write_cohort
from tests.phantoms import random_rotation

GOOD = {"points": 600, "fine_points": 1000, "control_points": 20, "starts": 10}
QUICK = {"points": 200, "fine_points": 600, "control_points": 50, "starts": 10}
SETTINGS = TemplateSettings(
    iterations=2, widths=(0.4, 0.25), control_points=16, fit_points=200, stiffness=1e-3, settings=GOOD
)
ROUGH = dataclasses.replace(SETTINGS, iterations=1, settings=QUICK)
MIDDLE = bean_surface(1500)
SPACE = bean_space(MIDDLE, 60, (0.4, 0.25))
MOMENTA = momenta_across(SPACE, MIDDLE, 0.08 * MIDDLE.diameter)


def placed(shape: Surface, seed: int) -> Surface:
    """A shape turned and moved."""
    rng = np.random.default_rng(seed)
    return shape.with_points(shape.points @ random_rotation(rng).T + rng.normal(scale=40.0, size=3))


def pair(count: int = 600) -> dict[str, Surface]:
    """Two beans of different tessellations, the same way from the middle in opposite directions."""
    return {
        name: placed(shot(SPACE, sign * MOMENTA, bean_surface(count, seed)), seed)
        for name, sign, seed in (("plus", 1.0, 1), ("minus", -1.0, 2))
    }


def apart(shape: Surface, reference: Surface) -> float:
    """Root-mean-square distance of the vertices from a reference surface, once a rigid motion is taken out."""
    moved = otreg.register(shape, reference, "rigid", settings={"starts": 10, "points": 300}).moved
    for _ in range(20):  # to the end: registration's own pose is one for surfaces that differ
        found = closest_points(moved.points, reference).points
        _, rotation, translation = procrustes(moved.points, found, shape.weights, False)
        moved = moved.with_points(moved.points @ rotation.T + translation)
    squares = ((moved.points - closest_points(moved.points, reference).points) ** 2).sum(axis=1)
    return float(np.sqrt(shape.weights @ squares / shape.weights.sum()))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, pair())
    return folder


@pytest.fixture(scope="module")
def found(cohort: Path) -> Template:
    return template(
        cohort / "subjects.csv", cohort / "plus", start="plus", settings=SETTINGS, workers=1, threads=1
    )


def test_the_template_of_opposites_is_the_middle(found: Template) -> None:
    subject = apart(pair()["plus"], MIDDLE)
    assert subject > 0.5
    assert apart(found.shape, MIDDLE) < 0.3 * subject
    assert found.report["ratio"] < 0.05
    # as they went in: opposite momenta, of the length that is left once rotations are taken out
    norms = found.space.norms(found.momenta)
    assert norms[0] == pytest.approx(norms[1], rel=0.1)
    assert found.space.gram(*found.momenta)[0, 0] < -0.9 * norms[0] * norms[1]


@pytest.mark.slow
def test_another_start_gives_the_same_template(cohort: Path, found: Template) -> None:
    """The tolerance that docs/templates.md states: a quarter of the distance to a subject after two iterations."""
    other = template(
        cohort / "subjects.csv", cohort / "minus", start="minus", settings=SETTINGS, workers=1, threads=1
    )
    assert not np.array_equal(other.shape.triangles, found.shape.triangles)
    assert apart(other.shape, found.shape) < 0.25 * apart(pair()["plus"], MIDDLE)


def test_every_subject_is_a_run_and_its_map_leads_to_it(cohort: Path, found: Template) -> None:
    from otreg.visualize.run import read_run

    shapes = pair()
    assert found.names == ("plus", "minus") and len(found) == 2
    for name, figures in zip(found.names, found.figures, strict=True):
        moved = found.transform(name)(found.shape)
        size = found.figures[0]["before"]
        assert np.sqrt(closest_points(moved.points, shapes[name]).distances ** 2).mean() < 0.15 * size
        assert (
            figures["explained"] > 0.9
            and figures["rms"] < 0.3 * figures["before"]
            and figures["poor"] is None
        )
        run = read_run(cohort / "plus" / "subjects" / name)
        np.testing.assert_allclose(run.moved.points, moved.points, atol=1e-4)  # single precision in the file
        again = load_transform(cohort / "plus" / "subjects" / name / "transform.h5")
        np.testing.assert_allclose(again.map(found.shape.points), moved.points, atol=1e-9)
        # pose and flow by hand: the flow first, then out of the template's pose
        place = found.index(name)
        plain = found.in_template_pose(name).points
        by_hand = (plain - found.translations[place]) @ found.rotations[place] / found.scales[place]
        np.testing.assert_allclose(by_hand, moved.points, atol=1e-8)
    spread = found.shape.point_data["spread"]
    ways = [found.in_template_pose(name).points - found.shape.points for name in found.names]
    np.testing.assert_allclose(
        spread, np.sqrt(np.mean([(way**2).sum(axis=1) for way in ways], axis=0)), rtol=1e-9
    )


def test_a_template_comes_back_from_its_folder(cohort: Path, found: Template) -> None:
    again = Template.load(cohort / "plus")
    for name in ("momenta", "scales", "rotations", "translations"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    np.testing.assert_array_equal(again.shape.points, found.shape.points)
    assert again.names == found.names and again.report == found.report
    assert again.figures == found.figures
    table = (cohort / "plus" / "summary.csv").read_text().splitlines()
    assert table[0].startswith("subject,norm,explained") and len(table) == 3
    assert json.loads((cohort / "plus" / "report.json").read_text()) == found.report
    assert found.plot().colouring is not None
    with pytest.raises(InputError, match="is not the folder of a finished template"):
        Template.load(cohort)
    with pytest.raises(InputError, match="no subject 'nobody'"):
        found.transform("nobody")


def test_a_finished_template_is_not_made_again(cohort: Path, found: Template) -> None:
    before = (cohort / "plus" / "template.h5").stat().st_mtime_ns
    template(cohort / "subjects.csv", cohort / "plus", start="plus", settings=SETTINGS, workers=1, threads=1)
    assert (cohort / "plus" / "template.h5").stat().st_mtime_ns == before


@pytest.mark.slow
def test_killed_and_run_again_it_goes_on(tmp_path: Path) -> None:
    """Interrupted in every kind of pass: what was found stays, and the result is the same to the last bit."""

    def interrupt_at(wanted: str, count: int):  # type: ignore[no-untyped-def]
        def progress(what: str, done: int, total: int) -> None:
            if (what, done) == (wanted, count):
                raise KeyboardInterrupt

        return progress

    manifest = write_cohort(tmp_path, pair(200))
    settings = dataclasses.replace(ROUGH, iterations=2)

    def run(progress: object = None, folder: str = "out") -> Template:
        return template(
            manifest,
            tmp_path / folder,
            start="plus",
            settings=settings,
            workers=1,
            threads=1,
            progress=progress,  # type: ignore[arg-type]
        )

    with pytest.raises(KeyboardInterrupt):
        run(interrupt_at("iteration 1", 1))
    (first,) = (tmp_path / "out" / "work" / "pass_00").iterdir()
    before = first.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        run(interrupt_at("iteration 2", 1))
    assert first.stat().st_mtime_ns == before
    with pytest.raises(KeyboardInterrupt):
        run(interrupt_at("measuring", 1))
    assert not (tmp_path / "out" / "template.h5").exists()
    again, found = run(), run(folder="whole")
    np.testing.assert_array_equal(again.momenta, found.momenta)
    np.testing.assert_array_equal(again.shape.points, found.shape.points)


@pytest.mark.slow
def test_more_iterations_go_on_from_where_it_ended(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path, pair(200))
    strict = dataclasses.replace(ROUGH, tolerance=1e-6)
    first = template(manifest, tmp_path / "out", settings=strict, workers=1, threads=1)
    assert not first.report["converged"] and first.report["iterations"] == 1
    more = dataclasses.replace(strict, iterations=2)
    found = template(manifest, tmp_path / "out", settings=more, workers=1, threads=1)
    passes = [one["kind"] for one in found.report["passes"]]
    assert passes[: len(first.report["passes"])] == [one["kind"] for one in first.report["passes"]]
    assert passes.count("register") == 2 and found.report["iterations"] == 2


@pytest.mark.slow
def test_a_subject_that_fails_is_named_and_left_out(tmp_path: Path) -> None:
    shapes = pair(200)
    shapes["third"] = placed(bean_surface(200, 5), 5)
    shapes["fourth"] = shapes["third"]
    manifest = write_cohort(tmp_path, shapes)

    def lose(what: str, done: int, total: int) -> None:
        (tmp_path / "fourth.vtk").unlink(missing_ok=True)

    found = template(
        manifest, tmp_path / "out", start="third", settings=ROUGH, workers=1, threads=1, progress=lose
    )
    assert found.names == ("plus", "minus", "third")
    assert "fourth.vtk: no such file" in found.report["failed"]["fourth"]
    assert "fourth" in (tmp_path / "out" / "summary.csv").read_text()

    def lose_all(what: str, done: int, total: int) -> None:
        for name in ("plus", "minus"):
            (tmp_path / f"{name}.vtk").unlink(missing_ok=True)

    manifest = write_cohort(tmp_path, pair(200))
    with pytest.raises(OtregError, match=r"only 0 subjects could be registered; plus: .*no such file"):
        template(manifest, tmp_path / "none", settings=ROUGH, workers=1, threads=1, progress=lose_all)


@pytest.mark.slow
def test_structures_share_one_deformation_and_sizes_can_be_taken_out(tmp_path: Path) -> None:
    """Two beans beside each other, the second subject 1.2 times the size: one flow, one pose, one scale."""
    first = bean_surface(250, 1)
    second = bean_surface(200, 2)
    second = second.with_points(0.5 * second.points + [0.0, 40.0, 0.0])
    both = joined([first, second], ["one", "two"])
    space = bean_space(both, 20, (0.4, 0.25))
    (momenta,) = random_momenta(space, 1, 0.1 * both.diameter, 4)
    rows = []
    for name, sign, size in (("a", 1.0, 1.0), ("b", -1.0, 1.2)):
        whole = shot(space, sign * momenta, both)
        parts = parts_of(placed(whole.with_points(size * whole.points), ord(name)))
        row = {"subject": name}
        for structure, part in zip(("one", "two"), parts, strict=True):
            row[f"surface_{structure}"] = str(tmp_path / f"{name}_{structure}.vtk")
            otreg.write(part, row[f"surface_{structure}"])
        rows.append(row)
    # two shapes at once want more control points than one
    settings = dataclasses.replace(
        ROUGH, similarity=True, control_points=25, stiffness=TemplateSettings().stiffness
    )
    found = template(rows, tmp_path / "out", settings=settings, workers=1, threads=1)
    assert found.structures == ("one", "two")
    assert {name: len(part) for name, part in found.parts.items()} == {"one": 250, "two": 200}
    assert otreg.read(tmp_path / "out" / "template_two.vtk").triangles.max() == 199
    # sizes as they went in, their geometric mean that of the template
    assert found.scales[0] / found.scales[1] == pytest.approx(1.2, rel=0.03)
    assert found.scales.prod() == pytest.approx(1.0, abs=0.01)
    for name, figures in zip(found.names, found.figures, strict=True):
        assert figures["explained"] > 0.8
        moved = parts_of(found.transform(name)(found.shape))
        for part, row in zip(moved, ("one", "two"), strict=True):
            target = otreg.read(tmp_path / f"{name}_{row}.vtk")
            assert closest_points(part.points, target).distances.mean() < 0.35 * figures["before"]


def test_modes_and_groups_of_a_template_are_written(found: Template, tmp_path: Path) -> None:
    from otreg.cohort import statistics
    from otreg.visualize.run import read_run

    table = [{"subject": "plus", "age": "1"}, {"subject": "minus", "age": ""}]
    with pytest.raises(InputError, match="age is known of 1 subjects"):
        statistics(found, tmp_path / "out", covariates=table, on="age")
    assert not (tmp_path / "out").exists()
    result = statistics(found, tmp_path / "out", modes=3)
    assert len(result.components) == 1 and result.components.explained[0] == pytest.approx(1.0)
    scores = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert scores[0] == "subject,mode_1" and scores[1].startswith("plus,")
    folder = tmp_path / "out" / "modes" / "mode_01"
    run = read_run(folder)
    np.testing.assert_allclose(run.moved.points, run.fixed.points, atol=1e-4)
    ends = [otreg.read(folder / f"{name}_2sd.vtk").points for name in ("minus", "plus")]
    np.testing.assert_allclose(run.transform.map(ends[0]), ends[1], atol=1e-3)  # type: ignore[union-attr]
    # on its way it passes the template, as an animation of it does
    (middle,) = trajectory(run.transform, ends[0], [0.5])  # type: ignore[arg-type]
    np.testing.assert_allclose(middle, found.shape.points, atol=1e-2)
    one = otreg.read(folder / "plus_1sd.vtk").points
    np.testing.assert_allclose(one, result.components.surface(0, 1.0).points, atol=1e-4)


@pytest.mark.parametrize("labels", [[[1, 2, 2], [1, 3, 0], [2, 3, 1]]])
def test_labels_are_those_of_most_subjects(labels: list[list[int]]) -> None:
    assert most_frequent(np.array(labels)).tolist() == [1, 3, 0]


def test_a_bad_manifest_is_refused_with_everything_that_is_wrong(tmp_path: Path) -> None:
    shape = bean_surface(60)
    otreg.write(dataclasses.replace(shape, frame="RAS"), tmp_path / "ras.vtk")
    otreg.write(dataclasses.replace(shape, frame="LPS"), tmp_path / "lps.vtk")
    otreg.write(shape.with_points(1000.0 * shape.points), tmp_path / "large.vtk")
    path = tmp_path / "bad.csv"
    path.write_text("subject,surface,colour\na,ras.vtk,red\nA,none.vtk,\n,ras.vtk,\nb/c,,\n")
    with pytest.raises(ManifestError) as caught:
        template(path, tmp_path / "out", workers=1, threads=1)
    text = "; ".join(caught.value.problems)
    for wanted in (
        "unknown column 'colour'",
        "row 3: subject 'A' is that of row 2 already",
        "none.vtk: no such file",
        "row 4: no subject",
        "row 5: name 'b/c' cannot be that of a folder",
        "row 5: no surface",
    ):
        assert wanted in text
    path.write_text("subject,surface\na,ras.vtk\nb,lps.vtk\nc,large.vtk\n")
    with pytest.raises(ManifestError) as caught:
        template(path, tmp_path / "out", workers=1, threads=1)
    text = "; ".join(caught.value.problems)
    if otreg.read(tmp_path / "ras.vtk").frame == "RAS":
        assert "row 3: " in text and "is in LPS, but" in text
    assert "row 4: " in text and "times the size of" in text
    path.write_text("subject,surface\na,ras.vtk\n")
    with pytest.raises(ManifestError, match="lists one subject"):
        template(path, tmp_path / "out", workers=1, threads=1)
    path.write_text("subject,surface\na,ras.vtk\nb,ras.vtk\n")
    with pytest.raises(InputError, match="start: no subject 'z'"):
        template(path, tmp_path / "out", start="z", workers=1, threads=1)
    with pytest.raises(ManifestError, match="no point data 'region'"):
        template(path, tmp_path / "out", settings=TemplateSettings(labels="region"), workers=1, threads=1)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    shutil.copy(path, tmp_path / "full")
    with pytest.raises(InputError, match="holds files and is not an earlier template"):
        template(path, tmp_path / "full", workers=1, threads=1)
    with pytest.raises(InputError, match="iterations must be"):
        TemplateSettings(iterations=0)
    with pytest.raises(InputError, match="unknown setting 'nonsense'"):
        TemplateSettings(settings={"nonsense": 1})


def test_a_template_does_not_drift_away(found: Template) -> None:
    """While correspondences stay, its shape hardly changes: it used to move on as a whole, by 8% at every pass."""
    refits = [one["share_moved"] for one in found.report["passes"] if one["kind"] == "refit"]
    assert refits and max(refits) < 0.05 and refits[-1] < 0.02
