"""A byte channel to one authenticated peer: what signed RPC runs over."""

from __future__ import annotations

import asyncio
from typing import Protocol

from keys.peer import PeerId

FLUSH_TIMEOUT_S = 30.0


class ChannelClosed(Exception):
    """The other end closed the channel, or the connection broke."""


class Channel(Protocol):
    """Reliable ordered bytes in both directions."""

    @property
    def peer_id(self) -> PeerId:
        """The peer at the other end, as the transport authenticated it."""
        ...

    async def read_exactly(self, size: int) -> bytes:
        """Read that many bytes; a cancelled read consumes nothing. Raises ChannelClosed."""
        ...

    async def write(self, data: bytes) -> None:
        """Write all of ``data``, waiting while the peer is slow. Raises ChannelClosed.

        A cancelled wait takes nothing back: the data is on its way.
        """
        ...

    def close(self) -> None:
        """Close both directions; what was written is still delivered. Idempotent."""
        ...

    def abort(self) -> None:
        """Drop the connection and what was not delivered yet. Idempotent."""
        ...


class SocketChannel:
    """A channel over an asyncio stream pair."""

    def __init__(
        self, peer_id: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._peer_id = peer_id
        self._reader = reader
        self._writer = writer

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    async def read_exactly(self, size: int) -> bytes:
        try:
            return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ChannelClosed("the peer closed the connection") from error

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise ChannelClosed("the peer closed the connection") from error

    def close(self) -> None:
        transport = self._writer.transport
        if transport.is_closing():
            return
        self._writer.close()
        if transport.get_write_buffer_size():
            # A peer that reads nothing must not keep the descriptor open for ever.
            asyncio.get_running_loop().call_later(FLUSH_TIMEOUT_S, transport.abort)

    def abort(self) -> None:
        self._writer.transport.abort()
