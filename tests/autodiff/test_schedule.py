"""Checkpoint schedules against the binomial formula, a search over all schedules, and their own simulation."""

from __future__ import annotations

from functools import cache
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otreg.autodiff import Snapshots, body_evaluations
from otreg.autodiff.schedule import Every, Schedule, schedule_of
from otreg.errors import InputError


@cache
def fewest(length: int, snapshots: int) -> int:
    """Fewest steps run untaped, by trying every place for the second snapshot."""
    if length == 1:
        return 0
    if snapshots == 1:
        return length * (length - 1) // 2
    return min(
        first + fewest(length - first, snapshots - 1) + fewest(first, snapshots) for first in range(1, length)
    )


def simulated(schedule: Schedule, length: int) -> tuple[int, int, int]:
    """Steps run, most snapshots and most tapes held at once, for one reversal of a loop."""
    held: set[int] = set()
    tapes: set[int] = set()
    run = most = longest = 0

    def follow(snapshots: frozenset[int], tape_from: int, start: int, last: int) -> None:
        nonlocal run, most, longest
        for index in range(start, last + 1):
            run += 1
            held.update(snapshots & {index})
            tapes.update({index} if index >= tape_from else ())
            most, longest = max(most, len(held)), max(longest, len(tapes))

    follow(*schedule.forward(length), 0, length - 1)
    for step in reversed(range(length)):
        if step not in tapes:
            tapes.clear()
            held = set(schedule.kept(held, step))
            start = max(index for index in held if index <= step)
            follow(*schedule.again(start, step, len(held)), start, step)
        tapes -= {step + 1}
    return run, most, longest


def test_binomial_counts_are_the_fewest_of_all_schedules() -> None:
    for snapshots in range(1, 8):
        for length in range(1, 70):
            assert body_evaluations(length, Snapshots(snapshots)) == fewest(length, snapshots) + length


@pytest.mark.parametrize(("snapshots", "repeats"), [(1, 5), (2, 4), (3, 3), (5, 3), (10, 2), (4, 6)])
def test_longest_loop_for_its_repeats(snapshots: int, repeats: int) -> None:
    """β(s, r) = C(s+r, s) steps take r β(s, r) - β(s+1, r-1) untaped ones; each step more takes r+1 and its tape."""
    longest = comb(snapshots + repeats, snapshots)
    cost = repeats * longest - comb(snapshots + repeats, snapshots + 1) + longest
    assert body_evaluations(longest, Snapshots(snapshots)) == cost
    assert body_evaluations(longest + 1, Snapshots(snapshots)) == cost + repeats + 2


@given(st.integers(1, 300), st.integers(1, 30))
def test_binomial_schedule_keeps_its_promises(length: int, budget: int) -> None:
    run, most, tapes = simulated(Snapshots(budget), length)
    assert run == body_evaluations(length, Snapshots(budget))
    assert most <= budget
    assert tapes == 1


@given(st.integers(1, 300), st.integers(1, 320))
def test_every_k_keeps_its_promises(length: int, interval: int) -> None:
    run, most, tapes = simulated(Every(interval), length)
    assert run == body_evaluations(length, interval) < 2 * length
    assert most == -(-length // interval)
    assert tapes <= interval


@given(st.integers(1, 10_000))
def test_square_root(length: int) -> None:
    schedule = schedule_of("sqrt", length)
    assert isinstance(schedule, Every)
    assert (schedule.interval - 1) ** 2 < length <= schedule.interval**2


def test_counts_without_tapes_dropped() -> None:
    assert [body_evaluations(7, kind) for kind in ("all", "none")] == [7, 7]
    assert [body_evaluations(0, kind) for kind in ("all", "none", "sqrt", 3, Snapshots(2))] == [0] * 5


def test_budgets_of_any_size_are_quick() -> None:
    assert body_evaluations(10**9, Snapshots(2)) > 10**9
    assert body_evaluations(10**9, Snapshots(10**9)) == 2 * 10**9 - 1


@pytest.mark.parametrize("checkpoints", ["some", 0, -1, 1.5, True, None, [3]])
def test_bad_checkpoints(checkpoints: object) -> None:
    with pytest.raises(InputError, match=r"checkpoints must be 'sqrt', 'all', 'none'"):
        body_evaluations(5, checkpoints)


@pytest.mark.parametrize("budget", [0, -3, 2.0, True, "4"])
def test_bad_budget(budget: object) -> None:
    with pytest.raises(InputError, match="Snapshots needs a whole number of at least 1"):
        Snapshots(budget)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [-1, 2.0, True])
def test_bad_length(length: object) -> None:
    with pytest.raises(InputError, match="length must be a whole number"):
        body_evaluations(length)  # type: ignore[arg-type]
