"""The record store on hivemind's DHT: plain values, write-once, judged by the record policy.

hivemind keeps the value with the largest expiry under a key and never replaces one by another
of the same expiry; the policy fixes the expiry, so a record is write-once on every replica.
hivemind keeps replicas and the routing table; ``dht_writer`` publishes and ``dht_reader`` reads.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hivemind.dht.node import DHTNode
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, PeerID

from keys.peer import PeerId
from mesh.p2p.dht_binding import KEYS_PER_FIND, compute_node_id
from mesh.p2p.dht_reader import MAX_MISSES, NUM_REPLICAS, RecordReader
from mesh.p2p.dht_value import decode_value
from mesh.p2p.dht_writer import RecordWriter
from mesh.p2p.interface import RecordPolicy
from mesh.p2p.record_checks import check_own_record, derive_key

EXPLORED_PLACES = 8
ROUNDS_PER_LOOK = 4
"""A neighbourhood that has lost no peer looks at a random place once in so many rounds."""
MAX_REMEMBERED = 512
MIN_REQUEST_S = 0.5


@dataclass(frozen=True, slots=True)
class StoreTiming:
    """How long the record store waits, in seconds: all of it is a part of a block.

    A silent replica costs ``request_s`` and is then left alone for ``ban_s``.
    """

    request_s: float
    publish_s: float
    ban_s: float


def compute_timing(block_time_s: float) -> StoreTiming:
    """Return the waits for a chain of that block time.

    A reading that meets a silent replica still ends within half a block. On blocks of less than
    2 s a busy machine needs longer to answer.
    """
    return StoreTiming(
        request_s=max(MIN_REQUEST_S, block_time_s / 4),
        publish_s=max(4 * MIN_REQUEST_S, block_time_s),
        ban_s=block_time_s,
    )


class PolicyValidator(RecordValidatorBase):  # type: ignore[misc]
    """Asks the policy about every record that is stored here or read from others.

    It never raises, never waits, and its answer does not depend on the time.
    """

    def __init__(self, policy: RecordPolicy | None) -> None:
        self._policy = policy

    def validate(self, record: DHTRecord) -> bool:
        if record.subkey != DHTProtocol.IS_REGULAR_VALUE:
            return False
        if not math.isfinite(record.expiration_time):
            return False
        value = decode_value(record.value)
        if value is None:
            return False
        key = derive_key(self._policy, value=value, expires_at=record.expiration_time)
        return key is not None and DHTID.generate(source=key).to_bytes() == record.key


class DhtRecordStore:
    """Satisfies mesh.p2p.interface.RecordStore."""

    def __init__(
        self,
        policy: RecordPolicy | None,
        reader: RecordReader,
        writer: RecordWriter,
        *,
        publish_s: float,
    ) -> None:
        self._policy = policy
        self._reader = reader
        self._writer = writer
        self._publish_s = publish_s

    async def publish(self, key: bytes, value: bytes, expires_at: int) -> bool:
        """Store on the nearest replicas. Raises RecordRefused for a record we do not admit."""
        check_own_record(self._policy, key=key, value=value, expires_at=expires_at)
        try:
            async with asyncio.timeout(self._publish_s):
                is_stored = await self._writer.store(key, value, expires_at)
        except TimeoutError:
            is_stored = False
        if is_stored:
            return True
        # A replica that holds this very record already refuses the repeat, so read it back.
        held = await self.fetch({key: expires_at}, timeout_s=self._publish_s)
        return held.get(key) == value

    async def fetch(
        self,
        keys: Sequence[bytes] | Mapping[bytes, int],
        *,
        timeout_s: float,
        max_misses: int = MAX_MISSES,
    ) -> Mapping[bytes, bytes]:
        earliest = keys if isinstance(keys, Mapping) else dict.fromkeys(keys, 0)
        return await self._reader.fetch(earliest, timeout_s=timeout_s, max_misses=max_misses)


async def create_dht_node(
    p2p: P2P,
    *,
    own: PeerId,
    policy: RecordPolicy | None,
    initial_peers: Sequence[str],
    client_mode: bool,
    timing: StoreTiming,
) -> DHTNode:
    """Join the DHT at the place of our key, with every cache off."""
    return await DHTNode.create(
        p2p=p2p,
        node_id=DHTID.from_bytes(compute_node_id(own)),
        initial_peers=list(initial_peers),
        num_replicas=NUM_REPLICAS,
        wait_timeout=timing.request_s,
        cache_locally=False,
        cache_nearest=0,
        cache_on_store=False,
        cache_refresh_before_expiry=0,
        reuse_get_requests=False,
        chunk_size=KEYS_PER_FIND,
        blacklist_time=timing.ban_s,
        # Without this a peer that was away for ten minutes is shunned for hours.
        backoff_rate=1.0,
        client_mode=client_mode,
        record_validator=PolicyValidator(policy),
        # It would also demand that peers dial us back at once; addresses are checked elsewhere.
        ensure_bootstrap_success=False,
        strict=False,
    )


class Neighbourhood:
    """Keeps us in touch with the DHT.

    A reader finds replicas in the routing table, so the table should have all nodes. hivemind
    enters a node when one of the two calls the other, and drops it at its first failure.
    """

    def __init__(self, node: DHTNode, initial_peers: Sequence[PeerId]) -> None:
        self._node = node
        self._initial_peers = [PeerID(peer.to_bytes()) for peer in initial_peers]
        self._remembered: OrderedDict[PeerID, None] = OrderedDict()
        self._quiet_rounds = itertools.count(1)

    async def refresh(self) -> bool:
        """Ping whom we lost; False when there should be neighbours and there are none."""
        table = self._node.protocol.routing_table
        self._remember(table.peer_id_to_uid)
        lost = [peer for peer in (*self._initial_peers, *self._remembered) if peer not in table]
        if lost:
            await asyncio.gather(*(self._node.protocol.call_ping(peer) for peer in set(lost)))
            # hivemind enters who answered in a task of its own.
            await asyncio.sleep(0)
            if table.peer_id_to_uid:
                await self._node.find_nearest_nodes([self._node.node_id])
        elif table.peer_id_to_uid and next(self._quiet_rounds) % ROUNDS_PER_LOOK == 0:
            await self._node.find_nearest_nodes([DHTID.generate()], k_nearest=1, beam_size=8)
        return bool(table.peer_id_to_uid) or not self._initial_peers

    async def explore(self) -> None:
        """Call the nodes around several places, so that we know nearly all and they know us."""
        places = [DHTID.generate() for _ in range(EXPLORED_PLACES)]
        await self._node.find_nearest_nodes(places)

    def _remember(self, peers: Iterable[PeerID]) -> None:
        for peer in list(peers):
            self._remembered[peer] = None
            self._remembered.move_to_end(peer)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
