"""The frames of a generation session, as fixed-width little-endian bytes.

OPEN    client -> first -> ... -> last    the route, the sampling parameters, the prompt
STEP    a range -> the next               hidden states of the session's next positions
TOKEN   last -> first -> client           one chosen token
ERROR   any range -> back to the client   why the session ends, and which hop it blames
SCORES  last -> first -> client           log probabilities of the prompt's own tokens
BIND    last -> first                     whose tokens a loop stream carries

The frames of sessions that a client drives token by token are in drive_wire.py.

A request for 0 new tokens asks for the prompt's scores; any other one for tokens.

Sizes are computed from the header and compared before anything is allocated; a frame with a
byte too many is malformed. No torch here: the thin client speaks these frames too.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

from keys.peer import PeerId
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampling import MAX_STOP_TOKENS, MAX_TOP_LOGPROBS, Sampling
from mesh.model.config import MAX_LAYERS, LayerSpan

SESSION_METHOD = "mesh.session"
LOOP_METHOD = "mesh.loop"
VERSION = 1
SESSION_ID_SIZE = 16
MAX_HOPS = 32
MAX_PROMPT_TOKENS = 1 << 18
MAX_STEP_ROWS = 512
"""Longer steps would stall the other sessions of a hoster; a prompt comes in chunks."""
MAX_REASON = 32
MAX_DETAIL = 256
BLAMES_NOBODY = 255

DTYPE_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DTYPE_CODES = {"float32": 0, "bfloat16": 1, "float16": 2}
_DTYPE_NAMES = {code: name for name, code in _DTYPE_CODES.items()}

# type, version, session, hop index, hops, stops, prompt length, first index, max new tokens
_OPEN = struct.Struct("<BB16sBBBIII")
# temperature, top_p, repetition_penalty, top_k, seed, top_logprobs
_SAMPLING = struct.Struct("<dddIQB")
_HOP = struct.Struct("<32sHH")
HOP_SIZE = _HOP.size
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


class Finish(IntEnum):
    """Whether an answer ends with this token, and why."""

    NOT_YET = 0
    STOP = 1
    LENGTH = 2


_FINISHES = tuple(Finish)


@dataclass(frozen=True, slots=True)
class Hop:
    """One part of a route: a peer and the layers that it runs."""

    peer_id: PeerId
    span: LayerSpan


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A request. ``token_ids`` are the prompt and, after a re-route, the tokens so far.

    ``first_index`` is the index of the next token within the answer; ``max_new_tokens`` is how
    many may still come. ``hop_index`` is the place in the route of the one who reads this.
    """

    session_id: bytes
    route: tuple[Hop, ...]
    sampling: Sampling
    token_ids: tuple[int, ...]
    max_new_tokens: int
    first_index: int = 0
    hop_index: int = 0

    @property
    def hop(self) -> Hop:
        return self.route[self.hop_index]

    @property
    def is_last(self) -> bool:
        return self.hop_index == len(self.route) - 1

    @property
    def wants_scores(self) -> bool:
        """No tokens are wanted, only the prompt's log probabilities."""
        return self.max_new_tokens == 0

    def for_next_hop(self) -> OpenSession:
        return replace(self, hop_index=self.hop_index + 1)


class HiddenRows(NamedTuple):
    """Hidden states [rows, hidden_size] as raw little-endian bytes."""

    rows: int
    dtype: str
    data: bytes | memoryview


class StepFrame(NamedTuple):
    """Hidden states from ``position`` on. ``times_us`` has what each range before took for them."""

    position: int
    hidden: HiddenRows
    times_us: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenFrame:
    """One chosen token. ``times_us`` has a number for each range, in the route's order; the first
    range adds the whole step's time as it saw it.
    """

    index: int
    token_id: int
    logprob: float
    finish: Finish
    top: tuple[tuple[int, float], ...] = ()
    times_us: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The log probability of a prompt's token, and the likeliest tokens in its place."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ScoresFrame:
    """Scores of the prompt's tokens from ``position`` on; the first token has none."""

    position: int
    scores: tuple[TokenScore, ...]


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    """Why a session ends. ``hop_index`` is the hop to blame, or ``BLAMES_NOBODY``."""

    reason: str
    detail: str
    hop_index: int


def get_frame_type(frame: bytes) -> FrameType:
    """Return the type byte. Raises Refused(MALFORMED)."""
    try:
        return FrameType(frame[0])
    except (IndexError, ValueError) as error:
        raise _malformed("unknown frame type") from error


def encode_open(request: OpenSession) -> bytes:
    """Encode a request. Raises ValueError for fields that do not fit."""
    sampling = request.sampling
    hops, stops, prompt = request.route, sampling.stop_token_ids, request.token_ids
    if not 0 < len(hops) <= MAX_HOPS or len(stops) > MAX_STOP_TOKENS:
        raise ValueError("too many hops or stop tokens")
    try:
        return b"".join(
            (
                _OPEN.pack(
                    FrameType.OPEN,
                    VERSION,
                    request.session_id,
                    request.hop_index,
                    len(hops),
                    len(stops),
                    len(prompt),
                    request.first_index,
                    request.max_new_tokens,
                ),
                _SAMPLING.pack(
                    sampling.temperature,
                    sampling.top_p,
                    sampling.repetition_penalty,
                    sampling.top_k,
                    sampling.seed,
                    sampling.top_logprobs,
                ),
                encode_route(hops),
                struct.pack(f"<{len(stops)}I", *stops),
                struct.pack(f"<{len(prompt)}I", *prompt),
            )
        )
    except struct.error as error:
        raise ValueError(f"a field of the request does not fit: {error}") from error


def decode_open(frame: bytes) -> OpenSession:
    """Parse a request: sizes first, then the route and the parameters. Raises Refused."""
    if len(frame) < _OPEN.size + _SAMPLING.size or get_frame_type(frame) is not FrameType.OPEN:
        raise _malformed("not an OPEN frame")
    _, version, session_id, hop_index, hops, stops, prompt, first_index, max_new = (
        _OPEN.unpack_from(frame)
    )
    if version != VERSION:
        raise _malformed(f"session protocol {version} is not {VERSION}")
    if not 0 <= hop_index < hops <= MAX_HOPS or stops > MAX_STOP_TOKENS:
        raise _malformed("impossible number of hops or stop tokens")
    if not 0 < prompt <= MAX_PROMPT_TOKENS:
        raise Refused(RefusalReason.CONTEXT_OVERFLOW, f"a prompt of {prompt} tokens")
    route_at = _OPEN.size + _SAMPLING.size
    stops_at = route_at + hops * HOP_SIZE
    prompt_at = stops_at + 4 * stops
    if len(frame) != prompt_at + 4 * prompt:
        raise _malformed("the size does not match the counts")
    stop_token_ids = struct.unpack_from(f"<{stops}I", frame, stops_at)
    return OpenSession(
        session_id=session_id,
        route=decode_route(frame[route_at:stops_at]),
        sampling=_decode_sampling(frame, stop_token_ids),
        token_ids=struct.unpack_from(f"<{prompt}I", frame, prompt_at),
        max_new_tokens=max_new,
        first_index=first_index,
        hop_index=hop_index,
    )


def encode_route(route: tuple[Hop, ...]) -> bytes:
    """Encode the hops, one after the other. Raises struct.error for a layer that does not fit."""
    return b"".join(_HOP.pack(h.peer_id.public_key, h.span.start, h.span.end) for h in route)


def decode_route(data: bytes) -> tuple[Hop, ...]:
    """Parse a route: spans without gaps from layer 0, every peer once. Raises Refused."""
    route, layer = [], 0
    for public_key, start, end in _HOP.iter_unpack(data):
        if not start < end <= MAX_LAYERS or start != layer:
            raise _malformed(f"the route has no blocks {layer}:{start}")
        route.append(Hop(PeerId(public_key), LayerSpan(start, end)))
        layer = end
    if len({hop.peer_id for hop in route}) != len(route):
        raise _malformed("a peer stands twice in the route")
    return tuple(route)


def _decode_sampling(frame: bytes, stop_token_ids: tuple[int, ...]) -> Sampling:
    values = _SAMPLING.unpack_from(frame, _OPEN.size)
    temperature, top_p, repetition_penalty, top_k, seed, top_logprobs = values
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop_token_ids=stop_token_ids,
        top_logprobs=top_logprobs,
    )


def encode_step(step: StepFrame) -> bytes:
    """Encode hidden states. Raises ValueError for fields that do not fit."""
    rows, dtype, data = step.hidden
    times = step.times_us[:MAX_HOPS]
    header = _STEP.pack(FrameType.STEP, step.position, rows, _DTYPE_CODES[dtype], len(times))
    return b"".join((header, _pack_times(times), data))


def decode_step(frame: bytes, *, hidden_size: int) -> StepFrame:
    """Parse hidden states without copying them.

    Raises Refused: MALFORMED, WRONG_DTYPE, or WRONG_SHAPE when the data is not exactly
    rows x hidden_size values.
    """
    if len(frame) < _STEP.size or frame[0] != FrameType.STEP:
        raise _malformed("not a STEP frame")
    _, position, rows, code, times = _STEP.unpack_from(frame)
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


def encode_token(token: TokenFrame) -> bytes:
    """Encode one token."""
    times = token.times_us[: MAX_HOPS + 1]
    header = _TOKEN.pack(
        FrameType.TOKEN,
        token.index,
        token.token_id,
        _fit_float32(token.logprob),
        token.finish,
        len(token.top),
        len(times),
    )
    return b"".join((header, *_pack_alternatives(token.top), _pack_times(times)))


def decode_token(frame: bytes) -> TokenFrame:
    """Parse one token. Raises Refused(MALFORMED)."""
    if len(frame) < _TOKEN.size or frame[0] != FrameType.TOKEN:
        raise _malformed("not a TOKEN frame")
    _, index, token_id, logprob, finish, tops, times = _TOKEN.unpack_from(frame)
    times_at = _TOKEN.size + tops * _ALTERNATIVE.size
    if tops > MAX_TOP_LOGPROBS or times > MAX_HOPS + 1 or finish >= len(_FINISHES):
        raise _malformed("impossible counts in a TOKEN frame")
    if len(frame) != times_at + _TIME_SIZE * times:
        raise _malformed("the size does not match the counts")
    top = tuple(_ALTERNATIVE.iter_unpack(frame[_TOKEN.size : times_at])) if tops else ()
    times_us = _TIMES[times].unpack_from(frame, times_at)
    return TokenFrame(index, token_id, logprob, _FINISHES[finish], top, times_us)


def encode_scores(frame: ScoresFrame) -> bytes:
    """Encode scores; all have the same number of alternatives."""
    tops = len(frame.scores[0].top) if frame.scores else 0
    parts = [_SCORES.pack(FrameType.SCORES, frame.position, len(frame.scores), tops)]
    for score in frame.scores:
        parts.append(_LOGPROB.pack(_fit_float32(score.logprob)))
        parts += _pack_alternatives(score.top)
    return b"".join(parts)


def decode_scores(frame: bytes) -> ScoresFrame:
    """Parse scores. Raises Refused(MALFORMED)."""
    if len(frame) < _SCORES.size or get_frame_type(frame) is not FrameType.SCORES:
        raise _malformed("not a SCORES frame")
    _, position, count, tops = _SCORES.unpack_from(frame)
    size = _LOGPROB.size + tops * _ALTERNATIVE.size
    if not 0 < count <= MAX_STEP_ROWS or tops > MAX_TOP_LOGPROBS:
        raise _malformed("impossible counts in a SCORES frame")
    if len(frame) != _SCORES.size + count * size:
        raise _malformed("the size does not match the counts")
    scores = []
    for start in range(_SCORES.size, len(frame), size):
        (logprob,) = _LOGPROB.unpack_from(frame, start)
        pairs = _ALTERNATIVE.iter_unpack(frame[start + _LOGPROB.size : start + size])
        scores.append(TokenScore(logprob, tuple(pairs)))
    return ScoresFrame(position, tuple(scores))


def encode_error(error: ErrorFrame) -> bytes:
    """Encode a refusal; long details are cut."""
    reason = error.reason.encode("ascii", "replace")[:MAX_REASON]
    detail = error.detail.encode("utf-8")[:MAX_DETAIL]
    return _ERROR.pack(FrameType.ERROR, error.hop_index, len(reason), len(detail)) + reason + detail


def decode_error(frame: bytes) -> ErrorFrame:
    """Parse a refusal. Raises Refused(MALFORMED)."""
    if len(frame) < _ERROR.size or get_frame_type(frame) is not FrameType.ERROR:
        raise _malformed("not an ERROR frame")
    _, hop_index, reason, detail = _ERROR.unpack_from(frame)
    detail_at = _ERROR.size + reason
    if reason > MAX_REASON or detail > MAX_DETAIL or len(frame) != detail_at + detail:
        raise _malformed("the size does not match the counts")
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
    if len(frame) != _BIND.size or get_frame_type(frame) is not FrameType.BIND:
        raise _malformed("not a BIND frame")
    session_id: bytes = _BIND.unpack(frame)[1]
    return session_id


def _pack_alternatives(top: tuple[tuple[int, float], ...]) -> list[bytes]:
    return [_ALTERNATIVE.pack(token_id, _fit_float32(logprob)) for token_id, logprob in top]


def _fit_float32(value: float) -> float:
    """Return the nearest number of 32 bits: differences of extreme logits are beyond them.

    Raising would be worse: this is called on the compute thread, where an error ends the whole
    batch, and a hoster before this one decides what the logits are.
    """
    is_fine = abs(value) <= _MAX_FLOAT32 or not math.isfinite(value)
    return value if is_fine else math.copysign(_MAX_FLOAT32, value)


def _pack_times(times_us: tuple[int, ...]) -> bytes:
    return _TIMES[len(times_us)].pack(*[min(time, _MAX_TIME) for time in times_us])


def _malformed(detail: str) -> Refused:
    return Refused(RefusalReason.MALFORMED, detail)
