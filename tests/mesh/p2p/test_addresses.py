"""Multiaddresses: what people write, and whether it can be listened on."""

from __future__ import annotations

import socket

import pytest

from mesh.p2p.addresses import (
    BadAddress,
    parse_address,
    split_peer_address,
    with_peer_id,
)
from mesh.p2p.ports import PortInUse, check_ports_free
from tests.support.p2p import make_key

PEER, OTHER = make_key("peer").peer_id, make_key("other").peer_id
ADDRESS = f"/ip4/1.2.3.4/tcp/31330/p2p/{PEER}"


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


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"/ip4/127.0.0.1/tcp/{port}: port {port} is in use"):
            check_ports_free((f"/ip4/127.0.0.1/tcp/{port}",))
    check_ports_free((f"/ip4/127.0.0.1/tcp/{port}", "/dns4/x/tcp/1", "/ip4/0.0.0.0/tcp/0"))


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(PortInUse, match="cannot listen there"):
        check_ports_free(("/ip4/192.0.2.1/tcp/31330",))
