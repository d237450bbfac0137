"""The frames of sessions whose ranges verify drafts, as fixed-width little-endian bytes.

WINDOWED     first -> ... -> last   how many rows a window has at most; an OPEN or SHAPED frame
WINDOW       a range -> the next    a draft, and a STEP: rows of the last token and of the draft
TOKENS       last -> first          what a step gave: TOKEN frames

A method of their own: the first range opens the session with it at the next one, and so on. Where a
hoster of an earlier version does not know it, the session is opened in the ordinary way from there
on. The last range answers a session that came windowed all the way with TOKENS instead of TOKEN;
only then may the first range draft. A client sends and gets what it always did.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.shaped_wire import decode_shaped, encode_shaped
from mesh.inference.tokens import Token
from mesh.inference.wire import (
    FrameType,
    OpenSession,
    StepFrame,
    check_size,
    decode_open,
    decode_step,
    decode_token,
    encode_open,
    encode_step,
    encode_token,
    make_malformed,
    read_header,
)

WINDOWED_METHOD = "mesh.windowed"
MIN_WINDOW_ROWS = 2
MAX_WINDOW_ROWS = 16
"""One row of the last token and the others of a draft; each is hidden states that cross a link."""

# type, rows of a window at most; an OPEN or SHAPED frame follows
_WINDOWED = struct.Struct("<BB")
# type, drafted tokens; their ids and a STEP frame follow
_WINDOW = struct.Struct("<BB")
# type, tokens; the sizes of their TOKEN frames and these follow
_TOKENS = struct.Struct("<BB")


def encode_windowed(request: OpenSession) -> bytes:
    """Encode a request. Raises ValueError for fields that do not fit."""
    if not MIN_WINDOW_ROWS <= request.window <= MAX_WINDOW_ROWS:
        raise ValueError(f"a window of {request.window} rows")
    plain = encode_shaped(request) if request.sampling.is_shaped else encode_open(request)
    return _WINDOWED.pack(FrameType.WINDOWED, request.window) + plain


def decode_windowed(frame: bytes) -> OpenSession:
    """Parse a request: sizes first. Raises Refused."""
    (window,) = read_header(frame, _WINDOWED, FrameType.WINDOWED)
    if not MIN_WINDOW_ROWS <= window <= MAX_WINDOW_ROWS:
        raise make_malformed(f"a window of {window} rows")
    plain = frame[_WINDOWED.size :]
    is_shaped = plain[:1] == bytes([FrameType.SHAPED])
    request = decode_shaped(plain) if is_shaped else decode_open(plain)
    return replace(request, window=window)


def encode_window(step: StepFrame) -> bytes:
    """Encode hidden states and the draft that they are of."""
    draft = step.draft
    header = _WINDOW.pack(FrameType.WINDOW, len(draft))
    return b"".join((header, struct.pack(f"<{len(draft)}I", *draft), encode_step(step)))


def decode_window(frame: bytes, *, hidden_size: int, most: int) -> StepFrame:
    """Parse a window of at most ``most`` rows without copying them.

    Raises Refused as decode_step does, and MALFORMED for another number of rows than the draft has.
    """
    (count,) = read_header(frame, _WINDOW, FrameType.WINDOW)
    step_at = _WINDOW.size + 4 * count
    if not 0 < count < most:
        raise make_malformed(f"a draft of {count} tokens where windows have {most} rows")
    if len(frame) < step_at:
        raise make_malformed("the size does not match the counts")
    step = decode_step(frame[step_at:], hidden_size=hidden_size)
    if step.hidden.rows != count + 1:
        raise Refused(RefusalReason.WRONG_SHAPE, f"{step.hidden.rows} rows of {count} + 1 tokens")
    return step._replace(draft=struct.unpack_from(f"<{count}I", frame, _WINDOW.size))


def encode_tokens(tokens: Sequence[Token]) -> bytes:
    """Encode what one step gave."""
    frames = [encode_token(token) for token in tokens]
    header = _TOKENS.pack(FrameType.TOKENS, len(frames))
    return b"".join((header, struct.pack(f"<{len(frames)}H", *map(len, frames)), *frames))


def decode_tokens(frame: bytes) -> tuple[Token, ...]:
    """Parse what one step gave. Raises Refused(MALFORMED)."""
    (count,) = read_header(frame, _TOKENS, FrameType.TOKENS)
    start = _TOKENS.size + 2 * count
    if not 0 < count <= MAX_WINDOW_ROWS or len(frame) < start:
        raise make_malformed("impossible counts in a TOKENS frame")
    sizes = struct.unpack_from(f"<{count}H", frame, _TOKENS.size)
    check_size(frame, start + sum(sizes))
    tokens = []
    for size in sizes:
        tokens.append(decode_token(frame[start : start + size]))
        start += size
    return tuple(tokens)
