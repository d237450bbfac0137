"""Frames: one value, one encoding; sizes are compared before anything is allocated."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
from dataclasses import replace

import pytest

from keys.peer import PeerKey
from mesh.inference.drive_wire import encode_driven_step
from mesh.inference.refusals import Refused
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import NOT_TOLD, Alternative, Finish, Token
from mesh.inference.wire import (
    DTYPE_SIZES,
    MAX_HOPS,
    VERSION,
    ErrorFrame,
    HiddenRows,
    OpenSession,
    ScoresFrame,
    StepFrame,
    compute_max_step_rows,
    decode_bind,
    decode_error,
    decode_open,
    decode_ready,
    decode_scores,
    decode_step,
    decode_token,
    encode_bind,
    encode_error,
    encode_open,
    encode_ready,
    encode_scores,
    encode_step,
    encode_token,
    split_step,
)
from mesh.model.config import LayerSpan
from mesh.p2p.interface import MAX_FRAME_SIZE
from mesh.routing.hop import Hop

PEERS = [PeerKey(bytes([i]) * 32).peer_id for i in range(1, 4)]
ROUTE = (Hop(PEERS[0], LayerSpan(0, 2)), Hop(PEERS[1], LayerSpan(2, 6)))
OPEN = OpenSession(
    session_id=bytes(16),
    route=ROUTE,
    sampling=Sampling(0.7, 0.9, 40, 1.1, 99, (2, 5), 3),
    token_ids=(1, 2, 130),
    max_new_tokens=20,
    first_index=4,
    hop_index=1,
)
STEP = StepFrame(7, HiddenRows(2, "float32", bytes(range(64))), (5, 6))


def score(logprob, *top):
    return Token(NOT_TOLD, logprob, tuple(Alternative(*pair) for pair in top))


TOP = (Alternative(3, -0.5), Alternative(4, -2.0))
TOKEN = Token(130, -1.5, TOP, index=9, finish=Finish.STOP, times_us=(100, 200, 400))
SCORES = ScoresFrame(4, (score(-0.5, (1, -0.5)), score(-2.0, (9, -0.25))))
ERROR = ErrorFrame("busy", "64 sessions are open", 1)


def test_frames_survive_the_wire():
    assert decode_open(encode_open(OPEN)) == OPEN
    assert decode_step(encode_step(STEP), hidden_size=8) == STEP
    assert decode_token(encode_token(TOKEN)) == TOKEN
    assert decode_error(encode_error(ERROR)) == ERROR
    assert decode_scores(encode_scores(SCORES)) == SCORES
    assert decode_bind(encode_bind(b"s" * 16)) == b"s" * 16
    assert decode_ready(encode_ready(48)) == 48
    salted = replace(OPEN, reused=48, salt=b"s" * 32)
    assert decode_open(encode_open(salted)) == salted


@pytest.mark.parametrize("value", [1e39, -6.8e38, 1e308, -math.inf, math.inf])
def test_extreme_log_probabilities_end_no_batch(value):
    """A hoster before this one decides what the logits are."""
    largest = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
    expected = value if math.isinf(value) else math.copysign(largest, value)
    token = decode_token(
        encode_token(replace(TOKEN, logprob=value, top_logprobs=(Alternative(3, value),)))
    )
    assert (token.logprob, token.top_logprobs) == (expected, (Alternative(3, expected),))
    scores = ScoresFrame(4, (score(value, (1, value)),))
    assert decode_scores(encode_scores(scores)).scores[0].logprob == expected


def test_what_is_no_number_stays_none():
    assert math.isnan(decode_token(encode_token(replace(TOKEN, logprob=math.nan))).logprob)


DECODERS = [
    (encode_open(OPEN), decode_open),
    (encode_step(STEP), lambda frame: decode_step(frame, hidden_size=8)),
    (encode_token(TOKEN), decode_token),
    (encode_error(ERROR), decode_error),
    (encode_bind(b"s" * 16), decode_bind),
    (encode_scores(SCORES), decode_scores),
    (encode_ready(48), decode_ready),
]


@pytest.mark.parametrize(("frame", "decode"), DECODERS)
def test_truncated_and_trailing_bytes_are_refused(frame, decode):
    for size in range(len(frame)):
        with pytest.raises(Refused):
            decode(frame[:size])
    with pytest.raises(Refused):
        decode(frame + b"\0")


@pytest.mark.parametrize(("frame", "decode"), DECODERS)
def test_random_bytes_are_refused_or_decoded_never_a_crash(frame, decode):
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    rng = random.Random(seed)
    for _ in range(500):
        garbled = bytearray(frame)
        for _ in range(rng.randint(1, 4)):
            garbled[rng.randrange(len(garbled))] = rng.randrange(256)
        try:
            decode(bytes(garbled))
        except Refused:
            continue


def test_a_request_ends_with_a_whole_salt_or_none():
    plain, salted = (encode_open(replace(OPEN, salt=salt)) for salt in (b"", b"s" * 32))
    for size in range(len(plain) + 1, len(salted)):
        with pytest.raises(Refused, match="size"):
            decode_open(salted[:size])
    with pytest.raises(Refused, match="size"):
        decode_open(salted + b"s")
    for wrong in ({"salt": b"short"}, {"reused": 16}):
        with pytest.raises(ValueError, match="32 bytes"):
            encode_open(replace(OPEN, **wrong))


def test_oversized_tensor_frame_is_refused_before_allocation():
    """A header that announces gigabytes with ten bytes behind it costs nothing."""
    frame = struct.pack("<BIHBB", 2, 0, 4096, 0, 0) + bytes(10)
    tracemalloc.start()
    with pytest.raises(Refused, match="wrong_shape"):
        decode_step(frame, hidden_size=1 << 20)
    with pytest.raises(Refused, match="context_overflow"):
        decode_open(
            struct.pack("<BB16sBBBIII", 1, VERSION, bytes(16), 0, 1, 0, 2**32 - 1, 0, 1) + bytes(60)
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    ("changes", "hidden_size", "reason"),
    [
        ({}, 16, "wrong_shape"),
        ({"rows": 1}, 8, "wrong_shape"),
        ({"dtype": "bfloat16"}, 8, "wrong_shape"),
        ({"rows": 0, "data": b""}, 8, "wrong_shape"),
    ],
)
def test_wrong_shape_dtype_or_length_is_refused(changes, hidden_size, reason):
    step = STEP._replace(hidden=STEP.hidden._replace(**changes))
    with pytest.raises(Refused, match=reason):
        decode_step(encode_step(step), hidden_size=hidden_size)
    frame = bytearray(encode_step(STEP))
    frame[7] = 9
    with pytest.raises(Refused, match="wrong_dtype"):
        decode_step(bytes(frame), hidden_size=8)


@pytest.mark.parametrize(
    "route",
    [
        (Hop(PEERS[0], LayerSpan(1, 6)),),
        (Hop(PEERS[0], LayerSpan(0, 2)), Hop(PEERS[1], LayerSpan(3, 6))),
        (Hop(PEERS[0], LayerSpan(0, 3)), Hop(PEERS[1], LayerSpan(2, 6))),
        (Hop(PEERS[0], LayerSpan(0, 3)), Hop(PEERS[0], LayerSpan(3, 6))),
    ],
    ids=["late start", "gap", "overlap", "peer twice"],
)
def test_broken_routes_are_refused(route):
    with pytest.raises(Refused, match="malformed"):
        decode_open(encode_open(replace(OPEN, route=route, hop_index=0)))


def test_long_details_are_cut():
    error = decode_error(encode_error(ErrorFrame("x" * 99, "ü" * 999, 255)))
    assert len(error.reason) == 32
    assert len(error.detail.encode()) <= 258


def test_control_characters_of_a_refusal_do_not_reach_a_terminal():
    sent = ErrorFrame("busy\x1b", "\x1b[2J\r\nforged line\u202e", 1)
    error = decode_error(encode_error(sent))
    assert (error.reason, error.detail) == ("busy?", "?[2J??forged line?")


@pytest.mark.parametrize(
    ("place", "value"),
    [(13, 3), (13, 255), (14, 255), (15, MAX_HOPS + 2), (15, 255)],
    ids=["finish", "last finish", "alternatives", "times", "most times"],
)
def test_impossible_counts_in_a_token_are_refused(place, value):
    frame = bytearray(encode_token(TOKEN))
    frame[place] = value
    with pytest.raises(Refused, match="impossible counts"):
        decode_token(bytes(frame))


@pytest.mark.parametrize("value", [MAX_HOPS + 1, 255])
def test_more_times_than_hops_in_a_step_are_refused(value):
    frame = bytearray(encode_step(STEP))
    frame[8] = value
    with pytest.raises(Refused, match="wrong_shape"):
        decode_step(bytes(frame), hidden_size=8)


def test_the_times_of_the_longest_route_arrive_and_none_is_too_long():
    times = (2**40, *range(MAX_HOPS))
    token = decode_token(encode_token(replace(TOKEN, times_us=times)))
    assert token.times_us == (2**32 - 1, *range(MAX_HOPS))
    step = decode_step(encode_step(STEP._replace(times_us=times)), hidden_size=8)
    assert step.times_us == (2**32 - 1, *range(MAX_HOPS - 1))


@pytest.mark.parametrize("hidden_size", [1024, 16_384, 65_536])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_of_any_width_is_split_into_frames_that_fit(hidden_size, dtype):
    row_size = hidden_size * DTYPE_SIZES[dtype]
    data = bytes(range(256)) * (200 * row_size // 256)
    step = StepFrame(40, HiddenRows(200, dtype, data), tuple(range(MAX_HOPS)))
    parts = [decode_step(encode_step(part), hidden_size=hidden_size) for part in split_step(step)]
    assert all(len(encode_driven_step(part, 0)) <= MAX_FRAME_SIZE for part in parts)
    assert [part.position for part in parts] == [
        40 + sum(part.hidden.rows for part in parts[:i]) for i in range(len(parts))
    ]
    assert b"".join(part.hidden.data for part in parts) == data
    rows = [part.hidden.rows for part in parts]
    assert max(rows) - min(rows) <= 1 and max(rows) <= compute_max_step_rows(row_size)
