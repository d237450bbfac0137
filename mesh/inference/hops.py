"""What both kinds of session share at a range: its role, the way to others, turns, departures."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from keys.peer import PeerId
from mesh.errors import MeshError, PeerError, StreamClosed
from mesh.inference.engine import Engine
from mesh.inference.refusals import RefusalReason, Refused, find_loss_reason
from mesh.inference.steps import EngineSession, StepOutput
from mesh.inference.wire import FrameType, RouteRequest, decode_error
from mesh.p2p.interface import Stream


@dataclass(frozen=True, slots=True)
class SessionTimeouts:
    """Seconds. ``step_s`` is for one step through all ranges, ``idle_s`` between two of them.

    The first token may take ``prompt_token_s`` longer for every token of the prompt.
    """

    open_s: float = 10.0
    step_s: float = 30.0
    idle_s: float = 120.0
    prompt_token_s: float = 0.1


R = TypeVar("R", bound=RouteRequest)
T = TypeVar("T")
IDLE = "the session was idle for too long"
ERROR_TYPE = bytes((FrameType.ERROR,))
FINISH_S = 1.0


class Departure:
    """Sends the output of one step from the compute thread, without a turn of the event loop.

    ``send`` runs on that thread. :meth:`check` raises its error again on the event loop.
    """

    def __init__(self, send: Callable[[StepOutput], None]) -> None:
        self.has_left = False
        self._is_dropped = False
        self._send = send
        self._failure: MeshError | None = None

    def drop(self) -> None:
        """Do not send the output, unless it is on its way already."""
        self._is_dropped = True

    def follow(self, output: StepOutput) -> None:
        """Send the output. The session's next step arrives from a peer, so none is returned."""
        # Set before sending: the answer may arrive before this thread goes on.
        self.has_left = True
        if self._is_dropped:
            return
        try:
            self._send(output)
        except MeshError as error:
            self._failure = error

    def check(self) -> None:
        """Raise the error that sending raised, if any."""
        if self._failure is not None:
            raise self._failure


class NextHop:
    """The stream to the next range; its failures are blamed on that hop."""

    def __init__(
        self, stream: Stream, hop_index: int, *, window: int = 0, in_flight: int = 0
    ) -> None:
        """``window`` is how many rows a window to it has at most, 0: it takes none; ``in_flight``
        how many windows may be under way, 0: one.
        """
        self._stream = stream
        self.hop_index = hop_index
        self.window = window
        self.in_flight = in_flight
        self._silence: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note_silence(self, peer: PeerId) -> None:
        """It no longer answers pings: :meth:`watch_silence` ends the session."""
        if not self._silence.done():
            self._silence.set_result(None)

    async def watch_silence(self) -> None:
        """Wait until the peer falls silent, then raise Refused that blames the hop: a guard."""
        await self._silence
        raise Refused(RefusalReason.HOP_LOST, "it does not answer", hop_index=self.hop_index)

    async def send(self, frame: bytes) -> None:
        try:
            await self._stream.send(frame)
        except PeerError as error:
            raise self._lost(error) from error

    def send_now(self, frame: bytes) -> None:
        """Send without waiting, from any thread. Raises Refused."""
        try:
            self._stream.send_now(frame)
        except PeerError as error:
            raise self._lost(error) from error

    async def finish(self) -> None:
        """Say that nothing more follows. What is sent so may be lost when the stream is left."""
        with contextlib.suppress(PeerError, TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await self._stream.finish()

    async def receive(self) -> bytes | None:
        """Return a frame that came back, None after the last. Raises Refused."""
        try:
            frame = await self._stream.receive()
        except StreamClosed:
            return None
        except PeerError as error:
            raise self._lost(error) from error
        return self._check(frame)

    def receive_now(self) -> bytes | None:
        """Return a frame that has come back, None if none has. Raises Refused, StreamClosed."""
        try:
            frame = self._stream.receive_now()
        except StreamClosed:
            raise
        except PeerError as error:
            raise self._lost(error) from error
        return None if frame is None else self._check(frame)

    def watch(self, on_arrival: Callable[[], None] | None) -> None:
        """Call back when something may have come back."""
        self._stream.watch(on_arrival)

    def _check(self, frame: bytes) -> bytes:
        if frame[:1] == ERROR_TYPE:
            error_frame = decode_error(frame)
            raise Refused(error_frame.reason, error_frame.detail, hop_index=error_frame.hop_index)
        return frame

    def _lost(self, error: PeerError) -> Refused:
        return Refused(find_loss_reason(error), str(error), hop_index=self.hop_index)


@dataclass(frozen=True, slots=True)
class Links:
    """How a range reaches the others of its session; leaving a block drops what it opened.

    ``open_next`` opens the session at the next range, ``open_loop`` a stream from the last range
    to the first, and ``take_loop`` lets the last range's loop stream arrive here, frame by frame.
    All of them raise Refused.
    """

    open_next: Callable[[], AbstractAsyncContextManager[NextHop]]
    open_loop: Callable[[], AbstractAsyncContextManager[Stream]]
    take_loop: Callable[[Callable[[bytes], Awaitable[None]]], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class RangeRole(ABC, Generic[R]):
    """One session at one range. ``upstream`` is the stream of the client or the range before."""

    engine: Engine
    session: EngineSession
    request: R
    upstream: Stream
    timeouts: SessionTimeouts

    @abstractmethod
    async def run(self, links: Links) -> None:
        """Serve the session to its end. Raises Refused or PeerError."""

    async def wait_for(self, coming: Awaitable[T]) -> T:
        """Wait for what goes on with the session. Raises Refused(TIMEOUT) when it idles."""
        try:
            async with asyncio.timeout(self.timeouts.idle_s):
                return await coming
        except TimeoutError as error:
            raise Refused(RefusalReason.TIMEOUT, IDLE) from error

    def make_position_refusal(self, position: int) -> Refused:
        """Return the refusal of rows that do not follow what the cache holds."""
        return Refused(
            RefusalReason.WRONG_POSITION,
            f"position {position} does not follow {self.session.length}",
        )


class TurnLoop:
    """Runs work in the turns of the event loop in which frames arrive; no task waits for a frame.

    ``take_arrivals`` is called whenever something may have arrived, and must not wait. The work
    ends with :meth:`finish` or :meth:`fail`, or when its deadline passes. One timer serves the
    whole session: a timeout around every step costs as much as sealing it.
    """

    def __init__(self, take_arrivals: Callable[[], None], *, late: str) -> None:
        self._take_arrivals = take_arrivals
        self._late = late
        self._loop = asyncio.get_running_loop()
        self._deadline_s = 0.0
        self._end: asyncio.Future[None] = self._loop.create_future()

    @property
    def is_over(self) -> bool:
        return self._end.done()

    def allow(self, seconds: float) -> None:
        """Move the deadline: that long from now on."""
        self._deadline_s = self._loop.time() + seconds

    def finish(self) -> None:
        self._end.set_result(None)

    def fail(self, error: MeshError) -> None:
        """End with an error; the first one counts."""
        if not self._end.done():
            self._end.set_exception(error)

    async def run(self, source: Stream | NextHop, *, blame: int | None = None) -> None:
        """Watch ``source`` until the end. Raises what ended it, or Refused(TIMEOUT) that blames
        the hop ``blame``.
        """
        source.watch(self._take_arrivals)
        try:
            self._take_arrivals()
            while not self._end.done():
                remaining_s = self._deadline_s - self._loop.time()
                if remaining_s <= 0:
                    raise Refused(RefusalReason.TIMEOUT, self._late, hop_index=blame)
                await asyncio.wait([self._end], timeout=remaining_s)
            self._end.result()
        finally:
            source.watch(None)
            self._end.cancel()

    def check_step(self, done: asyncio.Future[StepOutput], departure: Departure | None) -> bool:
        """Say whether a step was computed and has left; end the work with what went wrong."""
        if self._end.done() or done.cancelled():
            return False
        try:
            done.result()
            if departure is not None:
                departure.check()
        except MeshError as error:
            self.fail(error)
            return False
        return True


async def run_guarded(
    primary: Coroutine[None, None, None], *guards: Coroutine[None, None, None]
) -> None:
    """Run ``primary`` to its end; a guard that fails ends it, a guard that returns does not.

    Raises the first MeshError itself rather than a group around it.
    """
    failures: list[MeshError] = []

    async def keep(coroutine: Coroutine[None, None, None]) -> None:
        try:
            await coroutine
        except MeshError as error:
            failures.append(error)
            work.cancel()

    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(keep(primary))
        watchers = [tasks.create_task(keep(guard)) for guard in guards]
        await asyncio.wait([work])
        for watcher in watchers:
            watcher.cancel()
    if failures:
        raise failures[0]
