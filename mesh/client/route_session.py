"""A session over one route as the client sees it: a request out, answers in, failures named."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from keys.peer import PeerId
from mesh.client.receipt_parts import ReceiptPart
from mesh.errors import MeshError, PeerError
from mesh.inference.receipt_wire import RECEIPT_METHOD, encode_receipted
from mesh.inference.refill_wire import RESUMABLE_METHOD, encode_resumable
from mesh.inference.refusals import RefusalReason, Refused, find_loss_reason, read_reason
from mesh.inference.shaped_wire import SHAPED_METHOD, encode_shaped
from mesh.inference.tokens import Finish, Token
from mesh.inference.wire import (
    SESSION_METHOD,
    ErrorFrame,
    FrameType,
    OpenSession,
    RouteRequest,
    decode_error,
    decode_ready,
    decode_scores,
    decode_token,
    encode_open,
)
from mesh.p2p.interface import Host, Stream
from mesh.routing.hop import Route
from mesh.routing.peer_watch import MISSES, PeerWatch

T = TypeVar("T")
_READY_TYPE = bytes((FrameType.READY,))
TOKENS_PER_MISS = 1024
"""So many tokens of a prompt allow one more missed ping: its rows may fill the link for a while."""


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """Seconds. ``token_s`` is for one token; it is longer than what a hoster waits for another.

    The first token may take ``prompt_token_s`` longer for every token of the prompt.
    """

    open_s: float = 10.0
    token_s: float = 35.0
    prompt_token_s: float = 0.15
    probe_s: float = 3.0
    receipt_s: float = 10.0


class HopFailed(MeshError):
    """A hop of the route ended the session. ``peer_id`` None: which one is unknown."""

    def __init__(self, peer_id: PeerId | None, reason: RefusalReason, detail: str = "") -> None:
        super().__init__(f"{reason} at {peer_id or 'some hop'}: {detail}")
        self.peer_id = peer_id
        self.reason = reason


async def stream_tokens(
    host: Host,
    request: OpenSession,
    *,
    vocab_size: int,
    timeouts: ClientTimeouts,
    watch: PeerWatch | None = None,
    receipt: ReceiptPart | None = None,
    note_cached: Callable[[int], None] | None = None,
) -> AsyncGenerator[Token, None]:
    """Open the session and yield its tokens in order; closing drops it on every hop.

    With ``watch`` a hop that falls silent ends the session. ``receipt`` notes the tokens, and what
    the hosters sign at the end or when this is closed. ``note_cached`` gets how much of the prompt
    was kept, before the first token, if the request has ``reused`` and the first range tells.
    Raises HopFailed naming the hop, where it is known.
    """
    method, frame = _encode(request)
    stream = await open_session(host, method, request, frame, timeouts, watch=watch)
    try:
        index = request.first_index
        timeout_s = _first_timeout(request, timeouts)
        misses = MISSES + len(request.token_ids) // TOKENS_PER_MISS
        may_be_told = request.reused > 0
        while True:
            frame = await receive_frame(
                stream, request.route, timeout_s, watch=watch, misses=misses
            )
            if may_be_told and frame[:1] == _READY_TYPE:
                cached = _read_cached(stream.peer_id, frame, request)
                if note_cached is not None:
                    note_cached(cached)
                may_be_told = False
                continue
            may_be_told = False
            timeout_s, misses = timeouts.token_s, MISSES
            token = decode_from(stream.peer_id, frame, decode_token)
            if not _is_possible(token, request, index=index, vocab_size=vocab_size):
                raise HopFailed(stream.peer_id, RefusalReason.MALFORMED, "an impossible token")
            _check_numbers(token)
            is_over = token.finish is not Finish.NOT_YET
            if receipt is not None:
                receipt.tokens.append(token.token_id)
            try:
                yield token
            except GeneratorExit:
                # The reader stops here, and may want to show later what it got.
                if receipt is not None:
                    await receipt.settle(stream, is_over=is_over, timeout_s=timeouts.receipt_s)
                raise
            index += 1
            if is_over:
                if receipt is not None:
                    await receipt.settle(stream, is_over=True, timeout_s=timeouts.receipt_s)
                return
    finally:
        await stream.abort()


async def fetch_scores(
    host: Host,
    request: OpenSession,
    *,
    timeouts: ClientTimeouts,
    watch: PeerWatch | None = None,
) -> tuple[Token, ...]:
    """Return the scores of the prompt's tokens after the first. Raises HopFailed."""
    scores: list[Token] = []
    stream = await open_session(
        host, SESSION_METHOD, request, encode_open(request), timeouts, watch=watch
    )
    timeout_s = _first_timeout(request, timeouts)
    misses = MISSES + len(request.token_ids) // TOKENS_PER_MISS
    try:
        while len(scores) < len(request.token_ids) - 1:
            frame = await receive_frame(
                stream, request.route, timeout_s, watch=watch, misses=misses
            )
            part = decode_from(stream.peer_id, frame, decode_scores)
            if part.position != len(scores) + 1:
                raise HopFailed(stream.peer_id, RefusalReason.MALFORMED, "impossible scores")
            for score in part.scores:
                _check_numbers(score)
            scores += part.scores
    finally:
        await stream.abort()
    return tuple(
        replace(score, token_id=token_id)
        for score, token_id in zip(scores, request.token_ids[1:], strict=False)
    )


def _encode(request: OpenSession) -> tuple[str, bytes]:
    """Return the method and the frame: hosters of earlier versions serve requests of theirs."""
    if request.ticket is not None:
        return RESUMABLE_METHOD, encode_resumable(request)
    if request.receipt_salt:
        return RECEIPT_METHOD, encode_receipted(request)
    if request.sampling.is_shaped:
        return SHAPED_METHOD, encode_shaped(request)
    return SESSION_METHOD, encode_open(request)


def _read_cached(peer: PeerId, frame: bytes, request: OpenSession) -> int:
    """Return how much of the prompt was kept; its last token is always computed. Raises HopFailed
    for more.
    """
    cached = decode_from(peer, frame, decode_ready)
    if cached >= len(request.token_ids):
        raise HopFailed(peer, RefusalReason.MALFORMED, "it kept more than the prompt")
    return cached


def _is_possible(token: Token, request: OpenSession, *, index: int, vocab_size: int) -> bool:
    """Whether the token is the next one and ends the answer exactly where the request says."""
    finish = Finish.NOT_YET
    if token.token_id in request.sampling.stop_token_ids:
        finish = Finish.STOP
    elif index + 1 - request.first_index >= request.max_new_tokens:
        finish = Finish.LENGTH
    token_ids = (token.token_id, *[other.token_id for other in token.top_logprobs])
    return token.index == index and token.finish is finish and max(token_ids) < vocab_size


def _check_numbers(token: Token) -> None:
    """Raise HopFailed for what is no number; which range spoilt it, the first cannot know."""
    logprobs = (token.logprob or 0.0, *[other.logprob for other in token.top_logprobs])
    if not all(map(math.isfinite, logprobs)):
        raise HopFailed(None, RefusalReason.MALFORMED, "a log probability is not finite")


async def open_session(
    host: Host,
    method: str,
    request: RouteRequest,
    frame: bytes,
    timeouts: ClientTimeouts,
    *,
    watch: PeerWatch | None = None,
) -> Stream:
    """Send the request ``frame`` to the first range. Aborting the stream drops the session on
    every hop. Raises HopFailed.
    """
    first = request.route[0].peer_id
    if watch is not None:
        watch.introduce(hop.peer_id for hop in request.route)
    dialling = host.open_stream(first, method, timeout_s=timeouts.open_s, early=True)
    opening = blame_peer(first, dialling)
    stream = await _wait_for_hops(opening, request.route[:1], timeouts.open_s, watch=watch)
    try:
        await blame_peer(first, stream.send(frame))
    except BaseException:
        await stream.abort()
        raise
    return stream


def _first_timeout(request: OpenSession, timeouts: ClientTimeouts) -> float:
    return timeouts.token_s + timeouts.prompt_token_s * len(request.token_ids)


async def blame_peer(peer: PeerId, action: Awaitable[T]) -> T:
    """Wait for ``action``. Raises HopFailed that blames ``peer`` for any PeerError."""
    try:
        return await action
    except PeerError as error:
        raise HopFailed(peer, find_loss_reason(error), str(error)) from error


async def receive_frame(
    stream: Stream,
    route: Route,
    timeout_s: float,
    *,
    watch: PeerWatch | None = None,
    misses: int = MISSES,
) -> bytes:
    """Return the next frame that is no error. Raises HopFailed."""
    coming = blame_peer(stream.peer_id, stream.receive())
    frame = await _wait_for_hops(coming, route, timeout_s, watch=watch, misses=misses)
    if frame[:1] == bytes([FrameType.ERROR]):
        raise _explain(decode_from(stream.peer_id, frame, decode_error), route)
    return frame


async def _wait_for_hops(
    action: Awaitable[T],
    route: Route,
    timeout_s: float,
    *,
    watch: PeerWatch | None,
    misses: int = MISSES,
) -> T:
    """Wait for what the hops of ``route`` work on. Raises HopFailed.

    It names the hop that fell silent, and none where all of them answer and nothing came in time.
    """
    silent: list[PeerId] = []
    try:
        async with asyncio.timeout(timeout_s) as limit:

            def give_up(peer: PeerId) -> None:
                if not limit.expired():
                    silent.append(peer)
                    limit.reschedule(0)

            if watch is None:
                return await action
            with watch.watch([hop.peer_id for hop in route], give_up, misses=misses):
                return await action
    except TimeoutError as error:
        if silent:
            raise HopFailed(silent[0], RefusalReason.HOP_LOST, "it does not answer") from error
        raise HopFailed(None, RefusalReason.TIMEOUT, "no token in time") from error


def decode_from(peer: PeerId, frame: bytes, decode: Callable[[bytes], T]) -> T:
    """Parse what ``peer`` sent. Raises HopFailed that blames it."""
    try:
        return decode(frame)
    except Refused as refused:
        raise HopFailed(peer, RefusalReason.MALFORMED, str(refused)) from refused


def _explain(error: ErrorFrame, route: Route) -> HopFailed:
    """Say which hop is to blame. The request was checked here, so even a refusal that blames
    the request is a reason to try another hop.
    """
    blamed = None
    if error.hop_index < len(route):
        blamed = route[error.hop_index].peer_id
    return HopFailed(blamed, read_reason(error.reason), error.detail)
