"""Server-sent events as OpenAI's clients read them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
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


class EventStream(EventSourceResponse):
    """Sends JSON events, keepalive comments, and gives up on a reader who takes nothing."""

    def __init__(
        self,
        first: asyncio.Task[Mapping[str, Any] | Exception],
        events: AsyncGenerator[Mapping[str, Any], None],
        *,
        limits: Limits,
        headers: Mapping[str, str],
    ) -> None:
        self._first, self._events = first, events
        super().__init__(
            _encode(first, events),
            headers={"Cache-Control": "no-cache", **headers},
            media_type="text/event-stream",
            ping=limits.sse_comment_s,
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
        # Whoever waits for the event raises it.
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
) -> AsyncIterator[ServerSentEvent]:
    if not first.done():
        yield ServerSentEvent(comment="waiting", sep="\n")
    try:
        opening = await first
        if isinstance(opening, Exception):
            raise opening
        yield ServerSentEvent(data=_dump(opening), sep="\n")
        async for event in events:
            yield ServerSentEvent(data=_dump(event), sep="\n")
    except (MeshError, Problem) as error:
        yield ServerSentEvent(data=_dump(explain(error).to_dict()), sep="\n")
        return
    except Exception as error:  # noqa: BLE001
        # The status is sent already: the reader learns of the defect in the stream.
        log.error("stream failed", kind=type(error).__name__)
        problem = Problem(500, "The gateway failed on this request.", kind=SERVER_ERROR)
        yield ServerSentEvent(data=_dump(problem.to_dict()), sep="\n")
        return
    yield ServerSentEvent(data=DONE, sep="\n")


async def respond_with_stream(
    gateway: Gateway, request: Request, events: AsyncGenerator[Mapping[str, Any], None]
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
            async with asyncio.timeout(limits.stream_start_s):
                opening = await run_while_connected(request, asyncio.shield(first))
                if isinstance(opening, Exception):
                    raise opening
                headers = make_route_header(opening["mesh"]["route"])
    except BaseException:
        await _end(first, events)
        raise
    return EventStream(first, events, limits=limits, headers=headers)


def _dump(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
