"""The order of the files: those that take minutes begin first, so that no core waits for the last of them."""

from __future__ import annotations

from pathlib import Path

import pytest

LONGEST_FIRST = (
    "test_examples.py",
    "registration/test_diffeo.py",
    "cohort/test_template.py",
    "cohort/test_batch.py",
    "registration/test_pipeline.py",
    "cli/test_template.py",
    "cli/test_register.py",
    "test_benchmarks.py",
    "cli/test_batch.py",
    "deformations/test_field.py",
)
"""Each takes more than half a minute (``pytest --durations=40``)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
