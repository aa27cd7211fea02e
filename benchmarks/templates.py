"""Templates of the development data: convergence, residuals, Dice, seconds.

    python benchmarks/templates.py FOLDER OUT_DIR [--sets talus,knee_femur,deep_brain] [--workers N] [--threads N]

FOLDER holds `talus`, `knee_femur` and `deep_brain`; see data/README.md for what such a folder is. Beside the template's
own figures, labels of each subject are carried through the template to each other one, which no voting helps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

import otreg
from otreg.cohort import Template, TemplateSettings, statistics, template
from otreg.overlap import dice


def subjects(folder: Path) -> dict[str, tuple[list[dict[str, str]], TemplateSettings]]:
    """Manifest and settings of each set."""
    talus = [{"subject": f"s{k}", "surface": str(folder / f"talus/KSBL_L_0{k}_talus.ply")} for k in (1, 2, 3)]
    knee = [
        {"subject": f"s{k}", "surface": str(folder / f"knee_femur/{k}_RIGHT_femur_Nov_02_2021.vtk")}
        for k in (1, 2, 3)
    ]
    brain = [
        {
            "subject": f"s{k}",
            "surface_hippocampus": str(folder / f"deep_brain/hippo{k}.vtk"),
            "surface_amygdala": str(folder / f"deep_brain/amygdala{k}.vtk"),
        }
        for k in (1, 2, 3, 4)
    ]
    return {
        "talus": (talus, TemplateSettings()),
        "knee_femur": (knee, TemplateSettings(labels="Cartilage Region")),
        "deep_brain": (brain, TemplateSettings()),
    }


def through_the_template(found: Template, rows: list[dict[str, str]], labels: str) -> dict[str, float]:
    """Mean Dice of the labels of each subject, carried to the template and on to each other one."""
    shapes = {row["subject"]: otreg.read(row["surface"]) for row in rows}
    carried = {name: found.transform(name)(found.shape) for name in found.names}
    scores = {}
    for first in found.names:
        nearest = cKDTree(shapes[first].points).query(carried[first].points)[1]
        values = shapes[first].point_data[labels][nearest]
        for second in found.names:
            if first != second:
                moved = carried[second].with_data({labels: values})
                scores[f"{first}->{second}"] = dice(moved, shapes[second], labels)["labels"]
    # stray codes are no regions: those of cartilage are 11 to 15
    return {
        pair: float(np.mean([score for name, score in one.items() if 11 <= float(name) <= 15]))
        for pair, one in scores.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", default="talus,knee_femur,deep_brain")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    known = subjects(given.folder)
    for name in given.sets.split(","):
        rows, settings = known[name]
        began = time.perf_counter()
        found = template(
            rows, given.out / name, settings=settings, workers=given.workers, threads=given.threads
        )
        seconds = time.perf_counter() - began
        report = found.report
        print(f"{name}: {found}, {seconds:.0f} s (0 if it was there)")
        for one in report["passes"]:
            print(
                f"  {one['kind']:8s} {len(one['widths'])} widths, |mean p|/mean|p| {one['ratio']:.3f}, "
                f"moves by {100 * one['share_moved']:.1f} %, residual {one['rms']:.3f} mm, {one['seconds']:.0f} s"
            )
        for subject, one in zip(found.names, found.figures, strict=True):
            print(
                f"  {subject}: {one['before']:.2f} mm before, residual {one['rms']:.3f} mm "
                f"({100 * one['explained']:.1f} % explained), surfaces {one['assd']:.3f} mm, Dice {one['dice']}"
            )
        print(f"  poor {report['poor']}, failed {report['failed']}")
        if settings.labels is not None:
            pairs = through_the_template(found, rows, settings.labels)
            print(
                "  Dice through the template: "
                + ", ".join(f"{pair} {value:.3f}" for pair, value in pairs.items())
            )
        shares = statistics(found, given.out / f"{name}_statistics").components.explained
        print("  components explain " + ", ".join(f"{100 * share:.1f} %" for share in shares), flush=True)


if __name__ == "__main__":
    main()
