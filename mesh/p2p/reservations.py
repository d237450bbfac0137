"""Reservations at relays (circuit relay 2), through which peers reach a node they cannot dial.

Theory of operation
===================

A relay is a peer with a public address that every peer can dial, such as ``mesh bootstrap``. A node
behind a router asks it for a *reservation*, over the connection that it has opened to the relay
itself. From then on the relay passes on the connections of those who dial
``<the relay's address>/p2p-circuit/p2p/<the node>``, within the limits of the relay.

The relay forgets a reservation when it ends or when the connection to the node breaks. So it is
asked for again every ``RENEW_S``, which changes nothing where it stands. ``MAX_RELAYS`` relays are
kept, in the order of the candidates; where one fails, the next is asked.

p2pd can do this itself, but begins three minutes after its start, and tells no one what it has.

The messages are protobuf, each behind its length (libp2p's ``circuit.proto``). Addresses in the
answer are not read: the node announces the address at which it dialled the relay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from keys.peer import PeerId
from mesh.errors import MeshError, PeerRefusal
from mesh.p2p.addresses import RELAYED, split_peer_address
from mesh.p2p.channel import Channel
from mesh.p2p.delimited import encode_message, encode_number, read_fields
from mesh.p2p.exchange import ask, blaming

RELAY_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"
MAX_RELAYS = 2
MAX_CANDIDATES = 16
RENEW_S = 60.0
RETRY_S = 10.0
ANSWER_S = 8.0
MIN_TIME_S, MIN_BYTES = 60, 16 << 20
"""What a relay must allow a connection. A p2pd that is left alone allows 120 s and 128 KiB."""
# HopMessage.type, .limit, .status; Limit.duration, .data.
_TYPE, _LIMIT, _STATUS = 1, 4, 5
_DURATION, _DATA = 1, 2
_RESERVE, _IS_STATUS, _OK = 0, 2, 100
_REFUSALS = {
    200: "it refuses reservations",
    201: "its reservations are all taken",
    202: "it does not permit it",
    400: "it found the request malformed",
}

logger = logging.getLogger(__name__)


class Dialler(Protocol):
    """What is needed of p2pd; satisfied by ``mesh.p2p.daemon.Daemon``."""

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None: ...

    async def open_channel(self, peer: PeerId, protocol: str) -> Channel: ...


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a relay grants each connection that it passes on; 0 is no limit."""

    max_time_s: int
    max_bytes: int

    @property
    def is_enough(self) -> bool:
        """Whether an answer can be expected to pass."""
        return not (0 < self.max_time_s < MIN_TIME_S or 0 < self.max_bytes < MIN_BYTES)


def encode_reserve() -> bytes:
    """Return the request for a reservation, with its length."""
    return encode_message(encode_number(_TYPE, _RESERVE))


def decode_reservation(message: bytes) -> Reservation | str:
    """Parse a relay's answer without its length; a text says why it refuses. Raises ValueError."""
    fields = dict(read_fields(message))
    status = fields.get(_STATUS)
    if fields.get(_TYPE) != _IS_STATUS or not isinstance(status, int):
        raise ValueError("the message is no answer to a request for a reservation")
    if status != _OK:
        return _REFUSALS.get(status, f"it answers with the status {status}")
    limit = fields.get(_LIMIT, b"")
    limits = dict(read_fields(limit)) if isinstance(limit, bytes) else {}
    time_s, size = limits.get(_DURATION, 0), limits.get(_DATA, 0)
    if not isinstance(time_s, int) or not isinstance(size, int):
        raise ValueError("a relay's limits are no numbers")
    return Reservation(time_s, size)


async def fetch_reservation(
    daemon: Dialler, relay: PeerId, addresses: Sequence[str]
) -> Reservation:
    """Ask a relay at ``addresses``, without its peer id. Raises PeerError or DaemonFailed."""
    late = f"no reservation within {ANSWER_S:g} s"
    with blaming(relay, late=late, closed="it is no relay"):
        async with asyncio.timeout(ANSWER_S):
            await daemon.connect(relay, [f"{text}/p2p/{relay}" for text in addresses])
            answer = decode_reservation(await ask(daemon, relay, RELAY_PROTOCOL, encode_reserve()))
    if isinstance(answer, str):
        raise PeerRefusal(relay, "no reservation", answer)
    return answer


class Reservations:
    """The relays that pass on connections to this node. ``relays`` are addresses with peer ids."""

    def __init__(self, daemon: Dialler, own: PeerId, relays: Sequence[str]) -> None:
        self._daemon = daemon
        self._own = own
        self._candidates: dict[PeerId, list[str]] = {}
        for text in relays:
            transport, peer = split_peer_address(text)
            if RELAYED not in text and (peer in self._candidates or not self._is_full):
                self._candidates.setdefault(peer, []).append(transport)
        self._held: dict[PeerId, Reservation] = {}

    @property
    def _is_full(self) -> bool:
        return len(self._candidates) >= MAX_CANDIDATES

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses at which others reach this node through its relays."""
        return tuple(
            f"{transport}/p2p/{relay}{RELAYED}/p2p/{self._own}"
            for relay in self._held
            for transport in self._candidates[relay]
        )

    async def keep(self) -> None:
        """Renew the reservations periodically, until cancelled. Run as a task of the host."""
        while True:
            await asyncio.sleep(RENEW_S if self._held else RETRY_S)
            await self.renew()

    async def renew(self) -> None:
        """Ask the relays that are held, and others until there are ``MAX_RELAYS``. Never raises."""
        before = set(self._held)
        held: dict[PeerId, Reservation] = {}
        for relay in sorted(self._candidates, key=lambda peer: peer not in before):
            if len(held) == MAX_RELAYS:
                break
            try:
                held[relay] = await self._reserve(relay)
            except MeshError as error:
                level = logging.WARNING if relay in before else logging.DEBUG
                logger.log(level, "no reservation at the relay %s: %s", relay, error)
        self._held = held
        for relay in held.keys() - before:
            limits = held[relay]
            logger.info(
                "reached through the relay %s: %d s and %d bytes a connection",
                relay,
                limits.max_time_s,
                limits.max_bytes,
            )
        if not held and self._candidates:
            logger.warning("no relay passes on connections to this node; asking again")

    async def _reserve(self, relay: PeerId) -> Reservation:
        """Raises PeerError or DaemonFailed."""
        answer = await fetch_reservation(self._daemon, relay, self._candidates[relay])
        if not answer.is_enough:
            detail = f"{answer.max_time_s} s and {answer.max_bytes} bytes a connection are too few"
            raise PeerRefusal(relay, "no reservation", detail)
        return answer
