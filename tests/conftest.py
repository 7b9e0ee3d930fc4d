"""One thread per test process, and the longest test files first."""

import os

import pytest

# Several threads that wait for a busy core are far slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with `pipeline` tests go first, then those with `slow` ones: no process ends alone with a long file."""
    first: dict[str, int] = {}
    for item in items:
        rank = 0 if item.get_closest_marker("pipeline") else 1 if item.get_closest_marker("slow") else 2
        file = item.nodeid.split("::")[0]
        first[file] = min(rank, first.get(file, rank))
    items.sort(key=lambda item: first[item.nodeid.split("::")[0]])
