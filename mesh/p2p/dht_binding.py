"""Who may claim which place in the DHT, and what may be said there at all.

A node's place is the SHA-1 of its public key, so a peer cannot settle next to a key of its
choice. hivemind's authorizer hooks do not see which peer is at the other end of a connection, and
a signed request could be relayed by another peer; so the check stands one layer lower, where
libp2p's authenticated peer id is known, on every request and every answer. It costs no
signature.

The same place keeps out of hivemind's decoders what we never send: dictionaries, whose nested
encoding can exhaust the C stack; cache stores, which have no bound; over-long lists.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2P, P2PContext, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError
from hivemind.proto import dht_pb2

from keys.errors import BadPeerId
from keys.peer import PeerId
from mesh.errors import MeshError, PeerRefusal
from mesh.p2p.offenders import Offenders
from mesh.p2p.owned_tasks import OwnedTasks
from mesh.p2p.rpc_guard import PeerBuckets, RpcReason
from mesh.p2p.traffic import Traffic

MAX_KEYS_PER_REQUEST = 64
KEYS_PER_FIND = 3
"""As many records of the largest size as fit one 4 MiB answer: any peer may ask, and an answer is
put together in memory before hivemind looks at its size."""
MAX_NEIGHBOURS = 64
NEIGHBOURS_TOLD = 12
MAX_STORE_REQUEST = 1 << 20
"""A hand-off to a new neighbour is cut to this, or to one record: on 6 s blocks a part crosses a
link of 6 Mbit/s in the time of one call."""
HAND_OFF_S = 60.0
MAX_HAND_OFFS = 8
REQUESTS_PER_SECOND = 200.0
REQUEST_BURST = 1000
_NODE_ID_TAG = b"mesh/dht/node/1"

logger = logging.getLogger(__name__)


class DhtRefused(MeshError):
    """A request or answer that breaks the rules of our DHT; the other side sees the reason."""


def compute_node_id(peer: PeerId) -> bytes:
    """Return the 20-byte place of ``peer`` in the DHT."""
    return hashlib.sha1(_NODE_ID_TAG + peer.public_key).digest()


class DhtRules:
    """Judges requests and answers by the authenticated peer at the other end."""

    def __init__(
        self,
        *,
        is_member: Callable[[PeerId], bool] | None,
        clock: Callable[[], float] = time.time,
        offenders: Offenders | None = None,
    ) -> None:
        self._is_member = is_member
        self._offenders = offenders or Offenders(is_member=is_member)
        self._clock = clock
        self._buckets = PeerBuckets(rate=REQUESTS_PER_SECOND, burst=REQUEST_BURST)

    def check_request(self, request: Any, remote: PeerId) -> None:
        """Raise DhtRefused or PeerRefusal unless ``remote`` may ask this."""
        self.check_sender(type(request), remote)
        with self._noted(remote):
            self._check_form(request, remote)

    def check_sender(self, request_type: type[Any], remote: PeerId) -> None:
        """Raise as ``check_request`` does for what the sender alone decides: no byte is decoded."""
        self.check_read(remote)
        if request_type is dht_pb2.StoreRequest and not self._is_admitted(remote):
            with self._noted(remote):
                raise DhtRefused("only members store in this DHT")

    def decode_request(self, request_type: type[Any], raw: bytes, remote: PeerId) -> Any:
        """Return the request in ``raw``. Raises as ``check_request`` does, or protobuf's error."""
        self.check_sender(request_type, remote)
        request = request_type.FromString(raw)
        with self._noted(remote):
            self._check_form(request, remote)
        return request

    @contextmanager
    def _noted(self, remote: PeerId) -> Iterator[None]:
        """Count what breaks a rule in the block against the sender."""
        try:
            yield
        except DhtRefused:
            self._offenders.note(remote, RpcReason.MALFORMED, now_s=self._clock())
            raise

    def _is_admitted(self, remote: PeerId) -> bool:
        return self._is_member is None or self._is_member(remote)

    def _check_form(self, request: Any, remote: PeerId) -> None:
        self._check_claim(request.peer.node_id, remote)
        if isinstance(request, dht_pb2.StoreRequest):
            _check_store(request)
        elif isinstance(request, dht_pb2.FindRequest):
            _check_keys(request.keys, most=KEYS_PER_FIND)

    def check_read(self, remote: PeerId) -> None:
        """Raise PeerRefusal unless ``remote`` may ask anything now: anyone may, at its rate."""
        now_s = self._clock()
        if self._offenders.turn_away(remote, now_s=now_s):
            raise PeerRefusal(remote, RpcReason.RATE, "dropped for a while")
        try:
            self._buckets.take(remote, now_ms=int(now_s * 1000))
        except PeerRefusal as refusal:
            self._offenders.note(remote, refusal.reason, now_s=now_s)
            raise

    def clean_answer(self, response: Any, remote: PeerId) -> None:
        """Raise DhtRefused for a false claim; drop what hivemind must not see."""
        self._check_claim(response.peer.node_id, remote)
        if isinstance(response, dht_pb2.FindResponse):
            for result in response.results:
                _clean_result(result)

    def _check_claim(self, node_id: bytes, remote: PeerId) -> None:
        # Clients claim no place, so that no peer adds them to a routing table.
        if not node_id:
            return
        if node_id != compute_node_id(remote):
            raise DhtRefused("the node id is not the one of the sender's key")
        if not self._is_admitted(remote):
            raise DhtRefused("only members hold a place in this DHT")


class OpenCalls(dict[UUID, asyncio.Future[Any]]):
    """hivemind's calls that wait for an answer; one that was given up counts as gone.

    A call that times out cancels its future at once and is taken out of this table a moment later.
    hivemind would set the result of an answer that arrives in between, and the task that reads all
    answers and requests would end with InvalidStateError: the node would be deaf until a restart.
    """

    def __contains__(self, call_id: object) -> bool:
        future = self.get(call_id) if isinstance(call_id, UUID) else None
        return future is not None and not future.done()


class BoundP2P(P2P):  # type: ignore[misc]
    """hivemind's P2P with our rules on every call of the DHT and our network in every name."""

    rules: DhtRules
    namespace: str
    traffic: Traffic
    hand_offs: OwnedTasks
    handed_to: set[PeerID]

    async def _add_protobuf_unary_handler(
        self,
        handle_name: str,
        handler: Callable[[Any, P2PContext], Awaitable[Any]],
        input_protobuf_type: type[Any],
        balanced: bool = False,
    ) -> None:
        """Answer as hivemind does, but look at the sender before a byte is decoded."""

        async def checked(raw: bytes, remote_id: PeerID) -> bytes:
            self.traffic.records.add_received(len(raw))
            request = self.rules.decode_request(input_protobuf_type, raw, _peer(remote_id))
            context = P2PContext(
                handle_name=handle_name, local_id=self.peer_id, remote_id=remote_id
            )
            response = await handler(request, context)
            _shorten(response)
            answer: bytes = response.SerializeToString()
            self.traffic.records.add_sent(len(answer))
            return answer

        await self._client.add_unary_handler(self._qualify(handle_name), checked, balanced=balanced)

    async def call_protobuf_handler(
        self, peer_id: PeerID, name: str, input: Any, output_protobuf_type: Any
    ) -> Any:
        """Return the answer, of a store request that is cut into parts the first part's.

        hivemind gives a hand-off of any size the time of one call and forgets the new neighbour
        when that is over, so the later parts take their own time; ``store_ok`` is False for them.
        """
        if not isinstance(input, dht_pb2.StoreRequest):
            return await self._call(peer_id, name, input, output_protobuf_type)
        first, *later = _split_store(input)
        response = await self._call(peer_id, name, first, output_protobuf_type)
        if later:
            response.store_ok.extend([False] * sum(len(part.keys) for part in later))
            self._start_hand_off(peer_id, name, later)
        return response

    async def _call(self, peer_id: PeerID, name: str, request: Any, answer_type: Any) -> Any:
        self.traffic.records.add_sent(request.ByteSize())
        response = await super().call_protobuf_handler(
            peer_id, self._qualify(name), request, answer_type
        )
        self.traffic.records.add_received(response.ByteSize())
        self.rules.clean_answer(response, _peer(peer_id))
        return response

    def _start_hand_off(
        self, peer_id: PeerID, name: str, parts: Sequence[dht_pb2.StoreRequest]
    ) -> None:
        # What is left out is held by other replicas too.
        if peer_id not in self.handed_to and len(self.handed_to) < MAX_HAND_OFFS:
            self.handed_to.add(peer_id)
            self.hand_offs.start(self._hand_off(peer_id, name, parts))

    async def _hand_off(
        self, peer_id: PeerID, name: str, parts: Sequence[dht_pb2.StoreRequest]
    ) -> None:
        try:
            async with asyncio.timeout(HAND_OFF_S):
                for part in parts:
                    await self._call(peer_id, name, part, dht_pb2.StoreResponse)
        except (TimeoutError, DhtRefused, P2PDaemonError, P2PHandlerError, OSError) as error:
            logger.debug("a hand-off to %s ended early: %s", peer_id, error)
        finally:
            self.handed_to.discard(peer_id)

    async def add_bytes_handler(
        self, name: str, handler: Callable[[bytes], Awaitable[bytes]]
    ) -> None:
        """Answer calls of ``name`` from any peer, within the rate of the rules."""

        async def checked(request: bytes, remote_id: PeerID) -> bytes:
            self.traffic.records.add_received(len(request))
            self.rules.check_read(_peer(remote_id))
            response = await handler(request)
            self.traffic.records.add_sent(len(response))
            return response

        await self._client.add_unary_handler(self._qualify(name), checked)

    async def call_bytes_handler(self, peer_id: PeerID, name: str, request: bytes) -> bytes:
        """Return a peer's answer. Raises hivemind's P2PDaemonError or P2PHandlerError."""
        self.traffic.records.add_sent(len(request))
        response: bytes | None = await self._client.call_unary_handler(
            peer_id, self._qualify(name), request
        )
        self.traffic.records.add_received(len(response or b""))
        return response or b""

    def _qualify(self, name: str) -> str:
        return f"/mesh/{self.namespace}/{name}"


def _check_store(request: dht_pb2.StoreRequest) -> None:
    _check_keys(request.keys)
    columns = (request.subkeys, request.values, request.expiration_time, request.in_cache)
    if any(len(column) != len(request.keys) for column in columns):
        raise DhtRefused("the lists of a store request differ in length")
    if any(subkey != DHTProtocol.IS_REGULAR_VALUE for subkey in request.subkeys):
        raise DhtRefused("plain values only: no subkeys, no dictionaries")
    if any(request.in_cache):
        raise DhtRefused("nothing is cached for others")


def _check_keys(keys: Any, *, most: int = MAX_KEYS_PER_REQUEST) -> None:
    if not len(keys) <= most:
        raise DhtRefused(f"such a request names at most {most} keys")
    if any(len(key) != DHTID.HASH_NBYTES for key in keys):
        raise DhtRefused(f"a key has {DHTID.HASH_NBYTES} bytes")


def _clean_result(result: dht_pb2.FindResult) -> None:
    if result.type == dht_pb2.FOUND_DICTIONARY:
        result.type = dht_pb2.NOT_FOUND
        result.value = b""
    neighbours = zip(result.nearest_node_ids, result.nearest_peer_ids, strict=False)
    honest = [pair for pair in neighbours if _is_honest(*pair)][:MAX_NEIGHBOURS]
    result.nearest_node_ids[:] = [node_id for node_id, _ in honest]
    result.nearest_peer_ids[:] = [peer_id for _, peer_id in honest]


def _shorten(response: Any) -> None:
    """Keep the nearest of the neighbours that an answer of ours lists: hivemind lists 20."""
    if isinstance(response, dht_pb2.FindResponse):
        for result in response.results:
            del result.nearest_node_ids[NEIGHBOURS_TOLD:]
            del result.nearest_peer_ids[NEIGHBOURS_TOLD:]


def _is_honest(node_id: bytes, peer_id: bytes) -> bool:
    try:
        return node_id == compute_node_id(PeerId.from_bytes(peer_id))
    except BadPeerId:
        return False


def _split_store(request: dht_pb2.StoreRequest) -> Iterator[dht_pb2.StoreRequest]:
    """Yield requests that fit: a hand-off of everything we hold is one request in hivemind."""
    start, size = 0, 0
    for index, value in enumerate(request.values):
        is_full = index - start == MAX_KEYS_PER_REQUEST
        if index > start and (is_full or size + len(value) > MAX_STORE_REQUEST):
            yield _slice_store(request, start, index)
            start, size = index, 0
        size += len(value)
    yield _slice_store(request, start, len(request.values))


def _slice_store(request: dht_pb2.StoreRequest, start: int, end: int) -> dht_pb2.StoreRequest:
    return dht_pb2.StoreRequest(
        keys=request.keys[start:end],
        subkeys=request.subkeys[start:end],
        values=request.values[start:end],
        expiration_time=request.expiration_time[start:end],
        in_cache=request.in_cache[start:end],
        peer=request.peer,
    )


def _peer(peer_id: PeerID) -> PeerId:
    try:
        return PeerId.from_bytes(peer_id.to_bytes())
    except BadPeerId as error:
        raise DhtRefused("only Ed25519 peers take part") from error
