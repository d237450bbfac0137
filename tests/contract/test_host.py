"""What every Host promises, asked of hivemind (real p2pd) and of the network in memory alike."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio

from keys.peer import PeerId, PeerKey
from mesh.errors import (
    PeerRefusal,
    PeerTimeout,
    PeerUnreachable,
    StreamBroken,
    StreamClosed,
)
from mesh.p2p.interface import MAX_FRAME_SIZE, MAX_UNARY_SIZE, Stream
from mesh.p2p.rpc_client import _read_answer
from mesh.p2p.rpc_guard import RpcLimits
from mesh.p2p.rpc_wire import (
    OPENING_SIZE,
    Opening,
    OpeningKind,
    compute_request_hash,
    hash_payload,
    seal_opening,
)
from tests.support.p2p import KINDS, NETWORK_ID, make_key, open_factory

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRANGER = make_key("stranger")
TIMEOUT_S = 20.0


@dataclass
class World:
    server: Any
    client: Any
    stranger: Any
    limited: Any
    received: list[bytes] = field(default_factory=list)
    started: list[PeerId] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    broken: asyncio.Event = field(default_factory=asyncio.Event)

    async def echo(self, caller: PeerId, payload: bytes) -> bytes:
        self.started.append(caller)
        return payload

    async def refuse(self, caller: PeerId, payload: bytes) -> bytes:
        raise PeerRefusal(caller, "busy", "ask later")

    async def fail(self, caller: PeerId, payload: bytes) -> bytes:
        raise ZeroDivisionError

    async def wait(self, caller: PeerId, payload: bytes) -> bytes:
        self.waiting.set()
        await self.release.wait()
        return b""

    async def echo_stream(self, stream: Stream) -> None:
        with contextlib.suppress(StreamClosed):
            while True:
                await stream.send(await stream.receive())

    async def collect_stream(self, stream: Stream) -> None:
        self.received.clear()
        self.broken.clear()
        try:
            while True:
                self.received.append(await stream.receive())
        except StreamClosed:
            pass
        except StreamBroken:
            self.broken.set()

    async def flood_stream(self, stream: Stream) -> None:
        for number in range(64):
            await stream.send(bytes((number,)) * 65_536)
            self.received.append(b"")


def _serve(host: Any, world: World) -> None:
    host.serve_unary("echo", world.echo, max_request_size=MAX_UNARY_SIZE)
    host.serve_unary("open", world.echo, max_request_size=16, any_network=True)
    host.serve_unary("refuse", world.refuse, max_request_size=16)
    host.serve_unary("fail", world.fail, max_request_size=16)
    host.serve_unary("wait", world.wait, max_request_size=16)
    host.serve_stream("echo", world.echo_stream)
    host.serve_stream("collect", world.collect_stream)
    host.serve_stream("flood", world.flood_stream)


def _admit(caller: PeerId, method: str) -> None:
    if caller == STRANGER.peer_id:
        raise PeerRefusal(caller, "not-registered")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def world(request: pytest.FixtureRequest) -> Any:
    plenty = RpcLimits(requests_per_second=10_000, burst=10_000)
    scarce = RpcLimits(
        requests_per_second=0.001, burst=6, max_requests_per_peer=1, max_streams_per_peer=1
    )
    async with open_factory(request.param) as factory:
        world = World(
            server=await factory.open("server", admission=_admit, limits=plenty),
            client=await factory.open("client"),
            stranger=await factory.open("stranger"),
            limited=await factory.open("limited", limits=scarce),
        )
        _serve(world.server, world)
        _serve(world.client, world)
        _serve(world.limited, world)
        yield world
        world.release.set()


@pytest.fixture(params=[False, True], ids=["answered", "early"])
def early(request: pytest.FixtureRequest) -> Any:
    """Whether a stream sends before the server's answer."""
    return request.param


def _opening(world: World, payload: bytes, **changes: Any) -> Opening:
    plain = Opening(
        kind=OpeningKind.UNARY,
        method="echo",
        network_id=NETWORK_ID,
        client=world.client.peer_id,
        server=world.server.peer_id,
        time_ms=int(time.time() * 1000),
        nonce=time.time_ns().to_bytes(16, "little"),
        binding=hash_payload(payload),
        payload_size=len(payload),
    )
    return replace(plain, **changes)


async def _send_raw(host: Any, server: PeerId, raw: bytes) -> None:
    """Send bytes as an attacker would. Raises what the server answers."""
    channel = await host._dial(server)
    try:
        await channel.write(raw)
        async with asyncio.timeout(TIMEOUT_S):
            await _read_answer(channel, compute_request_hash(raw[:OPENING_SIZE]))
    finally:
        channel.close()


async def _refusal_of(host: Any, server: PeerId, raw: bytes) -> str:
    with pytest.raises(PeerRefusal) as caught:
        await _send_raw(host, server, raw)
    return str(caught.value.reason)


# Unary calls


async def test_a_call_returns_what_the_peer_answers(world: World) -> None:
    server = world.server.peer_id
    assert await world.client.call(server, "echo", b"hello", timeout_s=TIMEOUT_S) == b"hello"
    assert world.started[-1] == world.client.peer_id
    assert await world.client.call(server, "echo", b"", timeout_s=TIMEOUT_S) == b""


async def test_bytes_are_counted_at_both_ends(world: World) -> None:
    def read() -> tuple[int, int, int, int]:
        client, server = world.client.traffic, world.server.traffic
        return client.sent, client.received, server.sent, server.received

    before = read()
    await world.client.call(world.server.peer_id, "echo", bytes(100_000), timeout_s=TIMEOUT_S)
    own_before = world.client.traffic.calls.sent
    await world.client.call(world.client.peer_id, "echo", b"", timeout_s=TIMEOUT_S)
    assert world.client.traffic.calls.sent == own_before, "a call to oneself is no traffic"
    for after, earlier in zip(read(), before, strict=True):
        # The opening, the answer, and what the record stores say to each other.
        assert 100_000 <= after - earlier < 150_000


async def test_the_largest_payload_passes_both_ways(world: World) -> None:
    payload = bytes(MAX_UNARY_SIZE)
    answer = await world.client.call(world.server.peer_id, "echo", payload, timeout_s=TIMEOUT_S)
    assert answer == payload
    with pytest.raises(ValueError, match="at most"):
        await world.client.call(world.server.peer_id, "echo", payload + b"x", timeout_s=1)


async def test_a_refusal_travels_with_its_reason(world: World) -> None:
    with pytest.raises(PeerRefusal) as caught:
        await world.client.call(world.server.peer_id, "refuse", b"", timeout_s=TIMEOUT_S)
    assert caught.value.peer_id == world.server.peer_id
    assert (caught.value.reason, caught.value.detail) == ("busy", "ask later")


@pytest.mark.parametrize(
    ("method", "payload", "reason"),
    [
        ("nothing", b"", "unknown-method"),
        ("refuse", bytes(17), "too-large"),
        ("refuse", bytes(MAX_UNARY_SIZE), "too-large"),
    ],
)
async def test_an_impossible_call_is_refused(
    world: World, method: str, payload: bytes, reason: str
) -> None:
    with pytest.raises(PeerRefusal) as caught:
        await world.client.call(world.server.peer_id, method, payload, timeout_s=TIMEOUT_S)
    assert caught.value.reason == reason


async def test_a_failing_handler_is_an_internal_refusal_and_the_server_lives(world: World) -> None:
    with pytest.raises(PeerRefusal) as caught:
        await world.client.call(world.server.peer_id, "fail", b"", timeout_s=TIMEOUT_S)
    assert (caught.value.reason, caught.value.detail) == ("internal", "")
    assert await world.client.call(world.server.peer_id, "echo", b"x", timeout_s=TIMEOUT_S) == b"x"


async def test_a_silent_handler_times_out(world: World) -> None:
    world.release.clear()
    with pytest.raises(PeerTimeout):
        await world.client.call(world.server.peer_id, "wait", b"", timeout_s=0.3)
    world.release.set()


async def test_an_absent_peer_is_unreachable(world: World) -> None:
    nobody = PeerKey.generate().peer_id
    with pytest.raises((PeerUnreachable, PeerTimeout)):
        await world.client.call(nobody, "echo", b"", timeout_s=3)


async def test_a_host_calls_itself(world: World) -> None:
    server = world.server
    assert await server.call(server.peer_id, "echo", b"me", timeout_s=TIMEOUT_S) == b"me"


async def test_a_peer_is_reached_by_its_id_alone(world: World) -> None:
    # Neither was given the other's address; both only know the first host.
    limited = world.limited.peer_id
    assert await world.stranger.call(limited, "open", b"id", timeout_s=TIMEOUT_S) == b"id"


async def test_an_address_can_be_dialled(world: World) -> None:
    addresses = await world.server.list_addresses()
    assert all(text.endswith(f"/p2p/{world.server.peer_id}") for text in addresses)
    await world.client.connect(addresses)


# Attacks on unary calls


async def test_an_unregistered_peer_is_refused_before_the_handler(world: World) -> None:
    world.started.clear()
    with pytest.raises(PeerRefusal) as caught:
        await world.stranger.call(world.server.peer_id, "echo", b"", timeout_s=TIMEOUT_S)
    assert caught.value.reason == "not-registered"
    with pytest.raises(PeerRefusal):
        await world.stranger.open_stream(world.server.peer_id, "echo", timeout_s=TIMEOUT_S)
    assert world.started == []


async def test_an_unsigned_request_is_refused(world: World) -> None:
    raw = seal_opening(make_key("client"), _opening(world, b"x"))
    unsigned = raw[:-64] + bytes(64)
    assert await _refusal_of(world.client, world.server.peer_id, unsigned + b"x") == "bad-signature"


async def test_a_request_that_was_heard_is_not_heard_again(world: World) -> None:
    raw = seal_opening(make_key("client"), _opening(world, b"x")) + b"x"
    await _send_raw(world.client, world.server.peer_id, raw)
    assert await _refusal_of(world.client, world.server.peer_id, raw) == "replayed"


async def test_a_request_does_not_pass_at_another_server(world: World) -> None:
    raw = seal_opening(make_key("client"), _opening(world, b"x")) + b"x"
    assert await _refusal_of(world.client, world.limited.peer_id, raw) == "wrong-server"


async def test_a_request_cannot_be_relayed_by_another_peer(world: World) -> None:
    raw = seal_opening(make_key("client"), _opening(world, b"x")) + b"x"
    assert await _refusal_of(world.limited, world.server.peer_id, raw) == "wrong-client"


@pytest.mark.parametrize("shift_ms", [-31_000, 31_000])
async def test_a_request_from_another_time_is_refused(world: World, shift_ms: int) -> None:
    opening = _opening(world, b"x", time_ms=int(time.time() * 1000) + shift_ms)
    raw = seal_opening(make_key("client"), opening) + b"x"
    assert await _refusal_of(world.client, world.server.peer_id, raw) == "stale"


async def test_a_request_from_before_the_server_started_is_refused(world: World) -> None:
    # Within the window of 30 s, but the nonces of an earlier run are lost.
    started_ms = world.server._server._guard._started_ms
    opening = _opening(world, b"x", time_ms=started_ms - 1)
    raw = seal_opening(make_key("client"), opening) + b"x"
    assert await _refusal_of(world.client, world.server.peer_id, raw) == "stale"


async def test_another_network_is_refused_except_where_it_may_ask(world: World) -> None:
    other = _opening(world, b"x", network_id=bytes(32))
    raw = seal_opening(make_key("client"), other) + b"x"
    assert await _refusal_of(world.client, world.server.peer_id, raw) == "wrong-network"
    asking = replace(other, method="open", nonce=b"asks which netwo")
    raw = seal_opening(make_key("client"), asking) + b"x"
    await _send_raw(world.client, world.server.peer_id, raw)


async def test_a_payload_that_was_not_signed_is_refused(world: World) -> None:
    raw = seal_opening(make_key("client"), _opening(world, b"x")) + b"y"
    assert await _refusal_of(world.client, world.server.peer_id, raw) == "malformed"


async def test_noise_is_refused(world: World) -> None:
    noise = bytes(range(256)) * 2
    assert (
        await _refusal_of(world.client, world.server.peer_id, noise[:OPENING_SIZE]) == "malformed"
    )


async def test_too_many_calls_at_once_are_refused(world: World) -> None:
    limited = world.limited.peer_id
    world.release.clear()
    world.waiting.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(world.server.call(limited, "wait", b"", timeout_s=TIMEOUT_S))
        await asyncio.wait_for(world.waiting.wait(), TIMEOUT_S)
        with pytest.raises(PeerRefusal) as caught:
            await world.server.call(limited, "wait", b"", timeout_s=TIMEOUT_S)
        assert caught.value.reason == "busy"
        world.release.set()


async def test_too_many_streams_at_once_are_refused(world: World) -> None:
    limited = world.limited.peer_id
    stream = await world.server.open_stream(limited, "collect", timeout_s=TIMEOUT_S)
    with pytest.raises(PeerRefusal) as caught:
        await world.server.open_stream(limited, "collect", timeout_s=TIMEOUT_S)
    assert caught.value.reason == "busy"
    await stream.abort()


async def test_too_many_calls_a_second_are_refused(world: World) -> None:
    reasons = []
    for _ in range(8):
        try:
            await world.client.call(world.limited.peer_id, "echo", b"", timeout_s=TIMEOUT_S)
        except PeerRefusal as refusal:
            reasons.append(refusal.reason)
    assert reasons[-1] == "rate"


# Streams


async def test_a_stream_carries_frames_in_order_and_ends_cleanly(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "echo", timeout_s=TIMEOUT_S, early=early
    )
    assert stream.peer_id == world.server.peer_id
    frames = [b"", b"one", bytes(70_000), bytes(MAX_FRAME_SIZE), b"last"]
    for frame in frames:
        await stream.send(frame)
        assert await stream.receive() == frame
    await stream.finish()
    with pytest.raises(StreamClosed):
        await stream.receive()
    with pytest.raises(StreamClosed):
        await stream.receive()
    with pytest.raises(StreamBroken):
        await stream.send(b"after the end")


async def test_a_frame_beyond_the_limit_is_our_own_mistake(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "echo", timeout_s=TIMEOUT_S, early=early
    )
    with pytest.raises(ValueError, match="at most"):
        await stream.send(bytes(MAX_FRAME_SIZE + 1))
    await stream.abort()


async def test_a_cancelled_receive_loses_nothing(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "echo", timeout_s=TIMEOUT_S, early=early
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await stream.receive()
    await stream.send(b"x" * 300_000)
    half_done = asyncio.ensure_future(stream.receive())  # noqa: TID251
    await asyncio.sleep(0.001)
    if half_done.cancel():
        with pytest.raises(asyncio.CancelledError):
            await half_done
        assert await stream.receive() == b"x" * 300_000
    await stream.send(b"y")
    assert await stream.receive() == b"y"
    await stream.abort()


async def test_a_tampered_second_frame_breaks_the_stream(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "collect", timeout_s=TIMEOUT_S, early=early
    )
    await stream.send(b"first")
    sealed = bytearray(stream._sealer.seal(b"second"))
    sealed[-40] ^= 1
    await stream._channel.write(bytes(sealed))
    await asyncio.wait_for(world.broken.wait(), TIMEOUT_S)
    assert world.received == [b"first"]
    with pytest.raises(StreamBroken) as caught:
        await stream.receive()
    assert not isinstance(caught.value, StreamClosed)


async def test_a_replayed_frame_breaks_the_stream(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "collect", timeout_s=TIMEOUT_S, early=early
    )
    sealed = stream._sealer.seal(b"first")
    await stream._channel.write(sealed + sealed)
    await asyncio.wait_for(world.broken.wait(), TIMEOUT_S)
    assert world.received == [b"first"]


async def test_an_oversized_frame_is_refused_before_it_is_sent(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "collect", timeout_s=TIMEOUT_S, early=early
    )
    sealed = bytearray(stream._sealer.seal(b""))
    sealed[:4] = (MAX_FRAME_SIZE + 1).to_bytes(4, "little")
    # Only the header goes out: a server that waited for the body would wait for ever.
    await stream._channel.write(bytes(sealed[:13]))
    await asyncio.wait_for(world.broken.wait(), TIMEOUT_S)


async def test_a_stream_cut_without_its_last_signature_is_broken(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "collect", timeout_s=TIMEOUT_S, early=early
    )
    await stream.send(b"first")
    stream._channel.close()
    await asyncio.wait_for(world.broken.wait(), TIMEOUT_S)


async def test_an_aborted_stream_is_broken_at_both_ends(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "collect", timeout_s=TIMEOUT_S, early=early
    )
    await stream.send(b"first")
    await stream.abort()
    await stream.abort()
    await asyncio.wait_for(world.broken.wait(), TIMEOUT_S)
    with pytest.raises(StreamBroken):
        await stream.send(b"second")


async def test_a_slow_reader_holds_the_sender_back(world: World, early: bool) -> None:
    world.received.clear()
    stream = await world.client.open_stream(
        world.server.peer_id, "flood", timeout_s=TIMEOUT_S, early=early
    )
    await asyncio.sleep(0.2)
    if type(world.client).__name__ == "MemoryHost":
        assert len(world.received) < 8
    for number in range(64):
        assert await stream.receive() == bytes((number,)) * 65_536
    with pytest.raises(StreamClosed):
        await stream.receive()
    await stream.finish()


async def test_frames_of_another_thread_arrive_in_order(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "collect", timeout_s=TIMEOUT_S, early=early
    )
    # Some are larger than a socket takes at once, so the loop has to send the rest of them.
    frames = [bytes((number,)) * (1 + 400_000 * (number % 5 == 4)) for number in range(40)]

    def send_half(half: list[bytes]) -> None:
        for frame in half:
            stream.send_now(frame)

    await asyncio.to_thread(send_half, frames[:20])
    await stream.send(b"ours")
    await asyncio.to_thread(send_half, frames[20:])
    await stream.finish()
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(StreamClosed):
            await stream.receive()
    assert world.received == [*frames[:20], b"ours", *frames[20:]]


async def test_a_thread_cannot_send_on_an_aborted_stream(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "collect", timeout_s=TIMEOUT_S, early=early
    )
    await stream.abort()
    with pytest.raises(StreamBroken):
        await asyncio.to_thread(stream.send_now, b"late")


async def test_a_watcher_hears_of_every_frame_and_of_the_end(world: World, early: bool) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "echo", timeout_s=TIMEOUT_S, early=early
    )
    frames = [bytes((number,)) * 1000 * number for number in range(30)]
    heard: list[bytes] = []
    ended = asyncio.Event()

    def on_arrival() -> None:
        try:
            while (frame := stream.receive_now()) is not None:
                heard.append(frame)
        except StreamClosed:
            ended.set()

    stream.watch(on_arrival)
    for frame in frames:
        await stream.send(frame)
    await stream.finish()
    await asyncio.wait_for(ended.wait(), TIMEOUT_S)
    assert heard == frames


# Early streams


async def test_a_refusal_of_an_early_stream_is_heard_by_its_first_receive(world: World) -> None:
    world.received.clear()
    stream = await world.stranger.open_stream(
        world.server.peer_id, "collect", timeout_s=TIMEOUT_S, early=True
    )
    for _ in range(3):
        await stream.send(bytes(200_000))
    for _ in range(2):
        with pytest.raises(PeerRefusal) as caught:
            await stream.receive()
        assert caught.value.reason == "not-registered"
    with pytest.raises(PeerRefusal):
        await stream.send(b"more")
    assert world.received == []


async def test_an_early_stream_of_an_unknown_method_is_refused(world: World) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "nothing", timeout_s=TIMEOUT_S, early=True
    )
    with pytest.raises(PeerRefusal) as caught:
        await stream.receive()
    assert caught.value.reason == "unknown-method"


async def test_a_copied_early_stream_is_refused_with_its_frames(world: World) -> None:
    stream = await world.client.open_stream(
        world.server.peer_id, "collect", timeout_s=TIMEOUT_S, early=True
    )
    opening = stream._answer._opening
    sealed = stream._sealer.seal(b"once")
    await stream._channel.write(sealed)
    await stream.finish()
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(StreamClosed):
            await stream.receive()
    assert world.received == [b"once"]
    refused = await _refusal_of(world.client, world.server.peer_id, opening + sealed)
    assert refused == "replayed"
    assert world.received == [b"once"]


async def test_the_key_of_an_early_stream_is_the_servers_alone(world: World) -> None:
    """Who answers in the server's place cannot tag frames, and cannot read the tags of ours."""
    stream = await world.client.open_stream(
        world.server.peer_id, "echo", timeout_s=TIMEOUT_S, early=True
    )
    await stream.send(b"first")
    forged = bytearray(stream._sealer.seal(b"second"))
    forged[-1] ^= 1
    await stream._channel.write(bytes(forged))
    assert await stream.receive() == b"first"
    with pytest.raises(StreamBroken):
        await stream.receive()
