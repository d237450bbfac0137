"""The servers of a network as one node knows them: their latest verified heartbeats.

A node reads the heartbeats of its roster from the record store; a client asks any node. Both
end up here, and every node answers ``mesh.directory`` with what it knows, so that clients need
nothing but one address.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from keys.envelope import OVERHEAD, Envelope
from keys.peer import PeerId
from mesh.errors import (
    InvalidRequest,
    MeshError,
    NoPeerAnswers,
    PeerError,
    PeerMisbehaved,
    PeerUnreachable,
    RecordRefused,
)
from mesh.p2p.interface import MAX_UNARY_SIZE, Host
from mesh.routing.heartbeat import (
    MAX_HEARTBEAT_BODY,
    ServerInfo,
    make_heartbeat_key,
    open_heartbeat,
)
from mesh.routing.hop import Route
from mesh.routing.hop_measures import HopMeasures
from mesh.routing.info import INFO_METHOD, NetworkInfo, decode_info, encode_info
from mesh.routing.routing import RouteServer

DIRECTORY_METHOD = "mesh.directory"
MAX_SERVERS = 1024
MAX_ANSWER_SERVERS = MAX_UNARY_SIZE // (4 + OVERHEAD + MAX_HEARTBEAT_BODY)
REFRESH_S = 10.0
FIRST_REFRESHES = 10
FIRST_REFRESH_S = 2.0
FETCH_TIMEOUT_S = 5.0
MAX_PINGS = 8
PING_TIMEOUT_S = 3.0
UNKNOWN_MISSES, KNOWN_MISSES = 2, 1
"""Replicas asked for a heartbeat before it counts as missing, the first and a later one.

It is renewed on all its replicas at once, lives for several refreshes, and each asks others.
"""
_LENGTH = struct.Struct("<I")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KnownServer:
    """A server with the envelope that says so."""

    envelope: Envelope
    info: ServerInfo

    @property
    def peer_id(self) -> PeerId:
        return self.envelope.author


class Directory:
    """Keeps the latest heartbeat of each server. ``clock`` gives seconds since 1970."""

    def __init__(
        self, host: Host, *, network_id: bytes, clock: Callable[[], float] = time.time
    ) -> None:
        self._host = host
        self._network_id = network_id
        self._clock = clock
        self._servers: dict[PeerId, KnownServer] = {}
        self._connected: set[PeerId] = set()
        self.measures = HopMeasures(_now_s)
        """What was measured of the servers from here."""

    def add(self, raw: bytes) -> None:
        """Keep a heartbeat unless a later one is known. Raises RecordRefused."""
        now_s = self._clock()
        envelope, info = open_heartbeat(raw, network_id=self._network_id, now_s=now_s)
        known = self._servers.get(envelope.author)
        if known is not None and known.envelope.expires_at >= envelope.expires_at:
            return
        self._forget_expired(now_s)
        if len(self._servers) < MAX_SERVERS or known is not None:
            self._servers[envelope.author] = KnownServer(envelope, info)

    def _forget_expired(self, now_s: float) -> None:
        self._servers = {
            peer: server
            for peer, server in self._servers.items()
            if server.envelope.expires_at > now_s
        }

    def list_servers(self) -> tuple[KnownServer, ...]:
        """Return the servers whose heartbeat has not expired, by peer id."""
        now_s = self._clock()
        live = [s for s in self._servers.values() if s.envelope.expires_at > now_s]
        return tuple(sorted(live, key=lambda server: server.peer_id))

    def list_route_servers(self, *, row_size: int = 0) -> tuple[RouteServer, ...]:
        """Return the servers that take sessions, for the planner.

        ``row_size`` is in bytes: what crosses a hop for one row.
        """
        takers = [
            (server.peer_id, server.info, server.info.span)
            for server in self.list_servers()
            if server.info.span is not None and server.info.takes_sessions
        ]
        hops = self.measures.estimate_hops([peer for peer, _, _ in takers], row_size=row_size)
        return tuple(
            RouteServer(
                peer,
                span,
                info.throughput,
                info.free_cache_tokens,
                hop_s,
                info.load.crowd,
                features=info.features,
            )
            for (peer, info, span), hop_s in zip(takers, hops, strict=True)
        )

    def note_answer(self, route: Route, token_s: float | None) -> None:
        """Count an answer that ended well, and what a token took, if that is known."""
        computing: list[tuple[PeerId, float]] = []
        for hop in route:
            server = self._servers.get(hop.peer_id)
            throughput = 0 if server is None else server.info.throughput
            computing.append((hop.peer_id, len(hop.span) / throughput if throughput else 0.0))
        self.measures.note_answer(computing, token_s)

    async def ensure_connected(self, peer: PeerId) -> None:
        """Dial a known server at its announced addresses, once. Raises PeerUnreachable."""
        server = self._servers.get(peer)
        if server is None or peer in self._connected or peer == self._host.peer_id:
            return
        own = [a for a in server.info.addresses if a.endswith(f"/p2p/{peer}")]
        if own:
            try:
                await self._host.connect(own)
            except (InvalidRequest, ValueError) as error:
                # It announced something that is no address: its fault, not ours.
                raise PeerUnreachable(peer, f"impossible addresses: {error}") from error
        self._connected.add(peer)

    def forget_connection(self, peer: PeerId) -> None:
        """Dial again next time: the peer failed, and may come back elsewhere.

        For a while it is a last resort.
        """
        self._connected.discard(peer)
        self.measures.note_failure(peer)

    async def fetch_from_records(self, peers: Sequence[PeerId]) -> None:
        """Read the heartbeats of ``peers`` from the record store."""
        # A heartbeat that is known already is not sent again.
        keys = {
            make_heartbeat_key(self._network_id, peer): self._get_expiry(peer) + 1 for peer in peers
        }
        now_s, fetch = self._clock(), self._host.records.fetch
        known = {key: earliest for key, earliest in keys.items() if earliest > now_s}
        unknown = {key: earliest for key, earliest in keys.items() if key not in known}
        parts = ((known, KNOWN_MISSES), (unknown, UNKNOWN_MISSES))
        answers = await asyncio.gather(
            *(
                fetch(part, timeout_s=FETCH_TIMEOUT_S, max_misses=misses)
                for part, misses in parts
                if part
            )
        )
        for found in answers:
            self._add_all(found.values())

    def _get_expiry(self, peer: PeerId) -> int:
        server = self._servers.get(peer)
        return 0 if server is None else server.envelope.expires_at

    async def fetch_from_peer(self, peer: PeerId) -> None:
        """Ask another node for the servers that it knows. Raises PeerError."""
        started_s = _now_s()
        raw = await self._host.call(peer, DIRECTORY_METHOD, b"", timeout_s=FETCH_TIMEOUT_S)
        self.measures.note_transfer(peer, len(raw), _now_s() - started_s)
        try:
            self._add_all(split_envelopes(raw))
        except ValueError as error:
            raise PeerMisbehaved(peer, f"a malformed directory: {error}") from error

    async def measure(self) -> None:
        """Ask the hosters that were measured longest ago, and not yet, how far they are.

        Those that cannot be reached stay as they are: sessions find out.
        """
        servers = [server.peer_id for server in self.list_route_servers()]
        peers = self.measures.choose_oldest(servers, MAX_PINGS)

        async def ping(peer: PeerId) -> None:
            try:
                await self.ensure_connected(peer)
                started_s = _now_s()
                await fetch_info(self._host, peer, timeout_s=PING_TIMEOUT_S)
            except PeerError:
                return
            self.measures.note_round_trip(peer, _now_s() - started_s)

        await asyncio.gather(*(ping(peer) for peer in peers if peer != self._host.peer_id))

    async def fetch_from_first(self, peers: Sequence[PeerId]) -> None:
        """Ask one peer after the other until one answers. Raises NoPeerAnswers."""
        failures = []
        for peer in peers:
            try:
                return await self.fetch_from_peer(peer)
            except PeerError as error:
                failures.append(error)
        raise NoPeerAnswers(failures)

    async def find_peers(self, peers: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """Return those of ``peers`` that have a heartbeat and can be dialled."""
        try:
            await self.fetch_from_records(peers)
        except MeshError as error:
            logger.debug("the record store does not answer: %s", error)
        found = []
        for server in self.list_servers():
            try:
                await self.ensure_connected(server.peer_id)
            except PeerError as error:
                logger.debug("a server cannot be dialled: %s", error)
            else:
                found.append(server.peer_id)
        return tuple(peer for peer in found if peer != self._host.peer_id)

    def _add_all(self, envelopes: Iterable[bytes]) -> None:
        for raw in envelopes:
            try:
                self.add(raw)
            except RecordRefused as refused:
                logger.debug("a heartbeat was refused: %s", refused)

    def serve(self, info: Callable[[], NetworkInfo]) -> None:
        """Answer ``mesh.directory`` and ``mesh.info``, also for peers of no network."""

        async def answer_directory(caller: PeerId, payload: bytes) -> bytes:
            servers = self.list_servers()[:MAX_ANSWER_SERVERS]
            return join_envelopes(server.envelope.to_bytes() for server in servers)

        async def answer_info(caller: PeerId, payload: bytes) -> bytes:
            return encode_info(info())

        self._host.serve_unary(
            DIRECTORY_METHOD, answer_directory, max_request_size=0, any_network=True
        )
        self._host.serve_unary(INFO_METHOD, answer_info, max_request_size=0, any_network=True)

    async def keep_fresh(
        self, list_peers: Callable[[], Sequence[PeerId]], *, period_s: float = REFRESH_S
    ) -> None:
        """Read the heartbeats of ``list_peers()`` again and again: a task of the node's group.

        More often at first, because nodes that start together announce themselves one by one.
        """
        for round_number in itertools.count():
            try:
                await self.fetch_from_records(list_peers())
            except MeshError as error:
                logger.warning("the directory could not be refreshed: %s", error)
            is_young = round_number < FIRST_REFRESHES
            await asyncio.sleep(min(period_s, FIRST_REFRESH_S) if is_young else period_s)


def _now_s() -> float:
    """Return the event loop's time, which is virtual in simulations."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


async def fetch_info(
    host: Host, peer: PeerId, *, timeout_s: float = FETCH_TIMEOUT_S
) -> NetworkInfo:
    """Ask a node which network and model it belongs to. Raises PeerError."""
    raw = await host.call(peer, INFO_METHOD, b"", timeout_s=timeout_s)
    try:
        return decode_info(raw)
    except ValueError as error:
        raise PeerMisbehaved(peer, str(error)) from error


def join_envelopes(envelopes: Iterable[bytes]) -> bytes:
    """Put envelopes one after the other, each with its length."""
    return b"".join(_LENGTH.pack(len(raw)) + raw for raw in envelopes)


def split_envelopes(raw: bytes) -> list[bytes]:
    """Undo ``join_envelopes``. Raises ValueError."""
    envelopes, place = [], 0
    while place < len(raw):
        if place + _LENGTH.size > len(raw):
            raise ValueError("a length is cut off")
        (size,) = _LENGTH.unpack_from(raw, place)
        start, place = place + _LENGTH.size, place + _LENGTH.size + size
        if size > OVERHEAD + MAX_HEARTBEAT_BODY or place > len(raw):
            raise ValueError("an envelope is cut off or too long")
        envelopes.append(raw[start:place])
    return envelopes
