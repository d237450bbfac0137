"""The frames of sessions that a client drives, choosing the tokens itself.

DRIVE        client -> first -> ... -> last   the route, and room for how many tokens
FEED         client -> first                  token ids from a position on, and what is wanted
DRIVEN_STEP  a range -> the next              a STEP, and for how many of its rows logits
LOGITS       last -> ... -> first -> client   float32 logits of some rows; or their hidden states
                                              after the final norm, [rows, hidden_size]

Feeding at an earlier position replaces what followed it. STEP and ERROR are those of
mesh/inference/wire.py, whose rules hold here too. No torch here: clients use these frames too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.wire import (
    HOP_SIZE,
    MAX_HOPS,
    MAX_PROMPT_TOKENS,
    MAX_STEP_ROWS,
    SESSION_ID_SIZE,
    VERSION,
    FrameType,
    RouteRequest,
    StepFrame,
    check_size,
    check_version,
    decode_route,
    decode_step,
    encode_route,
    encode_step,
    make_malformed,
    read_header,
    split_step,
)
from mesh.p2p.interface import MAX_FRAME_SIZE

DRIVE_METHOD = "mesh.drive"
HIDDEN_METHOD = "mesh.hidden"
"""As DRIVE_METHOD with the same frames, but LOGITS carry the last hidden states."""

# type, version, session, hop index, hops, capacity
_DRIVE = struct.Struct(f"<BB{SESSION_ID_SIZE}sBBI")
# type, position, tokens, wanted rows
_FEED = struct.Struct("<BIII")
# type, wanted rows; a STEP frame follows
_DRIVEN_STEP = struct.Struct("<BH")
# type, position, rows, vocabulary
_LOGITS = struct.Struct("<BIHI")
LOGIT_SIZE = 4


@dataclass(frozen=True, slots=True)
class DriveSession(RouteRequest):
    """A client wants to drive a session of at most ``capacity`` tokens.

    ``kept`` tokens at its beginning are what a hoster of an earlier one may have; only frames with
    a ticket say it.
    """

    capacity: int
    kept: int = 0

    @property
    def most_kept(self) -> int:
        """How many rows a hoster may keep."""
        return self.kept

    @property
    def least_kept(self) -> int:
        """How many rows a session must have computed to be kept for a while when it is lost."""
        return max(1, self.kept)

    @property
    def promised(self) -> int:
        """What comes is not known."""
        return 1


@dataclass(frozen=True, slots=True)
class FeedFrame:
    """The text from ``position`` on; logits of the last ``wanted`` of these tokens come back."""

    position: int
    token_ids: tuple[int, ...]
    wanted: int


@dataclass(frozen=True, slots=True)
class LogitsFrame:
    """Logits after the tokens from ``position`` on: float32 [rows, vocabulary] as raw bytes."""

    position: int
    rows: int
    data: memoryview


def compute_max_logit_rows(vocab_size: int) -> int:
    """Return how many rows of logits fit into one frame; 0 for a vocabulary beyond it."""
    return min(MAX_STEP_ROWS, (MAX_FRAME_SIZE - _LOGITS.size) // (LOGIT_SIZE * vocab_size))


def encode_drive(request: DriveSession) -> bytes:
    """Encode a request. Raises ValueError for fields that do not fit."""
    if not 0 < len(request.route) <= MAX_HOPS:
        raise ValueError("too many hops")
    try:
        header = _DRIVE.pack(
            FrameType.DRIVE,
            VERSION,
            request.session_id,
            request.hop_index,
            len(request.route),
            request.capacity,
        )
        return header + encode_route(request.route)
    except struct.error as error:
        raise ValueError(f"a field of the request does not fit: {error}") from error


def decode_drive(frame: bytes) -> DriveSession:
    """Parse a request: sizes first, then the route. Raises Refused."""
    version, session_id, hop_index, hops, capacity = read_header(frame, _DRIVE, FrameType.DRIVE)
    check_version(version)
    if not 0 <= hop_index < hops <= MAX_HOPS:
        raise make_malformed("impossible number of hops")
    check_size(frame, _DRIVE.size + hops * HOP_SIZE)
    route = decode_route(frame[_DRIVE.size :])
    return DriveSession(session_id, route, capacity, hop_index=hop_index)


def encode_feed(feed: FeedFrame) -> bytes:
    """Encode token ids."""
    header = _FEED.pack(FrameType.FEED, feed.position, len(feed.token_ids), feed.wanted)
    return header + struct.pack(f"<{len(feed.token_ids)}I", *feed.token_ids)


def decode_feed(frame: bytes) -> FeedFrame:
    """Parse token ids. Raises Refused(MALFORMED)."""
    position, count, wanted = read_header(frame, _FEED, FrameType.FEED)
    if not 0 < wanted <= count <= MAX_PROMPT_TOKENS:
        raise make_malformed(f"{wanted} rows of {count} tokens")
    check_size(frame, _FEED.size + 4 * count)
    return FeedFrame(position, struct.unpack_from(f"<{count}I", frame, _FEED.size), wanted)


def encode_driven_step(step: StepFrame, wanted: int) -> bytes:
    """Encode hidden states and for how many of the last rows logits are wanted."""
    return _DRIVEN_STEP.pack(FrameType.DRIVEN_STEP, wanted) + encode_step(step)


def encode_driven_steps(step: StepFrame, wanted: int) -> Iterator[bytes]:
    """Yield the frames of a step that may be too long for one; the last rows are wanted."""
    left = step.hidden.rows
    for part in split_step(step):
        left -= part.hidden.rows
        yield encode_driven_step(part, min(part.hidden.rows, max(0, wanted - left)))


def decode_driven_step(frame: bytes, *, hidden_size: int) -> tuple[StepFrame, int]:
    """Parse hidden states. Raises Refused as decode_step does."""
    (wanted,) = read_header(frame, _DRIVEN_STEP, FrameType.DRIVEN_STEP)
    step = decode_step(frame[_DRIVEN_STEP.size :], hidden_size=hidden_size)
    if wanted > step.hidden.rows:
        raise make_malformed(f"{wanted} rows of {step.hidden.rows} are wanted")
    return step, wanted


def encode_logits(frame: LogitsFrame, *, vocab_size: int) -> bytes:
    """Encode logits; there are at most ``compute_max_logit_rows`` of them."""
    header = _LOGITS.pack(FrameType.LOGITS, frame.position, frame.rows, vocab_size)
    return b"".join((header, frame.data))


def decode_logits(frame: bytes, *, vocab_size: int) -> LogitsFrame:
    """Parse logits without copying them. Raises Refused(MALFORMED) or Refused(WRONG_SHAPE)."""
    position, rows, vocabulary = read_header(frame, _LOGITS, FrameType.LOGITS)
    if not 0 < rows <= MAX_STEP_ROWS or vocabulary != vocab_size:
        raise Refused(RefusalReason.WRONG_SHAPE, f"{rows} rows of {vocabulary} logits")
    if len(frame) != _LOGITS.size + rows * vocab_size * LOGIT_SIZE:
        raise Refused(RefusalReason.WRONG_SHAPE, f"not {rows} rows of {vocab_size} logits")
    return LogitsFrame(position, rows, memoryview(frame)[_LOGITS.size :])
