"""Asks a peer to dial us back: AutoNAT 1, which every p2pd of this network answers.

The peer dials from a separate host of its own, so the connection over which it is asked does not
help. It dials only at the IP address from which it sees us, so it cannot be used against others,
and it refuses private addresses. It answers three times a minute.

The messages are protobuf, each behind its length (libp2p's ``autonat.proto``). What is read of the
answer are its status and its text; the bytes come from a peer, so their size is checked first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from keys.peer import PeerId
from mesh.p2p.delimited import encode_field, encode_message, encode_number, read_fields

AUTONAT_PROTOCOL = "/libp2p/autonat/1.0.0"
MAX_ADDRESSES = 16
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


class Reach(StrEnum):
    """How others reach a node."""

    DIRECT = "direct"
    RELAYED = "relayed"
    NONE = "none"
    PRIVATE = "private"
    """Only from this machine or its network, as all nodes of the network."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DialBack:
    """A peer's answer. ``text`` is its own words: printable, and shown to people only."""

    status: DialStatus
    text: str


def encode_dial_request(own: PeerId, addresses: Sequence[bytes]) -> bytes:
    """Return the request to dial ``own`` at these binary multiaddresses, with its length."""
    peer = encode_field(_ID, own.to_bytes())
    for address in addresses[:MAX_ADDRESSES]:
        peer += encode_field(_ADDRS, address)
    return encode_message(encode_number(_TYPE, 0) + encode_field(_DIAL, encode_field(_PEER, peer)))


def decode_dial_answer(message: bytes) -> DialBack:
    """Parse an answer without its length. Raises ValueError."""
    response = next((value for field, value in read_fields(message) if field == _RESPONSE), None)
    if not isinstance(response, bytes):
        raise ValueError("the message is no answer to a dial")
    status, text = 0, ""
    for field, value in read_fields(response):
        if field == _STATUS and isinstance(value, int):
            status = value
        if field == _TEXT and isinstance(value, bytes):
            text = value.decode("utf-8", errors="replace")
    return DialBack(DialStatus(status), text if text.isprintable() else repr(text))
