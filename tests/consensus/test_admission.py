"""Which records a replica keeps, attack by attack."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import records
from consensus.admission import (
    MAX_KNOWN_EPOCHS,
    EpochTable,
    admit,
    compute_expiry,
    compute_vector_sizes,
)
from consensus.challenge import ModelShape
from consensus.errors import InvalidRecord, Reason
from consensus.protocol_params import MINIMAL
from consensus.records import OutputCommit, OutputReveal, RecordKind
from consensus.roster import Roster, RosterNode
from consensus.types import LayerRange, NodeClass
from keys.envelope import OVERHEAD, Envelope, seal
from keys.peer import PeerKey

NETWORK = b"n" * 32
EXPIRES_AT = 1_000_060
EPOCH = 5
ALICE, BOB, IDLE, STRANGER = (PeerKey(bytes([seed]) * 32) for seed in range(1, 5))
BODY = records.encode_output_commit(OutputCommit(b"s" * 32, LayerRange(0, 3), b"c" * 32))


def make_node(node_id, key, node_class=NodeClass.VALIDATOR):
    account = node_id.to_bytes(20, "big")
    return RosterNode(node_id, key.peer_id, account, account, node_class, 0)


def make_roster(epoch=EPOCH):
    nodes = (make_node(1, ALICE), make_node(2, BOB), make_node(3, IDLE, NodeClass.IDLE))
    return Roster(epoch, epoch * 20, b"h" * 32, 1_000_000, nodes)


TABLE = EpochTable(NETWORK).add(make_roster(), expires_at=EXPIRES_AT)


def make_record(key=ALICE, **changes):
    fields = {
        "kind": RecordKind.OUTPUT_COMMIT,
        "network_id": NETWORK,
        "epoch": EPOCH,
        "expires_at": EXPIRES_AT,
        "node_id": 1,
        "body": BODY,
    }
    return seal(key, **(fields | changes)).to_bytes()


def refuse(value, expires_at=EXPIRES_AT, table=TABLE):
    with pytest.raises(InvalidRecord) as refusal:
        admit(value, expires_at, table)
    return refusal.value.reason


def test_a_canonical_record_of_a_roster_node_is_admitted():
    envelope = admit(make_record(), float(EXPIRES_AT), TABLE)
    assert envelope.author == ALICE.peer_id
    assert (
        envelope.key == b"mesh/rec" + NETWORK + b"\x03" + b"\x05\0\0\0" + ALICE.peer_id.public_key
    )


@pytest.mark.parametrize("order", [1, -1])
def test_second_node_of_one_key_displaces_nobody(order):
    nodes = (make_node(1, ALICE), make_node(9, ALICE))[::order]
    roster = Roster(EPOCH, 100, b"h" * 32, 1_000_000, nodes)
    table = EpochTable(NETWORK).add(roster, expires_at=EXPIRES_AT)
    assert admit(make_record(), EXPIRES_AT, table).node_id == 1
    assert refuse(make_record(node_id=9), table=table) is Reason.WRONG_AUTHOR


@pytest.mark.parametrize(
    "expires_at",
    [math.nan, math.inf, -math.inf, -1.0, 0.0, EXPIRES_AT + 1, EXPIRES_AT + 0.5, 1e300],
)
def test_non_finite_or_shifted_expiry_is_refused(expires_at):
    assert refuse(make_record(), expires_at) is Reason.WRONG_EXPIRY


def test_an_expiry_signed_differently_from_the_stored_one_is_refused():
    assert refuse(make_record(expires_at=EXPIRES_AT + 1)) is Reason.WRONG_EXPIRY


def test_wrong_author_is_refused():
    assert refuse(make_record(BOB, node_id=1)) is Reason.WRONG_AUTHOR


def test_unregistered_peer_is_refused():
    assert refuse(make_record(STRANGER)) is Reason.NOT_IN_ROSTER


def test_an_idle_node_has_no_say_in_consensus():
    assert refuse(make_record(IDLE, node_id=3)) is Reason.NOT_IN_ROSTER


def test_a_record_of_another_network_is_refused():
    assert refuse(make_record(network_id=b"m" * 32)) is Reason.WRONG_NETWORK


def test_a_record_of_an_unknown_epoch_is_refused():
    assert refuse(make_record(epoch=EPOCH + 1)) is Reason.UNKNOWN_EPOCH


@pytest.mark.parametrize("kind", [0, RecordKind.HEARTBEAT, 5, 255])
def test_a_kind_without_an_epoch_is_refused(kind):
    assert refuse(make_record(kind=kind)) is Reason.WRONG_KIND


def test_oversized_record_is_refused():
    assert refuse(make_record(body=BODY + b"\0")) is Reason.WRONG_SIZE
    assert refuse(make_record(body=bytes(600 << 10))) is Reason.WRONG_SIZE
    assert refuse(bytes(2 << 20)) is Reason.WRONG_SIZE


def test_truncated_record_is_refused_at_every_length():
    value = make_record()
    for size in range(len(value)):
        assert refuse(value[:size]) in (Reason.WRONG_SIZE, Reason.MALFORMED)


def test_every_flipped_bit_of_a_record_is_refused():
    value = make_record()
    for position in range(len(value)):
        for bit in range(8):
            flipped = bytearray(value)
            flipped[position] ^= 1 << bit
            refuse(bytes(flipped))


def test_a_forged_signature_is_refused():
    signed = make_record(BOB, node_id=2)
    forged = make_record(STRANGER, node_id=2)[: -64 - len(BODY)]
    assert refuse(signed[:-64] + bytes(64)) is Reason.BAD_SIGNATURE
    assert refuse(forged + BODY + signed[-64:]) is Reason.NOT_IN_ROSTER


def test_a_body_that_does_not_decode_is_refused_before_the_signature_is_checked():
    bad = BODY[:32] + bytes(8) + BODY[40:]
    value = make_record(body=bad)[:-64] + bytes(64)
    assert refuse(value) is Reason.WRONG_RANGE


def test_the_answer_for_a_value_never_changes_as_the_table_grows():
    value, grown = make_record(), TABLE
    later = make_roster(EPOCH + 1)
    for table in (grown, grown.add(later, expires_at=1), grown.add(make_roster(), expires_at=9)):
        assert admit(value, EXPIRES_AT, table).node_id == 1


def test_the_table_is_bounded():
    table = TABLE
    for epoch in range(EPOCH, EPOCH + 3 * MAX_KNOWN_EPOCHS):
        table = table.add(make_roster(epoch), expires_at=EXPIRES_AT)
    assert len(table.entries) == MAX_KNOWN_EPOCHS


@given(st.binary(max_size=OVERHEAD + 100), st.floats())
def test_garbage_raises_nothing_but_invalid_record(value, expires_at):
    refuse(value, expires_at)


@given(
    kind=st.integers(0, 255),
    epoch=st.sampled_from([0, EPOCH]),
    node_id=st.integers(0, 3),
    body=st.binary(max_size=120),
)
def test_well_formed_envelopes_around_garbage_raise_nothing_but_invalid_record(
    kind, epoch, node_id, body
):
    envelope = Envelope(kind, NETWORK, epoch, EXPIRES_AT, node_id, ALICE.peer_id, body, bytes(64))
    refuse(envelope.to_bytes())


@pytest.mark.parametrize(("block_time_ms", "expected"), [(6000, 460), (1000, 160), (501, 131)])
def test_expiry_is_the_first_layers_timestamp_plus_three_epochs(block_time_ms, expected):
    assert (
        compute_expiry(100, epoch_length=20, block_time_ms=block_time_ms, life_epochs=3) == expected
    )


SIZES = compute_vector_sizes(ModelShape(num_layers=3, hidden_size=8, vocab_size=5), MINIMAL)
SHAPED = EpochTable(NETWORK, vector_sizes=SIZES).add(make_roster(), expires_at=EXPIRES_AT)


def make_reveal(layers, *sizes):
    vectors = tuple(bytes(size) for size in sizes)
    body = records.encode_output_reveal(OutputReveal(b"s" * 32, LayerRange(*layers), vectors))
    return make_record(kind=RecordKind.OUTPUT_REVEAL, body=body)


def test_a_reveal_of_the_models_shape_is_admitted():
    assert SIZES == (32, 32, 32, 20)
    for layers, sizes in {(0, 3): SIZES, (0, 2): SIZES[:2], (2, 3): SIZES[2:]}.items():
        admit(make_reveal(layers, *sizes), EXPIRES_AT, SHAPED)


@pytest.mark.parametrize(
    ("layers", "sizes", "reason"),
    [
        ((0, 1016), (1024,) * 1016, Reason.WRONG_RANGE),
        ((0, 3), (1024,) * 4, Reason.WRONG_SIZE),
        ((0, 3), (32, 32, 32, 24), Reason.WRONG_SIZE),
        ((0, 3), (32, 32, 32), Reason.WRONG_SIZE),
        ((0, 2), (32, 32, 20), Reason.WRONG_SIZE),
        ((0, 2), (32, 28), Reason.WRONG_SIZE),
    ],
)
def test_a_megabyte_for_a_small_model_is_not_kept(layers, sizes, reason):
    value = make_reveal(layers, *sizes)
    assert refuse(value, table=SHAPED) is reason
    # A node that does not know the model cannot tell.
    admit(value, EXPIRES_AT, TABLE)
