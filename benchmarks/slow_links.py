"""Slow links between processes: a TCP proxy in front of a port, whose link may change at any time.

TCP hides loss: a lost packet is late, and so is all that follows it. So loss is delay here too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

CHUNK = 1 << 16
RETRANSMISSION_S = 0.3
"""What a lost packet costs: TCP sends it again, and what follows waits for it."""
MAX_CHUNKS = 64
TICK_S = 0.001
"""The event loop sleeps for whole ticks: a few bytes would cost more than their time."""
MEGABIT = 125_000
"""Bytes a second of 1 Mbit/s."""


@dataclass(slots=True)
class Link:
    """What holds for each direction of every connection over it.

    ``delay_s`` is one way; up to ``jitter_s`` is added to it. ``loss`` is a share of the chunks.
    ``bandwidth``, in bytes a second, is shared by all connections in one direction; 0 is unlimited.
    ``stall`` stops all delivery, where it stands, and ``resume`` lets it go on.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bandwidth: float = 0.0
    draw: Random = field(default_factory=lambda: Random(0))
    passed: int = 0
    """Bytes that were delivered, in both directions."""
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while bytes wait because delivery was stopped."""
    _stall_at: int | None = None
    _goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def stall(self, *, after: int = 0) -> None:
        """Stop delivery once ``after`` more bytes have passed, also in the middle of a frame."""
        self._stall_at = self.passed + after
        self._goes_on.clear()

    def resume(self) -> None:
        self._stall_at = None
        self.stalled.clear()
        self._goes_on.set()

    async def take_turn(self, size: int) -> int:
        """Return how many of the next ``size`` bytes may pass now; waits while there are none."""
        while self._stall_at is not None and self.passed >= self._stall_at:
            self.stalled.set()
            await self._goes_on.wait()
        allowed = size if self._stall_at is None else min(size, self._stall_at - self.passed)
        self.passed += allowed
        return allowed

    def draw_delay_s(self) -> float:
        """Return the delay of the next chunk, without its place behind others."""
        late_s = RETRANSMISSION_S if self.draw.random() < self.loss else 0.0
        return self.delay_s + self.draw.random() * self.jitter_s + late_s


class LinkProxy:
    """Proxies whose connections all lead over one link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._cuts: set[asyncio.Event] = set()
        """One of each open connection; who sets it cuts the connection."""
        self._free_s = [0.0, 0.0]
        """When each direction has sent what it took."""

    def cut_all(self) -> None:
        """Break every connection without a word."""
        for cut in self._cuts:
            cut.set()

    @asynccontextmanager
    async def serve(self, target: int) -> AsyncIterator[int]:
        """Yield the port of a proxy in front of ``target`` on this machine."""
        server = await asyncio.start_server(partial(self._pass_on, target), "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self.cut_all()

    async def _pass_on(
        self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        cut = asyncio.Event()
        self._cuts.add(cut)
        try:
            async with asyncio.TaskGroup() as tasks:
                taking: list[asyncio.Task[None]] = []
                ending: list[asyncio.Task[Any]] = [tasks.create_task(cut.wait())]
                for way, (source, sink) in enumerate(((reader, far_writer), (far_reader, writer))):
                    chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_CHUNKS)
                    taking.append(tasks.create_task(self._take(way, source, chunks)))
                    ending.append(tasks.create_task(self._deliver(chunks, sink)))
                # The end of one direction ends both.
                await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
                for task in (*taking, *ending):
                    task.cancel()
        finally:
            self._cuts.discard(cut)
            for end in (writer, far_writer):
                end.transport.abort()

    async def _take(
        self, way: int, source: asyncio.StreamReader, chunks: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        data = b"more"
        while data:
            try:
                data = await source.read(CHUNK)
            except OSError:
                data = b""
            await chunks.put((self._schedule(way, len(data)), data))

    def _schedule(self, way: int, size: int) -> float:
        """Return when a chunk arrives that is sent now."""
        now_s = time.monotonic()
        sent_s = now_s
        if self.link.bandwidth:
            sent_s = max(now_s, self._free_s[way]) + size / self.link.bandwidth
            self._free_s[way] = sent_s
        return sent_s + self.link.draw_delay_s()

    async def _deliver(
        self, chunks: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        """Pass on in order, none before its time, until the source or the sink has ended."""
        while True:
            due, data = await chunks.get()
            wait_s = due - time.monotonic()
            await asyncio.sleep(wait_s if wait_s > TICK_S / 2 else 0.0)
            if not data:
                return
            try:
                while data:
                    allowed = await self.link.take_turn(len(data))
                    sink.write(data[:allowed])
                    await sink.drain()
                    data = data[allowed:]
            except OSError:
                return
