"""What the parts of a session share: the way to the next range, departures, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from mesh.errors import MeshError, PeerError, StreamClosed
from mesh.inference.engine import StepOutput
from mesh.inference.refusals import RefusalReason, Refused, find_loss_reason
from mesh.inference.wire import FrameType, decode_error
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


ERROR_TYPE = bytes((FrameType.ERROR,))


class Departure:
    """Lets what a step gave leave from the compute thread, without a turn of the event loop.

    ``send`` runs on that thread; what it raises is raised again where the step is awaited.
    """

    def __init__(self, send: Callable[[StepOutput], None]) -> None:
        self.has_left = False
        self._send = send
        self._failure: MeshError | None = None

    def follow(self, output: StepOutput) -> None:
        """Send; the session's next step comes from elsewhere."""
        # Before it is there, so that the answer to it is not taken for one too early.
        self.has_left = True
        try:
            self._send(output)
        except MeshError as error:
            self._failure = error

    def check(self) -> None:
        """Raise what sending raised."""
        if self._failure is not None:
            raise self._failure


class NextHop:
    """The stream to the next range; its failures are blamed on that hop."""

    def __init__(self, stream: Stream, hop_index: int) -> None:
        self._stream = stream
        self.hop_index = hop_index

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


class Deadline:
    """A time limit that moves while there is progress.

    One timer for a whole session: a timeout around every step costs as much as sealing it.
    """

    def __init__(self, detail: str) -> None:
        self._detail = detail
        self._loop = asyncio.get_running_loop()
        self._at = 0.0

    def move(self, seconds: float) -> None:
        """Allow that long from now on."""
        self._at = self._loop.time() + seconds

    async def wait_for(self, future: asyncio.Future[None], *, hop_index: int | None = None) -> None:
        """Wait for ``future``. Raises what it raises, or Refused(TIMEOUT) blaming that hop."""
        while not future.done():
            remaining = self._at - self._loop.time()
            if remaining <= 0:
                raise Refused(RefusalReason.TIMEOUT, self._detail, hop_index=hop_index)
            await asyncio.wait([future], timeout=remaining)
        future.result()


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
