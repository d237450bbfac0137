"""How many answers are generated at once, in whole and for each key."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mesh.api.auth import ANONYMOUS
from mesh.api.limits import Limits
from mesh.api.problems import Problem, make_overloaded


@dataclass(slots=True)
class Gate:
    """First come, first served; the queue is bounded in length and in time."""

    limits: Limits
    _running: Counter[str] = field(default_factory=Counter)
    _waiting: int = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.limits.max_generations)

    @asynccontextmanager
    async def enter(self, caller: str, *, places: int) -> AsyncIterator[None]:
        """Hold ``places`` while the block runs. Raises Problem 429 or 503 with Retry-After."""
        self._check_share(caller, places)
        self._running[caller] += places
        held = 0
        try:
            # In turn, so that two requests never wait for each other's half of the places.
            async with self._queueing(), self._turn:
                while held < places:
                    await self._places.acquire()
                    held += 1
            yield
        finally:
            self._running[caller] -= places
            if not self._running[caller]:
                del self._running[caller]
            for _ in range(held):
                self._places.release()

    def _check_share(self, caller: str, places: int) -> None:
        if places > self.limits.max_generations:
            raise Problem(400, "The request asks for too many answers at once.", param="n")
        if caller == ANONYMOUS:
            return
        if self._running[caller] + places > self.limits.max_generations_per_key:
            raise Problem(
                429,
                "Too many answers at once for this key.",
                kind="rate_limit_error",
                code="concurrency_limit_exceeded",
                retry_after_s=1,
            )

    @asynccontextmanager
    async def _queueing(self) -> AsyncIterator[None]:
        if self._waiting >= self.limits.max_waiting:
            raise make_overloaded()
        self._waiting += 1
        try:
            async with asyncio.timeout(self.limits.max_wait_s):
                yield
        except TimeoutError:
            raise make_overloaded(retry_after_s=5) from None
        finally:
            self._waiting -= 1
