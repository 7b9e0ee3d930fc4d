"""Real corpora and golden vectors lie beside the checkout on some machines; tests that need them skip without."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("HATCHERY_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def shared(relative: str) -> Path:
    """The file or folder `relative`, or skip the test with the reason."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{relative} is not beside this checkout")
    return path
