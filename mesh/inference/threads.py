"""Settings with which node processes on one machine share its cores.

Two processes with two spinning threads each on two cores fight: an idle OpenMP thread spins for
milliseconds by default. A launcher sets these variables before the process imports torch; the
number of threads itself is a setting of each engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

PASSIVE_WAIT_ENVIRONMENT: Mapping[str, str] = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
}
"""Idle OpenMP threads sleep at once (GNU and LLVM runtimes)."""


def wait_passively() -> None:
    """Set what the environment leaves open, here and for child processes; before torch loads."""
    for name, value in PASSIVE_WAIT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
