"""What the OpenAPI document says about every endpoint."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mesh.api.replies import ErrorReply


def describe_errors(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return what an endpoint says of its refusals, whose body is of ``model``."""
    return {
        "4XX": {"model": model, "description": "The request is refused; the body says why."},
        "5XX": {"model": model, "description": "The gateway or the swarm cannot answer now."},
    }


ERRORS = describe_errors(ErrorReply)

_EVENT = {
    "type": "object",
    "description": "One server-sent event; `data` is a JSON object, or [DONE] at the end.",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}


def describe_stream(text: str, media_type: str = "text/event-stream") -> dict[str, Any]:
    """Return what an endpoint says of an answer that may be streamed; ``text`` says of what."""
    content = {media_type: {"schema": {**_EVENT, "description": text}}}
    return {"description": f"One JSON object. {text}", "content": content}


STREAM_OR_JSON: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    200: {
        "description": "One JSON object, or with `stream` server-sent events ending in [DONE].",
        "content": {"text/event-stream": {"schema": _EVENT}},
    },
}
