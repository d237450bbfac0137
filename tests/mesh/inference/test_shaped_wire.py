"""Requests with what changes logits: a round trip, and every byte checked."""

from __future__ import annotations

import struct

import pytest

from keys.peer import PeerKey
from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampling import Sampling
from mesh.inference.shaped_wire import _SHAPED, decode_shaped, encode_shaped
from mesh.inference.wire import SALT_SIZE, OpenSession, encode_open
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

SAMPLING = Sampling(
    temperature=0.5,
    seed=3,
    stop_token_ids=(2,),
    frequency_penalty=0.25,
    presence_penalty=-1.5,
    min_p=0.125,
    logit_bias=((7, -100.0), (9, 0.5)),
    grammar=Grammar(GrammarKind.REGEX, "größe|[0-9]+"),
)
REQUEST = OpenSession(
    bytes(16),
    tuple(Hop(PeerKey(bytes([n + 1]) * 32).peer_id, LayerSpan(3 * n, 3 * n + 3)) for n in range(2)),
    SAMPLING,
    (5, 6, 7),
    max_new_tokens=9,
    first_index=1,
    salt=b"s" * SALT_SIZE,
)
FRAME = encode_shaped(REQUEST)


def test_a_request_comes_back_as_it_was():
    assert decode_shaped(FRAME) == REQUEST
    plain = OpenSession(bytes(16), REQUEST.route, Sampling(min_tokens=4), (5,), max_new_tokens=9)
    assert decode_shaped(encode_shaped(plain)) == plain


def test_a_frame_that_is_cut_or_longer_is_refused_at_every_place():
    for size in range(len(FRAME)):
        with pytest.raises(Refused):
            decode_shaped(FRAME[:size])
    with pytest.raises(Refused):
        decode_shaped(FRAME + b"\0")


@pytest.mark.parametrize(
    ("place", "code", "value"),
    [
        (1, "<B", 1),
        (30, "<H", 1025),
        (32, "<B", 9),
        (32, "<B", 0),
        (33, "<I", (64 << 10) + 1),
        (33, "<I", 0xFFFFFFFF),
        (37, "<I", 0xFFFFFFFF),
    ],
)
def test_impossible_counts_are_refused_before_anything_is_read(place, code, value):
    frame = bytearray(FRAME)
    struct.pack_into(code, frame, place, value)
    with pytest.raises(Refused) as raised:
        decode_shaped(bytes(frame))
    assert raised.value.reason == RefusalReason.MALFORMED


def test_a_grammar_that_is_no_utf8_is_refused():
    text_at = _SHAPED.size + 2 * 8
    frame = FRAME[:text_at] + b"\xff" + FRAME[text_at + 1 :]
    with pytest.raises(Refused, match="no grammar"):
        decode_shaped(frame)


def test_an_ordinary_request_has_the_bytes_of_earlier_versions():
    assert FRAME.endswith(encode_open(REQUEST))
    assert encode_open(REQUEST)[0] == 1
