"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import chopsticks


@pytest.fixture(scope="session")
def real_runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the real Hypertensor runtime, started once; tests share its state."""
    missing = chopsticks.find_missing()
    if missing is not None:
        pytest.skip(missing)
    with chopsticks.run_chopsticks(tmp_path_factory.mktemp("chopsticks")) as url:
        yield url
