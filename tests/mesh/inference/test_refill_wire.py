"""The frame that opens a session which can lose a hop: a round trip, and every byte checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.inference.drive_wire import (
    encode_drive,
)
from mesh.inference.refill_wire import (
    decode_resumable,
    decode_resumable_drive,
    encode_resumable,
    encode_resumable_drive,
)
from mesh.inference.refusals import Refused
from mesh.inference.sampling import Sampling
from mesh.inference.tickets import MAX_REFILLS, TicketChain
from mesh.inference.wire import (
    encode_open,
)
from tests.mesh.inference.test_drive_wire import DRIVE
from tests.mesh.inference.test_shaped_wire import REQUEST

TICKET = TicketChain().make_next()
SHAPED = replace(REQUEST, ticket=TICKET)
PLAIN = replace(SHAPED, sampling=Sampling(seed=3, temperature=0.5))


@pytest.mark.parametrize("request_", [SHAPED, PLAIN, replace(SHAPED, window=4)])
def test_requests_come_back_as_they_were(request_):
    assert decode_resumable(encode_resumable(request_)) == request_


def test_an_ordinary_request_stands_inside():
    assert encode_resumable(PLAIN).endswith(encode_open(PLAIN))


def test_every_cut_and_every_longer_frame_is_refused():
    frame = encode_resumable(PLAIN)
    for size in range(len(frame)):
        with pytest.raises(Refused, match="malformed"):
            decode_resumable(frame[:size])
    with pytest.raises(Refused, match="malformed"):
        decode_resumable(frame + b"\0")


def test_impossible_tickets_and_frames_within_frames_are_refused():
    frame = encode_resumable(PLAIN)
    for forged in (frame[:1] + b"\1" + frame[2:], frame[:2] + bytes([MAX_REFILLS + 1]) + frame[3:]):
        with pytest.raises(Refused, match="malformed"):
            decode_resumable(forged)
    inner = encode_open(PLAIN)
    head = len(frame) - len(inner)
    twice = frame[: head - 4] + len(frame).to_bytes(4, "little") + frame
    with pytest.raises(Refused, match="opens a session"):
        decode_resumable(twice)
    with pytest.raises(ValueError, match="without a ticket"):
        encode_resumable(replace(PLAIN, ticket=None))
    with pytest.raises(ValueError, match="size"):
        encode_resumable(replace(PLAIN, ticket=replace(TICKET, link=b"short")))


def test_driven_requests_come_back_as_they_were_around_a_plain_one():
    chain = TicketChain()
    first = replace(DRIVE, ticket=chain.make_next())
    for request in (first, replace(DRIVE, ticket=chain.make_next(), kept=70)):
        frame = encode_resumable_drive(request)
        assert decode_resumable_drive(frame) == request
        assert frame.endswith(encode_drive(DRIVE))
        for size in range(len(frame)):
            with pytest.raises(Refused, match="malformed"):
                decode_resumable_drive(frame[:size])
        with pytest.raises(Refused, match="malformed"):
            decode_resumable_drive(frame + b"\0")


@pytest.mark.parametrize(("index", "kept"), [(0, 1), (1, 0), (1, 101), (1, 2**32 - 1), (9, 5)])
def test_a_driven_session_keeps_no_more_than_it_may_hold_and_nothing_at_first(index, kept):
    chain = TicketChain()
    ticket = replace(chain.make_next(), index=index)
    with pytest.raises(Refused, match="malformed"):
        decode_resumable_drive(encode_resumable_drive(replace(DRIVE, ticket=ticket, kept=kept)))
