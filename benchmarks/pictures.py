"""Seconds to draw large surfaces: a ball of 20 × 4^k triangles, plain, coloured, and as a registration.

python benchmarks/pictures.py [--levels 6,7,8]
"""

from __future__ import annotations

import argparse
import os
import platform
import time

import numpy as np
import trimesh

from otreg.surface import Surface
from otreg.visualize import scene
from otreg.visualize.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--levels", default="6,7,8", help="how often each triangle of the ball is divided")
    levels = [int(level) for level in parser.parse_args().levels.split(",")]
    print(f"{platform.machine()}, {os.cpu_count()} cores; seconds from arrays to an image of default size")
    print(f"{'triangles':>10}  {'plain':>6}  {'curvature':>9}  {'three panels':>12}")
    for level in levels:
        sphere = trimesh.creation.icosphere(level, 50.0)
        # A wavy ball, so that there is relief to draw.
        waves = 1.0 + 0.05 * np.sin(sphere.vertices[:, :1] / 4.0)
        shape = Surface(sphere.vertices * waves, sphere.faces)
        larger = shape.with_points(1.1 * shape.points)
        seconds = []
        for what, options in (
            (shape, {}),
            (shape, {"color_by": "curvature"}),
            (Run(shape, larger, larger, None), {}),
        ):
            start = time.perf_counter()
            scene(what, **options).image()  # type: ignore[arg-type]
            seconds.append(time.perf_counter() - start)
        print(
            f"{len(shape.triangles):>10,}  {seconds[0]:6.1f}  {seconds[1]:9.1f}  {seconds[2]:12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
