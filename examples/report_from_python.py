"""A registration as one web page, to read, to print and to send; and a page of a scene alone.

    python examples/report_from_python.py [--quick] [-o FOLDER]

Writes into FOLDER if one is named. Lengths are in millimetres, the unit of the files.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import otreg
from otreg.visualize import write_report

DATA = Path(__file__).parents[1] / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a rougher registration")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    rough = {"points": 300, "fine_points": 600, "control_points": 20, "starts": 20}
    settings = rough if arguments.quick else None

    moving, fixed = otreg.read(DATA / "metacarpal_1.vtk"), otreg.read(DATA / "metacarpal_2.stl")
    preset = "spline" if arguments.quick else "diffeo"
    result = otreg.register(moving, fixed, preset=preset, settings=settings)
    print(f"quality gate {'passed' if result.passed else 'failed'}")

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        # Everything: verdict, figures, pictures, histograms, stages, and a scene to turn.
        report = write_report(result, folder / "report.html", title="One metacarpal onto another")
        # The scene alone, coloured by something else; `times` makes it move.
        scene = result.plot(panels=["all"], color_by="log_det", times=9, title="Change of volume")
        scene.layer("grid").visible = True
        page = scene.save(folder / "scene.html")
        for path in (report, page):
            text = path.read_text(encoding="utf-8")
            alone = "://" not in text  # no letter of base64, in which "http" could be met by chance
            print(f"{path.name}: {len(text) / 1024:.0f} kB, needs no network: {'yes' if alone else 'no'}")
            assert alone


if __name__ == "__main__":
    main()
