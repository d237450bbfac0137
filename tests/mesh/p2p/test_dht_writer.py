"""A record is stored where readers look for it, at the cost of a few requests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hivemind.dht.node import Blacklist
from hivemind.dht.routing import DHTID, RoutingTable
from hivemind.p2p import PeerID
from hivemind.utils import MSGPackSerializer
from hivemind.utils.timed_storage import TimedStorage

from keys.peer import PeerId
from mesh.p2p.dht_binding import compute_node_id
from mesh.p2p.dht_reader import NUM_REPLICAS
from mesh.p2p.dht_writer import NODES_ASKED, RecordWriter
from tests.support.p2p import make_key

KEY = b"a record's key"
KEY_ID = DHTID.generate(source=KEY)
EXPIRES_AT = 4_000_000_000
PEERS = [PeerID(make_key(f"node {number}").peer_id.to_bytes()) for number in range(60)]


def get_place(peer: PeerID) -> DHTID:
    return DHTID.from_bytes(compute_node_id(PeerId.from_bytes(peer.to_bytes())))


def list_nearest(peers: list[PeerID]) -> list[PeerID]:
    return sorted(peers, key=lambda peer: KEY_ID.xor_distance(get_place(peer)))


# The first of each three is a liar's, so that the nearest of all is.
MEMBERS = [peer for rank, peer in enumerate(list_nearest(PEERS)) if rank % 3]
STRANGERS = list_nearest(PEERS)[::3]


class Protocol:
    """hivemind's protocol of one node, over a network in which each node knows ``told``."""

    serializer = MSGPackSerializer
    client_mode = True

    def __init__(self, own: DHTID, known: list[PeerID], told: list[PeerID]) -> None:
        self.routing_table = RoutingTable(own, bucket_size=64, depth_modulo=5)
        for peer in known:
            self.routing_table.add_or_update_node(get_place(peer), peer)
        self.storage: Any = TimedStorage()
        self.told = told
        self.silent: set[PeerID] = set()
        self.full: set[PeerID] = set()
        self.asked: list[PeerID] = []
        self.stored: list[PeerID] = []

    async def call_find(self, peer: PeerID, keys: list[DHTID]) -> Any:
        self.asked.append(peer)
        if peer in self.silent:
            return None
        return {key: (None, {get_place(p): p for p in self.told}) for key in keys}

    async def call_store(
        self, peer: PeerID, keys: list[DHTID], values: list[bytes], expires_at: list[float]
    ) -> list[bool] | None:
        assert (keys, values) == ([KEY_ID], [MSGPackSerializer.dumps(b"value")])
        assert expires_at == [float(EXPIRES_AT)]
        if peer in self.silent:
            return None
        self.stored.append(peer)
        return [peer not in self.full]


class Scene:
    def __init__(self, *, known: list[PeerID], told: list[PeerID]) -> None:
        own = make_key("writer").peer_id
        self.own = PeerID(own.to_bytes())
        place = get_place(self.own)
        self.protocol = Protocol(place, known, told)
        self.node: Any = SimpleNamespace(
            protocol=self.protocol,
            node_id=place,
            peer_id=self.own,
            blacklist=Blacklist(base_time=60.0, backoff_rate=1.0),
        )
        members = {PeerId.from_bytes(peer.to_bytes()) for peer in MEMBERS}
        self._writer = RecordWriter(self.node, is_member=members.__contains__)

    async def store(self) -> bool:
        return await self._writer.store(KEY, b"value", EXPIRES_AT)


async def test_a_record_is_stored_at_the_replicas_that_readers_ask() -> None:
    scene = Scene(known=MEMBERS, told=[])
    assert await scene.store()
    assert scene.protocol.stored == list_nearest(MEMBERS)[:NUM_REPLICAS]
    assert len(scene.protocol.asked) == NODES_ASKED


async def test_a_replica_that_only_its_neighbours_know_gets_the_record() -> None:
    hidden = list_nearest(MEMBERS)[2]
    scene = Scene(known=[peer for peer in MEMBERS if peer != hidden], told=[hidden])
    assert await scene.store()
    assert scene.protocol.stored == list_nearest(MEMBERS)[:NUM_REPLICAS]


async def test_places_that_a_liar_makes_up_get_no_record() -> None:
    scene = Scene(known=MEMBERS, told=STRANGERS)
    assert await scene.store()
    assert scene.protocol.stored == list_nearest(MEMBERS)[:NUM_REPLICAS]


async def test_a_silent_replica_is_replaced_by_the_next_nearest() -> None:
    scene = Scene(known=MEMBERS, told=[])
    nearest = list_nearest(MEMBERS)
    scene.protocol.silent = {nearest[0], nearest[4]}
    assert await scene.store()
    expected = [p for p in nearest if p not in scene.protocol.silent][:NUM_REPLICAS]
    assert set(scene.protocol.stored) == set(expected)
    assert all(peer in scene.node.blacklist for peer in scene.protocol.silent)


async def test_a_writer_that_is_a_replica_itself_holds_the_record() -> None:
    scene = Scene(known=MEMBERS[:3], told=[])
    scene.protocol.client_mode = False
    assert await scene.store()
    assert set(scene.protocol.stored) == set(MEMBERS[:3])
    assert scene.protocol.storage.get(KEY_ID).value == MSGPackSerializer.dumps(b"value")


@pytest.mark.parametrize("is_one_free", [True, False])
async def test_a_record_is_stored_if_one_replica_takes_it(is_one_free: bool) -> None:
    scene = Scene(known=MEMBERS[:4], told=[])
    scene.protocol.full = set(MEMBERS[1:4]) if is_one_free else set(MEMBERS[:4])
    assert await scene.store() is is_one_free
