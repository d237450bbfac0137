"""What a node asks its peers about itself, between real daemons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from mesh.errors import PeerUnreachable, TransportError
from mesh.p2p.dial_back import DialStatus
from mesh.p2p.hivemind_host import HivemindHost
from tests.support.p2p import HostFactory, SignedRecordPolicy, make_key, make_record, record_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 20.0
Hosts = tuple[HivemindHost, HivemindHost]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosts() -> AsyncIterator[Hosts]:
    async with AsyncExitStack() as stack:
        factory = HostFactory("hivemind", stack)
        policy = SignedRecordPolicy()
        first = await factory.open("first", record_policy=policy)
        second = await factory.open("second", record_policy=policy)
        yield first, second


async def test_a_peer_answers_and_refuses_to_dial_a_private_address(hosts: Hosts) -> None:
    first, second = hosts
    answer = await first.checks.ask_dial_back(
        second.peer_id, await first.list_addresses(), timeout_s=WAIT_S
    )
    assert answer.status is DialStatus.REFUSED
    assert "refus" in answer.text or "dial" in answer.text


async def test_a_peer_that_is_not_there_dials_nobody(hosts: Hosts) -> None:
    first, _ = hosts
    with pytest.raises(PeerUnreachable):
        await first.checks.ask_dial_back(make_key("nobody").peer_id, (), timeout_s=WAIT_S)


async def test_a_peer_tells_its_time(hosts: Hosts) -> None:
    first, second = hosts
    ahead_s = await first.checks.measure_clock(second.peer_id, timeout_s=WAIT_S)
    # Both are this machine's clock.
    assert abs(ahead_s) < WAIT_S
    with pytest.raises(PeerUnreachable):
        await first.checks.measure_clock(make_key("nobody").peer_id, timeout_s=WAIT_S)


async def test_copies_are_those_of_others_and_the_own_one_does_not_count(hosts: Hosts) -> None:
    first, second = hosts
    record = make_record(make_key("first"), b"hello", epoch=5)
    key = record_key(record)
    before = await first.checks.fetch_copies(key, 0)
    assert (before.values, before.asked) == ((), 1)
    assert await first.records.publish(key, record.to_bytes(), record.expires_at)
    for host in hosts:
        copies = await host.checks.fetch_copies(key, record.expires_at)
        assert (copies.values, copies.asked) == ((record.to_bytes(),), 1)
    later = await first.checks.fetch_copies(key, record.expires_at + 1)
    assert later.values == ()


async def test_a_client_without_a_network_has_nobody_to_ask() -> None:
    async with AsyncExitStack() as stack:
        host = await HostFactory("hivemind", stack).open("client", network_id=None)
        with pytest.raises(TransportError):
            _ = host.checks
