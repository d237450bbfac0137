"""Frames of sessions with several windows under way: a round trip, and every byte checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.inference.flight_wire import (
    MAX_IN_FLIGHT,
    decode_ahead,
    decode_pipelined,
    decode_verified,
    encode_ahead,
    encode_pipelined,
    encode_verified,
    read_round,
)
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.window_wire import MAX_WINDOW_ROWS, encode_windowed
from mesh.inference.wire import Lead, encode_step
from tests.mesh.inference.test_window_wire import HIDDEN, PLAIN, SHAPED, STEP, TOKENS

LEAD = Lead(70_000, 2**32 - 1, MAX_IN_FLIGHT - 1)
REQUESTS = [replace(PLAIN, in_flight=2), replace(SHAPED, in_flight=MAX_IN_FLIGHT)]


def decode_here(frame, most=MAX_WINDOW_ROWS):
    return decode_ahead(frame, hidden_size=HIDDEN, most=most)


@pytest.mark.parametrize("request_", REQUESTS, ids=["plain", "shaped"])
def test_a_request_comes_back_and_contains_that_of_an_earlier_version(request_):
    frame = encode_pipelined(request_)
    assert decode_pipelined(frame) == request_
    assert frame[2:] == encode_windowed(replace(request_, in_flight=0))


@pytest.mark.parametrize("in_flight", [0, 1, MAX_IN_FLIGHT + 1, 255])
def test_an_impossible_number_of_windows_is_refused_when_a_session_opens(in_flight):
    with pytest.raises(ValueError, match="in flight"):
        encode_pipelined(replace(PLAIN, in_flight=in_flight))
    frame = encode_pipelined(REQUESTS[0])
    with pytest.raises(Refused, match="malformed"):
        decode_pipelined(frame[:1] + bytes([in_flight]) + frame[2:])


@pytest.mark.parametrize("draft", [STEP.draft, ()], ids=["window", "row"])
def test_windows_come_back_as_they_were(draft):
    rows = 1 + len(draft)
    hidden = STEP.hidden._replace(rows=rows, data=STEP.hidden.data[: rows * HIDDEN * 2])
    step = STEP._replace(draft=draft, hidden=hidden)
    frame = encode_ahead(step, LEAD)
    found = decode_here(frame)
    data = bytes(found.hidden.data)
    assert found._replace(hidden=found.hidden._replace(data=data)) == step._replace(lead=LEAD)
    assert read_round(frame) == LEAD.round


def test_only_windows_have_a_round():
    assert read_round(encode_step(STEP)) is None
    assert read_round(encode_ahead(STEP, LEAD)[:6]) is None
    assert read_round(b"") is None


@pytest.mark.parametrize("most", [0, 2])
def test_a_window_longer_than_agreed_is_refused(most):
    frame = encode_ahead(STEP, LEAD)
    assert decode_here(frame, most=3).draft == STEP.draft
    with pytest.raises(Refused, match="malformed: a window of 3"):
        decode_here(frame, most=most)


def test_a_window_of_another_number_of_tokens_than_rows_is_refused():
    for draft in ((), (9,), (9, 9, 9)):
        with pytest.raises(Refused) as raised:
            decode_here(encode_ahead(STEP._replace(draft=draft), LEAD))
        assert raised.value.reason == RefusalReason.WRONG_SHAPE


def test_answers_come_back_with_their_round():
    assert decode_verified(encode_verified(70_000, TOKENS)) == (70_000, TOKENS)


@pytest.mark.parametrize(
    ("frame", "decode"),
    [
        (encode_pipelined(REQUESTS[1]), decode_pipelined),
        (encode_ahead(STEP, LEAD), decode_here),
        (encode_verified(1, TOKENS), decode_verified),
    ],
    ids=["request", "window", "tokens"],
)
def test_a_frame_that_is_cut_or_longer_is_refused_at_every_place(frame, decode):
    for size in range(len(frame)):
        with pytest.raises(Refused):
            decode(frame[:size])
    with pytest.raises(Refused):
        decode(frame + b"\0")
