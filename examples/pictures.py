"""Every picture of docs/visualization.md, from Python: scenes of a registration and of surfaces.

    python examples/pictures.py [--quick] [-o FOLDER]

Writes into FOLDER if one is named. Lengths are in millimetres, the unit of the files.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import otreg
from otreg.visualize import Scene, scene

DATA = Path(__file__).parents[1] / "data"


def scenes(result: otreg.Registration) -> dict[str, Scene]:
    """Scenes by the names of their files."""
    row = (1200, 430)
    brains = [DATA / f"cerebellum_{name}.surf.gii" for name in ("suit", "mnisymc")]
    folded = otreg.read(brains[0])
    return {
        "metacarpals": result.plot(size=(1500, 533)),
        "before": result.plot(panels=["before", "overlay", "contours"], color_by="distance", size=row),
        "arrows": result.plot(
            panels=["arrows", "moved"], arrow_scale=3.0, color_by="deformation", size=(1000, 480)
        ),
        "grid": result.plot(
            panels=["grid", "slices", "lattice"], color_by="log_det", views=["iso"], size=row
        ),
        "threads": result.plot(panels=["threads", "contours"], size=(1000, 480)),
        "views": result.plot(
            panels=["overlay", "contours"], views=["front", "right"], color_by="deformation", size=(800, 900)
        ),
        "curvature": scene(
            folded, color_by="curvature", limits=(-0.6, 0.6), views=["posterior"], size=(800, 600)
        ),
        "two": scene(*brains, views=["posterior"], size=(800, 600)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a rougher registration and small pictures")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    rough = {"points": 300, "fine_points": 600, "control_points": 20, "starts": 20}
    settings = rough if arguments.quick else None

    moving, fixed = otreg.read(DATA / "metacarpal_1.vtk"), otreg.read(DATA / "metacarpal_2.stl")
    preset = "spline" if arguments.quick else "diffeo"
    result = otreg.register(moving, fixed, preset=preset, settings=settings)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.output or Path(temporary)
        for name, figure in scenes(result).items():
            if arguments.quick and figure.size is not None:
                width, height = figure.size
                figure.size = (max(width // 3, 240), max(height // 3, 160))
            path = figure.save(folder / f"{name}.png")
            image = figure.image()
            inked = (image < 250).any(axis=2).mean()
            print(f"{path.name}: {image.shape[1]} x {image.shape[0]}, {100 * inked:.0f} % drawn")
            assert inked > 0.02

    # A figure is plain data: it can be changed before it is saved.
    figure = result.plot(panels=["overlay"], color_by="distance")
    figure.layer("fixed").colour = (0.9, 0.6, 0.3)
    figure.title = f"{np.nanmean(figure.layer('moved').values):.3f} mm from the fixed bone on average"
    print(figure.title)


if __name__ == "__main__":
    main()
