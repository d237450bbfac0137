"""Multiaddresses as people write them.

hivemind carries the multiformats codec; it is used here and nowhere else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.multiaddr.exceptions import Error as MultiaddrError

from keys.errors import BadPeerId
from keys.peer import PeerId
from mesh.errors import InvalidRequest

MAX_ADDRESS_TEXT = 2048
_P2P = b"\xa5\x03"  # 421 as a varint
RELAYED = "/p2p-circuit"
"""What stands in the address of a peer that is reached through a relay."""


class BadAddress(InvalidRequest):
    """Text or bytes that are not a usable multiaddress."""

    def __init__(self, message: str) -> None:
        super().__init__("address", message)


def parse_address(text: str) -> str:
    """Return the canonical text of a multiaddress. Raises BadAddress."""
    if not 0 < len(text) <= MAX_ADDRESS_TEXT:
        raise BadAddress(f"a multiaddress has 1 to {MAX_ADDRESS_TEXT} characters")
    try:
        canonical = str(Multiaddr(text))
    except (MultiaddrError, ValueError) as error:
        raise BadAddress(
            f"{text!r} is not a multiaddress such as /ip4/1.2.3.4/tcp/31330"
        ) from error
    return canonical


def with_peer_id(address: str, peer: PeerId) -> str:
    """Return ``address`` ending in ``/p2p/<peer>``. Raises BadAddress when it names another."""
    canonical = parse_address(address)
    transport, named = _split(canonical)
    if named is not None and named != peer:
        raise BadAddress(f"{canonical} is the address of another peer")
    return f"{transport}/p2p/{peer}"


def split_peer_address(text: str) -> tuple[str, PeerId]:
    """Split ``/.../p2p/<peer>`` into its transport part and the peer. Raises BadAddress."""
    transport, peer = _split(parse_address(text))
    if peer is None:
        raise BadAddress(f"{text!r} does not end in /p2p/<peer id>")
    return transport, peer


def encode_address(text: str) -> bytes:
    """Return the binary form of a multiaddress, as libp2p reads it. Raises BadAddress.

    A peer inside it, the relay of a relayed address, is a multihash there. hivemind's codec writes
    a CID, which p2pd refuses.
    """
    encoded = b""
    transport, *rest = parse_address(text).split("/p2p/")
    for part in (transport, *rest):
        if part is not transport:
            peer, _, part = part.partition("/")
            raw = _parse_peer(peer).to_bytes()
            encoded += _P2P + bytes([len(raw)]) + raw
            part = f"/{part}" if part else ""
        encoded += Multiaddr(part).to_bytes() if part else b""
    return encoded


def is_private(address: str) -> bool:
    """Whether an address cannot be dialled from the Internet; a name may be."""
    parts = address.split("/")
    if RELAYED in address or len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return False
    try:
        return not ipaddress.ip_address(parts[2]).is_global
    except ValueError:
        return False


def choose_announced(
    addresses: Sequence[str], *, asked: Sequence[str], known: Sequence[str]
) -> tuple[str, ...]:
    """Return those of a node's ``addresses`` that are published.

    Addresses of a home or of this machine are of no use to others, and tell who shares a network.
    So they are left out, unless the operator ``asked`` for their host, or everybody is on such a
    network: the node itself and those whose addresses are ``known``.
    """
    if all(map(is_private, (*addresses, *known))):
        return tuple(addresses)
    hosts = {_get_host(address) for address in asked}
    return tuple(a for a in addresses if not is_private(a) or _get_host(a) in hosts)


def _get_host(address: str) -> str:
    return "/".join(address.split("/")[1:3])


def _split(canonical: str) -> tuple[str, PeerId | None]:
    # The last one counts: a relayed address names the relay first.
    transport, separator, peer = canonical.rpartition("/p2p/")
    if not separator:
        return canonical, None
    if "/" in peer:
        return canonical, None
    return transport, _parse_peer(peer)


def _parse_peer(text: str) -> PeerId:
    try:
        return PeerId.from_base58(text)
    except BadPeerId as error:
        raise BadAddress(f"{text!r} is not the peer id of an Ed25519 key") from error
