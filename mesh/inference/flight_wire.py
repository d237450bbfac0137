"""The frames of sessions with several windows under way, as fixed-width little-endian bytes.

PIPELINED    first -> ... -> last   how many windows may be under way; a WINDOWED frame
AHEAD        a range -> the next    a window's round and all its tokens, and a STEP
VERIFIED     last -> first          the round of the window that a TOKENS frame is of

A method of its own, as for WINDOWED: where a hoster of an earlier version does not know it, the
session is opened with one window at a time from there on. The last range answers a session that
came pipelined all the way with VERIFIED instead of TOKENS; only then may the first range send a
window before the one before it is verified. mesh/inference/rounds.py has the rules.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.tokens import Token
from mesh.inference.window_wire import (
    decode_tokens,
    decode_windowed,
    encode_tokens,
    encode_windowed,
)
from mesh.inference.wire import (
    FrameType,
    Lead,
    OpenSession,
    StepFrame,
    decode_step,
    encode_step,
    make_malformed,
    read_header,
)

PIPELINED_METHOD = "mesh.pipelined"
MIN_IN_FLIGHT = 2
MAX_IN_FLIGHT = 4
"""Windows of one session that are under way at once."""

# type, windows in flight at most; a WINDOWED frame follows
_PIPELINED = struct.Struct("<BB")
# type, windows in flight before this one, round, rows; their token ids and a STEP frame follow
_AHEAD = struct.Struct("<BBIB")
# type, round; a TOKENS frame follows
_VERIFIED = struct.Struct("<BI")
AHEAD_TYPE = bytes((FrameType.AHEAD,))


def encode_pipelined(request: OpenSession) -> bytes:
    """Encode a request. Raises ValueError for fields that do not fit."""
    if not MIN_IN_FLIGHT <= request.in_flight <= MAX_IN_FLIGHT:
        raise ValueError(f"{request.in_flight} windows in flight")
    header = _PIPELINED.pack(FrameType.PIPELINED, request.in_flight)
    return header + encode_windowed(request)


def decode_pipelined(frame: bytes) -> OpenSession:
    """Parse a request: sizes first. Raises Refused."""
    (in_flight,) = read_header(frame, _PIPELINED, FrameType.PIPELINED)
    if not MIN_IN_FLIGHT <= in_flight <= MAX_IN_FLIGHT:
        raise make_malformed(f"{in_flight} windows in flight")
    return replace(decode_windowed(frame[_PIPELINED.size :]), in_flight=in_flight)


def encode_ahead(step: StepFrame, lead: Lead) -> bytes:
    """Encode hidden states, the tokens that they are of, and where their window stands."""
    tokens = (lead.token_id, *step.draft)
    header = _AHEAD.pack(FrameType.AHEAD, lead.before, lead.round, len(tokens))
    return b"".join((header, struct.pack(f"<{len(tokens)}I", *tokens), encode_step(step)))


def decode_ahead(frame: bytes, *, hidden_size: int, most: int) -> StepFrame:
    """Parse a window of at most ``most`` rows without copying them.

    Raises Refused as decode_step does, and MALFORMED for another number of rows than tokens.
    """
    before, number, rows = read_header(frame, _AHEAD, FrameType.AHEAD)
    step_at = _AHEAD.size + 4 * rows
    if not 0 < rows <= most:
        raise make_malformed(f"a window of {rows} rows where {most} are agreed")
    if len(frame) < step_at:
        raise make_malformed("the size does not match the counts")
    step = decode_step(frame[step_at:], hidden_size=hidden_size)
    if step.hidden.rows != rows:
        raise Refused(RefusalReason.WRONG_SHAPE, f"{step.hidden.rows} rows of {rows} tokens")
    first, *draft = struct.unpack_from(f"<{rows}I", frame, _AHEAD.size)
    return step._replace(draft=tuple(draft), lead=Lead(number, first, before))


def read_round(frame: bytes) -> int | None:
    """Return the round of an AHEAD frame; None for any other, and for one that is cut."""
    if frame[:1] != AHEAD_TYPE or len(frame) < _AHEAD.size:
        return None
    number: int = _AHEAD.unpack_from(frame)[2]
    return number


def encode_verified(number: int, tokens: Sequence[Token]) -> bytes:
    """Encode what a window of round ``number`` gave."""
    return _VERIFIED.pack(FrameType.VERIFIED, number) + encode_tokens(tokens)


def decode_verified(frame: bytes) -> tuple[int, tuple[Token, ...]]:
    """Parse what a window gave, and its round. Raises Refused(MALFORMED)."""
    (number,) = read_header(frame, _VERIFIED, FrameType.VERIFIED)
    return number, decode_tokens(frame[_VERIFIED.size :])
