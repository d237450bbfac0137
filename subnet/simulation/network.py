"""A seeded record network: every node keeps a replica behind the production admission rule.

Messages take a drawn time, get lost, overtake each other, wait in the queues of narrow links, and
do not cross a partition; some replicas lie. What one node asks for in the same moment may come in
another order for the next. A crash of the sender does not stop what it has sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from keys.envelope import Envelope, decode_envelope
from keys.errors import BadEnvelope
from keys.peer import PeerId
from mesh.errors import PeerTimeout
from mesh.p2p.interface import RecordPolicy
from mesh.p2p.record_checks import check_own_record, is_admitted

REPLICAS = 5
"""Replicas that keep a record: the nearest to its key."""
REQUEST_TIMEOUT_S = 5.0
MAX_QUEUE_BYTES = 1 << 16
"""What waits for a link; a message that finds more is dropped."""


@dataclass
class Link:
    """One direction of a node's connection: messages pass one after the other."""

    bytes_per_s: float
    free_at_s: float = 0.0
    queued_bytes: int = 0
    """Bytes of all messages that had to wait for others."""
    num_dropped: int = 0

    def pass_message(self, size: int, at_s: float) -> float | None:
        """Return when a message that comes at ``at_s`` is through; None if it is dropped."""
        waits_s = max(0.0, self.free_at_s - at_s)
        if waits_s * self.bytes_per_s + size > MAX_QUEUE_BYTES:
            self.num_dropped += 1
            return None
        self.queued_bytes += size if waits_s else 0
        self.free_at_s = at_s + waits_s + size / self.bytes_per_s
        return self.free_at_s


@dataclass
class NetworkFaults:
    """What is wrong with the network; changed while it runs."""

    latency_s: tuple[float, float] = (0.01, 0.4)
    loss_percent: int = 0
    islands: tuple[frozenset[int], ...] = ()
    """A partition: nodes on different islands do not hear each other."""
    hidden_until_s: dict[tuple[int, int], float] = field(default_factory=dict)
    """(reader, author) -> virtual time until which the reader is shown none of its records."""
    links: dict[int, tuple[Link, Link]] = field(default_factory=dict)
    """Up- and downlink by node; without one, the width of its connection is no matter."""

    def is_cut(self, left: int, right: int) -> bool:
        """Whether a partition is between two nodes."""
        if left == right or not self.islands:
            return False
        return not any(left in island and right in island for island in self.islands)


Tamper = Callable[[int, bytes], bytes | None]
"""What a lying replica answers a reader instead of a value; None withholds it."""


Lookup = Callable[[bytes], bytes | None]
"""Returns the record of a name, the first bytes of its hash; None if it is not held."""


@dataclass
class Replica:
    """What one node's host keeps. It is lost when the process ends."""

    node: int
    position: int
    policy: RecordPolicy | None = None
    """None while the node is down: nothing is stored and nothing answered."""
    tamper: Tamper | None = None
    lookup: Lookup | None = None
    """What the node answers to those who ask for a record by its hash; None while it is down."""
    on_stored: Callable[[bytes | None, bytes], None] = lambda _old, _new: None
    """Called with what is replaced and what is kept now."""
    held: dict[bytes, tuple[float, bytes]] = field(default_factory=dict)
    num_lies: int = 0
    """Answers that were not what it holds."""
    _admitted: set[tuple[bytes, bytes, float]] = field(default_factory=set)

    def start(self, policy: RecordPolicy) -> None:
        self.policy = policy

    def stop(self) -> None:
        self.policy = None
        self.lookup = None
        self.held.clear()
        self._admitted.clear()

    def admits(self, key: bytes, value: bytes, expires_at: float) -> bool:
        """Ask the policy; a yes never turns into a no, so it is remembered."""
        known = (key, value, expires_at)
        if known in self._admitted:
            return True
        is_fine = is_admitted(self.policy, key=key, value=value, expires_at=expires_at)
        if is_fine:
            self._admitted.add(known)
        return is_fine

    def offer(self, key: bytes, value: bytes, expires_at: float) -> bool:
        """Store a record as hivemind does, and say whether it is held now."""
        if self.policy is None or not self.admits(key, value, expires_at):
            return False
        held = self.held.get(key)
        if held is None or expires_at > held[0]:
            self.held[key] = (expires_at, value)
            self.on_stored(None if held is None else held[1], value)
            return True
        return held == (expires_at, value)

    def drop_expired(self, now_s: float) -> None:
        """Forget what has expired, as stores do now and then."""
        self.held = {key: held for key, held in self.held.items() if held[0] > now_s}
        self._admitted = {known for known in self._admitted if known[2] > now_s}

    def answer(self, key: bytes, reader: int) -> tuple[float, bytes] | None:
        """Return what it tells a reader that it holds."""
        held = self.held.get(key)
        if self.tamper is None or held is None:
            return held
        value = self.tamper(reader, held[1])
        self.num_lies += value != held[1]
        return None if value is None else (held[0], value)


Hook = Callable[[int, Envelope], None]


class SimNetwork:
    """All replicas, and the wires between them."""

    def __init__(self, peers: Sequence[PeerId], *, random: Random) -> None:
        self.random = random
        self.faults = NetworkFaults()
        self.on_publish: Hook = lambda _node, _envelope: None
        self.replicas = {
            node: Replica(node, _hash_position(peer.public_key))
            for node, peer in enumerate(peers, start=1)
        }
        self.members = tuple(self.replicas)
        """The nodes that others know, also while they are down."""
        self._nearest: dict[bytes, tuple[Replica, ...]] = {}

    def set_members(self, nodes: Collection[int]) -> None:
        """Say which nodes there are now: each key moves to the nearest of them."""
        self.members = tuple(node for node in self.replicas if node in nodes)
        self._nearest.clear()

    def find_nearest(self, key: bytes) -> tuple[Replica, ...]:
        """Return the replicas of a key, nearest first."""
        if key not in self._nearest:
            position = _hash_position(key)
            members = [self.replicas[node] for node in self.members]
            ordered = sorted(members, key=lambda r: r.position ^ position)
            self._nearest[key] = tuple(ordered[:REPLICAS])
        return self._nearest[key]

    def draw_latency_s(self) -> float:
        low, high = self.faults.latency_s
        return low + (high - low) * self.random.random()

    def compute_transit_s(self, source: int, target: int, size: int, after_s: float) -> float:
        """Return how long a message of ``size`` bytes is under way; infinity if it is dropped.

        ``after_s`` is its latency on the way between the two links.
        """
        links = self.faults.links
        if source == target or not links:
            return after_s
        now_s = asyncio.get_running_loop().time()
        sent_s = links[source][0].pass_message(size, now_s) if source in links else now_s
        if sent_s is None:
            return math.inf
        arrives_s = sent_s + after_s
        if target in links:
            through_s = links[target][1].pass_message(size, arrives_s)
            return math.inf if through_s is None else through_s - now_s
        return arrives_s - now_s

    def is_delivered(self, source: int, target: int) -> bool:
        """Whether a message arrives; one to oneself always does."""
        faults = self.faults
        if source == target or not (faults.loss_percent or faults.islands):
            return True
        if faults.is_cut(source, target):
            return False
        return 100 * self.random.random() >= faults.loss_percent

    def is_hidden(self, reader: int, envelope_author: int | None, now_s: float) -> bool:
        if envelope_author is None or not self.faults.hidden_until_s:
            return False
        return now_s < self.faults.hidden_until_s.get((reader, envelope_author), -1.0)


class SimRecordStore:
    """Satisfies RecordStore for one node."""

    def __init__(self, network: SimNetwork, node: int, authors: Mapping[bytes, int]) -> None:
        self._network = network
        self._node = node
        self._authors = authors

    async def publish(self, key: bytes, value: bytes, expires_at: int) -> bool:
        own = self._network.replicas[self._node]
        check_own_record(own.policy, key=key, value=value, expires_at=expires_at)
        self._network.on_publish(self._node, decode_envelope(value))
        return await self.send(key, value, float(expires_at))

    async def send(
        self, key: bytes, value: bytes, expires_at: float, *, only: frozenset[int] | None = None
    ) -> bool:
        """Offer a record to its replicas, to some of them if ``only`` says so; no questions."""
        loop = asyncio.get_running_loop()
        network, is_held, wait_s = self._network, [], 0.0
        for replica in network.find_nearest(key):
            if only is not None and replica.node not in only:
                continue
            latency_s = network.draw_latency_s()
            if not network.is_delivered(self._node, replica.node):
                wait_s = REQUEST_TIMEOUT_S
                continue
            transit_s = network.compute_transit_s(self._node, replica.node, len(value), latency_s)
            wait_s = max(wait_s, min(transit_s + latency_s, REQUEST_TIMEOUT_S))
            if transit_s == math.inf:
                continue
            is_answered = network.is_delivered(replica.node, self._node)

            def deliver(replica: Replica = replica, is_answered: bool = is_answered) -> None:
                is_stored = replica.offer(key, value, expires_at)
                is_held.append(is_stored and is_answered)

            loop.call_later(transit_s, deliver)
        await asyncio.sleep(wait_s)
        return any(is_held)

    async def fetch(self, keys: Sequence[bytes], *, timeout_s: float) -> Mapping[bytes, bytes]:
        network, latencies = self._network, {}
        for node in network.members:
            latency_s = network.draw_latency_s()
            if 2 * latency_s <= timeout_s and network.is_delivered(self._node, node):
                latencies[node] = latency_s
        farthest_s = max(latencies.values(), default=timeout_s / 2)
        # The way there and back in one wait; the replicas are asked at its end.
        await asyncio.sleep(2 * farthest_s)
        found, slowest_s = {}, 0.0
        for key in keys:
            answer = self._read(key, latencies)
            if answer is None:
                continue
            holder, value = answer
            transit_s = network.compute_transit_s(holder, self._node, len(value), 0.0)
            if transit_s + 2 * farthest_s <= timeout_s:
                found[key] = value
                slowest_s = max(slowest_s, transit_s)
        if slowest_s:
            await asyncio.sleep(slowest_s)
        return found

    def _read(self, key: bytes, reachable: Mapping[int, float]) -> tuple[int, bytes] | None:
        """Return what the first honest-looking replica answers; replies come in any order."""
        own = self._network.replicas[self._node]
        if own.policy is None:
            return None
        nearest = self._network.find_nearest(key)
        holders = [r for r in nearest if key in r.held and r.node in reachable]
        for replica in sorted(holders, key=lambda r: reachable[r.node]):
            answer = replica.answer(key, self._node)
            if answer is None or not own.admits(key, answer[1], answer[0]):
                continue
            if not self._is_hidden(answer[1]):
                return replica.node, answer[1]
        return None

    def _is_hidden(self, value: bytes) -> bool:
        if not self._network.faults.hidden_until_s:
            return False
        try:
            author = self._authors.get(decode_envelope(value).author.public_key)
        except BadEnvelope:
            return False
        now_s = asyncio.get_running_loop().time()
        return self._network.is_hidden(self._node, author, now_s)


class SimPeerRecords:
    """Satisfies PeerRecords for one node: asks another node for records by hash."""

    def __init__(self, network: SimNetwork, node: int, nodes: Mapping[PeerId, int]) -> None:
        self._network = network
        self._node = node
        self._nodes = nodes

    async def fetch_by_hash(
        self, peer: PeerId, hashes: Sequence[bytes], *, timeout_s: float
    ) -> Sequence[bytes]:
        network, other = self._network, self._nodes.get(peer)
        latency_s = 2 * network.draw_latency_s()
        is_lost = other is None or not (
            network.is_delivered(self._node, other) and network.is_delivered(other, self._node)
        )
        lookup = None if other is None else network.replicas[other].lookup
        if is_lost or lookup is None or latency_s > timeout_s:
            await asyncio.sleep(timeout_s)
            raise PeerTimeout(peer, "no answer")
        await asyncio.sleep(latency_s)
        values = [value for value in map(lookup, hashes) if value is not None]
        assert other is not None
        size = sum(map(len, values))
        transit_s = network.compute_transit_s(other, self._node, size, 0.0)
        left_s = timeout_s - latency_s
        await asyncio.sleep(min(transit_s, left_s))
        if transit_s > left_s:
            raise PeerTimeout(peer, "the answer is slow")
        return values


def _hash_position(raw: bytes) -> int:
    return int.from_bytes(hashlib.sha256(raw).digest(), "big")
