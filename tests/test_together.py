"""Pieces of work side by side: results in order, errors, and the caller's threads left as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from otreg.reductions import softmin_pair
from otreg.together import shared, together


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_threads_are_given_back(threads: int) -> None:
    found = together(lambda: torch.get_num_threads(), lambda: "b", lambda: torch.is_grad_enabled())
    assert found == [max(threads // 3, 1), "b", True]
    assert torch.get_num_threads() == threads
    with torch.no_grad():
        assert together(torch.is_grad_enabled, torch.is_grad_enabled) == [False, False]


def test_tasks_run_at_the_same_time_where_there_are_two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        barrier = threading.Barrier(2, timeout=20.0)
        assert sorted(together(barrier.wait, barrier.wait)) == [0, 1]
    finally:
        torch.set_num_threads(before)


def test_the_first_error_is_raised_once_all_have_ended(threads: int) -> None:
    ended = []

    def fail(message: str) -> None:
        ended.append(message)
        raise ValueError(message)

    with pytest.raises(ValueError, match="first"):
        together(lambda: fail("first"), lambda: fail("second"))
    assert sorted(ended) == (["first"] if threads == 1 else ["first", "second"])
    assert torch.get_num_threads() == threads


def test_a_list_is_dealt_out_among_the_threads(threads: int) -> None:
    dealt = shared(list, list(range(5)), torch.device("cpu"))
    assert dealt == ([[0, 1, 2, 3, 4]] if threads == 1 else [[0, 2, 4], [1, 3]])
    assert shared(list, [7], torch.device("cpu")) == [[7]]
    assert shared(len, [], torch.device("cpu")) == [0]


def test_sums_are_the_same_every_time_and_with_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2300, 3, generator=generator)
    f, g = torch.zeros(2, 2300, dtype=torch.float64)
    before, found = torch.get_num_threads(), {}
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            sums = softmin_pair(x, y, f, g, blur=0.2)
            if count in found:
                assert torch.equal(found[count].to_x, sums.to_x) and torch.equal(found[count].to_y, sums.to_y)
            found[count] = sums
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[1].to_x, found[2].to_x, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(found[1].to_y, found[2].to_y, rtol=0.0, atol=1e-9)
