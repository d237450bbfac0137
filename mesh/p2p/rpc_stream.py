"""One end of a signed stream after its opening; ``rpc`` has the theory of operation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

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
from mesh.p2p.rpc import RpcContext
from mesh.p2p.rpc_wire import (
    ANSWER_SIZE,
    FRAME_HEADER_SIZE,
    AnswerStatus,
    DirectionKey,
    EphemeralKey,
    FrameOpener,
    FrameSealer,
    MalformedMessage,
    check_payload,
    compute_request_hash,
    decode_answer,
    decode_refusal,
    derive_stream_keys,
)

LINGER_S = 5.0
MAX_LINGER_FRAMES = 64


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
