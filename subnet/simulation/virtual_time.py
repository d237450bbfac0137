"""An event loop whose clock moves only when everybody waits.

``asyncio.sleep`` and every timeout follow a counter instead of the machine's clock, so an hour of
protocol passes in milliseconds. One thread, no sockets, no wall clock: the same coroutines make the
same run.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
RESOLUTION_S = 1e-9
"""Timers that are due within so many seconds run in one turn, as asyncio's do on Linux."""
MIN_TIMERS = 100
"""Below so many timers, cancelled ones wait in the heap until their time comes."""


class Deadlock(Exception):
    """Every task waits for something that nothing will do."""


class _Handle(asyncio.Handle):
    """A callback of this loop, which has no debug mode to ask for."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[[*Ts], object],
        args: tuple[*Ts],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        _fill(self, callback, args, loop, context)


class _Timer(asyncio.TimerHandle):
    """A callback at a time of this loop."""

    __slots__ = ()
    _scheduled: bool

    def __init__(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        args: tuple[*Ts],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        _fill(self, callback, args, loop, context)
        self._when = when
        self._scheduled = True


def _fill(
    handle: Any, callback: object, args: object, loop: VirtualLoop, context: Context | None
) -> None:
    """Set what a handle of asyncio consists of."""
    handle._context = copy_context() if context is None else context
    handle._loop = loop
    handle._callback = callback
    handle._args = args
    handle._cancelled = False
    handle._repr = None
    handle._source_traceback = None


class VirtualLoop(asyncio.SelectorEventLoop):
    """Tells virtual seconds since its own start.

    It schedules like asyncio's loop, without what only real I/O needs: a selector, a debug mode,
    checks for other threads. Beside a timer the heap has its time, so that heaps compare numbers,
    and timers of one time keep the order that asyncio gives them.
    """

    _ready: deque[asyncio.Handle]
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._timers: list[tuple[float, _Timer]] = []

    def time(self) -> float:
        return self._now_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, timer))
        return timer

    def _run_once(self) -> None:
        """Run what is ready; if nothing is, let time pass until the next timer is due."""
        if self._timer_cancelled_count:
            self._drop_cancelled()
        timers, ready = self._timers, self._ready
        if not ready and not self._stopping:
            if not timers:
                raise Deadlock("nothing is scheduled")
            wait_s = timers[0][0] - self._now_s
            if wait_s > 0:
                self._now_s += wait_s
        due_s = self._now_s + RESOLUTION_S
        while timers and timers[0][0] < due_s:
            _, timer = heapq.heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _drop_cancelled(self) -> None:
        """Forget cancelled timers: those at the head, and all once they are most of many."""
        timers = self._timers
        if len(timers) > MIN_TIMERS and 2 * self._timer_cancelled_count > len(timers):
            for _, timer in timers:
                timer._scheduled = not timer._cancelled
            self._timers = [entry for entry in timers if not entry[1]._cancelled]
            heapq.heapify(self._timers)
            self._timer_cancelled_count = 0
            return
        while timers and timers[0][1]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(timers)[1]._scheduled = False


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end on a fresh virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
