"""However an endpoint frames its bytes, only so many are kept for one request."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from websocket import ABNF, WebSocketPayloadException
from websockets.sync.server import ServerConnection, serve

from subnet.chain import head_subscription
from subnet.chain.bounded_socket import BoundedSocket
from subnet.chain.chain_session import ChainSession
from subnet.errors import ChainUnavailable

LIMIT = 1000


@pytest.fixture
def pair() -> Iterator[tuple[BoundedSocket, socket.socket]]:
    """Return a socket whose handshake is done, and its other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bounded = BoundedSocket()
        bounded.sock, bounded.connected, bounded.max_bytes = ours, True, LIMIT
        yield bounded, theirs


def frame(size: int, *, opcode: int = ABNF.OPCODE_TEXT, fin: int = 1) -> bytes:
    return bytes(ABNF(fin, 0, 0, 0, opcode, 0, b"x" * size).format())


def test_an_answer_within_the_limit_is_taken(pair: tuple[BoundedSocket, socket.socket]) -> None:
    bounded, theirs = pair
    for _ in range(3):
        bounded.send("ask")
        theirs.sendall(frame(LIMIT - 10))
        assert len(bounded.recv()) == LIMIT - 10


@pytest.mark.parametrize(
    "sent",
    [
        b"\x81\x7f" + (1 << 40).to_bytes(8, "big") + b"x" * LIMIT,
        frame(300) * 4,
        frame(300, fin=0) + frame(300, fin=0, opcode=ABNF.OPCODE_CONT) * 3,
        (frame(300, fin=0) + frame(0, opcode=ABNF.OPCODE_PING))
        + (frame(300, fin=0, opcode=ABNF.OPCODE_CONT) + frame(0, opcode=ABNF.OPCODE_PING)) * 3,
    ],
    ids=["one frame", "messages", "one message in parts", "pings between the parts"],
)
def test_more_than_the_limit_ends_the_connection(
    pair: tuple[BoundedSocket, socket.socket], sent: bytes
) -> None:
    bounded, theirs = pair
    bounded.send("ask")
    theirs.sendall(sent)
    with pytest.raises(WebSocketPayloadException, match="more than 1000 bytes"):
        for _ in range(4):
            bounded.recv()
    assert not bounded.connected


@pytest.fixture
def serving() -> Iterator[Callable[[Callable[[ServerConnection], None]], str]]:
    """Return what starts a server of WebSockets, and returns its address."""
    servers = []

    def start(answer: Callable[[ServerConnection], None]) -> str:
        server = serve(answer, "127.0.0.1", 0, max_size=None)
        servers.append((server, threading.Thread(target=server.serve_forever)))
        servers[-1][1].start()
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()


def test_an_endpoint_that_floods_instead_of_answering_is_an_outage(
    serving: Callable[[Callable[[ServerConnection], None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flood(connection: ServerConnection) -> None:
        connection.recv()
        for number in range(4):
            connection.send(json.dumps({"id": -number, "result": "x" * 300}))
        # Until the other end closes.
        connection.recv()

    monkeypatch.setattr(BoundedSocket, "max_bytes", LIMIT)
    with pytest.raises(ChainUnavailable, match="more than 1000 bytes"):
        ChainSession.open(serving(flood), timeout_s=30.0, expected_genesis=None)


async def test_an_announcement_over_the_limit_ends_the_subscription(
    serving: Callable[[Callable[[ServerConnection], None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def announce(connection: ServerConnection) -> None:
        connection.recv()
        for size in (LIMIT // 2, LIMIT // 2, LIMIT // 2, LIMIT):
            connection.send(json.dumps({"params": "x" * size}))
        connection.recv()

    monkeypatch.setattr(head_subscription, "MAX_FRAME_BYTES", LIMIT)
    url = serving(announce)
    async with head_subscription.HeadListener(url) as listener:
        while listener.is_useful_at(url):
            await listener.wait(0.01)
        assert listener._heard == 3
