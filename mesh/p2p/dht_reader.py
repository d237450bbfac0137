"""Reads records straight from the replicas that should hold them.

Theory of operation
===================

hivemind's own search is made for networks in which a node knows few others: it looks for the
newest value, so it asks all replicas of a key, and each answer lists twenty neighbours. Here a
record is signed and write-once, so the first valid copy is enough, and a node knows nearly all
others (``Neighbourhood``), so it finds the replicas of a key in its own routing table.

**Order.** The replicas of a key are nearly neighbours among all nodes sorted by place. So a reading
gives the nodes, in this order, the colours 0 to 7 from a random start, and asks for each key first
at its replica of the first colour. One node in eight is asked then, each for all keys that it may
hold: they travel in few requests, and all readers together load all replicas alike. A key whose
replica has no copy, or no answer, goes on to its next replica at once: keys do not wait for each
other. One that ``MAX_MISSES`` replicas do not hold counts as missing.

**What can fail.** A peer that is silent for ``request_s`` or answers nonsense is not asked for
``ban_s``, unless a key has no other replica; it is no miss. An invalid or too old value is one. A
record that lying replicas hide from one reading is found by the next, which asks in another order.

The bytes of requests and answers are in ``read_wire``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError

from mesh.p2p.dht_binding import BoundP2P, DhtRefused
from mesh.p2p.dht_value import decode_value
from mesh.p2p.interface import RecordPolicy
from mesh.p2p.read_wire import (
    MAX_KEYS_PER_READ,
    HeldValue,
    MalformedRead,
    decode_read,
    decode_read_answer,
    encode_read,
    encode_read_answer,
)
from mesh.p2p.record_checks import derive_key

READ_METHOD = "records.read"
NUM_REPLICAS = 8
MAX_MISSES = 4
MAX_READS_AT_ONCE = 64
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Search:
    """One key, the replicas that were not asked for it yet, the next one last, and its misses."""

    key: bytes
    key_id: DHTID
    earliest: int
    replicas: list[PeerID]
    is_asked: bool = False
    misses: int = 0


class RecordReader:
    """Asks replicas for records, and answers for the replica at hand."""

    def __init__(
        self,
        node: DHTNode,
        p2p: BoundP2P,
        policy: RecordPolicy | None,
        *,
        request_s: float,
    ) -> None:
        self._node = node
        self._p2p = p2p
        self._policy = policy
        self._request_s = request_s
        self._slots = asyncio.Semaphore(MAX_READS_AT_ONCE)

    async def serve(self) -> None:
        """Answer other readers."""
        await self._p2p.add_bytes_handler(READ_METHOD, self._answer)

    async def fetch(
        self, earliest: Mapping[bytes, int], *, timeout_s: float, max_misses: int = MAX_MISSES
    ) -> dict[bytes, bytes]:
        """Return a valid value for each key that has one expiring then or later.

        A key is given up after ``max_misses`` replicas without one.
        """
        found: dict[bytes, bytes] = {}
        ranks = self._draw_ranks()
        searches = []
        for key, expires_at in earliest.items():
            search = self._begin(key, expires_at, ranks)
            here = self._get_held(search.key_id, search.earliest)
            if here is not None and self._is_valid(search, here):
                found[key] = here.value
            else:
                searches.append(search)
        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as tasks:
                self._ask_on(tasks, searches, found, max_misses)
        except TimeoutError:
            logger.debug("a reading ended with %d of %d keys", len(found), len(earliest))
        return found

    async def fetch_copies(self, key: bytes, earliest: int) -> tuple[tuple[bytes, ...], int]:
        """Ask all other replicas of one key; return their valid values, and how many were asked.

        For one who wants to know what became of a record: this node's own copy does not count.
        """
        search = self._begin(key, earliest, self._draw_ranks())
        answers = await asyncio.gather(*(self._call(peer, [search]) for peer in search.replicas))
        held = [answer[0] for answer in answers if answer]
        values = tuple(one.value for one in held if one is not None and self._is_valid(search, one))
        return values, len(answers)

    def _draw_ranks(self) -> dict[PeerID, int]:
        """Return each known peer's place in the order of this reading; the highest is first."""
        peers = self._node.protocol.routing_table.uid_to_peer_id
        start = random.randrange(NUM_REPLICAS)
        return {
            peers[place]: (start + number) % NUM_REPLICAS
            for number, place in enumerate(sorted(peers))
        }

    def _begin(self, key: bytes, earliest: int, ranks: Mapping[PeerID, int]) -> _Search:
        key_id = DHTID.generate(source=key)
        table = self._node.protocol.routing_table
        nearest = table.get_nearest_neighbors(key_id, NUM_REPLICAS, exclude=self._node.node_id)
        replicas = sorted((peer for _, peer in nearest), key=ranks.__getitem__)
        return _Search(key, key_id, earliest, replicas)

    def _ask_on(
        self,
        tasks: asyncio.TaskGroup,
        searches: Sequence[_Search],
        found: dict[bytes, bytes],
        max_misses: int,
    ) -> None:
        """Ask the next replica of each key, with one request for each replica."""
        batches: defaultdict[PeerID, list[_Search]] = defaultdict(list)
        for search in searches:
            peer = self._choose_next(search) if search.misses < max_misses else None
            if peer is not None:
                batches[peer].append(search)
        for peer, batch in batches.items():
            for start in range(0, len(batch), MAX_KEYS_PER_READ):
                part = batch[start : start + MAX_KEYS_PER_READ]
                tasks.create_task(self._ask(tasks, peer, part, found, max_misses))

    def _choose_next(self, search: _Search) -> PeerID | None:
        """Return the next replica; one that was silent only where a key has no other."""
        while search.replicas:
            peer = search.replicas.pop()
            is_last_hope = not search.replicas and not search.is_asked
            if peer not in self._node.blacklist or is_last_hope:
                search.is_asked = True
                return peer
        return None

    async def _ask(
        self,
        tasks: asyncio.TaskGroup,
        peer: PeerID,
        batch: Sequence[_Search],
        found: dict[bytes, bytes],
        max_misses: int,
    ) -> None:
        answers = await self._call(peer, batch)
        unanswered = list(batch[len(answers) :])
        if answers:
            for search in unanswered:
                search.replicas.append(peer)
        for search, answer in zip(batch, answers, strict=False):
            if answer is not None and self._is_valid(search, answer):
                found[search.key] = answer.value
            else:
                search.misses += 1
                unanswered.append(search)
        self._ask_on(tasks, unanswered, found, max_misses)

    async def _call(self, peer: PeerID, batch: Sequence[_Search]) -> Sequence[HeldValue | None]:
        """Return what ``peer`` holds, in order; nothing if it does not answer."""
        request = encode_read([(search.key_id.to_bytes(), search.earliest) for search in batch])
        try:
            async with self._slots, asyncio.timeout(self._request_s):
                raw = await self._p2p.call_bytes_handler(peer, READ_METHOD, request)
            answers = decode_read_answer(raw, asked=len(batch))
        except (
            TimeoutError,
            OSError,
            P2PDaemonError,
            P2PHandlerError,
            DhtRefused,
            MalformedRead,
        ) as error:
            logger.debug("replica %s does not answer: %s", peer, error)
            self._node.blacklist.register_failure(peer)
            return ()
        self._node.blacklist.register_success(peer)
        return answers

    def _is_valid(self, search: _Search, held: HeldValue) -> bool:
        if held.expires_at < search.earliest:
            return False
        return derive_key(self._policy, value=held.value, expires_at=held.expires_at) == search.key

    async def _answer(self, request: bytes) -> bytes:
        return encode_read_answer(
            self._get_held(DHTID.from_bytes(key), earliest)
            for key, earliest in decode_read(request)
        )

    def _get_held(self, key_id: DHTID, earliest: int) -> HeldValue | None:
        """Return what this node's own replica holds."""
        held = self._node.protocol.storage.get(key_id)
        if held is None or not isinstance(held.value, bytes):
            return None
        if not math.isfinite(held.expiration_time) or held.expiration_time < earliest:
            return None
        value = decode_value(held.value)
        return None if value is None else HeldValue(value, int(held.expiration_time))
