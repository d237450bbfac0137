"""The frames of sessions, as fixed-width little-endian bytes.

Sessions in which the hosters choose the tokens:

OPEN         client -> first -> ... -> last   the route, the sampling parameters, the prompt
STEP         a range -> the next              hidden states of the session's next positions
READY        a range -> who opened it         how much of the prompt need not be sent
TOKEN        last -> first -> client          one chosen token
SCORES       last -> first -> client          log probabilities of the prompt's own tokens
BIND         last -> first                    whose answers a loop stream carries

Of every session:

ERROR        any range -> back to the client  why a session ends, and which hop is to blame

The frames of sessions that a client drives are in mesh/inference/drive_wire.py, those of later
additions in a file for each, which :class:`FrameType` names.

An OPEN frame may end with how many tokens of the prompt the range before has already, and a salt
(mesh/inference/prefixes.py); a range that is told of some answers READY, and so a client asks how
much was kept. A request for 0 new tokens asks for the prompt's scores. Sizes are computed from the
header and compared before anything is allocated; a frame with a byte too many is malformed.

No torch here: clients use these frames too.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple, Self

from keys.peer import PeerId
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampling import MAX_STOP_TOKENS, MAX_TOP_LOGPROBS, Sampling
from mesh.inference.tickets import Ticket
from mesh.inference.tokens import NOT_TOLD, Alternative, Finish, Token
from mesh.model.config import LayerSpan
from mesh.model.fields import MAX_LAYERS
from mesh.p2p.interface import MAX_FRAME_SIZE
from mesh.routing.hop import Hop, Route

SESSION_METHOD = "mesh.session"
LOOP_METHOD = "mesh.loop"
VERSION = 2
"""2: tokens are drawn by version 2 of the rule (mesh/inference/draws.py)."""
SESSION_ID_SIZE = 16
SALT_SIZE = 32
MAX_HOPS = 32
MAX_PROMPT_TOKENS = 1 << 18
MAX_STEP_ROWS = 512
"""Longer steps would stall the other sessions of a hoster; a prompt comes in chunks."""
MAX_REASON = 32
MAX_DETAIL = 256
BLAMES_NO_HOP = 255

DTYPE_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DTYPE_CODES = {"float32": 0, "bfloat16": 1, "float16": 2}
_DTYPE_NAMES = {code: name for name, code in _DTYPE_CODES.items()}

# type, version, session, hop index, hops, stops, prompt length, first index, max new tokens
_OPEN = struct.Struct("<BB16sBBBIII")
# tokens that need not be sent, salt; at the end of an OPEN frame, or absent
_PREFIX = struct.Struct(f"<I{SALT_SIZE}s")
# type, position
_READY = struct.Struct("<BI")
_SAMPLING_FIELDS = ("temperature", "top_p", "repetition_penalty", "top_k", "seed", "top_logprobs")
_SAMPLING = struct.Struct("<dddIQB")
_HOP = struct.Struct("<32sHH")
HOP_SIZE = _HOP.size
STEP_PREFIX_SIZE = 3
"""Bytes that may stand in front of a STEP frame within a longer one: a DRIVEN_STEP's."""
# type, position, rows, dtype, times
_STEP = struct.Struct("<BIHBB")
# type, index, token id, logprob, finish, alternatives, times
_TOKEN = struct.Struct("<BIIfBBB")
_ALTERNATIVE = struct.Struct("<If")
# type, hop index, reason length, detail length
_ERROR = struct.Struct("<BBBH")
_BIND = struct.Struct("<B16s")
# type, position, scores, alternatives of each
_SCORES = struct.Struct("<BIHB")
_LOGPROB = struct.Struct("<f")
_TIMES = [struct.Struct(f"<{count}I") for count in range(MAX_HOPS + 2)]
_TIME_SIZE = 4
_MAX_TIME = 2**32 - 1
_MAX_FLOAT32 = (2.0 - 2.0**-23) * 2.0**127


class FrameType(IntEnum):
    """The first byte of every frame."""

    OPEN = 1
    STEP = 2
    TOKEN = 3
    ERROR = 4
    BIND = 5
    SCORES = 6
    DRIVE = 7
    FEED = 8
    DRIVEN_STEP = 9
    LOGITS = 10
    """Of sessions that a client drives (mesh/inference/drive_wire.py)."""
    READY = 11
    SHAPED = 12
    """An OPEN frame with what changes logits (mesh/inference/shaped_wire.py)."""
    RECEIPTED = 20
    """An OPEN or SHAPED frame of an answer with a receipt (mesh/inference/receipt_wire.py)."""
    SETTLE = 21
    RECEIPT = 22
    WINDOWED = 32
    WINDOW = 33
    TOKENS = 34
    """Of sessions whose ranges verify drafts (mesh/inference/window_wire.py)."""
    PIPELINED = 35
    AHEAD = 36
    VERIFIED = 37
    """Of sessions with several windows under way (mesh/inference/flight_wire.py)."""
    RESUMABLE = 40
    RESUMABLE_DRIVE = 41
    """A frame that opens a session, and a ticket (mesh/inference/refill_wire.py)."""


_FINISHES = tuple(Finish)


def make_session_id() -> bytes:
    """Return a fresh random id."""
    return os.urandom(SESSION_ID_SIZE)


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What every request for a session says first: its id, and the way it is to go.

    ``hop_index`` is the place in the route of the one who reads this. A session with a ``ticket``
    can lose a hop (mesh/inference/refills.py).
    """

    session_id: bytes
    route: Route
    hop_index: int = field(default=0, kw_only=True)
    ticket: Ticket | None = field(default=None, kw_only=True)

    @property
    def hop(self) -> Hop:
        return self.route[self.hop_index]

    @property
    def is_first(self) -> bool:
        return self.hop_index == 0

    @property
    def is_last(self) -> bool:
        return self.hop_index == len(self.route) - 1

    @property
    def is_refill(self) -> bool:
        """Whether the hosters are to go on with what they keep of the text."""
        return self.ticket is not None and self.ticket.is_refill

    def for_next_hop(self) -> Self:
        return replace(self, hop_index=self.hop_index + 1)


@dataclass(frozen=True, slots=True)
class OpenSession(RouteRequest):
    """A request for tokens. ``token_ids`` are the prompt and, after a re-route, the tokens so far.

    ``first_index`` is the index of the next token within the answer; ``max_new_tokens`` is how
    many may still come. 0 asks for the prompt's log probabilities instead. ``reused`` tokens of the
    prompt need not be sent to this range if it has them too; a client, which sends none, says so to
    be told how many of them were kept. ``salt`` says whose prompt it is, in
    ``SALT_SIZE`` bytes or none. ``window`` is how many rows a window has at most, 0 for no windows;
    only WINDOWED frames say it. ``in_flight`` is how many windows may be under way, 0 for one; only
    PIPELINED frames say it. ``receipt_salt``, of the salt's size, asks for a receipt.
    """

    sampling: Sampling
    token_ids: tuple[int, ...]
    max_new_tokens: int
    first_index: int = 0
    reused: int = 0
    salt: bytes = b""
    window: int = 0
    in_flight: int = 0
    receipt_salt: bytes = field(default=b"", repr=False)

    @property
    def most_kept(self) -> int:
        """How many rows a hoster may keep: the last token's is computed again by all."""
        return len(self.token_ids) - 1

    @property
    def least_kept(self) -> int:
        """How many rows a session must have computed to be kept for a while when it is lost."""
        return len(self.token_ids) - self.is_refill

    @property
    def capacity(self) -> int:
        """How many tokens the text may have."""
        return len(self.token_ids) + self.max_new_tokens

    @property
    def answer_start(self) -> int:
        """Where in ``token_ids`` the tokens so far begin: the length of the client's own prompt."""
        return len(self.token_ids) - self.first_index

    @property
    def promised(self) -> int:
        """How many tokens are there, and one more: what the caches must have room for soon."""
        return len(self.token_ids) + 1

    @property
    def wants_scores(self) -> bool:
        """No tokens are wanted, only the prompt's log probabilities."""
        return self.max_new_tokens == 0


class HiddenRows(NamedTuple):
    """Hidden states [rows, hidden_size] as raw little-endian bytes."""

    rows: int
    dtype: str
    data: bytes | memoryview

    def split(self) -> list[HiddenRows]:
        """Return each row by itself."""
        size = len(self.data) // self.rows
        starts = range(0, size * self.rows, size)
        return [HiddenRows(1, self.dtype, self.data[start : start + size]) for start in starts]


NO_ROWS = HiddenRows(0, "float32", b"")


class Lead(NamedTuple):
    """Where a window stands among those under way (mesh/inference/rounds.py).

    ``token_id`` is its first token, and ``before`` are the windows of its round that are under way.
    """

    round: int
    token_id: int
    before: int


class StepFrame(NamedTuple):
    """Hidden states from ``position`` on. ``times_us`` has what each range before took for them.

    ``draft`` is what all rows but the first are of, in a WINDOW frame or one with a ``lead``.
    """

    position: int
    hidden: HiddenRows
    times_us: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()
    lead: Lead | None = None


@dataclass(frozen=True, slots=True)
class ScoresFrame:
    """Scores of the prompt's tokens from ``position`` on; the first token has none."""

    position: int
    scores: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    """Why a session ends. ``hop_index`` is the hop to blame, or ``BLAMES_NO_HOP``."""

    reason: str
    detail: str
    hop_index: int


def read_header(frame: bytes, layout: struct.Struct, kind: FrameType) -> tuple[Any, ...]:
    """Return the fields of a frame's header, its type byte left out. Raises Refused(MALFORMED)."""
    if len(frame) < layout.size or frame[0] != kind:
        raise make_malformed(f"not a {kind.name} frame")
    return layout.unpack_from(frame)[1:]


def check_size(frame: bytes, size: int) -> None:
    """Raise Refused(MALFORMED) unless the frame has the size that its header announces."""
    if len(frame) != size:
        raise make_malformed("the size does not match the counts")


def check_version(version: int) -> None:
    """Raise Refused(MALFORMED) for a request of another protocol."""
    if version != VERSION:
        raise make_malformed(f"session protocol {version} is not {VERSION}")


def encode_open(request: OpenSession) -> bytes:
    """Encode a request. Raises ValueError for fields that do not fit."""
    sampling = request.sampling
    hops, stops, prompt = request.route, sampling.stop_token_ids, request.token_ids
    if not 0 < len(hops) <= MAX_HOPS or len(stops) > MAX_STOP_TOKENS:
        raise ValueError("too many hops or stop tokens")
    counts = (request.hop_index, len(hops), len(stops), len(prompt))
    wanted = (request.first_index, request.max_new_tokens)
    try:
        parts = (
            _OPEN.pack(FrameType.OPEN, VERSION, request.session_id, *counts, *wanted),
            _SAMPLING.pack(*[getattr(sampling, name) for name in _SAMPLING_FIELDS]),
            encode_route(hops),
            struct.pack(f"<{len(stops)}I", *stops),
            struct.pack(f"<{len(prompt)}I", *prompt),
            _encode_prefix(request),
        )
    except struct.error as error:
        raise ValueError(f"a field of the request does not fit: {error}") from error
    return b"".join(parts)


def _encode_prefix(request: OpenSession) -> bytes:
    """Return what an OPEN frame ends with. Raises ValueError for a salt of another size."""
    if not request.salt and not request.reused:
        return b""
    if len(request.salt) != SALT_SIZE:
        raise ValueError(f"a salt has {SALT_SIZE} bytes")
    return _PREFIX.pack(request.reused, request.salt)


def decode_open(frame: bytes) -> OpenSession:
    """Parse a request: sizes first, then the route and the parameters. Raises Refused."""
    version, session_id, hop_index, hops, stops, prompt, first_index, max_new = read_header(
        frame, _OPEN, FrameType.OPEN
    )
    check_version(version)
    if not 0 <= hop_index < hops <= MAX_HOPS or stops > MAX_STOP_TOKENS:
        raise make_malformed("impossible number of hops or stop tokens")
    if not 0 < prompt <= MAX_PROMPT_TOKENS:
        raise Refused(RefusalReason.CONTEXT_OVERFLOW, f"a prompt of {prompt} tokens")
    route_at = _OPEN.size + _SAMPLING.size
    stops_at = route_at + hops * HOP_SIZE
    prompt_at = stops_at + 4 * stops
    prefix_at = prompt_at + 4 * prompt
    reused, salt = 0, b""
    if len(frame) != prefix_at:
        check_size(frame, prefix_at + _PREFIX.size)
        reused, salt = _PREFIX.unpack_from(frame, prefix_at)
    stop_token_ids = struct.unpack_from(f"<{stops}I", frame, stops_at)
    return OpenSession(
        session_id=session_id,
        route=decode_route(frame[route_at:stops_at]),
        sampling=_decode_sampling(frame, stop_token_ids),
        token_ids=struct.unpack_from(f"<{prompt}I", frame, prompt_at),
        max_new_tokens=max_new,
        first_index=first_index,
        hop_index=hop_index,
        reused=reused,
        salt=salt,
    )


def encode_route(route: Route) -> bytes:
    """Encode the hops, one after the other. Raises struct.error for a layer that does not fit."""
    return b"".join(_HOP.pack(h.peer_id.public_key, h.span.start, h.span.end) for h in route)


def decode_route(data: bytes) -> Route:
    """Parse a route: spans without gaps from layer 0, every peer once. Raises Refused."""
    route, layer = [], 0
    for public_key, start, end in _HOP.iter_unpack(data):
        if not start < end <= MAX_LAYERS or start != layer:
            raise make_malformed(f"the route has no blocks {layer}:{start}")
        route.append(Hop(PeerId(public_key), LayerSpan(start, end)))
        layer = end
    if len({hop.peer_id for hop in route}) != len(route):
        raise make_malformed("a peer stands twice in the route")
    return tuple(route)


def _decode_sampling(frame: bytes, stop_token_ids: tuple[int, ...]) -> Sampling:
    values = _SAMPLING.unpack_from(frame, _OPEN.size)
    fields = dict(zip(_SAMPLING_FIELDS, values, strict=True))
    return Sampling(stop_token_ids=stop_token_ids, **fields)


def encode_step(step: StepFrame) -> bytes:
    """Encode hidden states. Raises ValueError for fields that do not fit."""
    rows, dtype, data = step.hidden
    times = step.times_us[:MAX_HOPS]
    header = _STEP.pack(FrameType.STEP, step.position, rows, _DTYPE_CODES[dtype], len(times))
    return b"".join((header, _pack_times(times), data))


def compute_max_step_rows(row_size: int) -> int:
    """Return how many rows of ``row_size`` bytes fit into a frame of either kind of session."""
    headers = STEP_PREFIX_SIZE + _STEP.size + _TIME_SIZE * MAX_HOPS
    return max(1, min(MAX_STEP_ROWS, (MAX_FRAME_SIZE - headers) // row_size))


def split_step(step: StepFrame) -> tuple[StepFrame, ...]:
    """Return the step in as few parts as fit into frames, of about equal size."""
    rows, dtype, data = step.hidden
    row_size = len(data) // rows
    parts = -(-rows // compute_max_step_rows(row_size))
    if parts == 1:
        return (step,)
    ends = [rows * part // parts for part in range(parts + 1)]
    return tuple(
        StepFrame(
            step.position + first,
            HiddenRows(end - first, dtype, data[first * row_size : end * row_size]),
            step.times_us,
        )
        for first, end in itertools.pairwise(ends)
    )


def decode_step(frame: bytes, *, hidden_size: int) -> StepFrame:
    """Parse hidden states without copying them.

    Raises Refused: MALFORMED, WRONG_DTYPE, or WRONG_SHAPE when the data is not exactly
    rows x hidden_size values.
    """
    position, rows, code, times = read_header(frame, _STEP, FrameType.STEP)
    dtype = _DTYPE_NAMES.get(code)
    if dtype is None:
        raise Refused(RefusalReason.WRONG_DTYPE, f"dtype code {code}")
    if not 0 < rows <= MAX_STEP_ROWS or times > MAX_HOPS:
        raise Refused(RefusalReason.WRONG_SHAPE, f"{rows} rows in one step")
    data_at = _STEP.size + _TIME_SIZE * times
    if len(frame) != data_at + rows * hidden_size * DTYPE_SIZES[dtype]:
        raise Refused(RefusalReason.WRONG_SHAPE, f"not {rows} rows of {hidden_size} {dtype}")
    times_us = _TIMES[times].unpack_from(frame, _STEP.size)
    return StepFrame(position, HiddenRows(rows, dtype, memoryview(frame)[data_at:]), times_us)


def encode_ready(position: int) -> bytes:
    """Say from which token of the prompt on hidden states are to be sent."""
    return _READY.pack(FrameType.READY, position)


def decode_ready(frame: bytes) -> int:
    """Return the position. Raises Refused(MALFORMED)."""
    position: int
    (position,) = read_header(frame, _READY, FrameType.READY)
    check_size(frame, _READY.size)
    return position


def encode_token(token: Token) -> bytes:
    """Encode one token."""
    times = token.times_us[: MAX_HOPS + 1]
    header = _TOKEN.pack(
        FrameType.TOKEN,
        token.index,
        token.token_id,
        _fit_float32(token.logprob),
        _FINISHES.index(token.finish),
        len(token.top_logprobs),
        len(times),
    )
    return b"".join((header, *_pack_alternatives(token), _pack_times(times)))


def decode_token(frame: bytes) -> Token:
    """Parse one token. Raises Refused(MALFORMED)."""
    index, token_id, logprob, finish, tops, times = read_header(frame, _TOKEN, FrameType.TOKEN)
    times_at = _TOKEN.size + tops * _ALTERNATIVE.size
    if tops > MAX_TOP_LOGPROBS or times > MAX_HOPS + 1 or finish >= len(_FINISHES):
        raise make_malformed("impossible counts in a TOKEN frame")
    check_size(frame, times_at + _TIME_SIZE * times)
    top = _read_alternatives(frame[_TOKEN.size : times_at]) if tops else ()
    times_us = _TIMES[times].unpack_from(frame, times_at)
    return Token(token_id, logprob, top, index, _FINISHES[finish], times_us)


def encode_scores(frame: ScoresFrame) -> bytes:
    """Encode scores; all have the same number of alternatives."""
    tops = len(frame.scores[0].top_logprobs) if frame.scores else 0
    parts = [_SCORES.pack(FrameType.SCORES, frame.position, len(frame.scores), tops)]
    for score in frame.scores:
        parts += [_LOGPROB.pack(_fit_float32(score.logprob)), *_pack_alternatives(score)]
    return b"".join(parts)


def decode_scores(frame: bytes) -> ScoresFrame:
    """Parse scores; the reader knows the tokens' ids. Raises Refused(MALFORMED)."""
    position, count, tops = read_header(frame, _SCORES, FrameType.SCORES)
    size = _LOGPROB.size + tops * _ALTERNATIVE.size
    if not 0 < count <= MAX_STEP_ROWS or tops > MAX_TOP_LOGPROBS:
        raise make_malformed("impossible counts in a SCORES frame")
    check_size(frame, _SCORES.size + count * size)
    scores = []
    for start in range(_SCORES.size, len(frame), size):
        (logprob,) = _LOGPROB.unpack_from(frame, start)
        top = _read_alternatives(frame[start + _LOGPROB.size : start + size])
        scores.append(Token(NOT_TOLD, logprob, top))
    return ScoresFrame(position, tuple(scores))


def encode_error(error: ErrorFrame) -> bytes:
    """Encode a refusal; long details are cut."""
    reason = error.reason.encode("ascii", "replace")[:MAX_REASON]
    detail = error.detail.encode("utf-8")[:MAX_DETAIL]
    return _ERROR.pack(FrameType.ERROR, error.hop_index, len(reason), len(detail)) + reason + detail


def decode_error(frame: bytes) -> ErrorFrame:
    """Parse a refusal. Raises Refused(MALFORMED)."""
    hop_index, reason, detail = read_header(frame, _ERROR, FrameType.ERROR)
    detail_at = _ERROR.size + reason
    if reason > MAX_REASON or detail > MAX_DETAIL:
        raise make_malformed("impossible counts in an ERROR frame")
    check_size(frame, detail_at + detail)
    return ErrorFrame(
        reason=_make_printable(frame[_ERROR.size : detail_at].decode("ascii", "replace")),
        detail=_make_printable(frame[detail_at:].decode("utf-8", "replace")),
        hop_index=hop_index,
    )


def _make_printable(text: str) -> str:
    """A peer's words end up in logs and on terminals, where control characters are commands."""
    return "".join(character if character.isprintable() else "?" for character in text)


def encode_bind(session_id: bytes) -> bytes:
    """Say whose tokens follow on a loop stream."""
    return _BIND.pack(FrameType.BIND, session_id)


def decode_bind(frame: bytes) -> bytes:
    """Return the session id. Raises Refused(MALFORMED)."""
    session_id: bytes
    (session_id,) = read_header(frame, _BIND, FrameType.BIND)
    check_size(frame, _BIND.size)
    return session_id


def _pack_alternatives(token: Token) -> list[bytes]:
    return [
        _ALTERNATIVE.pack(other.token_id, _fit_float32(other.logprob))
        for other in token.top_logprobs
    ]


def _read_alternatives(data: bytes) -> tuple[Alternative, ...]:
    return tuple(Alternative(*pair) for pair in _ALTERNATIVE.iter_unpack(data))


def _fit_float32(value: float | None) -> float:
    """Return the nearest number of 32 bits: differences of extreme logits are beyond them.

    Raising would be worse: this is called on the compute thread, where an error ends the whole
    batch, and a hoster before this one decides what the logits are.
    """
    if value is None:
        raise ValueError("only a token with a log probability is sent")
    is_fine = abs(value) <= _MAX_FLOAT32 or not math.isfinite(value)
    return value if is_fine else math.copysign(_MAX_FLOAT32, value)


def _pack_times(times_us: tuple[int, ...]) -> bytes:
    return _TIMES[len(times_us)].pack(*[min(time, _MAX_TIME) for time in times_us])


def make_malformed(detail: str) -> Refused:
    """Return the refusal of bytes that no honest peer sends."""
    return Refused(RefusalReason.MALFORMED, detail)
