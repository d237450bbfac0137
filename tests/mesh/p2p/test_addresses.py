"""Multiaddresses: what people write, what the chain keeps, and what is neither."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.p2p.addresses import (
    BadAddress,
    build_host_address,
    check_port_free,
    decode_chain_address,
    encode_chain_address,
    parse_address,
    split_peer_address,
    with_peer_id,
)
from tests.support.p2p import make_key

PEER, OTHER = make_key("peer").peer_id, make_key("other").peer_id
ADDRESS = f"/ip4/1.2.3.4/tcp/31330/p2p/{PEER}"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", "/ip4/0.0.0.0/tcp/31330"),
        ("::1", "/ip6/::1/tcp/31330"),
        ("node.example.org", "/dns4/node.example.org/tcp/31330"),
    ],
)
def test_a_host_and_a_port_make_an_address(host: str, expected: str) -> None:
    assert build_host_address(host, 31330) == expected


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_has_sixteen_bits(port: int) -> None:
    with pytest.raises(BadAddress, match="port"):
        build_host_address("1.2.3.4", port)


@pytest.mark.parametrize(
    "text", ["", "1.2.3.4:31330", "/ip4/1.2.3/tcp/1", "/tcp", "/ip4/1.2.3.4/tcp/99999", "/x" * 2000]
)
def test_what_is_not_a_multiaddress_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_address(text)


def test_an_address_names_its_peer() -> None:
    assert split_peer_address(ADDRESS) == ("/ip4/1.2.3.4/tcp/31330", PEER)
    assert with_peer_id("/ip4/1.2.3.4/tcp/31330", PEER) == ADDRESS
    assert with_peer_id(ADDRESS, PEER) == ADDRESS
    with pytest.raises(BadAddress, match="another peer"):
        with_peer_id(ADDRESS, OTHER)
    with pytest.raises(BadAddress, match="does not end"):
        split_peer_address("/ip4/1.2.3.4/tcp/31330")


def test_a_relayed_address_names_the_peer_behind_the_relay() -> None:
    relayed = f"/ip4/1.2.3.4/tcp/31330/p2p/{OTHER}/p2p-circuit/p2p/{PEER}"
    assert split_peer_address(relayed)[1] == PEER
    with pytest.raises(BadAddress):
        split_peer_address(relayed.removesuffix(f"/p2p/{PEER}"))


def test_an_rsa_peer_is_refused() -> None:
    with pytest.raises(BadAddress, match="Ed25519"):
        split_peer_address("/ip4/1.2.3.4/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")


@pytest.mark.parametrize(
    "prefix",
    ["/ip4/1.2.3.4/tcp/31330", "/ip6/::1/tcp/1", "/dns4/a.example/tcp/2", "/dns6/a.example/tcp/3"],
)
def test_the_chains_form_is_binary_and_ends_in_the_peer(prefix: str) -> None:
    text = f"{prefix}/p2p/{PEER}"
    raw = encode_chain_address(text)
    assert raw.endswith(PEER.to_bytes())
    assert decode_chain_address(raw) == text


def test_the_chains_form_of_a_known_address() -> None:
    raw = encode_chain_address(ADDRESS)
    # ip4 04, tcp 06 with a big-endian port, p2p as the varint of 421, then the length 38.
    assert raw == bytes.fromhex("0401020304067a62a50326") + PEER.to_bytes()


def test_an_address_that_another_tool_wrote_with_a_cid_is_read() -> None:
    cid = b"\x01\x72" + PEER.to_bytes()
    raw = bytes.fromhex("0401020304067a62a50328") + cid
    assert decode_chain_address(raw) == ADDRESS


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/1.2.3.4/tcp/31330",
        f"/ip4/1.2.3.4/udp/31330/quic/p2p/{PEER}",
        f"/ip4/1.2.3.4/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{PEER}",
    ],
)
def test_what_the_chain_does_not_take_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        encode_chain_address(text)


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_decoding_the_chains_bytes_is_total(raw: bytes) -> None:
    good = encode_chain_address(ADDRESS)
    for candidate in (raw, good[: len(raw)], good + raw, raw + good):
        with contextlib.suppress(BadAddress):
            decode_chain_address(candidate)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadAddress, match=f"port {port} .* in use"):
            check_port_free("127.0.0.1", port)
    check_port_free("127.0.0.1", port)
