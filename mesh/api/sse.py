"""Server-sent events as OpenAI's clients read them."""

from __future__ import annotations

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
        first: Mapping[str, Any],
        events: AsyncGenerator[Mapping[str, Any], None],
        *,
        limits: Limits,
        headers: Mapping[str, str],
    ) -> None:
        self._events = events
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
            await self._events.aclose()


async def _encode(
    first: Mapping[str, Any], events: AsyncIterator[Mapping[str, Any]]
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(data=_dump(first), sep="\n")
    try:
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

    Raises what the first event raises, or CallerGone.
    """
    first = await run_while_connected(request, anext(events))
    headers = make_route_header(first["mesh"]["route"])
    return EventStream(first, events, limits=gateway.limits, headers=headers)


def _dump(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
