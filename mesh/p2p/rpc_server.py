"""Answers signed calls and signed streams of other peers; ``rpc`` has the theory of operation."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from keys.peer import PeerId
from mesh.errors import PeerError, PeerRefusal
from mesh.p2p.channel import Channel, ChannelClosed
from mesh.p2p.interface import MAX_UNARY_SIZE, AdmissionPolicy, StreamHandler, UnaryHandler
from mesh.p2p.offenders import Offenders
from mesh.p2p.rpc import RpcContext
from mesh.p2p.rpc_guard import IsMember, RequestGuard, RpcReason, Slots
from mesh.p2p.rpc_stream import LINGER_S, SignedStream
from mesh.p2p.rpc_wire import (
    NO_NETWORK,
    OPENING_SIZE,
    AnswerStatus,
    EphemeralKey,
    MalformedMessage,
    Opening,
    OpeningKind,
    RpcAnswer,
    check_payload,
    compute_request_hash,
    decode_opening,
    derive_early_key,
    derive_stream_keys,
    encode_refusal,
    hash_payload,
    seal_answer,
)

DISCARD_CHUNK = 65_536
MAX_EARLY_UNREAD = MAX_UNARY_SIZE
"""Bytes that are read of a refused early stream: the client may have sent some."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _UnaryMethod:
    handler: UnaryHandler
    max_request_size: int
    any_network: bool


class RpcServer:
    """Answers other peers: authentication, limits and admission first, handlers last."""

    def __init__(
        self,
        context: RpcContext,
        admission: AdmissionPolicy | None = None,
        *,
        is_member: IsMember | None = None,
        offenders: Offenders | None = None,
    ) -> None:
        limits = context.limits
        self._context = context
        self._admission = admission
        self._offenders = offenders or Offenders(is_member=is_member)
        self._unary: dict[str, _UnaryMethod] = {}
        self._streams: dict[str, StreamHandler] = {}
        self._guard = RequestGuard(
            context.key.peer_id, limits, started_ms=context.now_ms(), is_member=is_member
        )

        def share(per_peer: int, total: int) -> Slots:
            return Slots(per_peer=per_peer, total=total, is_member=is_member)

        self._channel_slots = share(limits.max_channels_per_peer, limits.max_channels)
        self._request_slots = share(limits.max_requests_per_peer, limits.max_requests)
        self._stream_slots = share(limits.max_streams_per_peer, limits.max_streams)

    def serve_unary(
        self,
        method: str,
        handler: UnaryHandler,
        *,
        max_request_size: int,
        any_network: bool = False,
    ) -> None:
        """Answer ``method``; ``any_network`` also for clients that do not know the network yet."""
        if max_request_size > MAX_UNARY_SIZE:
            raise ValueError(f"a unary request has at most {MAX_UNARY_SIZE} bytes")
        self._unary[method] = _UnaryMethod(handler, max_request_size, any_network)

    def serve_stream(self, method: str, handler: StreamHandler) -> None:
        self._streams[method] = handler

    async def handle(self, channel: Channel) -> None:
        """Serve one incoming channel to its end. Raises nothing but cancellation."""
        if self._offenders.turn_away(channel.peer_id, now_s=self._context.clock()):
            channel.abort()
            return
        try:
            with self._channel_slots.hold(channel.peer_id):
                await self._serve(channel)
        except PeerRefusal as error:
            self._note(channel.peer_id, error.reason)
        except TimeoutError:
            # It began a request and did not go on, or does not read its answer.
            self._note(channel.peer_id, RpcReason.TIMEOUT)
            channel.abort()
        except (ChannelClosed, PeerError) as error:
            logger.debug("a channel ended early: %s", error)
        except Exception:
            logger.exception("a channel failed")
        finally:
            channel.close()

    def _is_dropped(self, peer: PeerId) -> bool:
        return self._offenders.is_dropped(peer, now_s=self._context.clock())

    def _note(self, peer: PeerId, reason: str) -> None:
        self._offenders.note(peer, reason, now_s=self._context.clock())

    async def _serve(self, channel: Channel) -> None:
        async with asyncio.timeout(self._context.limits.opening_timeout_s):
            raw = await channel.read_exactly(OPENING_SIZE)
        unread, is_admitted, is_early = 0, False, False
        try:
            opening = decode_opening(raw)
            unread = opening.payload_size
            is_early = opening.kind is OpeningKind.EARLY_STREAM
            self._admit(opening, raw, channel.peer_id)
            if opening.kind is OpeningKind.UNARY:
                with self._request_slots.hold(channel.peer_id):
                    is_admitted = True
                    payload = await self._read_payload(channel, opening)
                    unread = 0
                    reply = await self._run_unary(channel.peer_id, opening, payload)
                async with asyncio.timeout(self._context.limits.answer_timeout_s):
                    await self._answer(channel, raw, AnswerStatus.OK, reply)
                return
            with self._stream_slots.hold(channel.peer_id):
                is_admitted = True
                await self._run_stream(channel, opening, raw)
        except (PeerRefusal, MalformedMessage) as error:
            if isinstance(error, MalformedMessage):
                error = PeerRefusal(channel.peer_id, RpcReason.MALFORMED, str(error))
            # What a handler refuses is its own affair, and no offence.
            if not is_admitted:
                self._note(channel.peer_id, error.reason)
            if self._is_dropped(channel.peer_id):
                channel.abort()
                return
            payload = encode_refusal(error.reason, error.detail)
            await self._answer(channel, raw, AnswerStatus.REFUSED, payload)
            if is_early:
                await _discard_early(channel)
            await _discard(channel, unread)

    async def _answer(
        self, channel: Channel, raw: bytes, status: AnswerStatus, payload: bytes
    ) -> None:
        """Send the signed answer to the opening ``raw``."""
        binding = hash_payload(payload)
        answer = RpcAnswer(status, compute_request_hash(raw), binding, len(payload))
        await channel.write(seal_answer(self._context.key, answer) + payload)

    def _admit(self, opening: Opening, raw: bytes, remote: PeerId) -> None:
        """Raise PeerRefusal unless everything about the opening is in order."""
        now_ms, network_ids = self._context.now_ms(), self._network_ids(opening)
        self._guard.check_rate(remote, now_ms=now_ms)
        # The connection says who asks, so a signature is not looked at for one who may not.
        self._check_method(opening, remote)
        if self._admission is not None:
            self._admission(remote, opening.method)
        self._guard.check(opening, raw, remote=remote, network_ids=network_ids, now_ms=now_ms)

    def _network_ids(self, opening: Opening) -> frozenset[bytes]:
        method = self._unary.get(opening.method)
        is_open = method is not None and method.any_network
        own = self._context.network_id
        return frozenset((own, NO_NETWORK)) if is_open else frozenset((own,))

    def _check_method(self, opening: Opening, remote: PeerId) -> None:
        if opening.kind is not OpeningKind.UNARY:
            if opening.method not in self._streams or opening.payload_size:
                raise PeerRefusal(remote, RpcReason.UNKNOWN_METHOD, opening.method)
            return
        method = self._unary.get(opening.method)
        if method is None:
            raise PeerRefusal(remote, RpcReason.UNKNOWN_METHOD, opening.method)
        if opening.payload_size > method.max_request_size:
            detail = f"{opening.method} takes at most {method.max_request_size} bytes"
            raise PeerRefusal(remote, RpcReason.TOO_LARGE, detail)

    async def _read_payload(self, channel: Channel, opening: Opening) -> bytes:
        async with asyncio.timeout(self._context.limits.opening_timeout_s):
            return await channel.read_exactly(opening.payload_size)

    async def _run_unary(self, remote: PeerId, opening: Opening, payload: bytes) -> bytes:
        check_payload(payload, opening.binding)
        try:
            async with asyncio.timeout(self._context.limits.handler_timeout_s):
                reply = await self._unary[opening.method].handler(remote, payload)
        except PeerRefusal:
            raise
        except TimeoutError as error:
            raise PeerRefusal(remote, RpcReason.TIMEOUT, opening.method) from error
        except Exception as error:
            # A peer must not be able to end the node by tripping over a handler's defect.
            logger.exception("the handler of %s failed", opening.method)
            raise PeerRefusal(remote, RpcReason.INTERNAL) from error
        if len(reply) > MAX_UNARY_SIZE:
            logger.error("the answer of %s has %d bytes", opening.method, len(reply))
            raise PeerRefusal(remote, RpcReason.INTERNAL)
        return reply

    async def _run_stream(self, channel: Channel, opening: Opening, raw: bytes) -> None:
        ephemeral = EphemeralKey(self._context.random_bytes)
        shared = ephemeral.agree(opening.binding)
        answer = RpcAnswer(AnswerStatus.OK, compute_request_hash(raw), ephemeral.public, 0)
        raw_answer = seal_answer(self._context.key, answer)
        await channel.write(raw_answer)
        keys = derive_stream_keys(shared, opening=raw, answer=raw_answer)
        incoming = keys.upward
        if opening.kind is OpeningKind.EARLY_STREAM:
            incoming = derive_early_key(self._context.key.agree(opening.binding), opening=raw)
        stream = SignedStream(channel, self._context, outgoing=keys.downward, incoming=incoming)
        await self._run_stream_handler(stream, opening.method)

    async def _run_stream_handler(self, stream: SignedStream, method: str) -> None:
        try:
            await self._streams[method](stream)
            await stream.finish()
            await stream.linger()
        except PeerError as error:
            logger.debug("stream %s ended early: %s", method, error)
        except Exception:
            # A peer must not be able to end the node by tripping over a handler's defect.
            logger.exception("the handler of stream %s failed", method)
        finally:
            # Nothing, if both ends have finished it.
            await stream.abort()


async def _discard(channel: Channel, size: int) -> None:
    """Read what a refused client had already sent, within limits, until it closes.

    Closing over unread bytes would reset the connection, and the refusal with it.
    """
    if size > MAX_UNARY_SIZE:
        return
    async with asyncio.timeout(LINGER_S):
        while size > 0:
            size -= len(await channel.read_exactly(min(size, DISCARD_CHUNK)))


async def _discard_early(channel: Channel) -> None:
    """Read what follows the opening of a refused early stream until its client has the refusal."""
    with suppress(ChannelClosed, TimeoutError):
        await _discard(channel, MAX_EARLY_UNREAD)
