"""How soft the fine levels of a registration are, and how much normals weigh in them: the surfaces say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

from otreg.registration.settings import FINE, Settings

Found = TypeVar("Found")

SOFTER = 3.0
"""Times less stiff each further run of the fine levels is."""

SOFT_REACH = 1.6
"""Times farther its matches reach: detail of two subjects lies several blurs apart."""

SOFT_NORMALS = 2 / 3
"""Times less normals weigh in its matches: on detail they turn quickly."""

FEWER_NORMALS = 1 / 3
"""Times less normals weigh in one run more."""

CLOSE_ENOUGH = FINE[-1].last_blur / 10
"""Mean distance between the surfaces, as a share of FIXED's diameter, that a finest match cannot tell from none."""

CLEARLY_CLOSER = 0.02
"""Share by which a softer run must bring the surfaces closer, to be preferred."""

CLOSER_BY_NORMALS = 0.05
"""The same for the run with fewer normals. They guide points along a surface: without them matches are less certain."""

MOST_SOFTENED = 3
"""Times that the fine levels are softened."""


class Choice(NamedTuple, Generic[Found]):
    """What :func:`as_soft_as_it_takes` came to.

    Attributes
    ----------
    found
        What the best run found.
    settings : Settings
        Those of that run.
    gaps : dict
        Distance between the surfaces after each run, by its stiffness, and the weight of normals where that alone
        changed; empty between clouds.
    whole : bool
        False if the caller asked to stop meanwhile.
    """

    found: Found
    settings: Settings
    gaps: dict[str, float]
    whole: bool


def as_soft_as_it_takes(
    settings: Settings,
    run: Callable[[Settings], tuple[Found, bool]],
    gap_after: Callable[[Found], float | None],
) -> Choice[Found]:
    """Run the fine levels, and softer ones while surfaces stay apart and come closer.

    A cortex, a cerebellum or a skull shows detail that a stiff map cannot follow, and normals that differ where the
    shapes correspond. Where surfaces already lie on one another, softer maps follow noise (the discrepancy principle,
    Morozov 1966: no closer to the data than these are good). Between clouds nothing tells one from the other, and the
    map stays stiff.

    Parameters
    ----------
    settings : Settings
        Of the first run, the stiffest.
    run : function
        Runs the fine levels, always from the same start, and says whether it came to its end.
    gap_after : function
        Mean distance between the surfaces after a run, as a share of FIXED's diameter; None between clouds.
    """
    found, whole = run(settings)
    gap = gap_after(found)
    if gap is None:
        return Choice(found, settings, {}, whole)
    best = Choice(found, settings, {f"{settings.fine_stiffness:.3g}": gap}, whole)
    least = gap

    def closer(tried: Settings, share: float, name: str) -> bool:
        """Try other settings, and prefer them if the surfaces come closer by this share."""
        nonlocal best, least
        found, whole = run(tried)
        gap = gap_after(found)
        assert gap is not None
        best = best._replace(gaps={**best.gaps, name: gap}, whole=whole)
        if gap < (1.0 - share) * least:
            best, least = best._replace(found=found, settings=tried), gap
            return True
        return False

    for times in range(1, 1 + MOST_SOFTENED):
        if not best.whole or least <= CLOSE_ENOUGH:
            return best
        softer = replace(
            settings,
            fine_stiffness=settings.fine_stiffness / SOFTER**times,
            reach_factor=settings.reach_factor * SOFT_REACH,
            normal_weight=settings.normal_weight * SOFT_NORMALS,
        )
        if not closer(softer, CLEARLY_CLOSER, f"{softer.fine_stiffness:.3g}"):
            break
    if best.whole and least > CLOSE_ENOUGH:
        fewer = replace(best.settings, normal_weight=best.settings.normal_weight * FEWER_NORMALS)
        closer(
            fewer,
            CLOSER_BY_NORMALS,
            f"{fewer.fine_stiffness:.3g}, normals {fewer.normal_weight:.2g}",
        )
    return best
