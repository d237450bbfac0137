"""Frames of windows: a round trip, and every byte checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampling import Sampling
from mesh.inference.shaped_wire import encode_shaped
from mesh.inference.tokens import Alternative, Finish, Token
from mesh.inference.window_wire import (
    MAX_WINDOW_ROWS,
    decode_tokens,
    decode_window,
    decode_windowed,
    encode_tokens,
    encode_window,
    encode_windowed,
)
from mesh.inference.wire import HiddenRows, StepFrame, encode_open, encode_step
from tests.mesh.inference.test_shaped_wire import REQUEST

HIDDEN = 4
SHAPED = replace(REQUEST, window=MAX_WINDOW_ROWS)
PLAIN = replace(SHAPED, sampling=Sampling(seed=3, temperature=0.5), window=2)
STEP = StepFrame(
    70, HiddenRows(3, "bfloat16", bytes(range(3 * HIDDEN * 2))), (5, 6), (9, 2**32 - 1)
)
TOKENS = (
    Token(7, -0.5, (Alternative(7, -0.5), Alternative(8, -1.5)), 4, Finish.NOT_YET, (10, 20)),
    Token(2, -0.25, (), 5, Finish.STOP),
)


def decode_here(frame, most=MAX_WINDOW_ROWS):
    return decode_window(frame, hidden_size=HIDDEN, most=most)


def test_requests_come_back_as_they_were():
    for request in (SHAPED, PLAIN):
        assert decode_windowed(encode_windowed(request)) == request


def test_an_ordinary_request_has_the_bytes_of_earlier_versions():
    """A hoster of an earlier version serves what stands inside."""
    assert encode_windowed(PLAIN)[2:] == encode_open(replace(PLAIN, window=0))
    assert encode_windowed(SHAPED)[2:] == encode_shaped(replace(SHAPED, window=0))


@pytest.mark.parametrize("window", [0, 1, 17, 255])
def test_a_window_of_impossible_length_is_refused_when_a_session_opens(window):
    with pytest.raises(ValueError, match="rows"):
        encode_windowed(replace(PLAIN, window=window))
    frame = encode_windowed(PLAIN)
    with pytest.raises(Refused, match="malformed"):
        decode_windowed(frame[:1] + bytes([window]) + frame[2:])


def test_windows_come_back_as_they_were():
    found = decode_here(encode_window(STEP))
    assert found._replace(hidden=found.hidden._replace(data=bytes(found.hidden.data))) == STEP


@pytest.mark.parametrize("most", [0, 2])
def test_a_window_longer_than_agreed_is_refused(most):
    assert decode_here(encode_window(STEP), most=3).draft == STEP.draft
    with pytest.raises(Refused, match="malformed: a draft of 2"):
        decode_here(encode_window(STEP), most=most)


def test_a_draft_of_another_length_than_its_rows_is_refused():
    for draft in ((9,), (9, 9, 9)):
        with pytest.raises(Refused) as raised:
            decode_here(encode_window(STEP._replace(draft=draft)))
        assert raised.value.reason == RefusalReason.WRONG_SHAPE
    with pytest.raises(Refused, match="malformed"):
        decode_here(encode_window(STEP._replace(draft=())))


def test_tokens_come_back_as_they_were():
    assert decode_tokens(encode_tokens(TOKENS)) == TOKENS
    most = TOKENS[:1] * MAX_WINDOW_ROWS
    assert decode_tokens(encode_tokens(most)) == most
    with pytest.raises(Refused, match="impossible counts"):
        decode_tokens(encode_tokens(TOKENS[:1] * (MAX_WINDOW_ROWS + 1)))
    with pytest.raises(Refused, match="impossible counts"):
        decode_tokens(encode_tokens(()))


@pytest.mark.parametrize(
    ("frame", "decode"),
    [
        (encode_windowed(PLAIN), decode_windowed),
        (encode_windowed(SHAPED), decode_windowed),
        (encode_window(STEP), decode_here),
        (encode_tokens(TOKENS), decode_tokens),
    ],
    ids=["plain", "shaped", "window", "tokens"],
)
def test_a_frame_that_is_cut_or_longer_is_refused_at_every_place(frame, decode):
    for size in range(len(frame)):
        # What the request ends with may be left out; the salt is such a part.
        if decode is decode_windowed and frame[2] == 1 and size == len(frame) - 36:
            continue
        with pytest.raises(Refused):
            decode(frame[:size])
    with pytest.raises(Refused):
        decode(frame + b"\0")


def test_a_step_frame_is_no_window():
    with pytest.raises(Refused, match="not a WINDOW frame"):
        decode_here(encode_step(STEP))
