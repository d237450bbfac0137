"""The record store on hivemind's DHT: plain values, write-once, judged by the record policy.

hivemind keeps the value with the largest expiry under a key and never replaces one by another
of the same expiry; the policy fixes the expiry, so a record is write-once on every replica. A
value travels as one msgpack byte string, and whatever is not exactly that is refused before
hivemind decodes it: an undecodable value would hang every reader.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from hivemind.dht.node import DHTNode
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, PeerID

from keys.peer import PeerId
from mesh.p2p.dht_binding import KEYS_PER_FIND, compute_node_id
from mesh.p2p.interface import MAX_RECORD_SIZE, RecordPolicy
from mesh.p2p.record_checks import check_own_record, derive_key

NUM_REPLICAS = 8
RPC_TIMEOUT_S = 5.0
PUBLISH_TIMEOUT_S = 30.0
READ_BACK_TIMEOUT_S = 5.0
BAN_TIME_S = 5.0
MAX_REMEMBERED = 64

# msgpack's byte strings: type byte, then the big-endian length in one, two or four bytes.
_MSGPACK_BYTES = {0xC4: struct.Struct(">B"), 0xC5: struct.Struct(">H"), 0xC6: struct.Struct(">I")}
_MSGPACK_MIN_SIZE = {0xC4: 0, 0xC5: 1 << 8, 0xC6: 1 << 16}


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

    def __init__(self, node: DHTNode, policy: RecordPolicy | None) -> None:
        self._node = node
        self._policy = policy

    async def publish(self, key: bytes, value: bytes, expires_at: int) -> bool:
        """Store on the nearest replicas. Raises RecordRefused for a record we do not admit."""
        check_own_record(self._policy, key=key, value=value, expires_at=expires_at)
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                is_stored = await self._node.store(key, value, float(expires_at))
        except TimeoutError:
            is_stored = False
        if is_stored:
            return True
        # A replica that holds this very record already refuses the repeat, so read it back.
        held = await self.fetch((key,), timeout_s=READ_BACK_TIMEOUT_S)
        return held.get(key) == value

    async def fetch(self, keys: Sequence[bytes], *, timeout_s: float) -> Mapping[bytes, bytes]:
        if not keys:
            return {}
        futures = await self._node.get_many(
            tuple(dict.fromkeys(keys)),
            sufficient_expiration_time=math.inf,
            return_futures=True,
        )
        try:
            await asyncio.wait(futures.values(), timeout=timeout_s)
        finally:
            for future in futures.values():
                future.cancel()
        return {
            key: future.result().value
            for key, future in futures.items()
            if future.done() and not future.cancelled() and future.result() is not None
        }


async def create_dht_node(
    p2p: P2P,
    *,
    own: PeerId,
    policy: RecordPolicy | None,
    initial_peers: Sequence[str],
    client_mode: bool,
) -> DHTNode:
    """Join the DHT at the place of our key, with every cache off."""
    return await DHTNode.create(
        p2p=p2p,
        node_id=DHTID.from_bytes(compute_node_id(own)),
        initial_peers=list(initial_peers),
        num_replicas=NUM_REPLICAS,
        wait_timeout=RPC_TIMEOUT_S,
        cache_locally=False,
        cache_nearest=0,
        cache_on_store=False,
        cache_refresh_before_expiry=0,
        reuse_get_requests=False,
        chunk_size=KEYS_PER_FIND,
        blacklist_time=BAN_TIME_S,
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

    hivemind drops a neighbour at its first failure and never calls again, so two nodes that
    lose each other for a moment would stay apart.
    """

    def __init__(self, node: DHTNode, initial_peers: Sequence[PeerId]) -> None:
        self._node = node
        self._initial_peers = [PeerID(peer.to_bytes()) for peer in initial_peers]
        self._remembered: OrderedDict[PeerID, None] = OrderedDict()

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
        return bool(table.peer_id_to_uid) or not self._initial_peers

    def _remember(self, peers: Iterable[PeerID]) -> None:
        for peer in list(peers):
            self._remembered[peer] = None
            self._remembered.move_to_end(peer)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def decode_value(raw: bytes) -> bytes | None:
    """Return the bytes inside a canonical msgpack byte string, None for anything else."""
    if not 2 <= len(raw) <= MAX_RECORD_SIZE + 5:
        return None
    length = _MSGPACK_BYTES.get(raw[0])
    if length is None or len(raw) < 1 + length.size:
        return None
    start = 1 + length.size
    (size,) = length.unpack_from(raw, 1)
    is_canonical = len(raw) - start == size and size >= _MSGPACK_MIN_SIZE[raw[0]]
    return raw[start:] if is_canonical else None
