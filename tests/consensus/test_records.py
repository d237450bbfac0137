"""One value has one encoding; everything else is refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import records
from consensus.errors import InvalidRecord, Reason
from consensus.records import (
    MAX_VECTOR_SIZE,
    Challenge,
    OutputCommit,
    OutputReveal,
    RecordKind,
    ScoreCommit,
    ScoreReveal,
)
from consensus.types import SCORE_ONE, LayerRange
from keys.envelope import MAX_BODY_SIZE

SALT = bytes(range(32))
REVEAL = OutputReveal(SALT, LayerRange(2, 4), (b"\0" * 8, b"\1" * 8))
SCORES = ScoreReveal(SALT, ((1, 5), (3, SCORE_ONE)))

SAMPLES = [
    (RecordKind.CHALLENGE, records.encode_challenge(Challenge(7, b"h" * 32, b"s" * 32))),
    (
        RecordKind.OUTPUT_COMMIT,
        records.encode_output_commit(OutputCommit(b"s" * 32, LayerRange(0, 3), b"c" * 32)),
    ),
    (RecordKind.OUTPUT_REVEAL, records.encode_output_reveal(REVEAL)),
    (RecordKind.SCORE_COMMIT, records.encode_score_commit(ScoreCommit(b"c" * 32))),
    (RecordKind.SCORE_REVEAL, records.encode_score_reveal(SCORES)),
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


@given(bytes32, st.dictionaries(st.integers(0, 2**32 - 1), st.integers(0, SCORE_ONE), max_size=9))
def test_a_score_reveal_survives_its_encoding(salt, scores):
    reveal = ScoreReveal(salt, tuple(sorted(scores.items())))
    assert records.decode_score_reveal(records.encode_score_reveal(reveal)) == reveal


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


@pytest.mark.parametrize("ids", [(3, 1), (1, 1)])
def test_unsorted_or_repeated_score_rows_are_refused(ids):
    with pytest.raises(ValueError, match="sorted"):
        records.encode_score_reveal(ScoreReveal(SALT, tuple((node, 1) for node in ids)))
    rows = b"".join(node.to_bytes(4, "little") + bytes(16) for node in ids)
    with pytest.raises(InvalidRecord) as refusal:
        records.decode_score_reveal(SALT + (2).to_bytes(4, "little") + rows)
    assert refusal.value.reason is Reason.MALFORMED


def test_a_score_above_one_is_refused():
    row = (1).to_bytes(4, "little") + (SCORE_ONE + 1).to_bytes(16, "little")
    with pytest.raises(InvalidRecord) as refusal:
        records.decode_score_reveal(SALT + (1).to_bytes(4, "little") + row)
    assert refusal.value.reason is Reason.MALFORMED


def test_salts_stay_out_of_reprs():
    assert repr(SALT) not in repr(REVEAL) + repr(SCORES)
