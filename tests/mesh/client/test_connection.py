"""Connecting: through a bootstrap alone, past dead peers, and with a sentence when none answers."""

from __future__ import annotations

import contextlib
import time
from contextlib import aclosing

import pytest

from keys.peer import PeerKey
from mesh.client.connection import connect, open_connection
from mesh.errors import NoPeerAnswers
from mesh.p2p.addresses import split_peer_address
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.routing.directory import Directory
from mesh.routing.info import NetworkInfo
from subnet.hosting.plan import fetch_swarm
from tests.support.real_swarm import NETWORK_ID, HeartbeatsOnly, open_real_swarm

pytestmark = pytest.mark.timeout(180)


def make_dead_address() -> str:
    return f"/ip4/127.0.0.1/tcp/9/p2p/{PeerKey.generate().peer_id}"


@contextlib.asynccontextmanager
async def open_bootstrap(initial_peers=(), *, hosters=(), manifest_hash=bytes(32)):
    """Run a node that has no model and knows the hosters' heartbeats."""
    config = HostConfig(
        key=PeerKey.generate(),
        network_id=NETWORK_ID,
        record_policy=HeartbeatsOnly(),
        initial_peers=tuple(initial_peers),
    )
    async with HivemindHost.open(config) as host:
        directory = Directory(host, network_id=NETWORK_ID)
        await directory.fetch_from_records(hosters)
        info = NetworkInfo(NETWORK_ID, manifest_hash, "", 0, 0, 0, "test")
        directory.serve(lambda: info)
        yield (await host.list_addresses())[0]


async def test_a_bootstrap_alone_is_enough_to_generate_and_to_plan():
    async with open_real_swarm([(0, 8)]) as (address, _):
        hosters = [split_peer_address(address)[1]]
        async with open_bootstrap([address], hosters=hosters) as bootstrap:
            waits: list[str] = []
            async with open_connection([bootstrap], on_wait=waits.append) as found:
                assert found.model_name == "mesh-tiny"
                answer = found.client.generate("One epoch", max_new_tokens=3)
                async with aclosing(answer):
                    assert len([piece async for piece in answer]) == 3
                config = found.client.config
            assert [wait.split()[0] for wait in waits][0] == "dialling"
            assert "asking the hosters" in waits[1]
            (placed,) = await fetch_swarm([bootstrap], config)
            assert placed.peer_id == hosters[0]


async def test_a_dead_peer_does_not_delay_the_living_one():
    async with open_real_swarm([(0, 8)]) as (address, _):
        started = time.monotonic()
        async with connect([make_dead_address(), address]) as client:
            assert client.config.num_layers == 8
        assert time.monotonic() - started < 30


async def test_peers_that_do_not_answer_are_named_within_seconds():
    addresses = [make_dead_address(), make_dead_address()]
    started = time.monotonic()
    with pytest.raises(NoPeerAnswers) as refused:
        async with connect(addresses):
            pass
    assert time.monotonic() - started < 30
    for address in addresses:
        assert address.rpartition("/")[2] in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_bootstrap_that_knows_no_hoster_is_named(monkeypatch):
    monkeypatch.setattr("mesh.client.connection.MODEL_SEARCH_S", 1.5)
    async with open_bootstrap() as bootstrap:
        with pytest.raises(NoPeerAnswers, match="knows no hoster"):
            async with connect([bootstrap]):
                pass
