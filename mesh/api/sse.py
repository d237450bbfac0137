"""Streamed answers: server-sent events as OpenAI's clients read them, or in another shape."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from mesh.api.disconnect import run_while_connected
from mesh.api.gateway import Gateway, make_route_header
from mesh.api.limits import Limits
from mesh.api.problems import SERVER_ERROR, Problem, explain
from mesh.errors import MeshError

DONE = "[DONE]"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StreamShape:
    """How an endpoint writes a stream: an event, an error that ends it, and its end.

    ``has_comments``: readers pass over keepalive comments.
    """

    write: Callable[[Mapping[str, Any]], bytes]
    write_error: Callable[[Problem], bytes]
    end: bytes = b""
    media_type: str = "text/event-stream"
    has_comments: bool = True


def write_event(event: Mapping[str, Any], *, name: str | None = None) -> bytes:
    """Return one server-sent event."""
    return ServerSentEvent(data=dump(event), event=name, sep="\n").encode()


OPENAI = StreamShape(
    write=write_event,
    write_error=lambda problem: write_event(problem.to_dict()),
    end=ServerSentEvent(data=DONE, sep="\n").encode(),
)


class EventStream(EventSourceResponse):
    """Sends JSON events, keepalive comments, and gives up on a reader who takes nothing."""

    def __init__(
        self,
        first: asyncio.Task[Mapping[str, Any] | Exception],
        events: AsyncGenerator[Mapping[str, Any], None],
        *,
        limits: Limits,
        headers: Mapping[str, str],
        shape: StreamShape = OPENAI,
    ) -> None:
        self._first, self._events = first, events
        super().__init__(
            _encode(first, events, shape),
            headers={"Cache-Control": "no-cache", **headers},
            media_type=shape.media_type,
            ping=limits.sse_comment_s if shape.has_comments else 0,
            ping_message_factory=lambda: ServerSentEvent(comment="keepalive", sep="\n"),
            sep="\n",
            send_timeout=limits.send_timeout_s,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; whatever ends it, the generation ends too."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("reader too slow")
            # The connection is left unfinished, so the server closes it.
        finally:
            await _end(self._first, self._events)


async def _take_first(
    events: AsyncGenerator[Mapping[str, Any], None],
) -> Mapping[str, Any] | Exception:
    try:
        return await anext(events)
    except Exception as error:  # noqa: BLE001
        # A value: the task that awaits the first event raises it.
        return error


async def _end(
    first: asyncio.Task[Mapping[str, Any] | Exception],
    events: AsyncGenerator[Mapping[str, Any], None],
) -> None:
    first.cancel()
    await asyncio.wait([first])
    await events.aclose()


async def _encode(
    first: asyncio.Task[Mapping[str, Any] | Exception],
    events: AsyncIterator[Mapping[str, Any]],
    shape: StreamShape,
) -> AsyncIterator[bytes]:
    if not first.done() and shape.has_comments:
        yield ServerSentEvent(comment="waiting", sep="\n").encode()
    try:
        opening = await first
        if isinstance(opening, Exception):
            raise opening
        yield shape.write(opening)
        async for event in events:
            yield shape.write(event)
    except (MeshError, Problem) as error:
        yield shape.write_error(explain(error))
        return
    except Exception as error:  # noqa: BLE001
        # The status is sent already: the reader learns of the defect in the stream.
        log.error("stream failed", kind=type(error).__name__)
        problem = Problem(500, "The gateway failed on this request.", kind=SERVER_ERROR)
        yield shape.write_error(problem)
        return
    if shape.end:
        yield shape.end


async def respond_with_stream(
    gateway: Gateway,
    request: Request,
    events: AsyncGenerator[Mapping[str, Any], None],
    *,
    shape: StreamShape = OPENAI,
) -> EventStream:
    """Start a stream once its first event is there, so that a refusal still has its status.

    A request that waits longer than ``stream_start_s`` gets its stream at once, with comments until
    the first event, and a refusal as an event. Raises what the first event raises, or CallerGone.
    """
    limits = gateway.limits
    first = gateway.generations.tasks.create_task(_take_first(events))
    headers: dict[str, str] = {}
    try:
        with contextlib.suppress(TimeoutError):
            # Where no comment can be sent, a reader waits for the first event.
            async with asyncio.timeout(limits.stream_start_s if shape.has_comments else None):
                opening = await run_while_connected(request, asyncio.shield(first))
                if isinstance(opening, Exception):
                    raise opening
                headers = make_route_header(opening["mesh"]["route"])
    except BaseException:
        await _end(first, events)
        raise
    return EventStream(first, events, limits=limits, headers=headers, shape=shape)


def dump(event: Mapping[str, Any]) -> str:
    """Return an event as one line of JSON."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
