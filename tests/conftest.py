"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import chopsticks


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep local networks in one process of ``--dist loadgroup``: never two at a time."""
    for item in items:
        if item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.xdist_group("e2e"))


@pytest.fixture(scope="session")
def real_runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the real Hypertensor runtime, started once; tests share its state."""
    missing = chopsticks.find_missing()
    if missing is not None:
        pytest.skip(missing)
    with chopsticks.run_chopsticks(tmp_path_factory.mktemp("chopsticks")) as url:
        yield url
