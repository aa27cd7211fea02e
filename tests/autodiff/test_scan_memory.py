"""Peak memory of scan, value and gradient: measured, printed, compared with what the schedule says."""

from __future__ import annotations

from tests.autodiff.memory import peaks

SIZE = 1 << 16  # numbers of float32
STATE = 0.25  # MB
SAVED = 8 * STATE  # what a step below saves: the arguments of 4 sines and of 4 products
GRAPH = 2.0  # MB, of 144 steps of 12 operations
SLACK = 8 * STATE  # gradients and temporaries of a step

PREPARATION = """
from otreg.autodiff import Snapshots, scan
weight = torch.tensor(0.3, requires_grad=True)
def step(x):
    for _ in range(4):
        x = torch.sin(x * weight) + x
    return x
def measured(points, length, checkpoints, nested=False):
    checkpoints = Snapshots(5) if checkpoints == "Snapshots(5)" else checkpoints
    start = torch.ones(points)
    if nested:
        last = scan(lambda x: scan(step, x, length=length, checkpoints=checkpoints), start, length=length,
                    checkpoints=checkpoints)
    else:
        last = scan(step, start, length=length, checkpoints=checkpoints)
    last.sum().backward()
scan(step, torch.ones(3), length=4).sum().backward()
"""


def test_memory_of_each_schedule() -> None:
    """At two lengths and two sizes: "all" grows with the length, "sqrt" with its root, a budget not at all."""
    cases = [
        *((SIZE, length, kind) for kind in ("sqrt", "Snapshots(5)") for length in (36, 144)),
        *((3 * SIZE, 36, kind) for kind in ("all", "sqrt", "Snapshots(5)")),
    ]
    for (size, length, kind), megabytes in zip(cases, peaks(PREPARATION, list(cases)), strict=True):
        root, scale = round(length**0.5), size / SIZE
        allowed = GRAPH + SLACK * scale
        if kind == "all":
            assert megabytes > length * SAVED * scale
        elif kind == "sqrt":
            assert megabytes < root * (STATE + SAVED) * scale + allowed
        else:
            assert megabytes < (5 * STATE + SAVED) * scale + allowed


def test_memory_of_a_loop_inside_a_loop() -> None:
    """9 loops of 9 steps each: the tapes of one inner loop and what is kept for it, instead of 81 steps."""
    stored, root = peaks(PREPARATION, [(SIZE, 9, "all", True), (SIZE, 9, "sqrt", True)])
    assert stored > 81 * SAVED
    inner = 3 * (STATE + SAVED)
    assert root < 3 * STATE + 3 * inner + inner + GRAPH + SLACK


def test_freed_memory_goes_back() -> None:
    """With the allocator as users have it, whose heap would keep the holes between the nodes of the graph."""
    budget, root = peaks(PREPARATION, [(4 * SIZE, 36, "Snapshots(5)"), (4 * SIZE, 36, "sqrt")], exact=False)
    assert budget < 4 * (5 * STATE + SAVED) + 70
    assert root < 4 * 6 * (STATE + SAVED) + 70


def test_what_needs_no_gradient_costs_nothing() -> None:
    """A loop of 256 steps, without gradients in it, holds no states."""
    preparation = """
from otreg.autodiff import scan
def measured(points, length, checkpoints):
    scan(lambda x: torch.sin(x) + x, torch.ones(points), length=length, checkpoints=checkpoints)
scan(torch.sin, torch.ones(3), length=4)
"""
    for megabytes in peaks(preparation, [(SIZE, 256, "sqrt"), (SIZE, 256, 1)]):
        assert megabytes < 8 * STATE + GRAPH
