"""An asyncio loop whose clock moves only when everybody waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _VirtualSelector(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing is scheduled: a deadlock"
        self.now += max(0.0, timeout)
        return super().select(0)


def run_in_virtual_time(work: Callable[[Callable[[], float]], Coroutine[Any, Any, None]]) -> float:
    """Run ``work(clock)`` and return how many virtual seconds passed."""
    selector = _VirtualSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        loop.run_until_complete(work(loop.time))
    finally:
        loop.close()
    return selector.now
