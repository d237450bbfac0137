"""Multiaddresses as people write them.

hivemind carries the multiformats codec; it is used here and nowhere else.
"""

from __future__ import annotations

from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.multiaddr.exceptions import Error as MultiaddrError

from keys.errors import BadPeerId
from keys.peer import PeerId
from mesh.errors import InvalidRequest

MAX_ADDRESS_TEXT = 2048
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


def _split(canonical: str) -> tuple[str, PeerId | None]:
    # The last one counts: a relayed address names the relay first.
    transport, separator, peer = canonical.rpartition("/p2p/")
    if not separator:
        return canonical, None
    if "/" in peer:
        return canonical, None
    try:
        return transport, PeerId.from_base58(peer)
    except BadPeerId as error:
        raise BadAddress(f"{peer!r} is not the peer id of an Ed25519 key") from error
