"""One generation session as the client sees it: a request out, tokens in, failures named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import TypeVar

from keys.peer import PeerId
from mesh.errors import MeshError, PeerError
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.wire import (
    SESSION_METHOD,
    ErrorFrame,
    Finish,
    FrameType,
    OpenSession,
    TokenFrame,
    decode_error,
    decode_token,
    encode_open,
    get_frame_type,
)
from mesh.p2p.interface import Host, Stream

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """Seconds. ``token_s`` is for one token; it is longer than what a hoster waits for another.

    The first token may take ``prompt_token_s`` longer for every token of the prompt.
    """

    open_s: float = 10.0
    token_s: float = 35.0
    prompt_token_s: float = 0.15
    probe_s: float = 3.0


class HopFailed(MeshError):
    """A hop of the route ended the session. ``peer_id`` None: nobody in particular is known."""

    def __init__(self, peer_id: PeerId | None, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} at {peer_id or 'some hop'}: {detail}")
        self.peer_id = peer_id
        self.reason = reason


async def stream_tokens(
    host: Host, request: OpenSession, *, vocab_size: int, timeouts: ClientTimeouts
) -> AsyncGenerator[TokenFrame, None]:
    """Open the session and yield its tokens in order; closing drops it on every hop.

    Raises HopFailed naming the hop, where it is known.
    """
    first = request.route[0].peer_id
    stream = await _blame(first, host.open_stream(first, SESSION_METHOD, timeout_s=timeouts.open_s))
    try:
        await _blame(first, stream.send(encode_open(request)))
        index = request.first_index
        timeout_s = timeouts.token_s + timeouts.prompt_token_s * len(request.token_ids)
        while True:
            token = await _receive_token(stream, request, timeout_s)
            timeout_s = timeouts.token_s
            if token.index != index or token.token_id >= vocab_size:
                raise HopFailed(first, RefusalReason.MALFORMED, "an impossible token")
            yield token
            index += 1
            if token.finish is not Finish.NOT_YET:
                return
    finally:
        await stream.abort()


async def _blame(peer: PeerId, action: Awaitable[T]) -> T:
    try:
        return await action
    except PeerError as error:
        raise HopFailed(peer, RefusalReason.HOP_LOST, str(error)) from error


async def _receive_token(stream: Stream, request: OpenSession, timeout_s: float) -> TokenFrame:
    try:
        async with asyncio.timeout(timeout_s):
            frame = await _blame(stream.peer_id, stream.receive())
    except TimeoutError as error:
        raise HopFailed(None, RefusalReason.TIMEOUT, "no token in time") from error
    try:
        if get_frame_type(frame) is FrameType.ERROR:
            raise _explain(decode_error(frame), request)
        return decode_token(frame)
    except Refused as refused:
        raise HopFailed(stream.peer_id, RefusalReason.MALFORMED, str(refused)) from refused


def _explain(error: ErrorFrame, request: OpenSession) -> HopFailed:
    """Say which hop is to blame. The request was checked here, so even a refusal that blames
    the request is a reason to try another hop.
    """
    blamed = None
    if error.hop_index < len(request.route):
        blamed = request.route[error.hop_index].peer_id
    return HopFailed(blamed, error.reason, error.detail)
