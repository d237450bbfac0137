"""Coverage is not counted here: the simulation runs the same lines thousands of times.

Counting would make it half as fast again, and what only a simulated network reaches is missing
from the tests of its own package. The table of cheats has few epochs and no other tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder but those of the table of cheats."""
    for item in items:
        is_here = item.path.is_relative_to(Path(__file__).parent)
        if is_here and item.path.name != "test_economics.py":
            item.add_marker("no_cover")
