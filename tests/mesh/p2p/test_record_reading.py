"""What reading from real replicas costs, and what silent and lying ones can spoil."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID

from keys.envelope import Envelope
from mesh.p2p.dht_reader import MAX_MISSES, NUM_REPLICAS
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.read_wire import decode_read, decode_read_answer
from tests.support.p2p import (
    HostFactory,
    SignedRecordPolicy,
    make_key,
    make_record,
    open_factory,
    record_key,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHOR = make_key("author")
POLICY = SignedRecordPolicy(AUTHOR)
TIMEOUT_S = 10.0
REVEAL_SIZE = 23_552
EPOCHS = count(1)


@asynccontextmanager
async def _open(number: int, **overrides: Any) -> AsyncIterator[tuple[list[Any], HostFactory]]:
    """Run that many storing hosts."""
    async with open_factory("hivemind") as factory:
        hosts = [
            await factory.open(f"host {index}", record_policy=POLICY, **overrides)
            for index in range(number)
        ]
        yield hosts, factory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> Any:
    """Two hosts more than a key has replicas, and a client that holds nothing itself."""
    async with _open(NUM_REPLICAS + 2) as (hosts, factory):
        yield hosts, await factory.open("reader", record_policy=POLICY, client_mode=True)


async def _publish(
    host: Any, *, size: int = REVEAL_SIZE, expires_at: int | None = None
) -> Envelope:
    record = make_record(AUTHOR, bytes(size), epoch=next(EPOCHS), expires_at=expires_at)
    assert await host.records.publish(record_key(record), record.to_bytes(), record.expires_at)
    return record


def _count_copies(reader: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of values in each answer that the reader gets."""
    copies: list[int] = []
    call = reader._p2p.call_bytes_handler

    async def counted(peer: PeerID, name: str, request: bytes) -> bytes:
        raw: bytes = await call(peer, name, request)
        held = decode_read_answer(raw, asked=len(decode_read(request)))
        copies.append(sum(entry is not None for entry in held))
        return raw

    monkeypatch.setattr(reader._p2p, "call_bytes_handler", counted)
    return copies


async def test_a_read_stops_at_the_first_valid_copy(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, reader = world
    records = [await _publish(hosts[0]) for _ in range(12)]
    held = [_count_held(hosts, record) for record in records]
    assert min(held) >= NUM_REPLICAS - 1, "every replica has a copy to offer"
    copies = _count_copies(reader, monkeypatch)
    before = reader.traffic.records.received
    found = await reader.records.fetch([record_key(r) for r in records], timeout_s=TIMEOUT_S)
    assert len(found) == len(records)
    assert sum(copies) == len(records)
    payload = sum(len(record.to_bytes()) for record in records)
    assert reader.traffic.records.received - before < 1.05 * payload


def _count_held(hosts: list[Any], record: Envelope) -> int:
    place = DHTID.generate(source=record_key(record))
    return sum(
        host._records._writer._node.protocol.storage.get(place) is not None for host in hosts
    )


async def test_a_missing_record_costs_no_more_than_a_few_bytes_a_replica(world: Any) -> None:
    hosts, reader = world
    missing = [record_key(make_record(AUTHOR, b"", epoch=next(EPOCHS))) for _ in range(64)]
    before = reader.traffic.records.received
    assert dict(await reader.records.fetch(missing, timeout_s=TIMEOUT_S)) == {}
    assert reader.traffic.records.received - before == 4 * MAX_MISSES * len(missing)


async def test_a_renewable_record_that_is_known_is_not_sent_again(world: Any) -> None:
    hosts, reader = world
    now_s = int(time.time())
    known = await _publish(hosts[0], expires_at=now_s + 100)
    key = record_key(known)
    before = reader.traffic.records.received
    wanted = {key: known.expires_at + 1}
    assert dict(await reader.records.fetch(wanted, timeout_s=TIMEOUT_S)) == {}
    assert reader.traffic.records.received - before <= 4 * MAX_MISSES
    newer = make_record(AUTHOR, b"newer", epoch=known.epoch, expires_at=now_s + 130)
    assert await hosts[1].records.publish(key, newer.to_bytes(), newer.expires_at)
    assert dict(await reader.records.fetch(wanted, timeout_s=TIMEOUT_S)) == {key: newer.to_bytes()}


async def test_more_than_one_answer_can_carry_is_read_in_parts(world: Any) -> None:
    hosts, reader = world
    records = [await _publish(hosts[0], size=60_000) for _ in range(40)]
    keys = [record_key(record) for record in records]
    found = await reader.records.fetch(keys, timeout_s=TIMEOUT_S)
    assert dict(found) == {record_key(record): record.to_bytes() for record in records}


async def test_replicas_that_lie_hide_nothing_that_others_hold(world: Any) -> None:
    hosts, reader = world
    records = [await _publish(hosts[0], size=100) for _ in range(8)]
    keys = [record_key(record) for record in records]
    garbage = (b"", b"\x00", bytes(4), b"\xff" * 300, (5).to_bytes(4, "little") + bytes(13))
    unary = [host._p2p._client.control.unary_handlers for host in hosts[: len(garbage)]]
    name = hosts[0]._p2p._qualify("records.read")
    honest = [handlers[name] for handlers in unary]
    for handlers, answer in zip(unary, garbage, strict=True):

        async def lie(request: bytes, remote: PeerID, answer: bytes = answer) -> bytes:
            return answer

        handlers[name] = lie
    try:
        found = await reader.records.fetch(keys, timeout_s=TIMEOUT_S)
    finally:
        for handlers, handler in zip(unary, honest, strict=True):
            handlers[name] = handler
    assert dict(found) == {record_key(record): record.to_bytes() for record in records}


@pytest.mark.parametrize(
    ("fault", "block_s"), [(signal.SIGKILL, 4.0), (signal.SIGSTOP, 6.0)], ids=["killed", "frozen"]
)
async def test_with_one_dead_replica_a_read_returns_within_half_a_block(
    fault: int, block_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _open(4, block_time_s=block_s) as (hosts, factory):
        reader = await factory.open(
            "reader", record_policy=POLICY, client_mode=True, block_time_s=block_s
        )
        records = [await _publish(hosts[0]) for _ in range(24)]
        keys = [record_key(record) for record in records]
        dead: HivemindHost = hosts[2]
        asked = _list_asked(reader, monkeypatch)
        os.kill(dead.daemon_pid, fault)
        try:
            while dead.peer_id.to_bytes() not in asked:
                started = time.monotonic()
                found = await reader.records.fetch(keys, timeout_s=block_s)
                assert len(found) == len(records)
                assert time.monotonic() - started < block_s / 2
            asked.clear()
            assert len(await reader.records.fetch(keys, timeout_s=block_s)) == len(records)
            assert dead.peer_id.to_bytes() not in asked, "it is left alone for a block"
        finally:
            if fault == signal.SIGSTOP:
                os.kill(dead.daemon_pid, signal.SIGCONT)


def _list_asked(reader: Any, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    asked: list[bytes] = []
    call = reader._p2p.call_bytes_handler

    async def noted(peer: PeerID, name: str, request: bytes) -> bytes:
        asked.append(peer.to_bytes())
        answer: bytes = await call(peer, name, request)
        return answer

    monkeypatch.setattr(reader._p2p, "call_bytes_handler", noted)
    return asked
