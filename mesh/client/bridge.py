"""Calls from synchronous code into an event loop that runs in another thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

JOIN_S = 15.0
"""The daemon is asked to leave first, and killed after a few seconds."""


class LoopClosed(RuntimeError):
    """The loop has ended, so the work is not done."""


class LoopBridge:
    """Runs coroutines in the event loop of another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._has_ended = False
        # Reentrant, because a garbage collection inside it may post work of its own.
        self._lock = threading.RLock()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Wait for ``work``. An interrupt here cancels it there.

        Raises LoopClosed when the loop has ended, or ends before the work does.
        """
        if _is_running_here(self._loop):
            work.close()
            raise RuntimeError("this is the event loop's own thread: it would wait for itself")
        future = self._submit(work)
        if future is None:
            raise LoopClosed("the client is closed")
        try:
            return future.result()
        except CancelledError as error:
            raise LoopClosed("the client was closed meanwhile") from error
        finally:
            future.cancel()

    def post(self, make_work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start work without waiting for it. Does nothing when the loop has ended."""
        self._submit(make_work())

    def _submit(self, work: Coroutine[Any, Any, R]) -> Future[R] | None:
        with self._lock:
            if self._has_ended or self._loop.is_closed():
                work.close()
                return None
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def end(self) -> None:
        """Take no more work; what was taken has become a task of the loop when this returns."""
        with self._lock:
            self._has_ended = True
        await asyncio.sleep(0)


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class LoopThread(Generic[T]):
    """A background thread with an event loop that holds one resource open.

    The thread is a daemon: a program that forgets to close it still ends.
    """

    def __init__(self, name: str) -> None:
        self._runner = asyncio.Runner()
        self._name = name
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_closing = False

    def open(self, enter: Callable[[], AbstractAsyncContextManager[T]]) -> tuple[T, LoopBridge]:
        """Start the thread and enter the resource there. Raises what entering raises."""
        ready: Future[T] = Future()
        bridge = LoopBridge(self._runner.get_loop())

        def work() -> None:
            # Being cancelled is how this thread ends.
            with self._runner, contextlib.suppress(asyncio.CancelledError):
                self._runner.run(self._hold(enter, ready, bridge))

        self._thread = threading.Thread(target=work, name=self._name, daemon=True)
        self._thread.start()
        try:
            return ready.result(), bridge
        except BaseException:
            self.close()
            raise

    async def _hold(
        self,
        enter: Callable[[], AbstractAsyncContextManager[T]],
        ready: Future[T],
        bridge: LoopBridge,
    ) -> None:
        self._task = asyncio.current_task()
        if self._is_closing:
            return
        try:
            async with enter() as resource:
                ready.set_result(resource)
                await asyncio.Event().wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)
        finally:
            # Tasks that are left are cancelled with the loop, and their waiters get an error.
            await bridge.end()

    def close(self) -> None:
        """Leave the resource and end the thread; idempotent."""
        thread, self._thread = self._thread, None
        self._is_closing = True
        if thread is None:
            return
        # The loop is closed already where entering failed.
        with contextlib.suppress(RuntimeError):
            self._runner.get_loop().call_soon_threadsafe(self._cancel)
        if thread is not threading.current_thread():
            thread.join(JOIN_S)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
