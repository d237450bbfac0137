"""SIGINT and SIGTERM as cancellation, so that everything started is stopped in order."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import structlog

from subnet.operator.supervisor import Supervisor

T = TypeVar("T")
EXIT_BASE = 128
STOP_START_S = 1.5
"""Time that a process which is still starting gets to stop in order."""
STOP_S = 30.0
"""Time that a process which has started gets."""

Drain = Callable[[], Awaitable[None]]

logger = structlog.get_logger(__name__)


async def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; the first signal cancels it, and the exit code says which it was.

    The second one ends the process at once.
    """
    loop = asyncio.get_running_loop()
    own_task = asyncio.current_task()
    assert own_task is not None
    caught: list[signal.Signals] = []

    def interrupt(number: signal.Signals) -> None:
        if caught:
            end_at_once(number)
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


def end_at_once(number: signal.Signals) -> NoReturn:
    """End the process: as safe as a kill, because everything that it signed is on disk."""
    logger.warning("ending at once", signal=number.name)
    os._exit(EXIT_BASE + number)


class Service:
    """A process that runs until SIGTERM or SIGINT, and drains first once it has started.

    Stopping has a limit. A start may wait in threads that cannot be cancelled, and has promised
    nothing yet, so it gets only STOP_START_S; then the process ends at once. So it does
    at a second signal. ``supervisor`` hears a beat until then.
    """

    def __init__(self, supervisor: Supervisor | None = None) -> None:
        self._supervisor = supervisor or Supervisor()
        self._drain: Drain | None = None

    def note_started(self, drain: Drain) -> None:
        """Let ``drain`` run before ``work`` is cancelled."""
        self._drain = drain

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` until a signal. Raises, in a group, whatever else ends it."""
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()

        def interrupt(number: signal.Signals) -> None:
            if stopping.is_set():
                end_at_once(number)
            stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, interrupt, number)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(work)
            beating = tasks.create_task(self._supervisor.beat())
            await stopping.wait()
            logger.info("stopping")
            self._supervisor.note_stopping()
            limit_s = STOP_START_S if self._drain is None else STOP_S
            limit = threading.Timer(limit_s, os._exit, (0,))
            limit.daemon = True
            limit.start()
            if self._drain is not None:
                await self._drain()
            running.cancel()
            beating.cancel()
