"""What a reader asks a replica of the record store, and what the replica answers.

A request is entries of fixed size: the key's 20-byte place, and the earliest expiry that is of use
in seconds since 1970. An answer has for each entry, in order, a length and, unless it is zero, the
expiry and the value. An answer ends with the value that makes it longer than ``MAX_ANSWER_SIZE``;
the reader asks again for the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mesh.errors import MeshError
from mesh.p2p.interface import MAX_RECORD_SIZE

PLACE_SIZE = 20
MAX_KEYS_PER_READ = 64
MAX_ANSWER_SIZE = 256 << 10
_ENTRY = struct.Struct(f"<{PLACE_SIZE}sQ")
_SIZE = struct.Struct("<I")
_EXPIRY = struct.Struct("<Q")


class MalformedRead(MeshError):
    """A request or an answer that no honest peer sends."""


@dataclass(frozen=True, slots=True)
class HeldValue:
    """A value and its expiry in seconds since 1970, as a replica holds them."""

    value: bytes
    expires_at: int


def encode_read(entries: Sequence[tuple[bytes, int]]) -> bytes:
    """Return a request for at most ``MAX_KEYS_PER_READ`` places, each with an earliest expiry."""
    return b"".join(_ENTRY.pack(place, earliest) for place, earliest in entries)


def decode_read(raw: bytes) -> list[tuple[bytes, int]]:
    """Undo ``encode_read``. Raises MalformedRead."""
    if not 0 < len(raw) <= MAX_KEYS_PER_READ * _ENTRY.size or len(raw) % _ENTRY.size:
        raise MalformedRead(f"a request names 1 to {MAX_KEYS_PER_READ} keys")
    return list(_ENTRY.iter_unpack(raw))


def encode_read_answer(held: Iterable[HeldValue | None]) -> bytes:
    """Return the answer, cut as the module says."""
    answer = bytearray()
    for entry in held:
        if entry is None or not entry.value:
            answer += _SIZE.pack(0)
            continue
        answer += _SIZE.pack(len(entry.value)) + _EXPIRY.pack(entry.expires_at) + entry.value
        if len(answer) > MAX_ANSWER_SIZE:
            break
    return bytes(answer)


def decode_read_answer(raw: bytes, *, asked: int) -> list[HeldValue | None]:
    """Return what is held for each of the first keys of a request, for all unless it was cut.

    Raises MalformedRead.
    """
    held: list[HeldValue | None] = []
    place = 0
    while place < len(raw):
        if len(held) == asked or place + _SIZE.size > len(raw):
            raise MalformedRead("the answer has more bytes than it should")
        (size,) = _SIZE.unpack_from(raw, place)
        place += _SIZE.size
        if not size:
            held.append(None)
            continue
        start, end = place + _EXPIRY.size, place + _EXPIRY.size + size
        if size > MAX_RECORD_SIZE or end > len(raw):
            raise MalformedRead("a value is cut off or too long")
        (expires_at,) = _EXPIRY.unpack_from(raw, place)
        held.append(HeldValue(raw[start:end], expires_at))
        place = end
    if len(held) < asked and len(raw) <= MAX_ANSWER_SIZE:
        raise MalformedRead(f"the answer is about {len(held)} of {asked} keys")
    return held
