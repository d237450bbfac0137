"""What p2pd hands over: whose streams are closed unread, and what is kept of the others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hivemind.proto import p2pd_pb2

from keys.peer import PeerId
from mesh.p2p import stream_listener
from mesh.p2p.channel import ChannelClosed, SocketChannel
from mesh.p2p.delimited import encode_message
from mesh.p2p.stream_listener import MAX_INTRODUCTION, StreamListener
from mesh.p2p.traffic import ByteCounter
from tests.support.p2p import make_key

ALICE, MALLORY = make_key("alice").peer_id, make_key("mallory").peer_id
TIMEOUT_S = 10.0


class Grounds:
    """A listener, what it hands over, and streams as p2pd opens them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "streams.sock"
        self._opened: list[socket.socket] = []
        self.taken: asyncio.Queue[tuple[PeerId, socket.socket, bytes]] = asyncio.Queue()
        self.listener = StreamListener.open(
            self._path,
            turn_away=lambda peer: peer == MALLORY,
            on_stream=lambda *stream: self.taken.put_nowait(stream),
        )

    async def open_stream(self, first: bytes) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.setblocking(False)
        self._opened.append(stream)
        await asyncio.get_running_loop().sock_connect(stream, str(self._path))
        await self.send(stream, first)
        return stream

    async def send(self, stream: socket.socket, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(stream, data)

    async def take(self) -> tuple[PeerId, bytes]:
        async with asyncio.timeout(TIMEOUT_S):
            peer, stream, arrived = await self.taken.get()
        stream.close()
        return peer, arrived

    def close(self) -> None:
        self.listener.close()
        for stream in self._opened:
            stream.close()
        while not self.taken.empty():
            self.taken.get_nowait()[1].close()


@pytest.fixture
async def grounds(tmp_path: Path) -> AsyncIterator[Grounds]:
    grounds = Grounds(tmp_path)
    yield grounds
    grounds.close()


def introduce(peer: PeerId, *, address: bytes = b"\x04\x7f\x00\x00\x01\x06\x00\x01") -> bytes:
    about = p2pd_pb2.StreamInfo(peer=peer.to_bytes(), addr=address, proto="/mesh/rpc/2")
    return encode_message(about.SerializeToString())


async def is_closed(stream: socket.socket) -> bool:
    """Whether the other end closes it without a word."""
    async with asyncio.timeout(TIMEOUT_S):
        with contextlib.suppress(ConnectionResetError):
            return not await asyncio.get_running_loop().sock_recv(stream, 1)
        return True


async def test_a_stream_is_handed_over_with_what_was_read_of_it(grounds: Grounds) -> None:
    await grounds.open_stream(introduce(ALICE) + b"an opening")
    assert await grounds.take() == (ALICE, b"an opening")
    await grounds.open_stream(introduce(ALICE))
    assert await grounds.take() == (ALICE, b"")


async def test_a_long_message_about_a_stream_has_a_length_of_two_bytes(grounds: Grounds) -> None:
    long = introduce(ALICE, address=bytes(200))
    assert long[0] > 0x7F
    await grounds.open_stream(long + b"x")
    assert await grounds.take() == (ALICE, b"x")


async def test_who_is_turned_away_finds_the_stream_closed_and_it_is_not_handed_over(
    grounds: Grounds,
) -> None:
    refused = await grounds.open_stream(introduce(MALLORY) + b"x" * 4096)
    assert await is_closed(refused)
    await grounds.open_stream(introduce(ALICE))
    assert await grounds.take() == (ALICE, b"")
    assert grounds.taken.empty()


async def test_a_message_in_parts_is_waited_for(grounds: Grounds) -> None:
    about = introduce(ALICE, address=bytes(200))
    slow = await grounds.open_stream(b"")
    for byte in about[:3]:
        await grounds.send(slow, bytes([byte]))
        # It is taken, with what there is of it, before the next byte comes.
        await grounds.open_stream(introduce(ALICE))
        await grounds.take()
    await grounds.send(slow, about[3:] + b"late")
    assert await grounds.take() == (ALICE, b"late")


@pytest.mark.parametrize(
    "first",
    [
        encode_message(p2pd_pb2.StreamInfo(peer=b"RSA", addr=b"", proto="x").SerializeToString()),
        encode_message(b"\xff" * 40),
        encode_message(b""),
        b"\xff\xff\xff\xff",
        b"\xff\x7f" + bytes(MAX_INTRODUCTION),
    ],
    ids=["another key", "no message", "no sender", "no length", "too long"],
)
async def test_a_stream_without_a_usable_sender_is_closed(grounds: Grounds, first: bytes) -> None:
    assert await is_closed(await grounds.open_stream(first))
    assert grounds.taken.empty()


async def test_a_stream_that_ends_before_its_sender_is_known_is_forgotten(
    grounds: Grounds,
) -> None:
    (await grounds.open_stream(introduce(ALICE)[:5])).close()
    await grounds.open_stream(introduce(ALICE))
    assert await grounds.take() == (ALICE, b"")


async def test_of_too_many_silent_streams_the_oldest_is_closed(
    grounds: Grounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_listener, "MAX_WAITING", 2)
    silent = [await grounds.open_stream(b"") for _ in range(3)]
    assert await is_closed(silent[0])
    await grounds.send(silent[1], introduce(ALICE))
    assert await grounds.take() == (ALICE, b"")


async def test_after_one_was_turned_away_the_next_ones_wait_and_are_taken_together(
    grounds: Grounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_listener, "PAUSE_S", 3600.0)
    assert await is_closed(await grounds.open_stream(introduce(MALLORY)))
    for text in (b"first", b"second"):
        await grounds.open_stream(introduce(ALICE) + text)
    for _ in range(10):
        await asyncio.sleep(0)
    assert grounds.taken.empty()
    monkeypatch.undo()
    grounds.listener._accept()
    assert [await grounds.take() for _ in range(2)] == [(ALICE, b"first"), (ALICE, b"second")]
    # Streams wait only after one was turned away; the last two were not.
    await grounds.open_stream(introduce(ALICE) + b"third")
    assert await grounds.take() == (ALICE, b"third")


async def test_without_file_descriptors_nothing_is_taken_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_listener, "RETRY_S", 0.01)
    grounds, tried = Grounds(tmp_path), []
    real = grounds.listener._listening

    class Exhausted:
        """Has no descriptor for the first stream."""

        fileno = real.fileno
        close = real.close

        def accept(self) -> tuple[socket.socket, object]:
            tried.append(asyncio.get_running_loop().time())
            if len(tried) == 1:
                raise OSError(errno.EMFILE, "too many open files")
            return real.accept()

    grounds.listener._listening = Exhausted()  # type: ignore[assignment]
    try:
        await grounds.open_stream(introduce(ALICE))
        assert await grounds.take() == (ALICE, b"")
        # One try that failed, one that took the stream, one that found no other.
        assert len(tried) == 3
        assert tried[1] - tried[0] >= 0.005
    finally:
        grounds.close()


async def test_a_closed_listener_drops_what_waits(grounds: Grounds) -> None:
    silent = await grounds.open_stream(b"")
    await grounds.open_stream(introduce(ALICE))
    await grounds.take()
    grounds.listener.close()
    assert await is_closed(silent)
    grounds.listener.close()


async def test_a_channel_over_a_handed_over_stream_begins_with_what_was_read() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    traffic = ByteCounter()
    theirs.send(b" late")
    channel = await SocketChannel.accept(ALICE, ours, b"early", traffic=traffic)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            assert await channel.read_exactly(10) == b"early late"
            await channel.write(b"answer")
        assert theirs.recv(6) == b"answer"
        assert (traffic.received, traffic.sent) == (10, 6)
        theirs.close()
        with pytest.raises(ChannelClosed):
            await channel.read_exactly(1)
    finally:
        channel.abort()
        theirs.close()
