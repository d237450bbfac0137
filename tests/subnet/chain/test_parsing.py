"""The chain's decoded values become the node's own types."""

from __future__ import annotations

import pytest

from consensus.types import NodeClass
from keys.peer import PeerKey
from subnet.chain import parsing
from subnet.errors import ChainMismatch, ChainUnavailable

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


def make_submission(**changes: object) -> dict[str, object]:
    record: dict[str, object] = {
        "validator_id": 1,
        "block": 9,
        "attests": [(1, {}), (3, {})],
        "subnet_nodes": [
            make_node(id=1),
            make_node(id=2, classification={"node_class": "Included", "start_epoch": 3}),
            make_node(id=3),
        ],
        "prioritize_queue_node_id": None,
        "remove_queue_node_id": None,
        "data": [{"subnet_node_id": 1, "score": 5}, {"subnet_node_id": 3, "score": 0}],
        "args": hex_text("0xabcd"),
    }
    return record | changes


def test_args_that_spell_hexadecimal_text_come_back_as_they_were_sent() -> None:
    submission = parsing.parse_submission(make_submission())
    assert submission.args == b"0xabcd"
    assert submission.scores == ((1, 5), (3, 0))
    assert submission.attested == {1, 3}
    assert submission.voters == {1, 3}


@pytest.mark.parametrize("name", ["prioritize_queue_node_id", "remove_queue_node_id"])
def test_a_proposal_keeps_the_queued_node_that_it_names(name: str) -> None:
    assert getattr(parsing.parse_submission(make_submission()), name) is None
    assert getattr(parsing.parse_submission(make_submission(**{name: 7})), name) == 7


@pytest.mark.parametrize("name", ["prioritize_queue_node_id", "remove_queue_node_id"])
@pytest.mark.parametrize("value", [True, -1, 2**32, "7", "0x07", [7], {"Some": 7}, 7.0, "x" * 999])
def test_a_queue_argument_of_another_shape_is_an_outage_that_names_it(
    name: str, value: object
) -> None:
    with pytest.raises(ChainUnavailable, match=name) as caught:
        parsing.parse_submission(make_submission(**{name: value}))
    assert len(str(caught.value)) < 200


def test_a_submission_without_a_field_is_an_outage_that_names_it() -> None:
    for name in make_submission():
        record = make_submission()
        del record[name]
        with pytest.raises(ChainUnavailable, match=name):
            parsing.parse_submission(record)


@pytest.mark.parametrize(
    "changes",
    [
        {"validator_id": "1"},
        {"attests": [1, 3]},
        {"attests": None},
        {"data": [7]},
        {"data": None},
        {"subnet_nodes": [None]},
        {"args": 7},
        {"args": "0xabc"},
    ],
)
def test_a_submission_of_another_shape_is_an_outage(changes: dict[str, object]) -> None:
    with pytest.raises(ChainUnavailable):
        parsing.parse_submission(make_submission(**changes))


def test_text_where_bytes_belong_is_a_mismatch() -> None:
    with pytest.raises(ChainMismatch):
        parsing.parse_bytes("plain")
    with pytest.raises(ChainMismatch):
        parsing.parse_bytes(7)
