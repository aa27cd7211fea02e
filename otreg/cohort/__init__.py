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
    "Components": "otreg.cohort.components",
    "GroupDifference": "otreg.cohort.groups",
    "MomentaSpace": "otreg.cohort.momenta",
    "Outcome": "otreg.cohort.schedule",
    "Regression": "otreg.cohort.regression",
    "Statistics": "otreg.cohort.analysis",
    "Template": "otreg.cohort.template_result",
    "TemplateSettings": "otreg.cohort.settings",
    "batch": "otreg.cohort.front",
    "geodesic_regression": "otreg.cohort.regression",
    "group_difference": "otreg.cohort.groups",
    "open_scheduler": "otreg.cohort.schedule",
    "principal_components": "otreg.cohort.components",
    "run_cases": "otreg.cohort.schedule",
    "statistics": "otreg.cohort.analysis",
    "template": "otreg.cohort.averaging",
}

__all__ = sorted(_LAZY)

if TYPE_CHECKING:
    from otreg.cohort.analysis import Statistics, statistics
    from otreg.cohort.averaging import template
    from otreg.cohort.components import Components, principal_components
    from otreg.cohort.front import batch
    from otreg.cohort.groups import GroupDifference, group_difference
    from otreg.cohort.momenta import MomentaSpace
    from otreg.cohort.regression import Regression, geodesic_regression
    from otreg.cohort.results import BatchResult, CaseResult
    from otreg.cohort.schedule import Outcome, open_scheduler, run_cases
    from otreg.cohort.settings import TemplateSettings
    from otreg.cohort.study import BatchProgress
    from otreg.cohort.template_result import Template


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'otreg.cohort' has no attribute {name!r}")
