"""Which runs of the fine levels are tried, and which is kept: told by the gaps they leave."""

from __future__ import annotations

import pytest

from otreg.registration.settings import Settings
from otreg.registration.softening import CLOSE_ENOUGH, as_soft_as_it_takes

Run = tuple[float, float]


def chosen(
    gaps: dict[Run, float | None], stops_after: int = 9
) -> tuple[Run, list[Run], dict[str, float], bool]:
    """The run kept, those tried (stiffness, weight of normals), what the report says, and whether all was done."""
    tried: list[Run] = []

    def run(settings: Settings) -> tuple[Run, bool]:
        tried.append((round(settings.fine_stiffness, 2), round(settings.normal_weight, 3)))
        reach = settings.reach_factor
        assert reach == (2.5 if settings.fine_stiffness == 30.0 else pytest.approx(4.0))
        return tried[-1], len(tried) < stops_after

    choice = as_soft_as_it_takes(Settings(), run, lambda found: gaps[found])
    assert choice.found == (round(choice.settings.fine_stiffness, 2), round(choice.settings.normal_weight, 3))
    return choice.found, tried, choice.gaps, choice.whole


STIFF, SOFT, SOFTER, SOFTEST = (30.0, 0.15), (10.0, 0.1), (3.33, 0.1), (1.11, 0.1)


def test_shapes_that_lie_on_one_another_stay_stiff() -> None:
    assert chosen({STIFF: CLOSE_ENOUGH}) == (STIFF, [STIFF], {"30": CLOSE_ENOUGH}, True)


def test_clouds_stay_stiff() -> None:
    assert chosen({STIFF: None}) == (STIFF, [STIFF], {}, True)


def test_softer_while_it_helps_then_fewer_normals() -> None:
    fewer = (3.33, 0.033)
    gaps = {STIFF: 0.01, SOFT: 0.008, SOFTER: 0.007, SOFTEST: 0.0069, fewer: 0.006}
    found, tried, told, whole = chosen(gaps)
    assert (found, whole) == (fewer, True) and tried == [STIFF, SOFT, SOFTER, SOFTEST, fewer]
    assert told == {"30": 0.01, "10": 0.008, "3.33": 0.007, "1.11": 0.0069, "3.33, normals 0.033": 0.006}


def test_fewer_normals_must_help_more() -> None:
    gaps = {STIFF: 0.01, SOFT: 0.0098, (30.0, 0.05): 0.0096}
    assert chosen(gaps)[:2] == (STIFF, [STIFF, SOFT, (30.0, 0.05)])
    assert chosen({**gaps, (30.0, 0.05): 0.0094})[0] == (30.0, 0.05)


def test_close_enough_ends_it() -> None:
    assert chosen({STIFF: 0.01, SOFT: 0.5 * CLOSE_ENOUGH})[:2] == (SOFT, [STIFF, SOFT])


@pytest.mark.parametrize("stops_after", [1, 2, 3])
def test_whoever_stops_keeps_the_best_so_far(stops_after: int) -> None:
    found, tried, _, whole = chosen({STIFF: 0.01, SOFT: 0.011, (30.0, 0.05): 0.005}, stops_after)
    assert not whole and len(tried) == stops_after
    assert found == (STIFF if stops_after < 3 else (30.0, 0.05))
