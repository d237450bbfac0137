"""Work on weights that may be given up: reading and hashing gigabytes takes minutes.

A thread cannot be cancelled, so such work asks between two tensors, or two pieces of one,
whether it is still wanted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mesh.errors import ModelError

T = TypeVar("T")

CheckWanted = Callable[[], None]
"""Raises Abandoned once the result is no longer wanted."""


class Abandoned(ModelError):
    """The work was given up, because its result is no longer wanted."""


def always_wanted() -> None:
    """Never give up: for callers who wait to the end."""


async def run_abandonable(work: Callable[[CheckWanted], T]) -> T:
    """Run ``work(check_wanted)`` in a thread; cancelled, give it up and wait until it has ended.

    The thread ends with the work, and its OpenMP threads with it (mesh/inference/threads.py).
    """
    is_unwanted = threading.Event()
    executor = ThreadPoolExecutor(1, thread_name_prefix="weights")

    def check_wanted() -> None:
        if is_unwanted.is_set():
            raise Abandoned("the weights are no longer wanted")

    running = asyncio.get_running_loop().run_in_executor(executor, work, check_wanted)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        is_unwanted.set()
        # Its result and its error have no receiver any more.
        await asyncio.gather(running, return_exceptions=True)
        raise
    finally:
        executor.shutdown(wait=False)
