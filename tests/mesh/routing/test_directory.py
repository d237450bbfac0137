"""What a node knows of others, and tells those who ask."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from keys.peer import PeerKey
from mesh.errors import PeerUnreachable, RecordRefused
from mesh.model.config import LayerSpan
from mesh.p2p.addresses import BadAddress
from mesh.p2p.config import HostConfig
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory, fetch_info, join_envelopes, split_envelopes
from mesh.routing.heartbeat import (
    ServerInfo,
    ServerRole,
    ServerState,
    make_heartbeat_policy,
    seal_heartbeat,
)
from mesh.routing.hop import Hop
from mesh.routing.hop_measures import FAILED_HOP_S
from mesh.routing.info import NetworkInfo, decode_info, encode_info
from mesh.routing.load import Load, add_load
from tests.support.memory_network import LinkConditions, MemoryNetwork

NETWORK = b"n" * 32
KEYS = [PeerKey(bytes([i]) * 32) for i in range(1, 4)]
INFO = ServerInfo(
    role=ServerRole.HOSTER,
    state=ServerState.ONLINE,
    span=LayerSpan(0, 6),
    throughput=100,
    free_cache_tokens=1000,
    dtype="float32",
    software="test",
    addresses=(),
)
NETWORK_INFO = NetworkInfo(NETWORK, b"m" * 32, "tiny", 6, 256, 100, "mesh/0.1.0")
START = 1_700_000_010.0


class Clock:
    def __init__(self):
        self.now_s = START

    def __call__(self):
        return self.now_s


class Policy:
    def __init__(self, clock):
        self.admit = make_heartbeat_policy(NETWORK, is_member=lambda peer: True, clock=clock)


@contextlib.asynccontextmanager
async def open_directories(count):
    clock = Clock()
    network = MemoryNetwork(clock=clock)
    async with contextlib.AsyncExitStack() as stack:
        pairs = []
        for key in KEYS[:count]:
            config = HostConfig(key=key, network_id=NETWORK, record_policy=Policy(clock))
            host = await stack.enter_async_context(network.open(config))
            pairs.append((host, Directory(host, network_id=NETWORK, clock=clock)))
        yield clock, pairs


def announcer_of(pair, clock, describe=lambda: INFO):
    host, directory = pair
    key = next(key for key in KEYS if key.peer_id == host.peer_id)
    return Announcer(
        host, directory, key=key, network_id=NETWORK, node_id=1, describe=describe, clock=clock
    )


async def test_announced_servers_are_found_through_records_and_through_any_node():
    async with open_directories(3) as (clock, pairs):
        assert await announcer_of(pairs[0], clock).announce()
        await pairs[1][1].fetch_from_records([KEYS[0].peer_id, KEYS[2].peer_id])
        pairs[1][1].serve(lambda: NETWORK_INFO)
        await pairs[2][1].fetch_from_peer(KEYS[1].peer_id)
        for _, directory in pairs:
            (server,) = directory.list_servers()
            assert server.peer_id == KEYS[0].peer_id
            assert server.info == INFO
        assert await fetch_info(pairs[2][0], KEYS[1].peer_id) == NETWORK_INFO


async def test_a_later_heartbeat_is_asked_of_one_replica_and_a_first_one_of_two():
    async with open_directories(2) as (clock, pairs):
        await announcer_of(pairs[0], clock).announce()
        host, _ = pairs[1]
        asked = []

        class Records:
            async def fetch(self, keys, *, timeout_s, max_misses):
                asked.append((len(keys), max_misses))
                return await host.records.fetch(keys, timeout_s=timeout_s, max_misses=max_misses)

        reading = Directory(SimpleNamespace(records=Records()), network_id=NETWORK, clock=clock)
        peers = [KEYS[0].peer_id, KEYS[2].peer_id]
        await reading.fetch_from_records(peers)
        await reading.fetch_from_records(peers)
        assert asked == [(2, 2), (1, 1), (1, 2)]
        assert [server.peer_id for server in reading.list_servers()] == [KEYS[0].peer_id]
        # One that has expired counts as unknown again.
        clock.now_s += 200
        await reading.fetch_from_records(peers)
        assert asked[3:] == [(2, 2)]


async def test_expired_servers_disappear():
    async with open_directories(1) as (clock, pairs):
        await announcer_of(pairs[0], clock).announce()
        clock.now_s += 200
        assert pairs[0][1].list_servers() == ()


async def test_a_change_of_state_is_announced_at_once():
    async with open_directories(2) as (clock, pairs):
        now = [INFO]
        announcer = announcer_of(pairs[0], clock, lambda: now[0])
        await announcer.announce()
        assert not await announcer.announce()
        now[0] = replace(INFO, state=ServerState.DRAINING)
        assert await announcer.announce()
        await pairs[1][1].fetch_from_records([KEYS[0].peer_id])
        assert pairs[1][1].list_servers()[0].info.state is ServerState.DRAINING
        assert pairs[1][1].list_route_servers() == ()


async def test_older_heartbeat_does_not_replace_a_newer_one():
    async with open_directories(1) as (_, pairs):
        directory = pairs[0][1]

        def heartbeat(expires_at, free):
            info = replace(INFO, free_cache_tokens=free)
            return seal_heartbeat(
                KEYS[1], info, network_id=NETWORK, node_id=2, expires_at=expires_at
            ).to_bytes()

        directory.add(heartbeat(1_700_000_100, 5))
        directory.add(heartbeat(1_700_000_070, 9))
        assert directory.list_servers()[0].info.free_cache_tokens == 5
        with pytest.raises(RecordRefused):
            directory.add(heartbeat(1_700_009_990, 9))


async def test_impossible_addresses_are_the_servers_fault():
    async with open_directories(1) as (_, pairs):
        directory = pairs[0][1]
        info = replace(INFO, addresses=(f"nonsense/p2p/{KEYS[1].peer_id}",))
        raw = seal_heartbeat(
            KEYS[1], info, network_id=NETWORK, node_id=2, expires_at=1_700_000_100
        ).to_bytes()
        directory.add(raw)
        with pytest.raises(PeerUnreachable):
            await directory.ensure_connected(KEYS[1].peer_id)


@pytest.mark.parametrize("error", [BadAddress("no address"), ValueError("must begin with /")])
async def test_address_that_the_host_cannot_read_is_the_servers_fault(monkeypatch, error):
    async with open_directories(1) as (_, pairs):
        host, directory = pairs[0]
        info = replace(INFO, addresses=(f"/p2p/{KEYS[1].peer_id}",))
        directory.add(
            seal_heartbeat(
                KEYS[1], info, network_id=NETWORK, node_id=2, expires_at=1_700_000_100
            ).to_bytes()
        )

        async def connect(addresses):
            raise error

        monkeypatch.setattr(host, "connect", connect)
        with pytest.raises(PeerUnreachable):
            await directory.ensure_connected(KEYS[1].peer_id)


def test_info_and_lists_survive_the_wire_and_refuse_garbage():
    assert decode_info(encode_info(NETWORK_INFO)) == NETWORK_INFO
    assert split_envelopes(join_envelopes([b"a" * 300, b"", b"b"])) == [b"a" * 300, b"", b"b"]
    for garbage in (b"\1", b"\xff\xff\xff\xff", b"\5\0\0\0abc"):
        with pytest.raises(ValueError, match="cut off|too long"):
            split_envelopes(garbage)
    for garbage in (b"", encode_info(NETWORK_INFO)[:-1], encode_info(NETWORK_INFO) + b"\0"):
        with pytest.raises(ValueError, match="size"):
            decode_info(garbage)
    for forged in (
        replace(NETWORK_INFO, model_name="a\x1b[2J"),
        replace(NETWORK_INFO, software="\n"),
    ):
        with pytest.raises(ValueError, match="printable"):
            decode_info(encode_info(forged))


async def test_hosters_are_asked_how_far_they_are_and_what_they_announce_is_kept_beside():
    async with open_directories(2) as (clock, pairs):
        busy = replace(INFO, software=add_load("mesh/0.2.0", Load(5, 2), max_size=32))
        await announcer_of(pairs[0], clock, lambda: busy).announce()
        pairs[0][1].serve(lambda: NETWORK_INFO)
        pairs[0][0]._network.conditions = LinkConditions(0.05, 0.05)
        client = pairs[1][1]
        await client.fetch_from_records([KEYS[0].peer_id])
        (unknown,) = client.list_route_servers()
        await client.measure()
        (known,) = client.list_route_servers()
        assert unknown.hop_s < 0.01 and 0.04 <= known.hop_s < 0.5
        assert known.crowd == 7


async def test_a_hoster_that_cannot_be_asked_ends_no_round_of_measures():
    async with open_directories(2) as (clock, pairs):
        await announcer_of(pairs[0], clock).announce()
        client = pairs[1][1]
        await client.fetch_from_records([KEYS[0].peer_id])
        # It serves no method that could be asked.
        await client.measure()
        assert len(client.list_route_servers()) == 1


async def test_a_hoster_that_failed_is_a_last_resort_until_it_serves():
    async with open_directories(2) as (clock, pairs):
        await announcer_of(pairs[0], clock).announce()
        client, peer = pairs[1][1], KEYS[0].peer_id
        await client.fetch_from_records([peer])
        client.forget_connection(peer)
        assert client.list_route_servers()[0].hop_s >= FAILED_HOP_S
        client.note_answer((Hop(peer, LayerSpan(0, 6)),), None)
        assert client.list_route_servers()[0].hop_s < FAILED_HOP_S
