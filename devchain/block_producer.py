"""The task that builds blocks by the clock or on request, and tells listeners of each block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from devchain.block_store import BlockStore
from devchain.blocks import Block
from devchain.chain import Chain, Rejected
from devchain.config import BlockMode
from devchain.extrinsics import SignedExtrinsic

MAX_NEW_BLOCKS = 512
"""Most blocks that one request may build."""

Listener = Callable[[Block, list[Rejected]], None]


@dataclass
class BlockProducer:
    """Builds blocks by the clock, on demand or on request, and tells its listeners.

    ``now_ms`` is the wall clock in milliseconds since 1970.
    """

    chain: Chain
    now_ms: Callable[[], int]
    mode: BlockMode
    block_seconds: float
    store: BlockStore | None = None
    listeners: set[Listener] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _requested: bool = False
    _clock_offset_ms: int = 0

    def read_clock(self) -> int:
        """Return the chain's time now: the wall clock, moved by :meth:`travel`."""
        return self.now_ms() + self._clock_offset_ms

    def travel(self, timestamp_ms: int) -> None:
        """Set the chain's clock to ``timestamp_ms``; block times never decrease."""
        self._clock_offset_ms = timestamp_ms - self.now_ms()

    def submit(self, raw: bytes) -> SignedExtrinsic:
        """Take an extrinsic into the pool; see :meth:`Chain.submit`."""
        extrinsic = self.chain.submit(raw)
        self._requested = True
        self._wake.set()
        return extrinsic

    def set_mode(self, mode: BlockMode, block_seconds: float) -> None:
        """Change what makes a block, from now on."""
        self.mode, self.block_seconds = mode, block_seconds
        self._wake.set()

    def build(self, count: int = 1) -> Block:
        """Build ``count`` blocks now; return the last."""
        for _ in range(count):
            block, rejected = self.chain.build(self.read_clock())
            if self.store is not None:
                self.store.append(block)
            for listener in list(self.listeners):
                listener(block, rejected)
        return self.chain.head

    async def run(self) -> None:
        """Build blocks until cancelled."""
        clock = asyncio.get_running_loop().time
        due = clock() + self.block_seconds
        while True:
            self._wake.clear()
            if self.mode is BlockMode.INSTANT and self._requested:
                self._requested = False
                self.build()
            if self.mode is BlockMode.INTERVAL and clock() >= due:
                self.build()
                # A machine that fell behind goes on from here instead of catching up.
                due = max(due + self.block_seconds, clock())
            if self.mode is not BlockMode.INTERVAL:
                due = clock() + self.block_seconds
            due = min(due, clock() + self.block_seconds)
            await self._sleep_until(due if self.mode is BlockMode.INTERVAL else None)

    async def _sleep_until(self, when: float | None) -> None:
        try:
            async with asyncio.timeout_at(when):
                await self._wake.wait()
        except TimeoutError:
            pass
