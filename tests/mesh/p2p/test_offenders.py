"""Who is dropped, and who must not be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keys.peer import PeerId
from mesh.errors import PeerError, PeerRefusal, PeerUnreachable
from mesh.p2p.channel import ChannelClosed
from mesh.p2p.interface import Stream
from mesh.p2p.offenders import BUDGET, DROP_S, FORGED, RETURN_S, Offenders
from mesh.p2p.rpc_guard import RpcLimits, RpcReason
from mesh.p2p.rpc_wire import OPENING_SIZE
from tests.support.p2p import KINDS, make_key, open_factory

ALICE, BOB, CAROL = (make_key(name).peer_id for name in ("alice", "bob", "carol"))
FORGERIES = int(BUDGET / FORGED)
TIMEOUT_S = 15.0


def _offend(offenders: Offenders, peer: PeerId, times: int, *, now_s: float = 0.0) -> None:
    for _ in range(times):
        offenders.note(peer, RpcReason.BAD_SIGNATURE, now_s=now_s)


def test_a_forger_is_dropped_for_a_while() -> None:
    dropped: list[PeerId] = []
    offenders = Offenders(on_drop=dropped.append)
    _offend(offenders, ALICE, FORGERIES - 1)
    assert not offenders.turn_away(ALICE, now_s=0)
    _offend(offenders, ALICE, 1)
    assert offenders.turn_away(ALICE, now_s=0)
    assert dropped == [ALICE]
    assert not offenders.turn_away(BOB, now_s=0)
    assert not offenders.turn_away(ALICE, now_s=DROP_S)
    assert not offenders.is_dropped(ALICE, now_s=0), "it is forgotten"


def test_a_client_that_asks_too_often_now_and_then_is_not_dropped() -> None:
    offenders = Offenders()
    for second in range(1000):
        offenders.note(ALICE, RpcReason.RATE, now_s=second)
    assert not offenders.is_dropped(ALICE, now_s=1000)


@pytest.mark.parametrize(
    "reason", [RpcReason.STALE, RpcReason.NOT_ADMITTED, RpcReason.INTERNAL, "unknown"]
)
def test_an_honest_mistake_is_no_offence(reason: str) -> None:
    offenders = Offenders()
    for _ in range(1000):
        offenders.note(ALICE, reason, now_s=0)
    assert not offenders.is_dropped(ALICE, now_s=0)


def test_a_member_is_never_dropped() -> None:
    offenders = Offenders(is_member=lambda peer: peer == ALICE)
    _offend(offenders, ALICE, 1000)
    _offend(offenders, BOB, 1000)
    assert not offenders.is_dropped(ALICE, now_s=0)
    assert offenders.is_dropped(BOB, now_s=0)


def test_a_dropped_peer_that_comes_back_is_disconnected_again() -> None:
    returned: list[PeerId] = []
    offenders = Offenders(on_return=returned.append)
    _offend(offenders, ALICE, FORGERIES)
    for step in range(10):
        assert offenders.turn_away(ALICE, now_s=step * RETURN_S / 2)
    assert len(returned) == 4


def test_the_tables_are_bounded() -> None:
    offenders = Offenders(max_peers=2)
    for peer in (ALICE, BOB, CAROL):
        _offend(offenders, peer, 1)
        _offend(offenders, peer, FORGERIES)
    assert len(offenders._budgets) <= 2
    assert len(offenders._dropped) == 2


async def _forge(client: Any, server: PeerId) -> None:
    channel = await client._dial(server)
    try:
        await channel.write(bytes(OPENING_SIZE))
        async with asyncio.timeout(TIMEOUT_S):
            await channel.read_exactly(1)
    finally:
        channel.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_flood_of_forgeries_ends_the_forgers_channels_and_no_other(kind: str) -> None:
    waiting = asyncio.Event()

    async def echo(caller: PeerId, payload: bytes) -> bytes:
        return payload

    async def idle(stream: Stream) -> None:
        waiting.set()
        await stream.receive()

    async with open_factory(kind) as factory:
        limits = RpcLimits(requests_per_second=10_000, burst=10_000)
        server = await factory.open("server", limits=limits)
        forger, client = await factory.open("forger"), await factory.open("client")
        server.serve_unary("echo", echo, max_request_size=16)
        server.serve_stream("idle", idle)
        await forger.open_stream(server.peer_id, "idle", timeout_s=TIMEOUT_S)
        await asyncio.wait_for(waiting.wait(), TIMEOUT_S)
        num_ended = 0
        for _ in range(2 * FORGERIES):
            try:
                await _forge(forger, server.peer_id)
            except (ChannelClosed, PeerError):
                # On a busy machine libp2p may end a channel of its own accord: so not at the first.
                num_ended += 1
        assert num_ended
        with pytest.raises(PeerError) as caught:
            await forger.call(server.peer_id, "echo", b"x", timeout_s=TIMEOUT_S)
        assert isinstance(caught.value, PeerUnreachable)
        assert await client.call(server.peer_id, "echo", b"x", timeout_s=TIMEOUT_S) == b"x"


async def test_what_a_handler_refuses_is_no_offence() -> None:
    async def refuse(caller: PeerId, payload: bytes) -> bytes:
        raise PeerRefusal(caller, RpcReason.BUSY)

    async with open_factory("memory") as factory:
        limits = RpcLimits(requests_per_second=10_000, burst=10_000)
        server, client = await factory.open("server", limits=limits), await factory.open("client")
        server.serve_unary("refuse", refuse, max_request_size=16)
        for _ in range(2 * int(BUDGET)):
            with pytest.raises(PeerRefusal):
                await client.call(server.peer_id, "refuse", b"", timeout_s=TIMEOUT_S)


async def test_a_method_that_does_not_exist_is_refused_before_the_signature_is_looked_at() -> None:
    async with open_factory("memory") as factory:
        server, client = await factory.open("server"), await factory.open("client")
        looked: list[object] = []
        server._server._guard.check = lambda *args, **options: looked.append(args)
        with pytest.raises(PeerRefusal, match="unknown-method"):
            await client.call(server.peer_id, "nothing", b"", timeout_s=TIMEOUT_S)
        assert looked == []
