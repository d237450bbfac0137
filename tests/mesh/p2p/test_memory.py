"""The network in memory: virtual time, partitions, loss, and what a lying server can try."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from keys.peer import PeerId
from mesh.errors import (
    PeerMisbehaved,
    PeerRefusal,
    PeerTimeout,
    PeerUnreachable,
    StreamBroken,
    TransportError,
)
from mesh.p2p.config import HostConfig
from mesh.p2p.interface import Stream
from mesh.p2p.pipe import open_pipe
from mesh.p2p.rpc import RpcContext
from mesh.p2p.rpc_client import RpcClient
from mesh.p2p.rpc_guard import RpcLimits
from mesh.p2p.rpc_server import RpcServer
from tests.support.memory_network import LinkConditions, MemoryNetwork
from tests.support.p2p import (
    NETWORK_ID,
    SignedRecordPolicy,
    make_key,
    make_record,
    record_key,
)
from tests.support.virtual_time import run_in_virtual_time

ALICE, BOB, CAROL = make_key("alice"), make_key("bob"), make_key("carol")


def _config(key: Any, **overrides: Any) -> HostConfig:
    policy = SignedRecordPolicy(ALICE)
    return HostConfig(
        **{"key": key, "network_id": NETWORK_ID, "record_policy": policy, **overrides}
    )


async def _echo(caller: PeerId, payload: bytes) -> bytes:
    return payload


async def _echo_one(stream: Stream) -> None:
    await stream.send(await stream.receive())


async def _idle(stream: Stream) -> None:
    await stream.receive()


def test_latency_passes_in_virtual_time() -> None:
    async def work(clock: Callable[[], float]) -> None:
        conditions = LinkConditions(min_latency_s=3, max_latency_s=3)
        network = MemoryNetwork(random=Random(1), clock=clock, conditions=conditions)
        async with network.open(_config(ALICE)) as alice, network.open(_config(BOB)) as bob:
            bob.serve_unary("echo", _echo, max_request_size=16)
            assert await alice.call(bob.peer_id, "echo", b"x", timeout_s=100) == b"x"
            with pytest.raises(PeerTimeout):
                await alice.call(bob.peer_id, "echo", b"x", timeout_s=5)

    # The dial, the request, the answer; then the call that gave up.
    assert run_in_virtual_time(work) == pytest.approx(14, abs=0.1)


def test_one_seed_gives_one_run() -> None:
    def trace(seed: int) -> list[float]:
        times: list[float] = []

        async def work(clock: Callable[[], float]) -> None:
            conditions = LinkConditions(min_latency_s=0.1, max_latency_s=2, drop_rate=0.5)
            network = MemoryNetwork(random=Random(seed), clock=clock, conditions=conditions)
            async with network.open(_config(ALICE)) as alice, network.open(_config(BOB)) as bob:
                bob.serve_unary("echo", _echo, max_request_size=16)
                for _ in range(10):
                    try:
                        await alice.call(bob.peer_id, "echo", b"x", timeout_s=100)
                    except PeerUnreachable:
                        times.append(-1)
                    times.append(clock())

        run_in_virtual_time(work)
        return times

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)
    assert -1 in trace(1)


def test_a_silent_stream_is_broken_after_the_idle_timeout() -> None:
    async def work(clock: Callable[[], float]) -> None:
        network = MemoryNetwork(clock=clock)
        impatient = _config(BOB, limits=RpcLimits(idle_timeout_s=30))
        async with network.open(_config(ALICE)) as alice, network.open(impatient) as bob:
            bob.serve_stream("idle", _idle)
            stream = await alice.open_stream(bob.peer_id, "idle", timeout_s=10)
            with pytest.raises(StreamBroken):
                await stream.receive()
            assert clock() == pytest.approx(30, abs=1)

    run_in_virtual_time(work)


def test_a_client_asks_for_no_more_streams_than_a_peer_allows() -> None:
    """The peer would drop it for asking: a gateway with many readers is no offender."""

    async def work(clock: Callable[[], float]) -> None:
        network, most = MemoryNetwork(clock=clock), RpcLimits().max_streams_per_peer
        async with network.open(_config(ALICE)) as alice, network.open(_config(BOB)) as bob:
            bob.serve_stream("idle", _idle)
            streams = [
                await alice.open_stream(bob.peer_id, "idle", timeout_s=10) for _ in range(most)
            ]
            for _ in range(200):
                with pytest.raises(PeerRefusal, match="busy"):
                    await alice.open_stream(bob.peer_id, "idle", timeout_s=10)
            await streams[0].abort()
            await asyncio.sleep(1)
            streams[0] = await alice.open_stream(bob.peer_id, "idle", timeout_s=10)
            for stream in streams:
                await stream.abort()

    run_in_virtual_time(work)


def test_a_client_asks_a_peer_no_more_often_than_it_allows() -> None:
    """The peer would refuse it, and drop it if it went on: a busy gateway is no offender."""

    async def work(clock: Callable[[], float]) -> None:
        network, limits = MemoryNetwork(clock=clock), RpcLimits()
        async with network.open(_config(ALICE)) as alice, network.open(_config(BOB)) as bob:
            bob.serve_unary("echo", _echo, max_request_size=16)
            bob.serve_stream("idle", _idle)
            began_s, count = clock(), 4 * limits.burst
            for number in range(count):
                if number % 2:
                    assert await alice.call(bob.peer_id, "echo", b"x", timeout_s=100) == b"x"
                else:
                    stream = await alice.open_stream(bob.peer_id, "idle", timeout_s=100)
                    await stream.abort()
            took_s = clock() - began_s
            allowed_s = (count - limits.burst) / limits.requests_per_second
            assert allowed_s <= took_s < 2 * allowed_s

    run_in_virtual_time(work)


def test_an_opening_that_never_comes_does_not_hold_a_channel() -> None:
    async def work(clock: Callable[[], float]) -> None:
        server = RpcServer(RpcContext(key=BOB, network_id=NETWORK_ID, clock=clock))
        _, server_end = open_pipe(ALICE.peer_id, BOB.peer_id)
        await server.handle(server_end)
        assert clock() == pytest.approx(RpcLimits().opening_timeout_s, abs=1)

    run_in_virtual_time(work)


async def test_a_partition_cuts_calls_and_records_until_it_heals() -> None:
    network = MemoryNetwork()
    async with network.open(_config(ALICE)) as alice, network.open(_config(BOB)) as bob:
        bob.serve_unary("echo", _echo, max_request_size=16)
        record = make_record(ALICE, b"body", epoch=1)
        key = record_key(record)
        network.partition([alice.peer_id], [bob.peer_id])
        with pytest.raises(PeerUnreachable):
            await alice.call(bob.peer_id, "echo", b"x", timeout_s=1)
        assert await alice.records.publish(key, record.to_bytes(), record.expires_at)
        assert not await bob.records.fetch([key], timeout_s=1)
        network.heal()
        assert await alice.call(bob.peer_id, "echo", b"x", timeout_s=1) == b"x"
        assert await bob.records.fetch([key], timeout_s=1)


async def test_one_key_is_one_host() -> None:
    network = MemoryNetwork()
    async with network.open(_config(ALICE)):
        with pytest.raises(TransportError):
            async with network.open(_config(ALICE)):
                pass


async def test_who_is_no_member_does_not_store() -> None:
    network = MemoryNetwork()
    guarded = _config(BOB, is_member=lambda peer: peer == CAROL.peer_id)
    async with network.open(_config(ALICE, client_mode=True)) as alice, network.open(guarded):
        record = make_record(ALICE, b"body", epoch=1)
        key, value = record_key(record), record.to_bytes()
        assert not await alice.records.publish(key, value, record.expires_at)


async def test_strangers_cannot_lock_members_out_of_a_server() -> None:
    network = MemoryNetwork()
    limits = RpcLimits(max_streams=4)
    guarded = _config(BOB, is_member=lambda peer: peer == CAROL.peer_id, limits=limits)
    async with network.open(guarded) as bob, network.open(_config(ALICE)) as stranger:
        bob.serve_stream("idle", _idle)
        for _ in range(3):
            await stranger.open_stream(bob.peer_id, "idle", timeout_s=5)
        with pytest.raises(PeerRefusal, match="busy"):
            await stranger.open_stream(bob.peer_id, "idle", timeout_s=5)
        async with network.open(_config(CAROL)) as member:
            await member.open_stream(bob.peer_id, "idle", timeout_s=5)


# A server that is not who was asked


async def _call_through(server_key: Any, tamper: Callable[[bytes], bytes]) -> None:
    """Call BOB, but let ``server_key`` answer, its bytes passed through ``tamper``."""
    server = RpcServer(RpcContext(key=server_key, network_id=NETWORK_ID))
    server.serve_unary("echo", _echo, max_request_size=16)
    server.serve_stream("echo", _echo_one)
    tasks: list[asyncio.Task[None]] = []

    async def dial(peer: PeerId) -> Any:
        client_end, server_end = open_pipe(ALICE.peer_id, peer)
        honest_write = server_end.write
        server_end.write = lambda data: honest_write(tamper(data))  # type: ignore[method-assign]
        tasks.append(asyncio.get_running_loop().create_task(server.handle(server_end)))
        return client_end

    client = RpcClient(RpcContext(key=ALICE, network_id=NETWORK_ID), dial)
    try:
        await client.call(BOB.peer_id, "echo", b"x", timeout_s=1)
    finally:
        await asyncio.gather(*tasks)


async def test_an_answer_by_another_peer_is_misbehaviour() -> None:
    with pytest.raises(PeerMisbehaved, match="not signed by the peer"):
        await _call_through(CAROL, lambda data: data)


@pytest.mark.parametrize("position", [0, 5, 40, 80, -1])
async def test_a_tampered_answer_is_misbehaviour(position: int) -> None:
    def tamper(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    with pytest.raises(PeerMisbehaved):
        await _call_through(BOB, tamper)


async def test_an_answer_cut_short_is_not_an_answer() -> None:
    with pytest.raises(PeerUnreachable):
        await _call_through(BOB, lambda data: data[:-1])


@pytest.mark.parametrize("num_lost", [1, 2])
async def test_a_call_whose_channel_ends_unanswered_is_made_once_more(num_lost: int) -> None:
    server = RpcServer(RpcContext(key=BOB, network_id=NETWORK_ID))
    server.serve_unary("echo", _echo, max_request_size=16)
    dials: list[PeerId] = []

    async def dial(peer: PeerId) -> Any:
        client_end, server_end = open_pipe(ALICE.peer_id, peer)
        dials.append(peer)
        if len(dials) <= num_lost:
            server_end.close()
        else:
            tasks.create_task(server.handle(server_end))
        return client_end

    client = RpcClient(RpcContext(key=ALICE, network_id=NETWORK_ID), dial)
    async with asyncio.TaskGroup() as tasks:
        if num_lost == 1:
            assert await client.call(BOB.peer_id, "echo", b"x", timeout_s=5) == b"x"
        else:
            with pytest.raises(PeerUnreachable):
                await client.call(BOB.peer_id, "echo", b"x", timeout_s=5)
    assert len(dials) == 2
