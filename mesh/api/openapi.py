"""What the OpenAPI document says about every endpoint."""

from __future__ import annotations

from typing import Any

from mesh.api.replies import ErrorReply

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request is refused; the body says why."},
    "5XX": {"model": ErrorReply, "description": "The gateway or the swarm cannot answer now."},
}

_EVENT = {
    "type": "object",
    "description": "One server-sent event; `data` is a JSON object, or [DONE] at the end.",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}

STREAM_OR_JSON: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    200: {
        "description": "One JSON object, or with `stream` server-sent events ending in [DONE].",
        "content": {"text/event-stream": {"schema": _EVENT}},
    },
}
