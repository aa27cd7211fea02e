"""Every script of examples/ runs, leaves nothing behind, and prints what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))

NUMBER = r"-?\d+\.?\d*(?:e[+-]\d+)?"


def numbers(line: str) -> list[float]:
    """The numbers of a line, in their order."""
    return [float(text) for text in re.findall(rf"(?<![\w.]){NUMBER}(?!\w)", line)]


def run(name: str, folder: Path) -> list[str]:
    """Lines that a script prints with --quick; its own checks fail with an exit code."""
    command = [sys.executable, str(ROOT / "examples" / name), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return done.stdout.splitlines()


def test_shooting(tmp_path: Path) -> None:
    shape, moved, energy, back, inverse, same = run("shooting.py", tmp_path)
    assert shape.startswith("Surface(5002 points")
    assert 2.0 < numbers(moved)[0] < numbers(moved)[1] < 20.0
    assert numbers(energy)[1] < 1e-6
    assert numbers(back)[0] < 1e-4
    off, least, most = numbers(inverse)
    assert off < 1e-8 and 0.0 < least < 1.0 < most
    assert same.endswith("yes")


def test_custom_attachment(tmp_path: Path) -> None:
    what, before, after, last = run("custom_attachment.py", tmp_path)
    assert "Varifold" in what and "PatchCentres(24 patches)" in what
    assert all(now < 0.6 * then for then, now in zip(numbers(before), numbers(after), strict=True))
    assert numbers(before)[-1] == pytest.approx(2.44, abs=0.01)  # as data/README.md says
    assert numbers(last)[-1] > 0.0


def test_custom_field(tmp_path: Path) -> None:
    what, *gradients, found, adaptive = run("custom_field.py", tmp_path)
    assert len(gradients) == 4 and len({numbers(line)[0] for line in gradients}) == 1
    assert numbers(found)[0] == pytest.approx(numbers(what)[1], abs=0.01)
    assert max(numbers(adaptive)) < 1e-4


def test_script_registration(tmp_path: Path) -> None:
    surfaces, gate, marks, back, same = run("script_registration.py", tmp_path)
    assert numbers(surfaces)[1] < 0.5 * numbers(surfaces)[0]
    assert gate.startswith("quality gate passed")
    count, before, after = numbers(marks)
    assert count == 100 and after < 0.5 * before
    assert numbers(back)[0] < 1e-6
    assert same.endswith("yes")


def test_export_field(tmp_path: Path) -> None:
    head, coarse, fine, what, moved, also, back, same = run("export_field.py", tmp_path)
    assert head.split()[:2] == ["spacing", "points"]
    assert numbers(fine)[1] > 5 * numbers(coarse)[1]
    assert numbers(fine)[-2] < 0.5 * numbers(coarse)[-2]
    assert numbers(fine)[-1] < 0.8 * numbers(coarse)[-1]
    assert what == "points.nii.gz maps points of MOVING to FIXED, RAS"
    assert "points of FIXED to MOVING (resamples MOVING onto FIXED)" in also
    assert numbers(moved)[0] == 100 and numbers(moved)[1] < 0.2 and numbers(back)[0] < 0.2
    assert max(numbers(same)) < 0.2  # SimpleITK comes with the dev extra


def test_nngp_covariance(tmp_path: Path) -> None:
    head, small, large, what, agree, falls, before, after, _ = run("nngp_covariance.py", tmp_path)
    assert head.split() == ["images", "plain", "autograd", "blockwise"]
    count, plain, _, ours, _ = numbers(small)
    assert count == 48 and ours < 0.6 * plain
    assert "would take" in large and numbers(large)[-2] < 0.25 * 1e3 * numbers(large)[1]
    assert what.startswith("24 images to learn from, 24 to tell apart")
    assert numbers(agree)[0] < 1e-5
    first, last, steps = numbers(falls)
    assert last < first and steps == 8
    assert before.startswith("before: ") and after.startswith("after: ")


def test_sinkhorn_10000(tmp_path: Path) -> None:
    lines = run("sinkhorn_10000.py", tmp_path)
    rows = {line[:17].strip(): numbers(line[17:]) for line in lines if re.match(r"[a-z ]+ +\d+ +\d+ ", line)}
    gigabytes, a_pair = (numbers(line)[-2:] for line in lines if "it would take" in line).__next__()
    # two softmins an iteration, each of which stores one float32 for a pair
    assert a_pair == pytest.approx(8.0, abs=1.0)
    assert gigabytes == pytest.approx(1.0, abs=0.3)
    assert rows["scan"][2] < 60.0 and rows["scan"][3] < 200.0
    assert rows["envelope theorem"][4] == pytest.approx(rows["scan"][4], rel=1e-3)


def test_conjugate_gradient_in_a_network(tmp_path: Path) -> None:
    _, _, plain, ours, apart, gain = run("conjugate_gradient_in_a_network.py", tmp_path)
    first, last, *_ = numbers(plain)
    assert last < first
    assert numbers(ours)[:2] == pytest.approx([first, last], rel=2e-3)
    assert numbers(apart)[0] < numbers(apart)[1]
    assert numbers(gain)[0] > 2.0


def test_unfolded_deblurring(tmp_path: Path) -> None:
    _, _, plain, implicit, apart, gain = run("unfolded_deblurring.py", tmp_path)
    first, last, width, *_ = numbers(plain)
    assert numbers(implicit)[:3] == pytest.approx([first, last, width], rel=2e-3)
    assert width > 1.305  # from 1.3 towards 1.6
    assert numbers(apart)[0] < numbers(apart)[1]
    assert numbers(gain)[0] > 1.3


def test_penalties_along_the_way(tmp_path: Path) -> None:
    _, _, *rows, eager, by_picture = run("penalties_along_the_way.py", tmp_path)
    none, *pairs = (numbers(row[20:]) for row in rows)
    for plain, ours in (pairs[:2], pairs[2:]):
        assert ours[:3] == pytest.approx(plain[:3], rel=1e-3)
        assert plain[0] > 1.001 * none[0]
    assert numbers(eager)[0] < 1e-4 and numbers(by_picture)[0] < 1e-4


def test_animate_registration(tmp_path: Path) -> None:
    way, pose, flow, loop, shape, series = run("animate_registration.py", tmp_path)
    count, length, straight = numbers(way)
    assert count == 51 and 1.05 * straight < length < 2.0 * straight
    assert "interpolated" in pose and numbers(pose)[:2] == [0.0, 0.5]
    assert "integrated" in flow and numbers(flow)[:2] == [0.5, 1.0]
    assert numbers(loop)[0] == 6 and loop.endswith("320x240")
    assert shape.endswith(": flow")
    assert numbers(series)[0] == 5 and series.endswith("yes")


def test_report_from_python(tmp_path: Path) -> None:
    gate, report, scene = run("report_from_python.py", tmp_path)
    assert gate == "quality gate passed"
    assert report.startswith("report.html: ") and 300 < numbers(report)[0] < 1500
    assert scene.startswith("scene.html: ") and scene.endswith("needs no network: yes")


def test_cohort_batch(tmp_path: Path) -> None:
    first, second, *cases, overview, same = run("cohort_batch.py", tmp_path)
    assert first == "first run: 3 cases run, 1 failed: subject1"
    assert second == "second run: 1 case run, 0 failed"
    assert len(cases) == 3
    assert all(numbers(line)[1] < 0.6 * numbers(line)[0] for line in cases)
    assert numbers(overview)[0] == 3
    assert same.endswith("yes")


def test_cohort_statistics(tmp_path: Path) -> None:
    bone, shares, first, age, way, sick, nothing = run("cohort_statistics.py", tmp_path)
    assert bone.startswith("Surface(5002 points")
    assert numbers(shares)[0] > numbers(shares)[1] > numbers(shares)[2]
    assert numbers(first)[0] > 0.95
    speed, wanted, r_squared, p = numbers(age)
    assert speed == pytest.approx(wanted, abs=0.01) and r_squared > 0.5 and p < 0.05
    assert 1.0 < numbers(way)[2] < numbers(way)[3]
    assert numbers(sick)[0] < 0.05 < numbers(nothing)[0] and numbers(sick)[1] > 0.0


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_is_documented_and_tested(path: Path) -> None:
    assert f"python examples/{path.name} [--quick]" in path.read_text(encoding="utf-8")
    assert f"`examples/{path.name}`" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f'run("{path.name}", tmp_path)' in Path(__file__).read_text(encoding="utf-8")


def test_pictures(tmp_path: Path) -> None:
    *pictures, title = run("pictures.py", tmp_path)
    assert len(pictures) == 8 and all(".png: " in line for line in pictures)
    assert all(numbers(line)[-1] > 5 for line in pictures)  # percent that is not background
    assert numbers(title)[0] < 0.5
