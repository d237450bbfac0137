"""SIGINT and SIGTERM as cancellation, so that everything started is stopped in order."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
EXIT_BASE = 128
STOP_START_S = 1.5
"""Time that a process which is still starting gets to stop in order."""
STOP_S = 30.0
"""Time that a process which has started gets."""

Drain = Callable[[], Awaitable[None]]

logger = structlog.get_logger(__name__)


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


class Service:
    """A process that runs until SIGTERM or SIGINT, and drains first once it has started.

    Stopping has a limit. A start may wait in threads that cannot be cancelled, and has promised
    nothing to anybody yet, so it gets only STOP_START_S; then the process ends at once, which is
    as safe as a kill: everything that it signed is on disk.
    """

    def __init__(self) -> None:
        self._drain: Drain | None = None

    def note_started(self, drain: Drain) -> None:
        """Let ``drain`` run before ``work`` is cancelled."""
        self._drain = drain

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` until a signal. Raises, in a group, whatever else ends it."""
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(work)
            await stopping.wait()
            logger.info("stopping")
            limit_s = STOP_START_S if self._drain is None else STOP_S
            limit = threading.Timer(limit_s, os._exit, (0,))
            limit.daemon = True
            limit.start()
            if self._drain is not None:
                await self._drain()
            running.cancel()
