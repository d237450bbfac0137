"""Requests and answers of reading replicas: whatever a peer sends is parsed or refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.p2p.interface import MAX_RECORD_SIZE
from mesh.p2p.read_wire import (
    MAX_ANSWER_SIZE,
    MAX_KEYS_PER_READ,
    HeldValue,
    MalformedRead,
    decode_read,
    decode_read_answer,
    encode_read,
    encode_read_answer,
)

PLACES = st.tuples(st.binary(min_size=20, max_size=20), st.integers(0, 2**64 - 1))
HELD = st.builds(HeldValue, st.binary(min_size=1, max_size=50), st.integers(0, 2**64 - 1))


@given(st.lists(PLACES, min_size=1, max_size=MAX_KEYS_PER_READ))
@settings(max_examples=50, deadline=None)
def test_a_request_is_read_as_it_was_written(entries: list[tuple[bytes, int]]) -> None:
    assert decode_read(encode_read(entries)) == entries


@given(st.lists(st.none() | HELD, max_size=MAX_KEYS_PER_READ))
@settings(max_examples=50, deadline=None)
def test_an_answer_is_read_as_it_was_written(held: list[HeldValue | None]) -> None:
    assert decode_read_answer(encode_read_answer(held), asked=len(held)) == held


@given(st.binary(max_size=400), st.integers(0, MAX_KEYS_PER_READ))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_parsed_or_refused(raw: bytes, asked: int) -> None:
    for decode in (decode_read, lambda data: decode_read_answer(data, asked=asked)):
        try:
            decode(raw)
        except MalformedRead:
            continue


@pytest.mark.parametrize("size", [0, 27, 29, 28 * (MAX_KEYS_PER_READ + 1)])
def test_a_request_of_a_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(MalformedRead):
        decode_read(bytes(size))


def test_an_answer_ends_with_the_value_that_makes_it_too_long() -> None:
    values = [HeldValue(bytes(MAX_ANSWER_SIZE // 2), 1)] * 5
    raw = encode_read_answer(values)
    assert decode_read_answer(raw, asked=5) == values[:2]
    assert (
        decode_read_answer(encode_read_answer([HeldValue(bytes(MAX_RECORD_SIZE), 1)] * 2), asked=2)[
            1:
        ]
        == []
    )


def test_an_answer_that_stops_early_without_being_long_is_refused() -> None:
    raw = encode_read_answer([HeldValue(b"value", 1)])
    with pytest.raises(MalformedRead, match="1 of 2"):
        decode_read_answer(raw, asked=2)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00",
        bytes(8),
        (5).to_bytes(4, "little"),
        (5).to_bytes(4, "little") + bytes(8) + b"four",
        (MAX_RECORD_SIZE + 1).to_bytes(4, "little") + bytes(MAX_RECORD_SIZE + 9),
        (2**32 - 1).to_bytes(4, "little") + bytes(20),
    ],
)
def test_an_impossible_answer_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedRead):
        decode_read_answer(raw, asked=1)
