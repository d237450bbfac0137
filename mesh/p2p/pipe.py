"""A byte channel within one process: for the in-memory network, and for calling oneself."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from keys.peer import PeerId
from mesh.p2p.channel import ArrivalSignal, Channel, ChannelClosed
from mesh.p2p.traffic import ByteCounter

MAX_BUFFERED = 256 << 10
"""A writer waits while more than this is unread, as it does over a socket."""


def _no_latency() -> float:
    return 0.0


class _Pipe(ArrivalSignal):
    """One direction. Chunks arrive in order, each after its own latency."""

    def __init__(self, latency_s: Callable[[], float]) -> None:
        super().__init__()
        self._latency_s = latency_s
        self._in_flight: deque[bytes | None] = deque()
        self._last_arrival = 0.0
        self._buffer = bytearray()
        self._unread = 0
        self._at_end = False
        self._closed = False
        self._writable = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()

    def take(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            if self._at_end:
                raise ChannelClosed("the peer closed the connection")
            return None
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._unread -= size
        self._writable.set()
        return data

    def put(self, data: bytes) -> None:
        if threading.get_ident() != self._loop_thread:
            self._loop.call_soon_threadsafe(self._put_on_loop, data)
        elif self._closed:
            raise ChannelClosed("the connection is closed")
        else:
            self._put_on_loop(data)

    def _put_on_loop(self, data: bytes) -> None:
        if not self._closed:
            self._unread += len(data)
            self._send(data)

    async def drain(self) -> None:
        while self._unread > MAX_BUFFERED:
            if self._closed:
                raise ChannelClosed("the connection is closed")
            self._writable.clear()
            await self._writable.wait()

    def close(self) -> None:
        """Let the reader reach the end once it has read what was written."""
        if not self._closed:
            self._closed = True
            self._writable.set()
            self._send(None)

    def abort(self) -> None:
        """End at once; what was not read is lost."""
        self._closed = True
        self._at_end = True
        self._in_flight.clear()
        self._writable.set()
        # As over a socket, the reader hears of it in a turn of its own.
        self._loop.call_soon(self.tell)

    def _send(self, chunk: bytes | None) -> None:
        loop = asyncio.get_running_loop()
        self._in_flight.append(chunk)
        self._last_arrival = max(self._last_arrival, loop.time() + self._latency_s())
        if self._last_arrival <= loop.time():
            self._arrive()
        else:
            loop.call_at(self._last_arrival, self._arrive)

    def _arrive(self) -> None:
        if not self._in_flight:
            return
        chunk = self._in_flight.popleft()
        if chunk is None:
            self._at_end = True
        else:
            self._buffer += chunk
        self.tell()


class PipeChannel(Channel):
    """One end of a pair of pipes. ``traffic`` counts its bytes, unless it is None."""

    def __init__(self, peer_id: PeerId, *, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.peer_id = peer_id
        self.takes_early = True
        self.traffic: ByteCounter | None = None
        self._incoming = incoming
        self._outgoing = outgoing

    def take(self, size: int) -> bytes | None:
        data = self._incoming.take(size)
        if data is not None and self.traffic is not None:
            self.traffic.add_received(len(data))
        return data

    async def wait(self) -> None:
        await self._incoming.wait()

    def watch(self, on_arrival: Callable[[], None] | None) -> None:
        self._incoming.watch(on_arrival)

    def open_shortcut(self) -> None:
        """There is none: the event loop is as near."""

    def put(self, data: bytes) -> None:
        if self.traffic is not None:
            self.traffic.add_sent(len(data))
        self._outgoing.put(data)

    async def drain(self) -> None:
        await self._outgoing.drain()

    def close(self) -> None:
        self._outgoing.close()
        # What the other end still sends is not read, so its writes fail from now on.
        self._incoming.abort()

    def abort(self) -> None:
        self._outgoing.abort()
        self._incoming.abort()


def open_pipe(
    client: PeerId, server: PeerId, *, latency_s: Callable[[], float] = _no_latency
) -> tuple[PipeChannel, PipeChannel]:
    """Return the client's and the server's end of a new channel."""
    upward, downward = _Pipe(latency_s), _Pipe(latency_s)
    return (
        PipeChannel(server, incoming=downward, outgoing=upward),
        PipeChannel(client, incoming=upward, outgoing=downward),
    )
