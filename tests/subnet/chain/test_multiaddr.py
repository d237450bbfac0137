"""Multiaddrs in the form that the chain keeps."""

from __future__ import annotations

import pytest

from devchain.addresses import check_multiaddr
from keys.peer import PeerKey
from subnet.chain.multiaddr import decode_multiaddr, encode_multiaddr
from subnet.errors import ConfigError

PEER = PeerKey(bytes([7]) * 32).peer_id
OTHER = PeerKey(bytes([8]) * 32).peer_id


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/203.0.113.7/tcp/31330",
        "/ip6/2001:db8::1/udp/1",
        "/dns4/node.example.org/tcp/443/wss",
        "/dnsaddr/example.org",
        f"/ip4/127.0.0.1/tcp/31330/p2p/{PEER}",
    ],
)
def test_an_address_survives_the_round_trip_and_the_chain_takes_it(text: str) -> None:
    raw = encode_multiaddr(text, peer_id=PEER)
    check_multiaddr(raw)
    expected = text if "/p2p/" in text else f"{text}/p2p/{PEER}"
    assert decode_multiaddr(raw) == expected


def test_the_binary_form_is_the_published_one() -> None:
    raw = encode_multiaddr("/ip4/127.0.0.1/tcp/4001", peer_id=PEER)
    # Multicodec codes 0x04, 0x06 and 0xa5 0x03 (421), then the length of the multihash.
    assert raw.hex().startswith("047f000001060fa1a50326002408011220")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "127.0.0.1:31330",
        "/ip4/300.0.0.1/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/-1",
        "/ip4/127.0.0.1/tcp",
        "/ip4/127.0.0.1/udp/1/quic",
        "/dns4//tcp/1",
        "/dns4/" + "x" * 300 + "/tcp/1",
        f"/ip4/127.0.0.1/tcp/1/p2p/{OTHER}",
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit",
        "/ip4/127.0.0.1/tcp/1/p2p/nonsense",
        "/ip4/" + "1" * 5000,
    ],
)
def test_a_malformed_multiaddr_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        encode_multiaddr(text, peer_id=PEER)
    assert caught.value.hint


@pytest.mark.parametrize("raw", ["04", "047f0000", "ff", "ffffffffffff", "8f03", "a50326"])
def test_truncated_or_unknown_bytes_are_a_value_error(raw: str) -> None:
    with pytest.raises(ValueError):
        decode_multiaddr(bytes.fromhex(raw))
