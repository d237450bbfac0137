"""Signed calls and signed streams over any byte channel.

Theory of operation
===================

hivemind's daemon and the in-memory network differ only in how they make a channel. The protocol is
here; its bytes are in ``rpc_wire``, its limits in ``rpc_guard``.

**Opening.** Every channel serves one request. The client sends an *opening* of fixed size: who asks
whom, which method, when, with which nonce, signed by the client. For a call it also binds the hash
of the payload, for a stream the client's X25519 key of this stream. The server checks it, the
cheap checks first: rate, method, admission policy, names, network, time, signature, nonce. It
answers with an *answer* of fixed size, signed over the hash of the opening. A refusal is an answer
too, with a reason and a detail. A stranger who is refused too often for what no honest peer does is
dropped: its channels are closed unread for a while (``offenders``).

**A call** sends its payload with the opening, and gets a reply whose hash the answer binds. Then
the channel is closed.

**A stream** derives one key for each direction from the two X25519 keys and the signed handshake.
From then on frames go both ways. Each has a header (size, counter, kind), the payload, and a tag by
the key of its direction, so that no frame can be changed, repeated, left out or moved. Signing each
frame would cost more than the hop. The last frame of a direction is a signature over all its tags.

::

    open --finish()--> we sent our last frame --their last frame--> closed
      |                                                               ^
      +--their last frame--> they finished ------finish()-------------+
      +--anything wrong, abort(), idle too long--> broken

**An early stream** saves the round trip of the handshake. The client sends frames right behind the
opening, under a key that it and the server's identity share; a copied opening is refused, with the
frames behind it. The first ``receive`` reads the answer, and raises what ``open_stream`` would have
raised. A server that refuses reads on for a while, so that the refusal arrives.

**Reading.** ``receive_now`` takes a frame if it has arrived whole, ``receive`` waits for one, and
``watch`` calls back in the turn of the event loop in which bytes arrive. Reading belongs to the
event loop. A header is judged before anything is allocated for its payload. A cancelled ``receive``
loses nothing.

**Writing.** ``send`` waits while the peer reads nothing. ``send_now`` waits for nothing and may be
called from any thread: the compute thread sends hidden states and tokens itself. A lock keeps
sealing and sending in one order. What a slow peer does not read is bounded by the channel, which
drops a peer that lets too much wait.

**Ending.** A handler that returns sends the last frame, then lingers until the peer's last frame
has arrived: closing a connection over unread bytes resets it, and our last frames would be lost.
``abort`` drops everything at once. One lazy timer for each stream breaks it when no frame passes in
either direction for ``idle_timeout_s``.

**What can fail.** The client gets a PeerError of the kind that says whose fault it is: PeerTimeout,
PeerUnreachable (the channel broke before the answer), PeerRefusal (the server's reason), or
PeerMisbehaved (what no honest server sends). After the handshake everything is StreamBroken;
StreamClosed is the peer's signed end. A server never raises for what a peer does: it refuses, or
drops the channel and logs. A handler with a defect ends its own channel only: a call is refused
with INTERNAL, a stream is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from keys.errors import BadPeerId
from keys.peer import PeerId, PeerKey
from mesh.errors import (
    PeerError,
    PeerMisbehaved,
    PeerRefusal,
    PeerTimeout,
    PeerUnreachable,
    StreamBroken,
    StreamClosed,
)
from mesh.p2p.channel import Channel, ChannelClosed
from mesh.p2p.interface import MAX_UNARY_SIZE, AdmissionPolicy, StreamHandler, UnaryHandler
from mesh.p2p.offenders import Offenders
from mesh.p2p.rpc_guard import (
    IsMember,
    PeerBuckets,
    Reason,
    RequestGuard,
    RpcLimits,
    Slots,
)
from mesh.p2p.rpc_wire import (
    ANSWER_SIZE,
    FRAME_HEADER_SIZE,
    NO_NETWORK,
    NONCE_SIZE,
    OPENING_SIZE,
    AnswerStatus,
    DirectionKey,
    EphemeralKey,
    FrameOpener,
    FrameSealer,
    MalformedMessage,
    Opening,
    OpeningKind,
    RandomBytes,
    RpcAnswer,
    check_payload,
    compute_request_hash,
    decode_answer,
    decode_opening,
    decode_refusal,
    derive_early_key,
    derive_stream_keys,
    encode_refusal,
    hash_payload,
    seal_answer,
    seal_opening,
)

LINGER_S = 5.0
MAX_LINGER_FRAMES = 64
MIN_WAIT_S = 0.001
RATE_SHARE = 0.9
"""Of the rate that a peer allows: requests may arrive closer together than they were sent."""
RETRY_S = 0.25
"""Pause before a request is sent again whose channel ended without an answer."""
DISCARD_CHUNK = 65_536
MAX_EARLY_UNREAD = MAX_UNARY_SIZE
"""Bytes that are read of a refused early stream: the client may have sent some."""

Dial = Callable[[PeerId], Awaitable[Channel]]
"""Opens a channel to a peer. Raises PeerUnreachable or TransportError."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RpcContext:
    """What both sides of signed RPC need to know about their own node.

    ``clock`` returns seconds since 1970. ``network_id`` may be set later by a client that
    learns it from its first peer.
    """

    key: PeerKey
    network_id: bytes = NO_NETWORK
    limits: RpcLimits = field(default_factory=RpcLimits)
    clock: Callable[[], float] = time.time
    random_bytes: RandomBytes = secrets.token_bytes

    def now_ms(self) -> int:
        return int(self.clock() * 1000)


class SignedStream:
    """One end of a stream after its handshake; satisfies mesh.p2p.interface.Stream.

    A cancelled ``receive`` loses nothing: the next one continues where it stopped. ``on_end`` is
    called once, when the stream has ended, however it ends.
    """

    def __init__(
        self,
        channel: Channel,
        context: RpcContext,
        *,
        outgoing: DirectionKey,
        incoming: DirectionKey | LateAnswer,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.peer_id = channel.peer_id
        self._on_end = on_end
        self._channel = channel
        self._key = context.key
        self._idle = _IdleTimer(context.limits.idle_timeout_s, self._on_idle)
        self._sealer = FrameSealer(outgoing.key, outgoing.transcript)
        self._max_total = context.limits.max_stream_bytes
        self._opener: FrameOpener | None = None
        self._answer: LateAnswer | None = None
        if isinstance(incoming, LateAnswer):
            self._answer = incoming
            incoming.allow(self._on_no_answer)
        else:
            self._open(incoming)
        # What is sealed first leaves first, whichever thread sends it.
        self._sending = threading.Lock()
        channel.open_shortcut()
        self._header: bytes | None = None
        self._body_size = 0
        self._sent_last = False
        self._received_last = False
        self._broken: PeerError | None = None

    async def send(self, frame: bytes) -> None:
        """Send one frame. Raises StreamBroken.

        It waits while the peer reads nothing, but not longer than the idle timeout.
        """
        await self._write(lambda: self._seal(frame))

    def send_now(self, frame: bytes) -> None:
        """Send one frame without waiting, from any thread. Raises StreamBroken."""
        try:
            self._put(lambda: self._seal(frame))
        except ChannelClosed as error:
            # The reader of the stream finds the same, or a refusal, and drops it on the event loop.
            raise StreamBroken(self.peer_id, str(error)) from error

    async def receive(self) -> bytes:
        """Return the next frame. Raises StreamClosed after the peer's last, else StreamBroken."""
        while (payload := self.receive_now()) is None:
            await self._channel.wait()
        return payload

    def receive_now(self) -> bytes | None:
        """Return the next frame if it has arrived, else None. Raises as ``receive`` does."""
        if self._received_last:
            raise StreamClosed(self.peer_id, "the peer finished the stream")
        self._check_open()
        try:
            return self._take_frame()
        except (ChannelClosed, MalformedMessage) as error:
            raise self._break(str(error)) from error

    def watch(self, on_arrival: Callable[[], None] | None) -> None:
        """Call back when a frame may have arrived or the stream has ended."""
        self._channel.watch(on_arrival)

    async def finish(self) -> None:
        """Send the signed last frame; once the peer's last has arrived too, the channel closes."""
        if self._sent_last:
            return
        await self._write(self._seal_last)
        self._close_if_done()

    async def abort(self) -> None:
        """Drop the stream at once; idempotent."""
        self._break("the stream was aborted")

    async def linger(self) -> None:
        """Wait a little for the peer's last frame.

        Closing while it still sends would reset the connection under our last frames.
        """
        try:
            async with asyncio.timeout(LINGER_S):
                for _ in range(MAX_LINGER_FRAMES):
                    await self.receive()
        except (StreamBroken, TimeoutError):
            return

    def _open(self, key: DirectionKey) -> FrameOpener:
        self._opener = FrameOpener(key.key, key.transcript, max_total=self._max_total)
        return self._opener

    def _take_answer(self, answer: LateAnswer) -> FrameOpener | None:
        """Return what opens frames, None before the answer is there. Raises PeerError."""
        try:
            key = answer.take(self._channel)
        except ChannelClosed as error:
            raise self._fail(PeerUnreachable(self.peer_id, str(error))) from error
        except MalformedMessage as error:
            raise self._fail(PeerMisbehaved(self.peer_id, str(error))) from error
        except PeerRefusal as error:
            raise self._fail(error) from error
        return None if key is None else self._open(key)

    def _take_frame(self) -> bytes | None:
        opener = self._opener
        if opener is None and self._answer is not None:
            opener = self._take_answer(self._answer)
        if opener is None:
            return None
        if self._header is None:
            self._header = self._channel.take(FRAME_HEADER_SIZE)
            if self._header is None:
                return None
            self._body_size = opener.read_header(self._header)
        body = self._channel.take(self._body_size)
        if body is None:
            return None
        header, self._header = self._header, None
        self._idle.touch()
        payload = opener.open(header, body, self.peer_id)
        if payload is None:
            self._received_last = True
            self._close_if_done()
            raise StreamClosed(self.peer_id, "the peer finished the stream")
        return payload

    async def _write(self, seal: Callable[[], bytes]) -> None:
        try:
            self._put(seal)
            await self._channel.drain()
        except ChannelClosed as error:
            if self._opener is None and self._answer is not None:
                # It closed because it refuses, and says so.
                self._take_answer(self._answer)
            raise self._break(str(error)) from error
        self._idle.touch()

    def _put(self, seal: Callable[[], bytes]) -> None:
        self._check_open()
        with self._sending:
            self._channel.put(seal())
        self._idle.touch()

    def _seal(self, frame: bytes) -> bytes:
        # Asked in turn with finish(): nothing follows the last frame, whichever thread sends.
        if self._sent_last:
            raise StreamBroken(self.peer_id, "this end of the stream is finished")
        return self._sealer.seal(frame)

    def _seal_last(self) -> bytes:
        self._sent_last = True
        return self._sealer.seal_finish(self._key)

    def _check_open(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _break(self, why: str) -> PeerError:
        return self._fail(StreamBroken(self.peer_id, why))

    def _fail(self, error: PeerError) -> PeerError:
        """Drop the stream; return what it ended with first."""
        if self._broken is None:
            self._broken = error
            self._end()
            self._channel.abort()
        return self._broken

    def _end(self) -> None:
        self._idle.stop()
        if self._answer is not None:
            self._answer.stop()
        self._on_end()

    def _on_no_answer(self, seconds: float) -> None:
        self._fail(PeerTimeout(self.peer_id, f"no answer to a stream within {seconds:g} s"))

    def _on_idle(self) -> None:
        self._break("no frame passed for too long")

    def _close_if_done(self) -> None:
        if self._sent_last and self._received_last:
            self._broken = StreamBroken(self.peer_id, "the stream is finished")
            self._end()
            self._channel.close()


class LateAnswer:
    """What the client of an early stream reads before the first frame: the answer to its opening.

    It must come within ``timeout_s``.
    """

    def __init__(self, opening: bytes, ephemeral: EphemeralKey, *, timeout_s: float) -> None:
        self._opening = opening
        self._ephemeral = ephemeral
        self._timeout_s = timeout_s
        self._raw: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None

    def allow(self, on_late: Callable[[float], None]) -> None:
        """Start to wait; ``on_late`` hears how long was waited in vain."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._timeout_s, on_late, self._timeout_s)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def take(self, channel: Channel) -> DirectionKey | None:
        """Return the key of the server's frames once the answer is there.

        Raises PeerRefusal, MalformedMessage, ChannelClosed.
        """
        if self._raw is None:
            self._raw = channel.take(ANSWER_SIZE)
            if self._raw is None:
                return None
        request_hash = compute_request_hash(self._opening)
        answer = decode_answer(self._raw, server=channel.peer_id, request_hash=request_hash)
        if answer.status is AnswerStatus.REFUSED:
            payload = channel.take(answer.payload_size)
            if payload is None:
                return None
            check_payload(payload, answer.binding)
            raise PeerRefusal(channel.peer_id, *decode_refusal(payload))
        self.stop()
        shared = self._ephemeral.agree(answer.binding)
        return derive_stream_keys(shared, opening=self._opening, answer=self._raw).downward


class _IdleTimer:
    """Calls back when nothing was touched for a while.

    One lazy timer per stream: a timeout around every frame would cost as much as its tag.
    """

    __slots__ = ("_handle", "_loop", "_on_idle", "_timeout_s", "_touched_at")

    def __init__(self, timeout_s: float, on_idle: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._on_idle = on_idle
        self._touched_at = self._loop.time()
        self._handle = self._loop.call_later(timeout_s, self._check)

    def touch(self) -> None:
        self._touched_at = self._loop.time()

    def stop(self) -> None:
        self._handle.cancel()

    def _check(self) -> None:
        due = self._touched_at + self._timeout_s
        if self._loop.time() >= due:
            self._on_idle()
        else:
            self._handle = self._loop.call_at(due, self._check)


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
            self._note(channel.peer_id, Reason.TIMEOUT)
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
                error = PeerRefusal(channel.peer_id, Reason.MALFORMED, str(error))
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
                raise PeerRefusal(remote, Reason.UNKNOWN_METHOD, opening.method)
            return
        method = self._unary.get(opening.method)
        if method is None:
            raise PeerRefusal(remote, Reason.UNKNOWN_METHOD, opening.method)
        if opening.payload_size > method.max_request_size:
            detail = f"{opening.method} takes at most {method.max_request_size} bytes"
            raise PeerRefusal(remote, Reason.TOO_LARGE, detail)

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
            raise PeerRefusal(remote, Reason.TIMEOUT, opening.method) from error
        except Exception as error:
            # A peer must not be able to end the node by tripping over a handler's defect.
            logger.exception("the handler of %s failed", opening.method)
            raise PeerRefusal(remote, Reason.INTERNAL) from error
        if len(reply) > MAX_UNARY_SIZE:
            logger.error("the answer of %s has %d bytes", opening.method, len(reply))
            raise PeerRefusal(remote, Reason.INTERNAL)
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
