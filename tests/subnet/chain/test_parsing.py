"""The chain's decoded values become the node's own types."""

from __future__ import annotations

import pytest

from consensus.types import NodeClass
from keys.peer import PeerKey
from subnet.chain import parsing
from subnet.errors import ChainMismatch

PEER = PeerKey(bytes([7]) * 32).peer_id
HOTKEY = "0x" + "11" * 20
COLDKEY = "0x" + "22" * 20


def hex_text(text: str) -> str:
    return f"0x{text.encode().hex()}"


def make_node(**changes: object) -> dict[str, object]:
    record: dict[str, object] = {
        "id": 4,
        "hotkey": HOTKEY,
        "peer_info": {"peer_id": hex_text(str(PEER)), "multiaddr": None},
        "classification": {"node_class": "Validator", "start_epoch": 3},
    }
    return record | changes


def test_a_node_is_read_with_its_coldkey() -> None:
    node = parsing.parse_roster_node(make_node(), hotkey=HOTKEY, coldkey=COLDKEY)
    assert (node.node_id, node.peer_id, node.start_epoch) == (4, PEER, 3)
    assert node.node_class is NodeClass.VALIDATOR
    assert (node.hotkey.hex(), node.coldkey.hex()) == ("11" * 20, "22" * 20)


@pytest.mark.parametrize("behind", [" ", "\n", "\t", "\x0b", " \n "])
def test_alias_of_a_peer_id_is_nobodys(behind: str) -> None:
    """The pallet compares texts: with white space behind it, a key could be registered twice,
    and the second node would take the first one's place in the roster."""
    assert parsing.parse_peer_id(hex_text(str(PEER) + behind)) is None


@pytest.mark.parametrize("text", ["16Uiu2HAm" + "x" * 44, "QmFoo", "\udcff", ""])
def test_a_peer_id_that_is_not_ed25519_leaves_the_node_without_one(text: str) -> None:
    raw = "0x" + text.encode("utf-8", errors="surrogateescape").hex()
    node = parsing.parse_roster_node(
        make_node(peer_info={"peer_id": raw, "multiaddr": None}), hotkey=HOTKEY, coldkey=None
    )
    assert node.peer_id is None
    assert node.coldkey == bytes(20)


def test_an_unknown_node_class_is_a_mismatch_and_not_a_guess() -> None:
    record = make_node(classification={"node_class": "Overlord", "start_epoch": 0})
    with pytest.raises(ChainMismatch, match="Overlord"):
        parsing.parse_roster_node(record, hotkey=HOTKEY, coldkey=COLDKEY)


def test_args_that_spell_hexadecimal_text_come_back_as_they_were_sent() -> None:
    record = {
        "validator_id": 1,
        "block": 9,
        "attests": [(1, {}), (3, {})],
        "data": [{"subnet_node_id": 1, "score": 5}, {"subnet_node_id": 3, "score": 0}],
        "args": hex_text("0xabcd"),
    }
    submission = parsing.parse_submission(record)
    assert submission.args == b"0xabcd"
    assert submission.scores == ((1, 5), (3, 0))
    assert submission.attested == {1, 3}


def test_text_where_bytes_belong_is_a_mismatch() -> None:
    with pytest.raises(ChainMismatch):
        parsing.parse_bytes("plain")
    with pytest.raises(ChainMismatch):
        parsing.parse_bytes(7)
