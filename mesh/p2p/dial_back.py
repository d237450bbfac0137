"""Asks a peer to dial us back: AutoNAT 1, which every p2pd of this network answers.

The peer dials from a separate host of its own, so the connection over which it is asked does not
help. It dials only at the IP address from which it sees us, so it cannot be used against others,
and it refuses private addresses. It answers three times a minute.

The messages are protobuf, each behind its length (libp2p's ``autonat.proto``). What is read of the
answer are its status and its text; the bytes come from a peer, so their size is checked first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from keys.peer import PeerId

AUTONAT_PROTOCOL = "/libp2p/autonat/1.0.0"
MAX_ANSWER_SIZE = 4096
MAX_ADDRESSES = 16
_MAX_VARINT_BYTES = 5
_VARINT, _BYTES = 0, 2
# Field numbers: Message.type, .dial, .dialResponse; Dial.peer; PeerInfo.id, .addrs.
_TYPE, _DIAL, _RESPONSE = 1, 2, 3
_PEER, _ID, _ADDRS = 1, 1, 2
# DialResponse.status, .statusText.
_STATUS, _TEXT = 1, 2


class DialStatus(IntEnum):
    """What came of the dial."""

    REACHED = 0
    NOT_REACHED = 100
    REFUSED = 101
    BAD_REQUEST = 200
    INTERNAL = 300


@dataclass(frozen=True, slots=True)
class DialBack:
    """A peer's answer. ``text`` is its own words: printable, and shown to people only."""

    status: DialStatus
    text: str


def encode_dial_request(own: PeerId, addresses: Sequence[bytes]) -> bytes:
    """Return the request to dial ``own`` at these binary multiaddresses, with its length."""
    peer = _field(_ID, own.to_bytes())
    for address in addresses[:MAX_ADDRESSES]:
        peer += _field(_ADDRS, address)
    message = _varint(_TYPE << 3 | _VARINT) + _varint(0) + _field(_DIAL, _field(_PEER, peer))
    return _varint(len(message)) + message


def read_length(prefix: bytes) -> int | None:
    """Return the length of the message that follows; None while ``prefix`` is not complete.

    Raises ValueError for one that is too long.
    """
    if not prefix or prefix[-1] > 0x7F:
        if len(prefix) >= _MAX_VARINT_BYTES:
            raise ValueError("a length is malformed")
        return None
    size, _ = _read_varint(prefix, 0)
    if size > MAX_ANSWER_SIZE:
        raise ValueError(f"an answer of {size} bytes is too large")
    return size


def decode_dial_answer(message: bytes) -> DialBack:
    """Parse an answer without its length. Raises ValueError."""
    response = next((value for field, value in _read_fields(message) if field == _RESPONSE), None)
    if not isinstance(response, bytes):
        raise ValueError("the message is no answer to a dial")
    status, text = 0, ""
    for field, value in _read_fields(response):
        if field == _STATUS and isinstance(value, int):
            status = value
        if field == _TEXT and isinstance(value, bytes):
            text = value.decode("utf-8", errors="replace")
    return DialBack(DialStatus(status), text if text.isprintable() else repr(text))


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(raw: bytes, place: int) -> tuple[int, int]:
    """Return a number and where it ends. Raises ValueError."""
    value = 0
    for index, byte in enumerate(raw[place : place + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("a number is cut off or too long")


def _read_fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message with their numbers. Raises ValueError."""
    place = 0
    while place < len(raw):
        tag, place = _read_varint(raw, place)
        value, place = _read_varint(raw, place)
        if tag & 7 == _VARINT:
            yield tag >> 3, value
        elif tag & 7 == _BYTES and place + value <= len(raw):
            yield tag >> 3, raw[place : place + value]
            place += value
        else:
            raise ValueError("a field is cut off or of another type")
