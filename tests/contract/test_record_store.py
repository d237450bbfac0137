"""What every RecordStore promises, asked of hivemind's DHT and of the network in memory alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from keys.envelope import Envelope
from mesh.errors import RecordRefused
from tests.support.p2p import (
    KINDS,
    EverythingPolicy,
    SignedRecordPolicy,
    make_key,
    make_record,
    open_factory,
    record_key,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHOR, OUTSIDER = make_key("author"), make_key("outsider")
TIMEOUT_S = 10.0
EPOCHS = count(1)


@dataclass
class World:
    author: Any
    reader: Any
    third: Any


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def world(request: pytest.FixtureRequest) -> Any:
    policy = SignedRecordPolicy(AUTHOR)
    async with open_factory(request.param) as factory:
        yield World(
            author=await factory.open("author", record_policy=policy),
            reader=await factory.open("reader", record_policy=policy),
            third=await factory.open("third", record_policy=policy),
        )


async def _publish(host: Any, record: Envelope) -> bool:
    return bool(
        await host.records.publish(record_key(record), record.to_bytes(), record.expires_at)
    )


async def _fetch(host: Any, record: Envelope) -> bytes | None:
    key = record_key(record)
    return (await host.records.fetch([key], timeout_s=TIMEOUT_S)).get(key)


async def test_everybody_reads_what_one_publishes(world: World) -> None:
    record = make_record(AUTHOR, b"body", epoch=next(EPOCHS))
    assert await _publish(world.author, record)
    for host in (world.author, world.reader, world.third):
        assert await _fetch(host, record) == record.to_bytes()


async def test_the_identical_record_may_be_published_again(world: World) -> None:
    record = make_record(AUTHOR, b"body", epoch=next(EPOCHS))
    assert await _publish(world.author, record)
    assert await _publish(world.author, record)


async def test_a_second_version_is_refused(world: World) -> None:
    epoch = next(EPOCHS)
    first = make_record(AUTHOR, b"first", epoch=epoch)
    second = make_record(AUTHOR, b"second", epoch=epoch, expires_at=first.expires_at)
    assert await _publish(world.author, first)
    assert not await _publish(world.author, second)
    assert await _fetch(world.reader, first) == first.to_bytes()


async def test_a_renewed_record_replaces_the_older(world: World) -> None:
    epoch = next(EPOCHS)
    first = make_record(AUTHOR, b"first", epoch=epoch)
    second = make_record(AUTHOR, b"second", epoch=epoch, expires_at=first.expires_at + 30)
    assert await _publish(world.author, first)
    assert await _publish(world.author, second)
    assert await _fetch(world.reader, first) == second.to_bytes()


async def test_keys_that_nobody_holds_are_left_out(world: World) -> None:
    record = make_record(AUTHOR, b"body", epoch=next(EPOCHS))
    missing = make_record(AUTHOR, b"never published", epoch=next(EPOCHS))
    await _publish(world.author, record)
    keys = [record_key(record), record_key(missing)]
    found = await world.reader.records.fetch(keys, timeout_s=TIMEOUT_S)
    assert dict(found) == {keys[0]: record.to_bytes()}
    assert dict(await world.reader.records.fetch([], timeout_s=TIMEOUT_S)) == {}


async def test_many_records_are_read_at_once(world: World) -> None:
    records = [make_record(AUTHOR, bytes(200), epoch=next(EPOCHS)) for _ in range(24)]
    for record in records:
        assert await _publish(world.author, record)
    keys = [record_key(record) for record in records]
    found = await world.reader.records.fetch(keys + keys, timeout_s=TIMEOUT_S)
    assert len(found) == len(records)


async def test_records_of_the_largest_size_are_read_together(world: World) -> None:
    records = [make_record(AUTHOR, bytes(1 << 20), epoch=next(EPOCHS)) for _ in range(9)]
    for record in records:
        assert await _publish(world.author, record)
    keys = [record_key(record) for record in records]
    found = await world.reader.records.fetch(keys, timeout_s=30)
    assert [found.get(key) for key in keys] == [record.to_bytes() for record in records]


async def test_our_own_record_must_pass_our_own_policy(world: World) -> None:
    record = make_record(AUTHOR, b"body", epoch=next(EPOCHS))
    key, value, expires_at = record_key(record), record.to_bytes(), record.expires_at
    store = world.author.records
    with pytest.raises(RecordRefused):
        await store.publish(key + b"x", value, expires_at)
    with pytest.raises(RecordRefused):
        await store.publish(key, value, expires_at + 1)
    with pytest.raises(RecordRefused):
        await store.publish(key, value[:-1] + bytes((value[-1] ^ 1,)), expires_at)
    with pytest.raises(RecordRefused):
        await store.publish(key, bytes(2 << 20), expires_at)
    foreign = make_record(OUTSIDER, b"body", epoch=next(EPOCHS))
    with pytest.raises(RecordRefused):
        await _publish(world.author, foreign)


async def test_a_lone_host_reads_its_own_record(world: World) -> None:
    kind = "memory" if type(world.author).__name__ == "MemoryHost" else "hivemind"
    record = make_record(AUTHOR, b"alone", epoch=1)
    async with open_factory(kind) as factory:
        alone = await factory.open("alone", record_policy=SignedRecordPolicy(AUTHOR))
        assert await _publish(alone, record)
        assert await _publish(alone, record)
        assert await _fetch(alone, record) == record.to_bytes()


async def test_what_a_corrupt_node_stores_is_neither_kept_nor_believed(world: World) -> None:
    kind = "memory" if type(world.author).__name__ == "MemoryHost" else "hivemind"
    policy = SignedRecordPolicy(AUTHOR)
    async with open_factory(kind) as factory:
        honest = await factory.open("honest", record_policy=policy)
        corrupt = await factory.open("corrupt", record_policy=EverythingPolicy())
        garbage = b"garbage!" + bytes(100)
        expires_at = make_record(AUTHOR, b"", epoch=1).expires_at
        await corrupt.records.publish(b"garbage!", garbage, expires_at)
        assert dict(await corrupt.records.fetch([b"garbage!"], timeout_s=TIMEOUT_S))
        assert not dict(await honest.records.fetch([b"garbage!"], timeout_s=TIMEOUT_S))


async def test_expiry_is_part_of_the_record(world: World) -> None:
    policy = SignedRecordPolicy(AUTHOR)
    record = make_record(AUTHOR, b"body", epoch=next(EPOCHS))
    for shifted in (math.nan, math.inf, -math.inf, record.expires_at + 0.5, 0.0):
        with pytest.raises(RecordRefused):
            policy.admit(record.to_bytes(), shifted)
