"""One value has one encoding; everything else is refused with a reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import records
from consensus.errors import InvalidRecord, Reason
from consensus.records import (
    MAX_AUDITED_LAYERS,
    MAX_BODY_SIZES,
    MAX_NODES,
    MAX_TOTAL,
    MAX_VECTOR_SIZE,
    SEEN_SLOTS,
    AuditCommit,
    AuditReveal,
    Challenge,
    NamedList,
    NamedSighting,
    OutputCommit,
    OutputReveal,
    RecordKind,
    ScoreReveal,
    ScoreRow,
    SeenRecord,
    Sighting,
)
from consensus.types import SCORE_ONE, LayerRange
from keys.envelope import MAX_BODY_SIZE

SALT = bytes(range(32))
REVEAL = OutputReveal(SALT, LayerRange(2, 4), (b"\0" * 8, b"\1" * 8))
SCORES = ScoreReveal(SALT, (ScoreRow(1, 5, b"tag of 1"), ScoreRow(3, SCORE_ONE, b"tag of 3")))
AUDIT = AuditReveal(SALT, (b"\0" * 8, b"\1" * 12))
SIGHTING = Sighting(
    b"c" * 32,
    10,
    (
        SeenRecord(RecordKind.OUTPUT_COMMIT, 0, 0, b"a" * 16),
        SeenRecord(RecordKind.OUTPUT_COMMIT, 0, 9, b"b" * 16),
        SeenRecord(RecordKind.OUTPUT_REVEAL, 1, 0, b"c" * 16),
    ),
    frozenset({0, 9}),
)
LIST = NamedList((NamedSighting(0, b"a" * 32), NamedSighting(9, b"b" * 32)))

SAMPLES = [
    (RecordKind.CHALLENGE, records.encode_challenge(Challenge(7, b"h" * 32, b"s" * 32))),
    (
        RecordKind.OUTPUT_COMMIT,
        records.encode_output_commit(OutputCommit(b"s" * 32, LayerRange(0, 3), b"c" * 32)),
    ),
    (RecordKind.OUTPUT_REVEAL, records.encode_output_reveal(REVEAL)),
    (RecordKind.SCORE_REVEAL, records.encode_score_reveal(SCORES)),
    (RecordKind.SIGHTING, records.encode_sighting(SIGHTING)),
    (RecordKind.AUDIT_COMMIT, records.encode_audit_commit(AuditCommit(b"d" * 32, b"c" * 32))),
    (RecordKind.AUDIT_REVEAL, records.encode_audit_reveal(AUDIT)),
    (RecordKind.NAMED_LIST, records.encode_named_list(LIST)),
]

bytes32 = st.binary(min_size=32, max_size=32)
ranges = st.integers(0, 40).flatmap(
    lambda start: st.integers(start + 1, start + 8).map(lambda end: LayerRange(start, end))
)
vectors = st.integers(1, 8).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))


@st.composite
def reveals(draw):
    layers = draw(ranges)
    count = len(layers) + draw(st.integers(0, 1))
    return OutputReveal(
        draw(bytes32), layers, tuple(draw(st.lists(vectors, min_size=count, max_size=count)))
    )


@given(st.integers(0, 2**32 - 1), bytes32, bytes32)
def test_a_challenge_survives_its_encoding(height, block_hash, seed):
    challenge = Challenge(height, block_hash, seed)
    assert records.decode_challenge(records.encode_challenge(challenge)) == challenge


@given(reveals())
def test_an_output_reveal_survives_its_encoding(reveal):
    assert records.decode_output_reveal(records.encode_output_reveal(reveal)) == reveal


bytes8 = st.binary(min_size=8, max_size=8)
bytes16 = st.binary(min_size=16, max_size=16)
node_ids = st.integers(0, 2**32 - 1)


@given(bytes32, st.dictionaries(node_ids, st.tuples(st.integers(0, MAX_TOTAL), bytes8), max_size=9))
def test_a_score_reveal_survives_its_encoding(salt, rows):
    reveal = ScoreReveal(salt, tuple(ScoreRow(node, *row) for node, row in sorted(rows.items())))
    assert records.decode_score_reveal(records.encode_score_reveal(reveal)) == reveal


@given(bytes32, st.lists(vectors, max_size=MAX_AUDITED_LAYERS))
def test_an_audit_reveal_survives_its_encoding(salt, drawn):
    reveal = AuditReveal(salt, tuple(drawn))
    assert records.decode_audit_reveal(records.encode_audit_reveal(reveal)) == reveal


@given(st.data())
def test_a_sighting_survives_its_encoding(data):
    size = data.draw(st.integers(0, 40))
    places = st.integers(0, size - 1) if size else st.nothing()
    slots = st.tuples(st.sampled_from(range(len(SEEN_SLOTS))), places)
    names = data.draw(st.dictionaries(slots, bytes16))
    seen = [
        SeenRecord(*SEEN_SLOTS[code], place, names[code, place]) for code, place in sorted(names)
    ]
    failed = data.draw(st.frozensets(places))
    sighting = Sighting(data.draw(bytes32), size, tuple(seen), failed)
    assert records.decode_sighting(records.encode_sighting(sighting)) == sighting


@given(st.dictionaries(st.integers(0, 65_535), bytes32, max_size=9))
def test_a_named_list_survives_its_encoding(rows):
    named = NamedList(tuple(NamedSighting(*row) for row in sorted(rows.items())))
    assert records.decode_named_list(records.encode_named_list(named)) == named


def test_a_sighting_written_out():
    rows = b"".join(
        bytes([code, position, 0]) + name
        for code, position, name in ((1, 0, b"a" * 16), (1, 9, b"b" * 16), (7, 0, b"c" * 16))
    )
    written = b"c" * 32 + b"\x0a\0" + b"\3\0\0\0" + rows + b"\x01\x02"
    assert records.encode_sighting(SIGHTING) == written


def test_the_largest_bodies_are_within_their_caps():
    name, everybody = b"n" * 16, range(MAX_NODES)
    seen = [SeenRecord(*slot, place, name) for slot in SEEN_SLOTS for place in everybody]
    sighting = Sighting(SALT, MAX_NODES, tuple(seen), frozenset(everybody))
    rows = tuple(ScoreRow(node, MAX_TOTAL, b"8 bytes.") for node in everybody)
    audit = AuditReveal(SALT, (bytes(MAX_VECTOR_SIZE),) * MAX_AUDITED_LAYERS)
    named = NamedList(tuple(NamedSighting(place, SALT) for place in everybody))
    for kind, raw in (
        (RecordKind.SIGHTING, records.encode_sighting(sighting)),
        (RecordKind.SCORE_REVEAL, records.encode_score_reveal(ScoreReveal(SALT, rows))),
        (RecordKind.AUDIT_REVEAL, records.encode_audit_reveal(audit)),
        (RecordKind.NAMED_LIST, records.encode_named_list(named)),
    ):
        assert len(raw) == MAX_BODY_SIZES[kind]
        records.decode_body(kind, raw)
        with pytest.raises(InvalidRecord) as refusal:
            records.decode_body(kind, raw + bytes(34))
        assert refusal.value.reason is Reason.WRONG_SIZE


def test_a_sighting_of_256_nodes_is_below_40_kib():
    seen = [SeenRecord(*slot, place, b"n" * 16) for slot in SEEN_SLOTS for place in range(256)]
    assert len(records.encode_sighting(Sighting(SALT, 256, tuple(seen)))) < 40 << 10


@pytest.mark.parametrize(("kind", "raw"), SAMPLES, ids=lambda value: str(value)[:24])
def test_truncated_and_trailing_bytes_are_refused(kind, raw):
    records.decode_body(kind, raw)
    for size in range(len(raw)):
        with pytest.raises(InvalidRecord):
            records.decode_body(kind, raw[:size])
    with pytest.raises(InvalidRecord) as refusal:
        records.decode_body(kind, raw + b"\0")
    assert refusal.value.reason is Reason.WRONG_SIZE


@given(st.sampled_from(list(records.EPOCH_KINDS)), st.binary(max_size=200))
def test_garbage_is_decoded_or_refused_and_what_is_decoded_has_one_encoding(kind, raw):
    try:
        body = records.decode_body(kind, raw)
    except InvalidRecord:
        return
    assert getattr(records, f"encode_{kind.name.lower()}")(body) == raw


def test_an_announced_huge_vector_is_refused_before_it_is_read():
    raw = bytearray(records.encode_output_reveal(REVEAL))
    raw[44:48] = (2**32 - 4).to_bytes(4, "little")
    with pytest.raises(InvalidRecord) as refusal:
        records.decode_output_reveal(bytes(raw))
    assert refusal.value.reason is Reason.WRONG_SIZE


@pytest.mark.parametrize("size", [0, 3, 6, MAX_VECTOR_SIZE + 4])
def test_a_vector_of_an_impossible_size_is_not_encoded(size):
    with pytest.raises(ValueError, match="vector"):
        records.encode_output_reveal(OutputReveal(SALT, LayerRange(0, 1), (bytes(size),)))


def test_a_reveal_above_its_limit_is_neither_encoded_nor_decoded():
    count = MAX_BODY_SIZE // MAX_VECTOR_SIZE
    reveal = OutputReveal(SALT, LayerRange(0, count), (bytes(MAX_VECTOR_SIZE),) * count)
    with pytest.raises(ValueError, match="at most"):
        records.encode_output_reveal(reveal)
    with pytest.raises(InvalidRecord) as refusal:
        records.decode_output_reveal(bytes(MAX_BODY_SIZE + 1))
    assert refusal.value.reason is Reason.WRONG_SIZE


@pytest.mark.parametrize("count", [0, 1, 4, 2**32 - 1])
def test_a_reveal_with_the_wrong_number_of_vectors_is_refused(count):
    raw = bytearray(records.encode_output_reveal(REVEAL))
    raw[40:44] = count.to_bytes(4, "little")
    with pytest.raises(InvalidRecord):
        records.decode_output_reveal(bytes(raw))


@pytest.mark.parametrize(("start", "end"), [(3, 3), (4, 3), (0, 1025), (0, 2**32 - 1)])
def test_an_empty_reversed_or_huge_range_is_refused(start, end):
    raw = bytes(32) + start.to_bytes(4, "little") + end.to_bytes(4, "little") + bytes(32)
    with pytest.raises(InvalidRecord) as refusal:
        records.decode_output_commit(raw)
    assert refusal.value.reason is Reason.WRONG_RANGE


def refuse(kind, raw):
    with pytest.raises(InvalidRecord) as refusal:
        records.decode_body(kind, bytes(raw))
    return refusal.value.reason


@pytest.mark.parametrize("ids", [(3, 1), (1, 1)])
def test_unsorted_or_repeated_score_rows_are_refused(ids):
    with pytest.raises(ValueError, match="sorted"):
        rows = tuple(ScoreRow(node, 1, bytes(8)) for node in ids)
        records.encode_score_reveal(ScoreReveal(SALT, rows))
    rows = b"".join(node.to_bytes(4, "little") + bytes(24) for node in ids)
    raw = SALT + (2).to_bytes(4, "little") + rows
    assert refuse(RecordKind.SCORE_REVEAL, raw) is Reason.MALFORMED


def test_a_total_above_one_a_layer_is_refused():
    row = (1).to_bytes(4, "little") + (MAX_TOTAL + 1).to_bytes(16, "little") + bytes(8)
    raw = SALT + (1).to_bytes(4, "little") + row
    assert refuse(RecordKind.SCORE_REVEAL, raw) is Reason.MALFORMED


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 5), (1, 2)],
        [(2, 0), (1, 0)],
        [(1, 3), (1, 3)],
        [(1, 10)],
        [(7, 65_535)],
    ],
    ids=["positions", "codes", "a slot twice", "beyond the roster", "far beyond the roster"],
)
def test_unsorted_repeated_or_impossible_rows_of_a_sighting_are_refused(rows):
    body = b"".join(bytes([code]) + place.to_bytes(2, "little") + bytes(16) for code, place in rows)
    raw = SALT + b"\x0a\0" + len(rows).to_bytes(4, "little") + body + b"\0\0"
    assert refuse(RecordKind.SIGHTING, raw) is Reason.MALFORMED


@pytest.mark.parametrize("code", [0, len(SEEN_SLOTS) + 1, 255])
def test_a_sighting_of_an_unknown_kind_of_record_is_refused(code):
    raw = SALT + b"\x0a\0" + b"\1\0\0\0" + bytes([code, 0, 0]) + bytes(16) + b"\0\0"
    assert refuse(RecordKind.SIGHTING, raw) is Reason.WRONG_KIND


def test_a_probe_of_a_node_beyond_the_roster_is_refused():
    raw = bytearray(records.encode_sighting(SIGHTING))
    raw[-1] |= 0b0000_0100
    assert refuse(RecordKind.SIGHTING, raw) is Reason.MALFORMED


def test_a_sighting_of_too_large_a_roster_is_refused():
    size = MAX_NODES + 1
    raw = SALT + size.to_bytes(2, "little") + bytes(4) + bytes(-(-size // 8))
    assert refuse(RecordKind.SIGHTING, raw) is Reason.MALFORMED


def test_a_sighting_longer_than_any_roster_is_refused_before_it_is_read():
    raw = bytes(MAX_BODY_SIZES[RecordKind.SIGHTING] + 1)
    assert refuse(RecordKind.SIGHTING, raw) is Reason.WRONG_SIZE


@pytest.mark.parametrize(
    ("kind", "position"),
    [(RecordKind.SIGHTING, 34), (RecordKind.SCORE_REVEAL, 32), (RecordKind.NAMED_LIST, 0)],
)
@pytest.mark.parametrize("count", [0, 1, 4, 2**32 - 1])
def test_another_number_of_rows_than_announced_is_refused(kind, position, count):
    raw = bytearray(dict(SAMPLES)[kind])
    raw[position : position + 4] = count.to_bytes(4, "little")
    assert refuse(kind, raw) is Reason.WRONG_SIZE


@pytest.mark.parametrize("count", [0, 1, 3, MAX_AUDITED_LAYERS + 1, 2**32 - 1])
def test_an_audit_reveal_with_the_wrong_number_of_vectors_is_refused(count):
    raw = bytearray(dict(SAMPLES)[RecordKind.AUDIT_REVEAL])
    raw[32:36] = count.to_bytes(4, "little")
    refuse(RecordKind.AUDIT_REVEAL, raw)


@pytest.mark.parametrize(
    "change", [{"seen": SIGHTING.seen[::-1]}, {"num_nodes": 9}, {"num_nodes": 0}]
)
def test_a_sighting_that_is_none_is_our_own_mistake(change):
    with pytest.raises(ValueError):
        records.encode_sighting(replace(SIGHTING, **change))


def test_a_name_of_another_size_is_our_own_mistake():
    row = SeenRecord(RecordKind.OUTPUT_COMMIT, 0, 0, bytes(32))
    with pytest.raises(ValueError, match="16 bytes"):
        records.encode_sighting(replace(SIGHTING, seen=(row,)))


def test_too_many_rows_or_layers_are_our_own_mistake():
    rows = tuple(NamedSighting(place, SALT) for place in range(MAX_NODES + 1))
    with pytest.raises(ValueError, match="at most"):
        records.encode_named_list(NamedList(rows))
    with pytest.raises(ValueError, match="at most"):
        records.encode_audit_reveal(AuditReveal(SALT, (bytes(4),) * (MAX_AUDITED_LAYERS + 1)))


def test_the_kind_of_the_first_edition_is_not_used_again():
    assert 5 not in [int(kind) for kind in RecordKind]


def test_salts_stay_out_of_reprs():
    assert repr(SALT) not in repr(REVEAL) + repr(SCORES) + repr(AUDIT)
