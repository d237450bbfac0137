"""Frames of driven sessions: exact sizes, and nothing allocated for what a peer merely claims."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.peer import PeerId
from mesh.inference.drive_wire import (
    DriveSession,
    FeedFrame,
    LogitsFrame,
    compute_max_logit_rows,
    decode_drive,
    decode_driven_step,
    decode_feed,
    decode_logits,
    encode_drive,
    encode_driven_step,
    encode_driven_steps,
    encode_feed,
    encode_logits,
)
from mesh.inference.refusals import Refused
from mesh.inference.wire import STEP_PREFIX_SIZE, FrameType, HiddenRows, StepFrame, encode_step
from mesh.model.config import LayerSpan
from mesh.p2p.interface import MAX_FRAME_SIZE
from mesh.routing.hop import Hop

ROUTE = (
    Hop(PeerId(b"a" * 32), LayerSpan(0, 3)),
    Hop(PeerId(b"b" * 32), LayerSpan(3, 6)),
)
DRIVE = DriveSession(b"s" * 16, ROUTE, 100, hop_index=1)
FEED = FeedFrame(7, (1, 2, 3), 2)
STEP = StepFrame(4, HiddenRows(2, "float32", bytes(2 * 8 * 4)))
LOGITS = LogitsFrame(9, 2, memoryview(bytes(2 * 5 * 4)))


def test_frames_survive_the_wire():
    assert decode_drive(encode_drive(DRIVE)) == DRIVE
    assert decode_feed(encode_feed(FEED)) == FEED
    assert decode_logits(encode_logits(LOGITS, vocab_size=5), vocab_size=5) == LOGITS
    assert decode_driven_step(encode_driven_step(STEP, 1), hidden_size=8) == (STEP, 1)


@pytest.mark.parametrize(
    ("frame", "decode"),
    [
        (encode_drive(DRIVE), decode_drive),
        (encode_feed(FEED), decode_feed),
        (encode_logits(LOGITS, vocab_size=5), lambda raw: decode_logits(raw, vocab_size=5)),
        (encode_driven_step(STEP, 1), lambda raw: decode_driven_step(raw, hidden_size=8)),
    ],
    ids=["drive", "feed", "logits", "step"],
)
def test_a_byte_more_or_less_is_refused(frame, decode):
    for size in range(len(frame)):
        with pytest.raises(Refused):
            decode(frame[:size])
    with pytest.raises(Refused):
        decode(frame + b"\0")


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else(raw):
    for kind in (FrameType.DRIVE, FrameType.FEED, FrameType.LOGITS, FrameType.DRIVEN_STEP):
        frame = bytes([kind]) + raw
        for decode in (
            decode_drive,
            decode_feed,
            lambda raw: decode_logits(raw, vocab_size=5),
            lambda raw: decode_driven_step(raw, hidden_size=8),
        ):
            try:
                decode(frame)
            except Refused:
                continue


def test_impossible_counts_are_refused():
    for count, wanted in ((0, 0), (3, 0), (3, 4), (2**32 - 1, 1)):
        raw = struct.pack("<BIII", FrameType.FEED, 0, count, wanted) + bytes(12)
        with pytest.raises(Refused):
            decode_feed(raw)
    with pytest.raises(Refused):
        decode_driven_step(encode_driven_step(STEP, 3), hidden_size=8)
    with pytest.raises(Refused):
        decode_logits(encode_logits(LOGITS, vocab_size=5), vocab_size=6)
    with pytest.raises(Refused):
        decode_logits(struct.pack("<BIHI", FrameType.LOGITS, 0, 65535, 5), vocab_size=5)


def test_routes_with_gaps_are_refused():
    gap = (ROUTE[0], Hop(ROUTE[1].peer_id, LayerSpan(4, 6)))
    with pytest.raises(Refused):
        decode_drive(encode_drive(DriveSession(b"s" * 16, gap, 100)))


@pytest.mark.parametrize("vocab_size", [5, 32_000, 151_936, 1_000_000])
def test_rows_fit_into_a_frame(vocab_size):
    rows = compute_max_logit_rows(vocab_size)
    assert rows >= 1
    assert rows * vocab_size * 4 < MAX_FRAME_SIZE


def test_enormous_vocabulary_has_no_row_that_fits():
    assert compute_max_logit_rows(1 << 24) == 0


def test_the_last_rows_of_a_driven_step_are_wanted_also_when_it_is_split():
    row_size = 16_384 * 4
    step = StepFrame(0, HiddenRows(128, "float32", bytes(128 * row_size)), ())
    frames = [decode_driven_step(f, hidden_size=16_384) for f in encode_driven_steps(step, 50)]
    assert [(part.hidden.rows, wanted) for part, wanted in frames] == [(42, 0), (43, 7), (43, 43)]


def test_what_stands_in_front_of_a_step_leaves_room_for_its_rows():
    assert len(encode_driven_step(STEP, 1)) - len(encode_step(STEP)) <= STEP_PREFIX_SIZE
