"""An event loop whose clock moves only when everybody waits.

``select()`` advances a counter instead of sleeping, so ``asyncio.sleep`` and every timeout
follow it, and an hour of protocol passes in milliseconds. One thread, no sockets, no wall
clock: the same coroutines make the same run.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Every task waits for something that nothing will do."""


class _Selector(selectors.SelectSelector):
    """Watches nothing; waiting is how time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is scheduled")
        if timeout > 0:
            self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Tells virtual seconds since its own start."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end on a fresh virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
