"""An attachment of one's own, with one of ours, minimised over the momenta of a diffeomorphism.

    python examples/custom_attachment.py [--quick]

Two cerebella whose surfaces carry the same 24 patches. The attachment defined here looks at the centres of the
patches; a varifold looks at the surfaces. Landmarks, which neither has seen, say whether points arrive where they
belong. Lengths are in millimetres.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import otreg
from otreg.attachments import Attachment, Combined, Varifold
from otreg.deformations import Diffeomorphism

DATA = Path(__file__).parents[1] / "data"
SMOOTHNESS = 0.05
"""Weight of the energy of the flow, in squared millimetres, against the attachment."""


class PatchCentres(Attachment):
    """``½ mean |c_k - c'_k|²`` over patches k: c is the mean of the vertices that carry the label k."""

    def __init__(self, moving_labels: Any, fixed_points: Any, fixed_labels: Any) -> None:
        names = sorted((set(moving_labels.tolist()) & set(fixed_labels.tolist())) - {0})
        self.members = [torch.from_numpy(np.flatnonzero(moving_labels == name)) for name in names]
        centres = [fixed_points[fixed_labels == name].mean(axis=0) for name in names]
        self.centres = torch.from_numpy(np.stack(centres))

    def __call__(self, points: Tensor, triangles: Any = None, weights: Any = None) -> Tensor:
        centres = torch.stack([points[members].mean(dim=0) for members in self.members])
        return 0.5 * (centres - self.centres.to(points)).square().sum(dim=1).mean()

    @property
    def scale(self) -> float:
        """0: no detail is too small."""
        return 0.0

    def __repr__(self) -> str:
        return f"PatchCentres({len(self.members)} patches)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer control points and iterations")
    quick = parser.parse_args().quick
    moving, fixed = (otreg.read(DATA / f"cerebellum_{name}.surf.gii") for name in ("suit", "mnisymc"))
    marks = [
        otreg.read_landmarks(DATA / f"cerebellum_{name}_landmarks.csv").points for name in ("suit", "mnisymc")
    ]
    patches = PatchCentres(moving.point_data["patch"], fixed.points, fixed.point_data["patch"])
    # merged triangles (resolution) make a wide varifold several times faster
    varifold = Varifold(fixed, width=6.0, resolution=3.0 if quick else 2.5)
    attachment = Combined([(1.0, varifold), (1.0, patches)])

    points, triangles = torch.from_numpy(moving.points.copy()), torch.from_numpy(moving.triangles.copy())
    control_points = points[:: 300 if quick else 120]
    momenta = torch.zeros_like(control_points, requires_grad=True)
    flow = Diffeomorphism(control_points, momenta, width=(40.0, 20.0, 10.0), steps=4, method="midpoint")
    optimiser = torch.optim.LBFGS(
        [momenta], max_iter=5 if quick else 15, line_search_fn="strong_wolfe", tolerance_change=1e-5
    )
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimiser.zero_grad()
        value = attachment(flow.map(points), triangles) + SMOOTHNESS * flow.energy()
        value.backward()
        return value

    def report(when: str) -> tuple[float, float]:
        with torch.no_grad():
            surface, centres = (float(part) for part in attachment.parts(flow.map(points), triangles))
        error = float(np.linalg.norm(flow.map(marks[0]) - marks[1], axis=1).mean())
        print(f"{when}: varifold {surface:.3f} mm², patches {centres:.3f} mm², landmarks {error:.2f} mm off")
        return surface + centres, error

    print(f"{attachment}, {len(control_points)} control points")
    before, first_error = report("before")
    start = time.perf_counter()
    optimiser.step(closure)
    after, last_error = report("after ")
    volume = flow.jacobian_determinant(moving.points)
    print(
        f"{calls} values with gradients in {time.perf_counter() - start:.1f} s; least det J {volume.min():.2f}"
    )
    assert after < 0.2 * before and last_error < 0.6 * first_error and volume.min() > 0.0


if __name__ == "__main__":
    main()
