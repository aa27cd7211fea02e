"""A study of three subjects: one of them cannot be run at first, and the second run does what is missing.

    python examples/cohort_batch.py [--quick]

Subjects are the cerebellum of data/ (with --quick a phantom) bent in three ways; lengths are in millimetres.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import otreg
from otreg.cohort import BatchResult, batch

DATA = Path(__file__).parents[1] / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small phantom, affine maps")
    quick = parser.parse_args().quick
    preset = "affine" if quick else "spline"
    settings = {"points": 200, "starts": 10} if quick else {"points": 1000, "fine_points": 3000}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subjects = write_subjects(
            folder, DATA / ("phantoms/bean_moving.vtk" if quick else "cerebellum_suit.surf.gii")
        )
        fixed = DATA / ("phantoms/bean_fixed.ply" if quick else "cerebellum_mnisymc.surf.gii")
        rows = ["subject,surface,seed", *(f"{path.stem},{path.name},0" for path in subjects)]
        (folder / "study.csv").write_text("\n".join(rows) + "\n")
        kept = subjects[1].read_bytes()

        def lose_a_subject(event: otreg.cohort.BatchProgress) -> None:
            # at the start, after everything has been checked: as if a disk had gone
            if event.name is None:
                subjects[1].unlink(missing_ok=True)

        def run(**more: object) -> BatchResult:
            return batch(
                folder / "study.csv",
                folder / "out",
                fixed=fixed,
                preset=preset,
                settings=settings,
                workers=1,
                threads=1 if quick else None,
                **more,  # type: ignore[arg-type]
            )

        first = run(progress=lose_a_subject)
        print(
            f"first run: {first.about['ran']} cases run, {len(first.failed)} failed: {first.failed[0].name}"
        )
        subjects[1].write_bytes(kept)
        second = run()
        print(f"second run: {second.about['ran']} case run, {len(second.failed)} failed")
        for result in second.results:
            before, after = result.figures["assd_before"], result.figures["assd_after"]
            print(f"{result.name}: {before:.2f} mm apart before, {after:.2f} mm after")
        assert second.passed

        page = second.plot().save(folder / "overview.html")
        print(
            f"overview of {page.read_text().count('<figure')} cases, worst first: {second.plot().results[0].name}"
        )
        again = BatchResult.load(folder / "out")
        print(f"the same from its files: {'yes' if again.results == second.results else 'no'}")


def write_subjects(folder: Path, source: Path) -> list[Path]:
    """A surface, bent and moved in three ways that one knows."""
    surface = otreg.read(source)
    paths = []
    for number in range(3):
        points = surface.points - surface.points.mean(axis=0)
        bent = points + (number + 1) * np.sin(points[:, [1, 2, 0]] / 25.0) + 10.0 * number
        paths.append(folder / f"subject{number}.ply")
        otreg.write(otreg.Surface(bent, surface.triangles), paths[-1])
    return paths


if __name__ == "__main__":
    main()
