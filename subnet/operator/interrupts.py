"""SIGINT and SIGTERM as cancellation, so that everything started is stopped in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
EXIT_BASE = 128


async def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; the first signal cancels it, and the exit code says which it was."""
    loop = asyncio.get_running_loop()
    own_task = asyncio.current_task()
    assert own_task is not None
    caught: list[signal.Signals] = []

    def interrupt(number: signal.Signals) -> None:
        if not caught:
            caught.append(number)
            own_task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    try:
        return await work
    except asyncio.CancelledError:
        if not caught:
            raise
        raise SystemExit(EXIT_BASE + caught[0]) from None
