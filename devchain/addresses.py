"""The pallet's loose checks of peer ids and multiaddrs.

Peer ids are their *text*; multiaddrs are binary and must end in /p2p.
"""

from __future__ import annotations

from devchain.errors import ensure, fail

MIN_PEER_ID_SIZE = 32
MAX_PEER_ID_SIZE = 128
# Base58 identity multihash, base58 sha256 multihash, then the multibase prefixes of a CID.
_PEER_ID_STARTS = (b"1", b"Qm", b"f", b"b", b"z", b"m")

_P2P = 421
_FIXED_SIZES = {4: 4, 41: 16, 6: 2, 17: 2, 477: 0, 478: 0}
"""Protocol code -> address bytes: ip4, ip6, tcp, udp, ws, wss."""
_PREFIXED = frozenset({54, 55, 56, _P2P})
"""Protocols whose address has its length before it: dns4, dns6, dnsaddr, p2p."""
_MAX_VARINT_SHIFT = 63


def is_peer_id(text: bytes) -> bool:
    """Whether the pallet takes these bytes for a peer id's text."""
    return MIN_PEER_ID_SIZE <= len(text) <= MAX_PEER_ID_SIZE and text.startswith(_PEER_ID_STARTS)


def check_multiaddr(raw: bytes) -> None:
    """Raise MultiaddrInvalidVarint, -Protocol or -Truncated unless ``raw`` is acceptable."""
    position, protocol = 0, 0
    while position < len(raw):
        protocol, position = _read_varint(raw, position)
        if protocol in _FIXED_SIZES:
            position += _FIXED_SIZES[protocol]
        elif protocol in _PREFIXED:
            size, position = _read_varint(raw, position)
            position += size
        else:
            fail("MultiaddrInvalidProtocol")
        ensure(position <= len(raw), "MultiaddrTruncated")
    ensure(protocol == _P2P, "MultiaddrInvalidProtocol")


def _read_varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(raw) and shift <= _MAX_VARINT_SHIFT:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    fail("MultiaddrInvalidVarint")
