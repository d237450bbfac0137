"""Records by their hash, from a node that has them to one that misses them.

A record is named by the first 16 bytes of its hash. A request is 1 to 64 names. The answer has for
each name, in order, a length and the envelope; length zero says that the record is not had. An
answer ends early where the next envelope would not fit one message, and the client asks again for
the rest. Records of more than ``MAX_UNARY_SIZE`` less four bytes cannot be had in this way.

Every caller is answered, within the rates of signed RPC. What arrives is checked against its name,
so a peer can withhold a record and cannot replace it. Whether it counts is for the caller to say.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Sequence

from keys.envelope import OVERHEAD, decode_envelope
from keys.errors import BadEnvelope
from keys.peer import PeerId
from mesh.errors import PeerMisbehaved, PeerRefusal, PeerTimeout
from mesh.p2p.interface import MAX_UNARY_SIZE, Host
from mesh.p2p.rpc_guard import RpcReason

FETCH_METHOD = "records/fetch"
NAME_SIZE = 16
MAX_NAMES = 64
_SIZE = struct.Struct("<I")
MAX_ENVELOPE_SIZE = MAX_UNARY_SIZE - _SIZE.size

Lookup = Callable[[bytes], bytes | None]
"""Returns the envelope whose hash begins with these 16 bytes, None if it is not had. Fast."""


class RecordExchange:
    """Answers for the records that ``lookup`` knows, and asks other nodes for theirs."""

    def __init__(self, host: Host, lookup: Lookup) -> None:
        self._host = host
        self._lookup = lookup

    def serve(self) -> None:
        """Answer ``records/fetch``."""
        self._host.serve_unary(FETCH_METHOD, self._answer, max_request_size=MAX_NAMES * NAME_SIZE)

    async def fetch_by_hash(
        self, peer: PeerId, hashes: Sequence[bytes], *, timeout_s: float
    ) -> tuple[bytes, ...]:
        """Return those envelopes that ``peer`` has. Raises PeerError."""
        return await fetch_by_hash(self._host, peer, hashes, timeout_s=timeout_s)

    async def _answer(self, caller: PeerId, payload: bytes) -> bytes:
        try:
            names = decode_names(payload)
        except ValueError as error:
            raise PeerRefusal(caller, RpcReason.MALFORMED, str(error)) from error
        return join_found(map(self._lookup, names))


async def fetch_by_hash(
    host: Host, peer: PeerId, hashes: Sequence[bytes], *, timeout_s: float
) -> tuple[bytes, ...]:
    """Ask ``peer`` for the records of these 16-byte hashes; return the envelopes that it has.

    ``timeout_s`` is for all requests together. Each envelope is one of those that were asked for;
    its signature is not checked. Raises PeerError, ValueError for a hash of another length.
    """
    names = list(dict.fromkeys(hashes))
    if any(len(name) != NAME_SIZE for name in names):
        raise ValueError(f"a record is named by {NAME_SIZE} bytes")
    found: list[bytes] = []
    try:
        async with asyncio.timeout(timeout_s):
            while names:
                asked = names[:MAX_NAMES]
                request = b"".join(asked)
                raw = await host.call(peer, FETCH_METHOD, request, timeout_s=timeout_s)
                entries = _read_entries(peer, raw, asked)
                found += filter(None, entries)
                names = names[len(entries) :]
    except TimeoutError as error:
        raise PeerTimeout(peer, f"not all records came within {timeout_s:g} s") from error
    return tuple(found)


def decode_names(raw: bytes) -> list[bytes]:
    """Split a request into its names. Raises ValueError."""
    if not 0 < len(raw) <= MAX_NAMES * NAME_SIZE or len(raw) % NAME_SIZE:
        raise ValueError(f"a request has 1 to {MAX_NAMES} names of {NAME_SIZE} bytes")
    return [raw[start : start + NAME_SIZE] for start in range(0, len(raw), NAME_SIZE)]


def join_found(found: Iterable[bytes | None]) -> bytes:
    """Return the answer for what was found for each name, cut where the next one does not fit."""
    answer = bytearray()
    for envelope in found:
        if envelope is None or len(envelope) > MAX_ENVELOPE_SIZE:
            envelope = b""
        if len(answer) + _SIZE.size + len(envelope) > MAX_UNARY_SIZE:
            break
        answer += _SIZE.pack(len(envelope)) + envelope
    return bytes(answer)


def split_found(raw: bytes, *, asked: int) -> list[bytes]:
    """Undo ``join_found``: an empty entry for what is not had. Raises ValueError."""
    entries: list[bytes] = []
    place = 0
    while place < len(raw):
        if len(entries) == asked or place + _SIZE.size > len(raw):
            raise ValueError("the answer has more bytes than it should")
        (size,) = _SIZE.unpack_from(raw, place)
        start, place = place + _SIZE.size, place + _SIZE.size + size
        if place > len(raw) or 0 < size < OVERHEAD:
            raise ValueError("an envelope is cut off")
        entries.append(raw[start:place])
    if not entries:
        raise ValueError("the answer is about no record")
    return entries


def _read_entries(peer: PeerId, raw: bytes, asked: Sequence[bytes]) -> list[bytes]:
    try:
        entries = split_found(raw, asked=len(asked))
        for name, entry in zip(asked, entries, strict=False):
            if entry and decode_envelope(entry).record_hash[:NAME_SIZE] != name:
                raise ValueError("a record is not the one that was asked for")
    except (ValueError, BadEnvelope) as error:
        raise PeerMisbehaved(peer, f"{FETCH_METHOD}: {error}") from error
    return entries
