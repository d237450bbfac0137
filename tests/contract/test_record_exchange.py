"""Records by their hash, over the network in memory and over real hosts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.envelope import OVERHEAD, Envelope
from keys.peer import PeerId
from mesh.errors import PeerMisbehaved, PeerRefusal, PeerTimeout
from mesh.p2p.interface import MAX_UNARY_SIZE
from mesh.p2p.record_exchange import (
    FETCH_METHOD,
    MAX_ENVELOPE_SIZE,
    MAX_NAMES,
    NAME_SIZE,
    RecordExchange,
    decode_names,
    fetch_by_hash,
    join_found,
    split_found,
)
from tests.support.p2p import KINDS, make_key, make_record, open_factory

AUTHOR = make_key("author")
TIMEOUT_S = 15.0
REVEAL_SIZE = 23_552
module_loop = pytest.mark.asyncio(loop_scope="module")


def _name(record: Envelope) -> bytes:
    return record.record_hash[:NAME_SIZE]


@dataclass
class World:
    server: Any
    client: Any
    liar: Any
    had: dict[bytes, bytes] = field(default_factory=dict)
    lookups: list[bytes] = field(default_factory=list)

    def add(self, record: Envelope) -> bytes:
        self.had[_name(record)] = record.to_bytes()
        return _name(record)

    def lookup(self, name: bytes) -> bytes | None:
        self.lookups.append(name)
        return self.had.get(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def world(request: pytest.FixtureRequest) -> Any:
    async with open_factory(request.param) as factory:
        world = World(
            server=await factory.open("server"),
            client=await factory.open("client"),
            liar=await factory.open("liar"),
        )
        RecordExchange(world.server, world.lookup).serve()
        yield world


async def _fetch(world: World, names: list[bytes]) -> tuple[bytes, ...]:
    exchange = RecordExchange(world.client, lambda name: None)
    return await exchange.fetch_by_hash(world.server.peer_id, names, timeout_s=TIMEOUT_S)


@module_loop
async def test_what_a_peer_has_is_had_by_its_hash(world: World) -> None:
    records = [make_record(AUTHOR, bytes(100), epoch=epoch) for epoch in range(1, 6)]
    names = [world.add(record) for record in records]
    missing = _name(make_record(AUTHOR, b"missing", epoch=1))
    found = await _fetch(world, [names[0], missing, *names[1:], names[0]])
    assert found == tuple(record.to_bytes() for record in records)
    assert await _fetch(world, [missing]) == ()
    assert await _fetch(world, []) == ()


@module_loop
async def test_more_than_one_message_can_carry_comes_in_several(world: World) -> None:
    records = [make_record(AUTHOR, bytes(REVEAL_SIZE), epoch=epoch) for epoch in range(200)]
    names = [world.add(record) for record in records]
    assert await _fetch(world, names) == tuple(record.to_bytes() for record in records)


@module_loop
async def test_a_record_too_long_for_a_message_is_not_had(world: World) -> None:
    longest = make_record(AUTHOR, bytes(MAX_ENVELOPE_SIZE - OVERHEAD), epoch=1)
    too_long = make_record(AUTHOR, bytes(MAX_ENVELOPE_SIZE - OVERHEAD + 1), epoch=2)
    names = [world.add(too_long), world.add(longest)]
    assert await _fetch(world, names) == (longest.to_bytes(),)


@module_loop
@pytest.mark.parametrize("size", [0, 1, NAME_SIZE - 1, NAME_SIZE + 1])
async def test_a_request_of_a_wrong_size_is_refused(world: World, size: int) -> None:
    world.lookups.clear()
    with pytest.raises(PeerRefusal) as caught:
        await world.client.call(
            world.server.peer_id, FETCH_METHOD, bytes(size), timeout_s=TIMEOUT_S
        )
    assert caught.value.reason == "malformed"
    assert world.lookups == []


@module_loop
async def test_a_request_for_too_many_is_refused_unread(world: World) -> None:
    request = bytes((MAX_NAMES + 1) * NAME_SIZE)
    with pytest.raises(PeerRefusal) as caught:
        await world.client.call(world.server.peer_id, FETCH_METHOD, request, timeout_s=TIMEOUT_S)
    assert caught.value.reason == "too-large"


@module_loop
async def test_our_own_wrong_name_is_our_own_mistake(world: World) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        await _fetch(world, [bytes(32)])


def _lies() -> dict[str, bytes]:
    other = make_record(AUTHOR, b"another", epoch=1).to_bytes()
    length = len(other).to_bytes(4, "little")
    return {
        "nothing": b"",
        "another record": length + other,
        "garbage": (OVERHEAD).to_bytes(4, "little") + bytes(OVERHEAD),
        "a length alone": length,
        "cut off": length + other[:-1],
        "a byte too many": length + other + b"\x00",
        "one too many": bytes(8),
        "short": (1).to_bytes(4, "little") + b"x",
        "four gigabytes": b"\xff" * 8,
        "a full message of nothing": bytes(MAX_UNARY_SIZE),
    }


@module_loop
@pytest.mark.parametrize("name", list(_lies()))
async def test_a_lying_answer_is_the_peers_fault(world: World, name: str) -> None:
    async def lie(caller: PeerId, payload: bytes) -> bytes:
        return _lies()[name]

    world.liar.serve_unary(FETCH_METHOD, lie, max_request_size=1024)
    wanted = _name(make_record(AUTHOR, b"wanted", epoch=1))
    with pytest.raises(PeerMisbehaved):
        await fetch_by_hash(world.client, world.liar.peer_id, [wanted], timeout_s=TIMEOUT_S)


@module_loop
async def test_a_peer_that_answers_bit_by_bit_has_one_timeout_for_all(world: World) -> None:
    async def drip(caller: PeerId, payload: bytes) -> bytes:
        await asyncio.sleep(0.2)
        return bytes(4)

    world.server.serve_unary(FETCH_METHOD, drip, max_request_size=1024)
    names = [number.to_bytes(NAME_SIZE, "little") for number in range(60)]
    try:
        with pytest.raises(PeerTimeout):
            await fetch_by_hash(world.client, world.server.peer_id, names, timeout_s=0.5)
    finally:
        RecordExchange(world.server, world.lookup).serve()


# The bytes


@given(st.binary(max_size=300), st.integers(1, MAX_NAMES))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_parsed_or_refused(raw: bytes, asked: int) -> None:
    for decode in (decode_names, lambda data: split_found(data, asked=asked)):
        try:
            decode(raw)
        except ValueError:
            continue


@given(st.lists(st.none() | st.binary(min_size=OVERHEAD, max_size=300), min_size=1, max_size=64))
@settings(max_examples=50, deadline=None)
def test_an_answer_is_read_as_it_was_written(found: list[bytes | None]) -> None:
    assert split_found(join_found(found), asked=len(found)) == [entry or b"" for entry in found]
