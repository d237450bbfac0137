"""Multiaddrs between their text and the binary form that the chain keeps.

Only the protocols that the pallet takes; every address ends in /p2p.
"""

from __future__ import annotations

import ipaddress
import re

import base58

from keys.errors import BadPeerId
from keys.peer import PeerId
from subnet.errors import ConfigError

MAX_MULTIADDR_TEXT = 1024
MAX_MULTIADDR_SIZE = 1024
"""Bytes; the chain's own limit, which an endpoint may not keep to."""
MAX_DNS_NAME = 253

P2P = 421
_PORTS = {"tcp": 6, "udp": 17}
_ADDRESSES = {"ip4": 4, "ip6": 41}
_NAMES = {"dns4": 54, "dns6": 55, "dnsaddr": 56}
_FLAGS = {"ws": 477, "wss": 478}
_BY_CODE = {
    code: name for group in (_PORTS, _ADDRESSES, _NAMES, _FLAGS) for name, code in group.items()
}
_IP_SIZES = {4: 4, 41: 16}
# Strangers write names. A slash in one would be another part of the address, a comma another
# address in an argument of the daemon, and a control character a command to a terminal.
_DNS_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_DNS_NAME}}}")
_HINT = "write it as /ip4/203.0.113.7/tcp/31330/p2p/12D3KooW..."


def encode_multiaddr(text: str, *, peer_id: PeerId) -> bytes:
    """Return the binary form; ``/p2p/<peer_id>`` is added where it is missing.

    Raises ConfigError for text that is not such an address, or that names another peer.
    """
    parts = text.split("/")
    if len(text) > MAX_MULTIADDR_TEXT or len(parts) < 3 or parts[0]:
        raise ConfigError(f"{text!r} is not a multiaddr", _HINT)
    raw, rest = b"", parts[1:]
    while rest:
        name = rest.pop(0)
        if name in _FLAGS:
            raw += _encode_varint(_FLAGS[name])
            continue
        if not rest:
            raise ConfigError(f"{text!r} ends after /{name}", _HINT)
        if name == "p2p":
            _check_peer(text, rest, peer_id)
            break
        raw += _encode_part(name, rest.pop(0), text)
    return raw + _encode_varint(P2P) + _with_size(peer_id.to_bytes())


def decode_multiaddr(raw: bytes) -> str:
    """Return the text form. Raises ValueError for bytes that are not such an address."""
    if len(raw) > MAX_MULTIADDR_SIZE:
        raise ValueError(f"a multiaddr has at most {MAX_MULTIADDR_SIZE} bytes, not {len(raw)}")
    text, position = "", 0
    while position < len(raw):
        code, position = _decode_varint(raw, position)
        if code in _FLAGS.values():
            text += f"/{_BY_CODE[code]}"
            continue
        size = _IP_SIZES.get(code, 2)
        if code == P2P or code in _NAMES.values():
            size, position = _decode_varint(raw, position)
        elif code not in _BY_CODE:
            raise ValueError(f"multiaddr protocol {code} is not one that the chain takes")
        value = raw[position : position + size]
        if len(value) != size:
            raise ValueError("the multiaddr is cut off")
        position += size
        text += _decode_part(code, value)
    return text


def _encode_part(name: str, value: str, text: str) -> bytes:
    try:
        if name in _ADDRESSES:
            packed = ipaddress.ip_address(value).packed
            if len(packed) == _IP_SIZES[_ADDRESSES[name]]:
                return _encode_varint(_ADDRESSES[name]) + packed
        if name in _PORTS and value.isascii() and value.isdigit() and int(value) < 1 << 16:
            return _encode_varint(_PORTS[name]) + int(value).to_bytes(2, "big")
        if name in _NAMES and _DNS_NAME.fullmatch(value):
            return _encode_varint(_NAMES[name]) + _with_size(value.encode("ascii"))
    except ValueError:
        pass
    raise ConfigError(f"/{name}/{value} in {text!r} is not something that the chain takes", _HINT)


def _check_peer(text: str, rest: list[str], peer_id: PeerId) -> None:
    try:
        named = PeerId.from_base58(rest[0])
    except BadPeerId as error:
        raise ConfigError(f"{text!r} names a peer id that is not one: {error}", _HINT) from error
    if named != peer_id:
        raise ConfigError(f"{text!r} is not an address of {peer_id}", "check the peer id in it")
    if len(rest) > 1:
        raise ConfigError(f"{text!r} goes on after its peer id", _HINT)


def _decode_part(code: int, value: bytes) -> str:
    if code == P2P:
        return f"/p2p/{base58.b58encode(value).decode('ascii')}"
    name = _BY_CODE[code]
    if code in _IP_SIZES:
        return f"/{name}/{ipaddress.ip_address(value)}"
    if name in _NAMES:
        text = value.decode("ascii")
        if not _DNS_NAME.fullmatch(text):
            raise ValueError(f"{text!r} is not the name of a host")
        return f"/{name}/{text}"
    return f"/{name}/{int.from_bytes(value, 'big')}"


def _with_size(value: bytes) -> bytes:
    return _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _decode_varint(raw: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(raw):
            break
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("the multiaddr has a malformed number")
