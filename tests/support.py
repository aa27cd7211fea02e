"""What several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"


def shared_data(name: str = "") -> Path:
    """Path of a file or folder of the real test data, skipping the test where it is absent."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"the shared test data has no {name or 'folder'} here")
    return path
