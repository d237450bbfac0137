"""What the rest of mesh needs from a peer-to-peer transport.

hivemind satisfies it (``hivemind_host.py``), so does an in-memory network
(``memory.py``), and both pass tests/contract/test_host.py; another transport
follows by satisfying it too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from keys.peer import PeerId
from mesh.p2p.traffic import Traffic

MAX_FRAME_SIZE = 4 << 20
"""One stream frame; a longer announced length ends the stream before it is read."""
MAX_UNARY_SIZE = 1 << 20
MAX_RECORD_SIZE = (1 << 20) + 1024


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """Peers with an open connection: over an address of their own, or only over a relay."""

    direct: int
    relayed: int

    @property
    def all(self) -> int:
        """Both together."""
        return self.direct + self.relayed


class RecordPolicy(Protocol):
    """Decides which records this node stores and reads. Pure and fast: no I/O, no waiting."""

    def admit(self, value: bytes, expires_at: float) -> bytes:
        """Return the key that ``value`` belongs under.

        Raises RecordRefused with a reason. The answer for one value never turns from
        yes to no as time passes, because it filters reads as well as stores.
        """
        ...


class RecordStore(Protocol):
    """A replicated, write-once map. Values are public; keys are derived from them."""

    async def publish(self, key: bytes, value: bytes, expires_at: int) -> bool:
        """Store on the replicas nearest to ``key``; True once a replica is known to hold it.

        Publishing the identical record again is harmless and answers True where it is held.
        """
        ...

    async def fetch(
        self,
        keys: Sequence[bytes] | Mapping[bytes, int],
        *,
        timeout_s: float,
        max_misses: int = ...,
    ) -> Mapping[bytes, bytes]:
        """Read a valid value of each key; keys without one are left out.

        Reading a key stops at the first valid copy. A mapping gives for each key the earliest
        expiry, in seconds since 1970, that is of use: older copies count as none. So a renewable
        record that is known is asked for with its known expiry plus one. A key is given up after
        ``max_misses`` replicas that do not hold it. Keys do not wait for each other: a silent
        replica delays only those that it was asked for.
        """
        ...


@dataclass(frozen=True, slots=True)
class Copies:
    """The valid values that other replicas of a key hold, one each, and how many were asked."""

    values: tuple[bytes, ...]
    asked: int


class Stream(Protocol):
    """One bidirectional stream with a peer whose identity is proven.

    Frames are bytes of at most ``MAX_FRAME_SIZE``. Every frame is authenticated and
    ordered; a tampered or replayed frame raises StreamBroken.
    """

    @property
    def peer_id(self) -> PeerId: ...

    async def send(self, frame: bytes) -> None:
        """Send one frame. Raises StreamBroken."""
        ...

    def send_now(self, frame: bytes) -> None:
        """Send one frame without waiting, from any thread. Raises StreamBroken.

        For callers that wait for an answer before the next frame: nothing else slows them down.
        """
        ...

    async def receive(self) -> bytes:
        """Return the next frame. Raises StreamClosed after the peer's last, else StreamBroken."""
        ...

    def receive_now(self) -> bytes | None:
        """Return the next frame if it has arrived, else None. Raises as ``receive`` does."""
        ...

    def watch(self, on_arrival: Callable[[], None] | None) -> None:
        """Call back, on the event loop, when a frame may have arrived or the stream has ended.

        ``receive_now`` tells which. None stops that.
        """
        ...

    async def finish(self) -> None:
        """Say that no further frame follows, signed; the peer's receive() then ends cleanly."""
        ...

    async def abort(self) -> None:
        """Drop the stream at once; idempotent."""
        ...


UnaryHandler = Callable[[PeerId, bytes], Awaitable[bytes]]
"""Called with the authenticated caller and its payload; PeerRefusal travels back as a reason."""
StreamHandler = Callable[[Stream], Awaitable[None]]
"""Called once per stream; the stream ends when it returns."""
AdmissionPolicy = Callable[[PeerId, str], None]
"""Called with caller and method before any handler; raises PeerRefusal."""


class Host(Protocol):
    """One peer: its identity, its connections, its records, its RPC."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def network_id(self) -> bytes:
        """The network that this host's calls name; zeros until it is known."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Bytes sent and received since the host was opened."""
        ...

    @property
    def records(self) -> RecordStore:
        """The record store. Raises TransportError on a host that was opened without a network."""
        ...

    def set_network_id(self, network_id: bytes) -> None:
        """Name the network in every later call: for clients that learn it from a peer."""
        ...

    async def watch(self) -> None:
        """Run until the transport dies, then raise TransportError: a task of the node's group."""
        ...

    async def list_addresses(self) -> Sequence[str]:
        """Return the multiaddresses that others can dial, each ending in /p2p/<peer id>."""
        ...

    async def connect(self, addresses: Sequence[str]) -> None:
        """Dial a peer. Raises PeerUnreachable or TransportError."""
        ...

    def serve_unary(
        self,
        method: str,
        handler: UnaryHandler,
        *,
        max_request_size: int,
        any_network: bool = False,
    ) -> None:
        """Answer signed unary calls of ``method``.

        With ``any_network`` also those of clients that do not know the network id yet.
        """
        ...

    def serve_stream(self, method: str, handler: StreamHandler) -> None:
        """Answer streams of ``method`` after the mutual handshake."""
        ...

    async def call(self, peer: PeerId, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Signed request, signed response.

        Raises PeerUnreachable, PeerTimeout, PeerRefusal (with the peer's reason) or
        PeerMisbehaved (bad signature, wrong peer, oversized answer).
        """
        ...

    async def open_stream(
        self, peer: PeerId, method: str, *, timeout_s: float, early: bool = False
    ) -> Stream:
        """Open a stream and finish the mutual handshake. Raises as ``call`` does.

        With ``early`` frames may be sent before the peer has answered: that saves a round trip.
        What the answer would have raised is raised by the first ``receive`` or a later ``send``.
        """
        ...
