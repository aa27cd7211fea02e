"""What all tests share: the order of the files, the longest first, so that no core waits for the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(params=["library", "without"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the library in C is used, where it was built, or what stands in for it without a compiler."""
    from otreg.reductions import compiled

    if request.param == "without":
        monkeypatch.setattr(compiled, "is_available", lambda: False)
    elif not compiled.is_available():
        pytest.skip("built without a C compiler")
    return str(request.param)


@pytest.fixture
def settings_of_the_caller_stay() -> Iterator[None]:
    """Whatever runs, the caller's device, dtype, random numbers and switches stay as they were."""

    import torch

    def settings() -> tuple[Any, ...]:
        return (
            torch.cuda.current_device(),
            torch.cuda.current_stream(),
            torch.cuda.get_rng_state().tolist(),
            torch.get_rng_state().tolist(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
        )

    before = settings()
    yield
    assert settings() == before
