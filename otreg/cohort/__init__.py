"""Cohorts: many subjects as easily as one, on this machine or on a cluster.

Everything is imported where it is first used: a worker process loads no more than it runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# name -> module that holds it
_LAZY = {
    "BatchProgress": "otreg.cohort.study",
    "BatchResult": "otreg.cohort.results",
    "CaseResult": "otreg.cohort.results",
    "Outcome": "otreg.cohort.schedule",
    "batch": "otreg.cohort.front",
    "open_scheduler": "otreg.cohort.schedule",
    "run_cases": "otreg.cohort.schedule",
}

__all__ = sorted(_LAZY)

if TYPE_CHECKING:
    from otreg.cohort.front import batch
    from otreg.cohort.results import BatchResult, CaseResult
    from otreg.cohort.schedule import Outcome, open_scheduler, run_cases
    from otreg.cohort.study import BatchProgress


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'otreg.cohort' has no attribute {name!r}")
