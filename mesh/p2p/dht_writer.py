"""Stores records on the replicas that readers will ask.

hivemind's own search asks twelve nodes and more for their neighbours before it stores, since in its
networks a node knows few others. Here a node knows nearly all (``Neighbourhood``), and a reader
takes the replicas of a key from its own routing table. So does the writer. In case its table lacks
some, it first asks the nearest nodes whom they know: their tables are fullest around themselves.
What these name counts only if it is a member, so that no peer can put made-up places before the
real ones. A replica that does not answer is replaced by the next nearest one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID

from keys.errors import BadPeerId
from keys.peer import PeerId
from mesh.p2p.dht_reader import NUM_REPLICAS

NODES_ASKED = 2
"""Nearest nodes that are asked whom they know near a key."""


class RecordWriter:
    """Stores values, which are as hivemind packs them, at the nearest replicas."""

    def __init__(self, node: DHTNode, *, is_member: Callable[[PeerId], bool] | None) -> None:
        self._node = node
        self._is_member = is_member

    async def store(self, key: bytes, value: bytes, expires_at: int) -> bool:
        """Store at ``NUM_REPLICAS`` nodes that answer; True if one holds the value now.

        A replica that has the key with this expiry or a later one already does not.
        """
        key_id = DHTID.generate(source=key)
        packed = self._node.protocol.serializer.dumps(value)
        nearest = await self._find_nearest(key_id)
        answers: list[bool] = []
        while nearest and len(answers) < NUM_REPLICAS:
            wanted = NUM_REPLICAS - len(answers)
            asked, nearest = nearest[:wanted], nearest[wanted:]
            stored = await asyncio.gather(
                *(self._store_at(peer, key_id, packed, expires_at) for peer in asked)
            )
            answers += [answer for answer in stored if answer is not None]
        return any(answers)

    async def _find_nearest(self, key_id: DHTID) -> list[PeerID]:
        """Return nodes by their distance from a key; this one is among them unless a client."""
        known = self._list_known(key_id)
        nearest = sorted(known, key=key_id.xor_distance)[:NODES_ASKED]
        answers = await asyncio.gather(
            *(self._node.protocol.call_find(known[place], [key_id]) for place in nearest)
        )
        for place, answer in zip(nearest, answers, strict=True):
            if answer is None:
                self._node.blacklist.register_failure(known.pop(place))
                continue
            _, neighbours = answer[key_id]
            known |= {p: peer for p, peer in neighbours.items() if self._is_replica(peer)}
        if not self._node.protocol.client_mode:
            known[self._node.node_id] = self._node.peer_id
        return [known[place] for place in sorted(known, key=key_id.xor_distance)]

    def _list_known(self, key_id: DHTID) -> dict[DHTID, PeerID]:
        table, own = self._node.protocol.routing_table, self._node.node_id
        known = dict(table.get_nearest_neighbors(key_id, 2 * NUM_REPLICAS, exclude=own))
        answering = {p: peer for p, peer in known.items() if peer not in self._node.blacklist}
        return answering or known

    def _is_replica(self, peer: PeerID) -> bool:
        """Whether a node that another one names may be a replica."""
        if peer in self._node.blacklist:
            return False
        try:
            return self._is_member is None or self._is_member(PeerId.from_bytes(peer.to_bytes()))
        except BadPeerId:
            return False

    async def _store_at(
        self, peer: PeerID, key_id: DHTID, packed: bytes, expires_at: int
    ) -> bool | None:
        """Return whether a replica has taken the value; None if it does not answer."""
        protocol = self._node.protocol
        if peer == self._node.peer_id:
            return bool(protocol.storage.store(key_id, packed, float(expires_at)))
        answer = await protocol.call_store(peer, [key_id], [packed], [float(expires_at)])
        if not answer:
            self._node.blacklist.register_failure(peer)
            return None
        return bool(answer[0])
