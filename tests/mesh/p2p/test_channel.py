"""A channel over a real socket: what arrives early, what nobody takes, what nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import AsyncIterator

import pytest

from mesh.p2p import channel as channel_module
from mesh.p2p.channel import MAX_UNREAD, ChannelClosed, SocketChannel
from tests.support.p2p import make_key

PEER = make_key("peer").peer_id
TIMEOUT_S = 10.0
CHUNK = b"x" * 65_536


@contextlib.asynccontextmanager
async def connect(early: bytes = b"") -> AsyncIterator[tuple[SocketChannel, socket.socket]]:
    """A channel, and the bare socket of its peer, which has said ``early`` before."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    theirs.send(early)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    while early and not reader._buffer:  # noqa: ASYNC110 - asyncio tells nobody
        await asyncio.sleep(0)
    channel = await SocketChannel.adopt(PEER, reader, writer)
    channel.open_shortcut()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield channel, theirs
    finally:
        channel.abort()
        theirs.close()


async def receive(theirs: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await asyncio.get_running_loop().sock_recv(theirs, size - len(data))
    return bytes(data)


async def test_what_arrived_before_the_channel_took_over_is_not_lost() -> None:
    async with connect(b"early") as (channel, theirs):
        theirs.send(b" late")
        assert await channel.read_exactly(10) == b"early late"


async def test_a_connection_that_ended_before_is_an_ended_channel() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    theirs.close()
    writer.transport.abort()
    channel = await SocketChannel.adopt(PEER, reader, writer)
    channel.open_shortcut()
    with pytest.raises(ChannelClosed):
        await channel.read_exactly(1)
    with pytest.raises(ChannelClosed):
        await channel.write(b"x")


async def test_an_end_in_the_middle_of_a_message_is_no_message() -> None:
    async with connect() as (channel, theirs):
        theirs.send(b"half")
        theirs.close()
        with pytest.raises(ChannelClosed):
            await channel.read_exactly(8)


async def test_a_peer_is_held_back_while_nobody_takes_what_it_sends() -> None:
    async with connect() as (channel, theirs):
        loop, sent = asyncio.get_running_loop(), 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    await loop.sock_sendall(theirs, CHUNK)
                    sent += len(CHUNK)
        assert len(channel._arrived) < MAX_UNREAD + 4 * len(CHUNK)
        assert sent < 4 << 20
        # Whoever then takes it lets the peer go on, and misses nothing.
        for _ in range(sent // len(CHUNK)):
            assert await channel.read_exactly(len(CHUNK)) == CHUNK


async def test_a_message_larger_than_what_may_wait_arrives_whole() -> None:
    async with connect() as (channel, theirs):
        message = bytes(range(256)) * (8 * MAX_UNREAD // 256)
        sending = asyncio.get_running_loop().sock_sendall(theirs, message)
        _, received = await asyncio.gather(sending, channel.read_exactly(len(message)))
        assert received == message


async def test_a_channel_that_was_closed_and_flushed_may_be_aborted_afterwards() -> None:
    async with connect() as (channel, theirs):
        loop, size = asyncio.get_running_loop(), 8 << 20
        channel.put(bytes(size))
        channel.close()
        while size:
            size -= len(await loop.sock_recv(theirs, 1 << 20))
        assert not await loop.sock_recv(theirs, 1)
        channel.abort()


@pytest.mark.parametrize("is_loop_busy", [False, True], ids=["idle loop", "busy loop"])
async def test_a_peer_that_reads_nothing_is_dropped_and_not_buffered_for_ever(
    monkeypatch: pytest.MonkeyPatch, is_loop_busy: bool
) -> None:
    monkeypatch.setattr(channel_module, "MAX_UNSENT", 1 << 20)
    async with connect() as (channel, _):
        refused = threading.Event()

        def flood() -> None:
            with contextlib.suppress(ChannelClosed):
                for _ in range(1000):
                    channel.put(CHUNK)
                return
            refused.set()

        flooding = threading.Thread(target=flood)
        flooding.start()
        while flooding.is_alive():
            if is_loop_busy:
                # It sends nothing meanwhile; what it sends later is no reason to go on.
                flooding.join(TIMEOUT_S)
            else:
                await asyncio.sleep(0)
        assert refused.is_set()
        with pytest.raises(ChannelClosed):
            while True:
                await asyncio.sleep(0.01)
                channel.take(1)


class BrokenSocket:
    """A socket that the system refuses to write to, though its peer is still there."""

    def __init__(self, real: socket.socket) -> None:
        self.close = real.close

    def send(self, data: bytes) -> int:
        raise OSError(errno.ENOBUFS, "No buffer space available")


async def test_nothing_follows_bytes_that_could_not_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connect() as (channel, theirs):
        channel.put(b"first")
        assert channel._shortcut is not None
        monkeypatch.setattr(channel, "_shortcut", BrokenSocket(channel._shortcut))
        with pytest.raises(ChannelClosed, match="No buffer space"):
            await asyncio.to_thread(channel.put, b"second")
        with pytest.raises(ChannelClosed):
            channel.put(b"third")
        assert await receive(theirs, 5) == b"first"
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""


async def test_bytes_of_a_thread_and_of_the_loop_keep_their_order() -> None:
    async with connect() as (channel, theirs):
        pieces = [bytes((number,)) * 300_000 for number in range(12)]

        async def put_in_turns() -> None:
            for piece in pieces[::2]:
                await asyncio.to_thread(channel.put, piece)
                channel.put(pieces[pieces.index(piece) + 1])

        wanted = b"".join(pieces)
        _, received = await asyncio.gather(put_in_turns(), receive(theirs, len(wanted)))
        assert received == wanted


async def test_a_closed_channel_keeps_no_descriptor_and_delivers_what_was_put() -> None:
    async with connect() as (channel, theirs):
        shortcut = channel._shortcut
        assert shortcut is not None
        channel.put(b"last words")
        channel.close()
        assert shortcut.fileno() == -1
        assert await receive(theirs, 10) == b"last words"
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
        with pytest.raises(ChannelClosed):
            await asyncio.to_thread(channel.put, b"too late")


async def test_a_cancelled_read_consumes_nothing() -> None:
    async with connect() as (channel, theirs):
        theirs.send(b"four")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await channel.read_exactly(8)
        theirs.send(b"more")
        assert await channel.read_exactly(8) == b"fourmore"
