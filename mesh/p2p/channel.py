"""A byte channel to one authenticated peer: what signed RPC runs over."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from keys.peer import PeerId
from mesh.p2p.traffic import ByteCounter

FLUSH_TIMEOUT_S = 30.0
MAX_UNREAD = 256 << 10
"""Bytes that wait to be taken before the peer has to wait, unless one message is longer."""
MAX_UNSENT = 16 << 20
"""Bytes put without waiting that may stay unsent; a peer that reads less is dropped."""


class ChannelClosed(Exception):
    """The other end closed the channel, or the connection broke."""


class Channel(Protocol):
    """Reliable ordered bytes in both directions. All but ``put`` belongs to the event loop."""

    peer_id: PeerId
    """The peer at the other end, as the transport authenticated it."""
    takes_early: bool
    """Whether the peer knows early streams."""

    def take(self, size: int) -> bytes | None:
        """Return that many bytes once they have arrived, None before. Raises ChannelClosed."""
        ...

    async def wait(self) -> None:
        """Wait until something arrives, the end included, after ``take`` returned None."""
        ...

    def watch(self, on_arrival: Callable[[], None] | None) -> None:
        """Call back whenever something arrives, the end included; None stops that."""
        ...

    async def read_exactly(self, size: int) -> bytes:
        """Read that many bytes; a cancelled read consumes nothing. Raises ChannelClosed."""
        while (data := self.take(size)) is None:
            await self.wait()
        return data

    def open_shortcut(self) -> None:
        """Get ready for other threads that put; without it they are slower."""
        ...

    def put(self, data: bytes) -> None:
        """Send without waiting, from any thread. Raises ChannelClosed."""
        ...

    async def drain(self) -> None:
        """Wait while the peer is slow. Raises ChannelClosed.

        A cancelled wait takes nothing back: the data is on its way.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Put, then drain. Raises ChannelClosed."""
        self.put(data)
        await self.drain()

    def close(self) -> None:
        """Close both directions; what was written is still delivered. Idempotent."""
        ...

    def abort(self) -> None:
        """Drop the connection and what was not delivered yet. Idempotent."""
        ...


class ArrivalSignal:
    """Wakes the reader of a channel, whether it waits or is called back."""

    def __init__(self) -> None:
        self._readable = asyncio.Event()
        self._on_arrival: Callable[[], None] | None = None

    async def wait(self) -> None:
        """Wait until something arrives after this call."""
        self._readable.clear()
        await self._readable.wait()

    def watch(self, on_arrival: Callable[[], None] | None) -> None:
        """Call back whenever something arrives; None stops that."""
        self._on_arrival = on_arrival

    def tell(self) -> None:
        """Say that something has arrived, or that nothing more will."""
        self._readable.set()
        if self._on_arrival is not None:
            self._on_arrival()


class SocketChannel(ArrivalSignal, asyncio.Protocol, Channel):
    """A channel over a connection of the event loop. Use :meth:`adopt` or :meth:`accept`.

    asyncio's own streams wake a task for whatever arrives; here a reader may take it in the very
    turn in which it arrived. And another thread writes to the socket itself while nothing older
    waits to be sent: asking the event loop to do it costs two wake-ups of a sleeping thread.
    """

    def __init__(
        self, peer_id: PeerId, transport: asyncio.BaseTransport, traffic: ByteCounter
    ) -> None:
        super().__init__()
        self.peer_id = peer_id
        self.takes_early = False
        self.protocol = ""
        """Which libp2p protocol a stream that we opened speaks."""
        self._traffic = traffic
        # Not checked by class: uvloop's transport is not a subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._writer: asyncio.StreamWriter | None = None
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._arrived = bytearray()
        self._wanted = 0
        self._is_paused = False
        self._at_end = False
        self._is_lost = False
        self._writable = asyncio.Event()
        self._writable.set()
        # Guards everything below, and the order of bytes on the socket.
        self._lock = threading.Lock()
        self._shortcut: socket.socket | None = None
        self._unsent = bytearray()
        self._is_clear = False
        self._is_closed = False

    @classmethod
    async def adopt(
        cls,
        peer_id: PeerId,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        traffic: ByteCounter | None = None,
    ) -> SocketChannel:
        """Take a connection over from asyncio's streams, with what has arrived already.

        ``traffic`` counts its bytes.
        """
        channel = cls(peer_id, writer.transport, traffic or ByteCounter())
        # Kept, since its finaliser would close the connection.
        channel._writer = writer
        writer.transport.set_protocol(channel)
        if writer.transport.is_closing():
            channel.connection_lost(None)
        # Nothing is waited for: at its end a reader gives what it has.
        reader.feed_eof()
        with suppress(OSError):
            channel.data_received(await reader.read())
        return channel

    @classmethod
    async def accept(
        cls,
        peer_id: PeerId,
        connection: socket.socket,
        arrived: bytes = b"",
        *,
        traffic: ByteCounter | None = None,
    ) -> SocketChannel:
        """Take over a bare connection, of which ``arrived`` has been read already.

        ``traffic`` counts its bytes.
        """

        class Handover(asyncio.Protocol):
            """Gives way to the channel before the transport reads."""

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.channel = cls(peer_id, transport, traffic or ByteCounter())
                cast(asyncio.Transport, transport).set_protocol(self.channel)
                if arrived:
                    self.channel.data_received(arrived)

        loop = asyncio.get_running_loop()
        try:
            _, handover = await loop.connect_accepted_socket(Handover, connection)
        except BaseException:
            connection.close()
            raise
        return handover.channel

    def data_received(self, data: bytes) -> None:
        self._traffic.add_received(len(data))
        self._arrived += data
        if len(self._arrived) >= MAX_UNREAD:
            self._steer()
        self.tell()

    def eof_received(self) -> bool:
        self._at_end = True
        self.tell()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._at_end = self._is_lost = True
        self._close_shortcut()
        self._writable.set()
        self.tell()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def take(self, size: int) -> bytes | None:
        if len(self._arrived) < size:
            if self._at_end:
                raise ChannelClosed("the peer closed the connection")
            self._wanted = size
            if self._is_paused:
                self._steer()
            return None
        data = bytes(memoryview(self._arrived)[:size])
        del self._arrived[:size]
        self._wanted = 0
        if self._is_paused:
            self._steer()
        return data

    def open_shortcut(self) -> None:
        """Let other threads write to the socket; takes a file descriptor more."""
        if self._transport.is_closing():
            return
        ours = self._transport.get_extra_info("socket")
        with self._lock:
            if ours is not None and self._shortcut is None and not self._is_closed:
                # Of our own, since the transport may close its descriptor at any time.
                self._shortcut = ours.dup()

    def put(self, data: bytes) -> None:
        self._traffic.add_sent(len(data))
        if threading.get_ident() == self._loop_thread:
            self._write_on_loop(data)
            return
        with self._lock:
            if self._is_closed:
                raise ChannelClosed("the connection is closed")
            if len(self._unsent) > MAX_UNSENT:
                raise self._drop("the peer reads too slowly")
            sent = self._send_directly(data) if self._is_clear and not self._unsent else 0
            if sent == len(data):
                return
            self._unsent += data[sent:]
        self._ask_loop(self._flush)

    async def drain(self) -> None:
        await self._writable.wait()
        if self._is_closed:
            raise ChannelClosed("the connection is closed")

    def close(self) -> None:
        self._flush()
        self._close_shortcut()
        if self._transport.is_closing():
            return
        self._transport.close()
        if self._transport.get_write_buffer_size():
            # A peer that reads nothing must not keep the descriptor open.
            self._loop.call_later(FLUSH_TIMEOUT_S, self.abort)

    def abort(self) -> None:
        self._close_shortcut()
        # asyncio's transport trips over an abort after it was closed and has sent the rest.
        if not self._is_lost:
            self._transport.abort()

    def _ask_loop(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # The loop has ended, and the connection with it.
            self._loop.call_soon_threadsafe(call)

    def _steer(self) -> None:
        """Stop the peer while more waits than a reader asked for."""
        if self._at_end:
            return
        is_full = len(self._arrived) >= max(MAX_UNREAD, self._wanted)
        if is_full is self._is_paused:
            return
        self._is_paused = is_full
        if is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _flush(self) -> None:
        with suppress(ChannelClosed):
            self._write_on_loop(b"")

    def _write_on_loop(self, data: bytes) -> None:
        """Send what waits, then ``data``."""
        with self._lock:
            if self._is_closed:
                raise ChannelClosed("the connection is closed")
            if self._unsent:
                data = bytes(self._unsent) + data
                self._unsent.clear()
            if data:
                self._transport.write(data)
            unsent = self._transport.get_write_buffer_size()
            self._is_clear = not unsent
        if unsent > MAX_UNSENT:
            self.abort()

    def _send_directly(self, data: bytes) -> int:
        """Return how many bytes the socket took."""
        if self._shortcut is None:
            return 0
        try:
            return self._shortcut.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._drop(f"the connection broke: {error}") from error

    def _drop(self, why: str) -> ChannelClosed:
        """End the channel, from any thread that holds the lock, and return what to raise.

        What is not sent now would be missing in the middle of what the peer reads.
        """
        self._is_closed = True
        self._ask_loop(self.abort)
        return ChannelClosed(why)

    def _close_shortcut(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._shortcut is not None:
                self._shortcut.close()
                self._shortcut = None
