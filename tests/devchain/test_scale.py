"""SCALE and the declarations, against bytes that the real runtime published."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.types import NodeClass
from devchain import storage
from devchain.chain_types import PeerInfo, SubnetNode, SubnetNodeClassification
from devchain.scale import (
    ByteVec,
    Reader,
    ScaleError,
    decode_all,
    decode_compact,
    encode_compact,
    type_of,
)
from devchain.state import Item
from tests.support.ledger_world import hotkey, multiaddr, peer_text


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (63, "fc"),
        (64, "0101"),
        (16383, "fdff"),
        (16384, "02000100"),
        (1 << 30, "0300000040"),
    ],
)
def test_compact_integers_have_the_published_form(value: int, encoded: str) -> None:
    assert encode_compact(value).hex() == encoded
    assert decode_compact(Reader(bytes.fromhex(encoded))) == value


@given(st.integers(0, 2**128 - 1))
def test_compact_integers_come_back(value: int) -> None:
    assert decode_compact(Reader(encode_compact(value))) == value


@pytest.mark.parametrize("encoded", ["0100", "02000000", "0300000000", "07ffffffff00"])
def test_a_compact_integer_that_is_not_the_shortest_is_refused(encoded: str) -> None:
    with pytest.raises(ScaleError):
        decode_compact(Reader(bytes.fromhex(encoded)))


@pytest.mark.parametrize(
    ("item", "default"),
    [
        (
            storage.SUBNET_WEIGHT_FACTORS,
            "00002876e1158d05000000000000000000002876e1158d05000000000000000000"
            "0014bbf08ac6020000000000000000",
        ),
        (storage.SUBNET_NODES_DATA, "00" * 56),
        (storage.FINAL_SUBNET_EMISSION_WEIGHTS, "00" * 17),
        (storage.TOTAL_SUBNET_UIDS, "00f40100"),
        (storage.HOTKEY_OWNER, "00" * 20),
    ],
)
def test_storage_defaults_are_the_real_runtimes_bytes(item: Item[object], default: str) -> None:
    assert item.kind.encode(item.default).hex() == default


def test_a_node_comes_back_from_its_bytes() -> None:
    node = SubnetNode(
        7,
        hotkey(1),
        PeerInfo(peer_text(1), multiaddr(1)),
        None,
        PeerInfo(peer_text(2)),
        SubnetNodeClassification(NodeClass.IDLE, 4),
        10**17,
        3,
        b"unique",
        None,
        None,
    )
    kind = type_of(SubnetNode)
    assert decode_all(kind, kind.encode(node)) == node


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_never_crashes(garbage: bytes) -> None:
    with contextlib.suppress(ScaleError):
        decode_all(type_of(SubnetNode), garbage)


def test_a_claimed_length_beyond_the_data_is_refused() -> None:
    huge = encode_compact(2**32)
    with pytest.raises(ScaleError):
        decode_all(ByteVec(), huge)
    with pytest.raises(ScaleError):
        decode_all(type_of(tuple[SubnetNode, ...]), huge)


def test_an_oversized_bounded_vector_is_refused() -> None:
    info = type_of(PeerInfo)
    with pytest.raises(ScaleError, match="at most 1024"):
        decode_all(info, info.encode(PeerInfo(peer_text(1), bytes(1025))))
