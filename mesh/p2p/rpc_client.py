"""Signed calls to other peers, and signed streams to them; ``rpc`` has the theory of operation."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

from keys.errors import BadPeerId
from keys.peer import PeerId
from mesh.errors import PeerMisbehaved, PeerRefusal, PeerTimeout, PeerUnreachable
from mesh.p2p.channel import Channel, ChannelClosed
from mesh.p2p.interface import MAX_UNARY_SIZE
from mesh.p2p.rpc import RpcContext
from mesh.p2p.rpc_guard import PeerBuckets, Slots
from mesh.p2p.rpc_stream import LateAnswer, SignedStream
from mesh.p2p.rpc_wire import (
    ANSWER_SIZE,
    NONCE_SIZE,
    AnswerStatus,
    EphemeralKey,
    MalformedMessage,
    Opening,
    OpeningKind,
    RpcAnswer,
    check_payload,
    compute_request_hash,
    decode_answer,
    decode_refusal,
    derive_early_key,
    derive_stream_keys,
    hash_payload,
    seal_opening,
)

MIN_WAIT_S = 0.001
RATE_SHARE = 0.9
"""Of the rate that a peer allows: requests may arrive closer together than they were sent."""
RETRY_S = 0.25
"""Pause before a request is sent again whose channel ended without an answer."""

Dial = Callable[[PeerId], Awaitable[Channel]]
"""Opens a channel to a peer. Raises PeerUnreachable or TransportError."""


@asynccontextmanager
async def _explained_failures(
    peer: PeerId, method: str, *, timeout_s: float
) -> AsyncIterator[None]:
    """Give a request that long; raise the PeerError for what goes wrong with its channel."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise PeerTimeout(peer, f"no answer to {method} within {timeout_s:g} s") from error
    except ChannelClosed as error:
        raise PeerUnreachable(peer, f"{method}: {error}") from error
    except MalformedMessage as error:
        raise PeerMisbehaved(peer, f"{method}: {error}") from error


class RpcClient:
    """Calls other peers."""

    def __init__(self, context: RpcContext, dial: Dial) -> None:
        limits = context.limits
        self._context = context
        self._dial = dial
        # As many and as often as the peer allows: it drops a stranger who keeps on asking for more.
        self._streams = Slots(per_peer=limits.max_streams_per_peer, total=sys.maxsize)
        self._buckets = PeerBuckets(
            rate=RATE_SHARE * limits.requests_per_second,
            burst=max(1, int(RATE_SHARE * limits.burst)),
        )

    async def call(self, peer: PeerId, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Signed request, signed response. Raises as mesh.p2p.interface.Host.call says.

        A request whose channel ends without an answer is sent once more: on a busy machine libp2p
        may end a stream that it has just opened. So a handler may run twice; all of them read.
        """
        if len(payload) > MAX_UNARY_SIZE:
            raise ValueError(f"a unary payload has at most {MAX_UNARY_SIZE} bytes")
        async with _explained_failures(peer, method, timeout_s=timeout_s):
            try:
                return await self._call_once(peer, method, payload)
            except ChannelClosed:
                await asyncio.sleep(RETRY_S)
                return await self._call_once(peer, method, payload)

    async def _pace(self, peer: PeerId) -> None:
        """Wait until the peer's rate allows another request."""
        # The loop's time, which a wall clock that is set back does not stop.
        loop = asyncio.get_running_loop()
        while wait_s := self._buckets.draw(peer, now_s=loop.time()):  # noqa: ASYNC110 - refills
            await asyncio.sleep(max(wait_s, MIN_WAIT_S))

    async def _call_once(self, peer: PeerId, method: str, payload: bytes) -> bytes:
        await self._pace(peer)
        opening = self._seal(
            OpeningKind.UNARY, peer, method, binding=hash_payload(payload), size=len(payload)
        )
        channel = await self._dial(peer)
        try:
            with suppress(ChannelClosed):
                # A server that refuses early may stop reading, and has answered then.
                await channel.write(opening + payload)
            _, answer = await _read_answer(channel, compute_request_hash(opening))
            return await _read_reply(channel, answer)
        finally:
            channel.close()

    async def open_stream(
        self, peer: PeerId, method: str, *, timeout_s: float, early: bool = False
    ) -> SignedStream:
        """Open a stream and finish the handshake, or with ``early`` do not wait for the answer, if
        the peer knows early streams.

        Raises as ``call`` does, and PeerRefusal(BUSY) without asking the peer while as many streams
        to it are open as it allows.
        """
        is_stranger = self._streams.take(peer, "as many streams to it are open as it allows")
        give_back = partial(self._streams.give_back, peer, is_stranger=is_stranger)
        opening = self._open_stream(peer, method, give_back, timeout_s=timeout_s, early=early)
        try:
            return await opening
        except BaseException:
            give_back()
            raise

    async def _open_stream(
        self,
        peer: PeerId,
        method: str,
        on_end: Callable[[], None],
        *,
        timeout_s: float,
        early: bool,
    ) -> SignedStream:
        ephemeral = EphemeralKey(self._context.random_bytes)
        async with _explained_failures(peer, method, timeout_s=timeout_s):
            await self._pace(peer)
            channel = await self._dial(peer)
            try:
                if early and channel.takes_early:
                    return await self._open_early(
                        channel, method, ephemeral, on_end, timeout_s=timeout_s
                    )
                opening = self._seal(
                    OpeningKind.STREAM, peer, method, binding=ephemeral.public, size=0
                )
                await channel.write(opening)
                raw_answer, answer = await _read_answer(channel, compute_request_hash(opening))
                shared = ephemeral.agree(answer.binding)
            except BaseException:
                channel.close()
                raise
        keys = derive_stream_keys(shared, opening=opening, answer=raw_answer)
        return SignedStream(
            channel,
            self._context,
            outgoing=keys.upward,
            incoming=keys.downward,
            on_end=on_end,
        )

    async def _open_early(
        self,
        channel: Channel,
        method: str,
        ephemeral: EphemeralKey,
        on_end: Callable[[], None],
        *,
        timeout_s: float,
    ) -> SignedStream:
        peer = channel.peer_id
        opening = self._seal(
            OpeningKind.EARLY_STREAM, peer, method, binding=ephemeral.public, size=0
        )
        try:
            shared = ephemeral.agree(peer.to_x25519())
        except BadPeerId as error:
            raise MalformedMessage(str(error)) from error
        await channel.write(opening)
        return SignedStream(
            channel,
            self._context,
            outgoing=derive_early_key(shared, opening=opening),
            incoming=LateAnswer(opening, ephemeral, timeout_s=timeout_s),
            on_end=on_end,
        )

    def _seal(
        self, kind: OpeningKind, peer: PeerId, method: str, *, binding: bytes, size: int
    ) -> bytes:
        context = self._context
        opening = Opening(
            kind=kind,
            method=method,
            network_id=context.network_id,
            client=context.key.peer_id,
            server=peer,
            time_ms=context.now_ms(),
            nonce=context.random_bytes(NONCE_SIZE),
            binding=binding,
            payload_size=size,
        )
        return seal_opening(context.key, opening)


async def _read_answer(channel: Channel, request_hash: bytes) -> tuple[bytes, RpcAnswer]:
    """Return a positive answer, raw and parsed. Raises PeerRefusal, MalformedMessage."""
    raw = await channel.read_exactly(ANSWER_SIZE)
    answer = decode_answer(raw, server=channel.peer_id, request_hash=request_hash)
    if answer.status is AnswerStatus.REFUSED:
        reason, detail = decode_refusal(await _read_reply(channel, answer))
        raise PeerRefusal(channel.peer_id, reason, detail)
    return raw, answer


async def _read_reply(channel: Channel, answer: RpcAnswer) -> bytes:
    payload = await channel.read_exactly(answer.payload_size)
    check_payload(payload, answer.binding)
    return payload
