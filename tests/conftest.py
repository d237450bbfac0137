"""What tests of several rooms share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from mesh.inference.threads import wait_passively
from tests.support import chopsticks

# No test, and no command that one starts, reads the configuration of who runs the tests.
os.environ["MESH_CONFIG"] = os.devnull

# Before torch is loaded: the threads of several test processes would spin for the same cores.
wait_passively()

# A loaded machine and the count of lines make an example slow, not wrong.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first: one that is left for the end keeps one processor busy alone."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a command that runs in the tests' own process configures for its logs."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in before and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


@pytest.fixture(scope="module")
def real_runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the real Hypertensor runtime, whose state the tests of a module share.

    Each subnet doubles the price of the next one: those of all tests together cost too much.
    """
    missing = chopsticks.find_missing()
    if missing is not None:
        pytest.skip(missing)
    with chopsticks.run_chopsticks(tmp_path_factory.mktemp("chopsticks")) as url:
        yield url
