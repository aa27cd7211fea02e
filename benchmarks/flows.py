"""Measure flows: seconds to move points, to differentiate, to go back, and how exactly.

    python benchmarks/flows.py --points 10000,100000 --control-points 300 --steps 10
    python benchmarks/flows.py --points 100000 --kernel wendland --control-points 3000 --widths 0.1

Random momenta on an ellipsoid of diameter 1; points spread over it. Each row: the method, the largest
displacement, the relative change of the Hamiltonian, det J at its smallest, seconds for the path, for the map,
for map and Jacobian, for the gradient with respect to the momenta, for the inverse; the largest error of
carrying backwards as it is, and of the inverse.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otreg.deformations import Diffeomorphism
from otreg.deformations.matrices import determinant
from otreg.flows import carry


def ellipsoid(count: int, generator: torch.Generator) -> Tensor:
    """Points on an ellipsoid whose bounding box has a diagonal of 1."""
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    axes = torch.tensor([60.0, 45.0, 35.0], dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True) * axes / (2.0 * axes.norm())


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def measure(arguments: argparse.Namespace, count: int, method: str) -> dict[str, float | str]:
    generator = torch.Generator().manual_seed(0)
    centres, points = (ellipsoid(number, generator) for number in (arguments.control_points, count))
    momenta = torch.randn(centres.shape, generator=generator, dtype=torch.float64)
    widths = [float(width) for width in arguments.widths.split(",")]

    def flow(momenta: Tensor) -> Diffeomorphism:
        amplitudes = [1.0 / len(widths)] * len(widths)
        return Diffeomorphism(centres, momenta, widths, arguments.kernel, amplitudes, arguments.steps, method)

    # momenta that move a point by the wanted length, were the velocity constant
    speed = (flow(1e-6 * momenta).map(centres) - centres).norm(dim=1).max() * 1e6
    found = flow(momenta * (arguments.displacement / float(speed)))
    row: dict[str, float | str] = {"method": method, "points": count}
    row["path"], path = timed(found.path)
    row["map"], moved = timed(lambda: found.map(points))
    row["with jacobian"], (_, jacobian) = timed(lambda: found._map_and_jacobian(points))
    row["inverse"], back = timed(lambda: found.inverse.map(moved))
    row["displacement"] = float((moved - points).norm(dim=1).max())
    energies = path.hamiltonians()
    row["energy drift"] = float((energies.max() - energies.min()) / energies[0])
    row["smallest det"] = float(determinant(jacobian).min())
    row["backward error"] = float((carry(moved, path, backward=True) - points).norm(dim=1).max())
    row["inverse error"] = float((back - points).norm(dim=1).max())
    leaf = found.momenta.clone().requires_grad_()
    row["gradient"], _ = timed(lambda: flow(leaf).map(points).square().sum().backward())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", default="10000", help="how many, several by commas")
    parser.add_argument("--control-points", type=int, default=300)
    parser.add_argument("--kernel", default="gaussian", choices=("gaussian", "wendland"))
    parser.add_argument("--widths", default="0.6,0.3,0.15,0.075,0.0375,0.01875")
    parser.add_argument("--displacement", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--methods", default="rk4,midpoint")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [
        measure(arguments, int(count), method)
        for count in arguments.points.split(",")
        for method in arguments.methods.split(",")
    ]
    for row in rows:
        print(
            "  ".join(
                f"{name} {value if isinstance(value, str) else f'{value:.3g}'}" for name, value in row.items()
            )
        )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"settings": vars(arguments) | {"json": None}, "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
