"""How the threads of node processes on one machine wait, so that they share its cores.

OpenMP reads these variables when torch is imported, so a launcher sets them before. The number of
threads is a setting of each engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

PASSIVE_WAIT_ENVIRONMENT: Mapping[str, str] = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
}
"""Idle OpenMP threads sleep at once (GNU and LLVM runtimes).

By default an idle thread spins for milliseconds, and two processes with two spinning threads each
on two cores fight.
"""
BRIEF_SPINS = "20000"
"""How often a thread looks for the next kernel before it sleeps, for GNU's runtime: 0.4 ms on a
Zen 4 core, longer than Python takes between two kernels of a step.
"""

_set_here: set[str] = set()


def wait_passively() -> None:
    """Set what the environment leaves open, here and for child processes; before torch loads."""
    for name, value in PASSIVE_WAIT_ENVIRONMENT.items():
        if name not in os.environ:
            os.environ[name] = value
            _set_here.add(name)


def wait_briefly() -> None:
    """Let threads look for the next kernel before they sleep, unless the environment says
    otherwise; before torch loads.

    For processes whose engine chooses its number of threads (mesh/inference/thread_choice.py):
    with a fixed one, processes that share cores would wait for each other's spinning threads.

    GNU's runtime lets no thread look where a process has more OpenMP threads than cores. Each
    Python thread that ran a large operation keeps helpers of its own until it ends, so in a node
    only the compute thread may live on with some: loading runs in a thread that ends
    (mesh/model/abandon.py), and what the event loop's thread asks of torch takes one thread.
    """
    wait_passively()
    if "GOMP_SPINCOUNT" in _set_here:
        os.environ["GOMP_SPINCOUNT"] = BRIEF_SPINS
