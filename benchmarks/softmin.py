"""Measure one pass over all pairs, engine by engine: seconds, pairs a second, and the error against float64.

    python benchmarks/softmin.py [--points 10000,100000] [--blur 0.01] [--engines fused,keops,blocks] [--device cuda]

A log-sum-exp alone, and one with the barycentre (3 channels), between clouds on bent spheres of unit diameter, with the
potential of a converged problem: what an update of the Sinkhorn algorithm asks for. The median of five, after one
that is not counted. ``flash`` is flash-sinkhorn's kernel for the log-sum, as it comes (TF32) and with
``allow_tf32=False``; ``attention`` is torch's, which sums on a CPU where otreg was installed without a C compiler.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from otreg.reductions import fused
from otreg.reductions.engines import get_engine
from otreg.transport import solve

MOST_POINTS_FOR_TRUTH = 2_000


def clouds(count: int, device: str) -> tuple[Tensor, Tensor]:
    """Two bent spheres of about unit diameter, the second a little larger and moved."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, count, 3, generator=generator)
    points = 0.5 * points / points.norm(dim=2, keepdim=True)
    points = points * (1 + 0.2 * torch.sin(10 * points[:, :, :1]))
    x, y = points[0], points[1] * torch.tensor([1.1, 1.0, 0.9]) + 0.02
    return x.to(device), y.to(device)


def seconds(run: Callable[[], object], device: str) -> float:
    """Median of five runs, after one that is not counted."""
    taken = []
    for _ in range(6):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def measure_engine(
    name: str, x: Tensor, y: Tensor, h: Tensor, blur: float
) -> list[tuple[str, float, float, float]]:
    """Rows (what, seconds, largest error of the log-sum, largest error of the barycentre in blurs)."""
    # what the fused engine of a CPU is where our library could not be built
    reduce, rows = fused.log_sum_exp_mean if name == "attention" else get_engine(name, x.device.type), []
    few = torch.linspace(0, len(x) - 1, min(len(x), MOST_POINTS_FOR_TRUTH), device=x.device).long()
    truth = get_engine("blocks", x.device.type)(x[few].double(), y.double(), h, blur**2, y.double())
    assert truth[1] is not None
    for what, values in (("log-sum", None), ("with barycentre", y)):
        taken = seconds(lambda: reduce(x, y, h, blur**2, values), x.device.type)  # noqa: B023
        logs, mean = reduce(x, y, h, blur**2, values)
        off = math.nan if mean is None else float((mean[few] - truth[1]).norm(dim=1).max()) / blur
        rows.append((f"{name}, {what}", taken, float((logs[few] - truth[0]).abs().max()), off))
    return rows


def measure_flash(x: Tensor, y: Tensor, h: Tensor, blur: float) -> list[tuple[str, float, float, float]]:
    """The same log-sum-exp by flash-sinkhorn's kernel."""
    from flash_sinkhorn.kernels.sinkhorn_flashstyle_sqeuclid import flashsinkhorn_lse

    eps, rows = blur**2, []
    few = torch.linspace(0, len(x) - 1, min(len(x), MOST_POINTS_FOR_TRUTH), device=x.device).long()
    truth, _ = get_engine("blocks", x.device.type)(x[few].double(), y.double(), h, eps, None)
    bias = (h - y.double().square().sum(dim=1) / (2 * eps)).float()
    for exact in (False, True):
        settings = {"cost_scale": 0.5, "allow_tf32": not exact}
        taken = seconds(lambda: flashsinkhorn_lse(x, y, bias, eps, **settings), x.device.type)  # noqa: B023
        out = flashsinkhorn_lse(x, y, bias, eps, **settings)
        logs = -out.double() / eps - x.double().square().sum(dim=1) / (2 * eps)
        error = float((logs[few] - truth).abs().max())
        rows.append((f"flash{', exact' if exact else ''}, log-sum", taken, error, math.nan))
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", default="10000,100000")
    parser.add_argument("--blur", type=float, default=0.01)
    parser.add_argument(
        "--engines", default="fused,keops,blocks", help="and flash, on a GPU; and attention, on a CPU"
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    given = parser.parse_args()
    if given.device == "cuda":
        print(torch.cuda.get_device_name())
    print(f"{'points':>8}  {'':28}{'ms':>10}{'pairs/s':>10}{'error':>10}{'mean/blur':>10}")
    for count in map(int, given.points.split(",")):
        x, y = clouds(count, given.device)
        result = solve(x, y, blur=given.blur, tol=0.01)
        h = result.potentials[1].double() / given.blur**2 - math.log(count)
        for name in given.engines.split(","):
            rows = (
                measure_flash(x, y, h, given.blur)
                if name == "flash"
                else measure_engine(name, x, y, h, given.blur)
            )
            for what, taken, error, off in rows:
                print(
                    f"{count:8}  {what:28}{1e3 * taken:10.3f}{count**2 / taken:10.2g}{error:10.1e}{off:10.1e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
