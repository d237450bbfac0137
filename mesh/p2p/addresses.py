"""Multiaddresses: the text that people write, and the binary form that the chain keeps.

hivemind carries the multiformats codec; it is used here and nowhere else.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.multiaddr.exceptions import Error as MultiaddrError

from keys.errors import BadPeerId
from keys.peer import PeerId
from mesh.errors import InvalidRequest

MAX_ADDRESS_SIZE = 1024
"""Bytes of a binary multiaddress on chain; the text form gets twice as many characters."""
MIN_PORT, MAX_PORT = 0, 65_535
# Runtime 17 of the chain checks these codes and nothing else; udp has another code there than
# in the multiformats table, so only TCP addresses can be registered.
_CHAIN_PROTOCOLS = frozenset({"ip4", "ip6", "dns4", "dns6", "dnsaddr", "tcp", "ws", "wss", "p2p"})

_P2P_CODE = bytes.fromhex("a503")  # 421 as a varint


class BadAddress(InvalidRequest):
    """Text or bytes that are not a usable multiaddress."""

    def __init__(self, message: str) -> None:
        super().__init__("address", message)


def parse_address(text: str) -> str:
    """Return the canonical text of a multiaddress. Raises BadAddress."""
    if not 0 < len(text) <= 2 * MAX_ADDRESS_SIZE:
        raise BadAddress(f"a multiaddress has 1 to {2 * MAX_ADDRESS_SIZE} characters")
    try:
        canonical = str(Multiaddr(text))
    except (MultiaddrError, ValueError) as error:
        raise BadAddress(
            f"{text!r} is not a multiaddress such as /ip4/1.2.3.4/tcp/31330"
        ) from error
    return canonical


def build_host_address(host: str, port: int) -> str:
    """Return ``/ip4|ip6|dns4/<host>/tcp/<port>``. Raises BadAddress."""
    if not MIN_PORT <= port <= MAX_PORT:
        raise BadAddress(f"a port is between {MIN_PORT} and {MAX_PORT}, not {port}")
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return parse_address(f"/dns4/{host}/tcp/{port}")
    return parse_address(f"/ip{version}/{host}/tcp/{port}")


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


def encode_chain_address(text: str) -> bytes:
    """Return the binary form that the chain accepts: it ends in /p2p. Raises BadAddress."""
    transport, peer = split_peer_address(text)
    _check_chain_protocols(Multiaddr(transport))
    # hivemind's codec writes the peer as a CID; go, rust and the specification as a multihash.
    peer_part = _P2P_CODE + bytes((len(peer.to_bytes()),)) + peer.to_bytes()
    raw = bytes(Multiaddr(transport).to_bytes()) + peer_part
    if len(raw) > MAX_ADDRESS_SIZE:
        raise BadAddress(f"the chain keeps at most {MAX_ADDRESS_SIZE} bytes of address")
    return raw


def decode_chain_address(raw: bytes) -> str:
    """Return the text of an address that the chain keeps. Raises BadAddress."""
    if not 0 < len(raw) <= MAX_ADDRESS_SIZE:
        raise BadAddress(f"a binary multiaddress has 1 to {MAX_ADDRESS_SIZE} bytes")
    try:
        address = Multiaddr(raw)
        text = str(address)
        _check_chain_protocols(address)
        is_canonical = raw in (encode_chain_address(text), Multiaddr(text).to_bytes())
    except (MultiaddrError, ValueError, TypeError, EOFError) as error:
        raise BadAddress("the chain holds bytes that are not a multiaddress") from error
    if not is_canonical:
        raise BadAddress("the chain holds a truncated multiaddress")
    return text


def check_port_free(host: str, port: int) -> None:
    """Raise BadAddress when something else already listens on ``host:port`` (TCP)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise BadAddress(f"port {port} on {host} is in use") from error
            raise BadAddress(f"cannot listen on {host}:{port}: {error.strerror}") from error


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


def _check_chain_protocols(address: Multiaddr) -> None:
    foreign = sorted({str(item.name) for item in address.protocols()} - _CHAIN_PROTOCOLS)
    if foreign:
        raise BadAddress(f"the chain does not take {', '.join(foreign)} in an address")
