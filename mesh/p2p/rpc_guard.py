"""The checks of a request before its handler runs, and the limits of what one peer may use.

Pure: the clock is an argument. Every table is bounded. A full table refuses the new entry instead
of forgetting an old one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from keys.errors import BadSignature
from keys.peer import PeerId
from mesh.errors import PeerRefusal
from mesh.p2p.rpc_wire import Opening, check_opening
from mesh.token_bucket import TokenBucket

TIME_WINDOW_MS = 30_000
MAX_NONCES = 65_536
MAX_NONCES_PER_PEER = 4_096
MAX_TRACKED_PEERS = 4_096
RESERVED_DIVISOR = 4
"""One part in so many of every shared limit is kept for members: strangers cost nothing to make."""

IsMember = Callable[[PeerId], bool]
"""Whether a peer may use the share of the limits that is kept for members. It is called for every
opening, so it is fast.
"""


class RpcReason(StrEnum):
    """Why a server refuses: stable short words."""

    MALFORMED = "malformed"
    WRONG_SERVER = "wrong-server"
    WRONG_CLIENT = "wrong-client"
    WRONG_NETWORK = "wrong-network"
    STALE = "stale"
    REPLAYED = "replayed"
    BAD_SIGNATURE = "bad-signature"
    UNKNOWN_METHOD = "unknown-method"
    TOO_LARGE = "too-large"
    RATE = "rate"
    BUSY = "busy"
    NOT_ADMITTED = "not-admitted"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """What one peer, and all peers together, may use of a server.

    Of what all peers share, a part is kept for members (``RESERVED_DIVISOR``).
    Rates are openings a second, unary calls and streams alike; times are seconds.
    """

    requests_per_second: float = 50.0
    burst: int = 100
    max_requests_per_peer: int = 16
    max_requests: int = 128
    max_streams_per_peer: int = 32
    max_streams: int = 256
    max_channels_per_peer: int = 128
    max_channels: int = 1024
    max_stream_bytes: int = 1 << 30
    opening_timeout_s: float = 10.0
    handler_timeout_s: float = 120.0
    answer_timeout_s: float = 60.0
    idle_timeout_s: float = 300.0


class Slots:
    """How much of something each peer holds, all peers together, and strangers among them.

    Without ``is_member`` all peers are equal.
    """

    def __init__(self, *, per_peer: int, total: int, is_member: IsMember | None = None) -> None:
        self._is_member = is_member
        self._max_per_peer = per_peer
        self._max_total = total
        self._max_strangers = total - total // RESERVED_DIVISOR
        self._held: Counter[PeerId] = Counter()
        self._total = 0
        self._strangers = 0

    @contextmanager
    def hold(self, peer: PeerId) -> Iterator[None]:
        """Hold one while the block runs. Raises PeerRefusal when none is free."""
        is_stranger = self.take(peer, "too many at once")
        try:
            yield
        finally:
            self.give_back(peer, is_stranger=is_stranger)

    def take(self, peer: PeerId, detail: str) -> bool:
        """Take one; return whether it is a stranger's, for ``give_back``. Raises PeerRefusal."""
        is_stranger = self._is_member is not None and not self._is_member(peer)
        if (
            self._held[peer] >= self._max_per_peer
            or self._total >= self._max_total
            or (is_stranger and self._strangers >= self._max_strangers)
        ):
            raise PeerRefusal(peer, RpcReason.BUSY, detail)
        self._held[peer] += 1
        self._total += 1
        self._strangers += is_stranger
        return is_stranger

    def give_back(self, peer: PeerId, *, is_stranger: bool) -> None:
        # By the value of ``take``: a peer may have become a member since, or ceased to be one.
        self._total -= 1
        self._strangers -= is_stranger
        self._held[peer] -= 1
        if not self._held[peer]:
            del self._held[peer]


class NonceCache:
    """The nonces seen within the time window."""

    def __init__(
        self,
        *,
        max_nonces: int = MAX_NONCES,
        max_per_peer: int = MAX_NONCES_PER_PEER,
        is_member: IsMember | None = None,
    ) -> None:
        self._slots = Slots(per_peer=max_per_peer, total=max_nonces, is_member=is_member)
        self._seen: OrderedDict[tuple[PeerId, bytes], tuple[int, bool]] = OrderedDict()

    def remember(self, peer: PeerId, nonce: bytes, *, now_ms: int) -> None:
        """Note a nonce. Raises PeerRefusal when it was seen, or when there is no room."""
        self._forget_expired(now_ms)
        if (peer, nonce) in self._seen:
            raise PeerRefusal(peer, RpcReason.REPLAYED)
        is_stranger = self._slots.take(peer, "too many requests within the time window")
        # A request may be dated up to one window ahead, so it stays fresh for two.
        self._seen[peer, nonce] = (now_ms + 2 * TIME_WINDOW_MS, is_stranger)

    def __len__(self) -> int:
        return len(self._seen)

    def _forget_expired(self, now_ms: int) -> None:
        while self._seen:
            (peer, nonce), (expires_ms, is_stranger) = next(iter(self._seen.items()))
            if expires_ms >= now_ms:
                return
            del self._seen[peer, nonce]
            self._slots.give_back(peer, is_stranger=is_stranger)


class PeerBuckets:
    """One token bucket per peer; of too many peers the least recently seen is forgotten."""

    def __init__(self, *, rate: float, burst: int, max_peers: int = MAX_TRACKED_PEERS) -> None:
        self._rate = rate
        self._burst = burst
        self._max_peers = max_peers
        self._buckets: OrderedDict[PeerId, TokenBucket] = OrderedDict()

    def take(self, peer: PeerId, *, now_ms: int) -> None:
        """Take one token. Raises PeerRefusal when the peer has none left."""
        if self.draw(peer, now_s=now_ms / 1000):
            raise PeerRefusal(peer, RpcReason.RATE, f"more than {self._rate:g} requests a second")

    def draw(self, peer: PeerId, *, now_s: float) -> float:
        """Take one token and return 0, or return the seconds until there is one."""
        bucket = self._buckets.pop(peer, None) or TokenBucket(self._rate, self._burst, now_s)
        self._buckets[peer] = bucket
        if len(self._buckets) > self._max_peers:
            self._buckets.popitem(last=False)
        return bucket.take(now_s=now_s)

    def __len__(self) -> int:
        return len(self._buckets)


class RequestGuard:
    """Decides whether an opening is authentic, fresh and within the peer's rate."""

    def __init__(
        self,
        own: PeerId,
        limits: RpcLimits,
        *,
        started_ms: int,
        is_member: IsMember | None = None,
    ) -> None:
        self._own = own
        self._started_ms = started_ms
        self._nonces = NonceCache(is_member=is_member)
        self._buckets = PeerBuckets(rate=limits.requests_per_second, burst=limits.burst)

    def check_rate(self, remote: PeerId, *, now_ms: int) -> None:
        """Raise PeerRefusal when the peer asks too often: the first question of all."""
        self._buckets.take(remote, now_ms=now_ms)

    def check(
        self,
        opening: Opening,
        raw: bytes,
        *,
        remote: PeerId,
        network_ids: frozenset[bytes],
        now_ms: int,
    ) -> None:
        """Raise PeerRefusal unless ``remote`` itself asked us this, now, for the first time.

        ``remote`` is the connection's authenticated peer. The cheap questions come first, so
        that a stranger's bytes cost at most one hash and one signature check.
        """
        if opening.server != self._own:
            raise PeerRefusal(remote, RpcReason.WRONG_SERVER, "the request names another server")
        if opening.client != remote:
            raise PeerRefusal(remote, RpcReason.WRONG_CLIENT, "the request is another peer's")
        if opening.network_id not in network_ids:
            raise PeerRefusal(remote, RpcReason.WRONG_NETWORK)
        self._check_time(opening.time_ms, remote=remote, now_ms=now_ms)
        try:
            check_opening(opening, raw)
        except BadSignature as error:
            raise PeerRefusal(remote, RpcReason.BAD_SIGNATURE) from error
        self._nonces.remember(remote, opening.nonce, now_ms=now_ms)

    def _check_time(self, time_ms: int, *, remote: PeerId, now_ms: int) -> None:
        if abs(time_ms - now_ms) > TIME_WINDOW_MS:
            raise PeerRefusal(remote, RpcReason.STALE, "clocks differ by more than 30 s")
        # The nonces of an earlier run are lost, so nothing from before this one is taken.
        if time_ms < self._started_ms:
            raise PeerRefusal(remote, RpcReason.STALE, "the request is older than this server")
