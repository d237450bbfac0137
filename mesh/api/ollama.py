"""Ollama's ``/api/chat``, ``/api/generate``, ``/api/tags``, ``/api/show`` and ``/api/version``.

An answer is a stream of JSON objects, one a line, unless ``stream`` is false.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from mesh.api.backend import ServedModel
from mesh.api.chat import ChatPlan, list_logprobs
from mesh.api.chat_answer import AnswerStep, run_chat
from mesh.api.disconnect import run_while_connected
from mesh.api.error_shapes import make_ollama_error
from mesh.api.gateway import (
    Gateway,
    find_model,
    get_caller,
    get_gateway,
    make_route_header,
    make_trace,
    require_json,
    wants_receipt,
)
from mesh.api.ollama_requests import get_model_id, plan_ollama_chat, plan_ollama_text
from mesh.api.ollama_schemas import (
    OllamaChatReply,
    OllamaChatRequest,
    OllamaErrorReply,
    OllamaGenerateReply,
    OllamaGenerateRequest,
    OllamaRequest,
    OllamaShowReply,
    OllamaShowRequest,
    OllamaTags,
    OllamaVersion,
)
from mesh.api.openapi import describe_errors, describe_stream
from mesh.api.reasoning import has_thinking_tags
from mesh.api.sse import StreamShape, dump, respond_with_stream

FOLLOWED_VERSION = "0.12.11"
"""Of Ollama, whose API this is: clients ask for it to know what they may use."""
MEDIA_TYPE = "application/x-ndjson"
NANOSECONDS = 1_000_000_000
STREAM = StreamShape(
    write=lambda event: f"{dump(event)}\n".encode(),
    write_error=lambda problem: f"{dump(make_ollama_error(problem))}\n".encode(),
    media_type=MEDIA_TYPE,
    has_comments=False,
)
ERRORS = describe_errors(OllamaErrorReply)
ANSWERS = {**ERRORS, 200: describe_stream("A stream is one such object a line.", MEDIA_TYPE)}
_NO_DETAILS = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": [],
    "parameter_size": "",
    "quantization_level": "",
}
"""Hosters may hold one model in several forms."""

Calls = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one line tells: text, a thought, calls, and tokens with their log probabilities."""

    text: str = ""
    thinking: str = ""
    calls: Calls = field(default_factory=list)
    logprobs: Sequence[dict[str, Any]] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.thinking or self.calls or self.logprobs)


MakePart = Callable[[_Part], dict[str, Any]]

router = APIRouter(tags=["ollama"])


@router.post(
    "/api/chat",
    response_model=OllamaChatReply,
    responses=ANSWERS,
    dependencies=[Depends(require_json)],
    summary="Answer a conversation, in Ollama's shape",
)
async def create_chat(body: OllamaChatRequest, request: Request) -> Response:
    """Answer line by line, or in one piece with ``stream: false``."""
    gateway = get_gateway(request)
    plan = await plan_ollama_chat(gateway, body, caller=get_caller(request))
    return await _respond(request, body, plan, _make_chat_part)


@router.post(
    "/api/generate",
    response_model=OllamaGenerateReply,
    responses=ANSWERS,
    dependencies=[Depends(require_json)],
    summary="Answer a prompt, in Ollama's shape",
)
async def create_text(body: OllamaGenerateRequest, request: Request) -> Response:
    """Answer line by line, or in one piece with ``stream: false``."""
    gateway = get_gateway(request)
    plan = await plan_ollama_text(gateway, body, caller=get_caller(request))
    return await _respond(request, body, plan, _make_text_part)


@router.get(
    "/api/tags",
    response_model=OllamaTags,
    responses=ERRORS,
    summary="List the served models, in Ollama's shape",
)
async def list_tags(request: Request) -> Response:
    """Return the models of which every layer has a server."""
    models = await get_gateway(request).backend.list_models()
    return JSONResponse({"models": [_describe(model) for model in models if model.is_complete]})


@router.post(
    "/api/show",
    response_model=OllamaShowReply,
    responses=ERRORS,
    dependencies=[Depends(require_json)],
    summary="Describe one model, in Ollama's shape",
)
async def show_model(body: OllamaShowRequest, request: Request) -> Response:
    """Return a model's template, context and what it can do."""
    model = await find_model(get_gateway(request).backend, get_model_id(body.model))
    return JSONResponse(
        {
            "modified_at": _make_time(model.created_s),
            "template": model.chat_template or "",
            "details": _NO_DETAILS,
            "model_info": {
                "general.architecture": "mesh",
                "mesh.context_length": model.max_context,
            },
            "capabilities": [*_list_capabilities(model)],
        }
    )


@router.get(
    "/api/version",
    response_model=OllamaVersion,
    responses=ERRORS,
    summary="Tell which version of Ollama's API this is",
)
async def get_version() -> Response:
    """Return the version that this endpoint follows."""
    return JSONResponse({"version": FOLLOWED_VERSION})


def _list_capabilities(model: ServedModel) -> Iterator[str]:
    yield "completion"
    if model.has_chat_template:
        yield "tools"
    if has_thinking_tags(model.chat_template):
        yield "thinking"


def _describe(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.model_id,
        "model": model.model_id,
        "modified_at": _make_time(model.created_s),
        "details": _NO_DETAILS,
    }


def _make_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _make_chat_part(part: _Part) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": part.text}
    if part.thinking:
        message["thinking"] = part.thinking
    if part.calls:
        message["tool_calls"] = part.calls
    return {"message": message, **_make_logprobs(part)}


def _make_text_part(part: _Part) -> dict[str, Any]:
    thought = {"thinking": part.thinking} if part.thinking else {}
    return {"response": part.text, **thought, **_make_logprobs(part)}


def _make_logprobs(part: _Part) -> dict[str, Any]:
    return {"logprobs": [*part.logprobs]} if part.logprobs else {}


@dataclass(slots=True)
class _CallCollector:
    """Puts the deltas of calls together: here a call comes whole, its arguments as an object."""

    _open: dict[str, Any] | None = None
    done: Calls = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """Calls whose arguments are no JSON object, which only a text can carry."""

    def take(self, call: Mapping[str, Any]) -> None:
        """Take a delta of a call."""
        if "id" in call:
            self.close()
            self._open = {**call["function"]}
        elif self._open is not None:
            self._open["arguments"] += call["function"]["arguments"]

    def close(self) -> None:
        """End the open call."""
        call, self._open = self._open, None
        if call is None:
            return
        try:
            arguments = json.loads(call["arguments"] or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if isinstance(arguments, dict):
            self.done.append({"function": {"name": call["name"], "arguments": arguments}})
        else:
            self.texts.append(f"{call['name']}({call['arguments']})")

    def pop(self) -> tuple[str, Calls]:
        """Return what has been closed since the last time."""
        text, calls = "".join(self.texts), self.done
        self.texts, self.done = [], []
        return text, calls


async def _respond(
    request: Request, body: OllamaRequest, plan: ChatPlan | None, make_part: MakePart
) -> Response:
    gateway = get_gateway(request)
    if plan is None:
        done = {"done": True, "done_reason": "load"}
        return JSONResponse({**_make_head(body.model), **make_part(_Part()), **done})
    plan = replace(plan, has_receipt=wants_receipt(request))
    events = _run(gateway, body, plan, make_part)
    if body.stream is not False:
        return await respond_with_stream(gateway, request, events, shape=STREAM)
    reply = await run_while_connected(request, _collect(events, make_part))
    return JSONResponse(reply, headers=make_route_header(reply["mesh"]["route"]))


def _make_head(name: str) -> dict[str, Any]:
    return {"model": name, "created_at": _make_time(time.time())}


async def _run(
    gateway: Gateway, body: OllamaRequest, plan: ChatPlan, make_part: MakePart
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the lines of an answer."""
    collector = _CallCollector()
    is_started = False
    async with aclosing(run_chat(gateway, plan)) as steps:
        async for step in steps:
            text, thinking = "", ""
            for delta in step.deltas:
                text += delta.get("content", "")
                thinking += delta.get("reasoning_content", "")
                for call in delta.get("tool_calls", ()):
                    collector.take(call)
            if step.reason is not None:
                collector.close()
            told, calls = collector.pop()
            logprobs = list_logprobs(step.tokens) if body.logprobs else ()
            part = _Part(text + told, thinking, calls, logprobs)
            if not (part.is_empty and is_started):
                line = {**_make_head(body.model), **make_part(part), "done": False}
                yield line if is_started else {**line, "mesh": make_trace(step.trace)}
                is_started = True
            if step.reason is not None:
                yield {**_make_head(body.model), **make_part(_Part()), **_make_end(plan, step)}


def _make_end(plan: ChatPlan, step: AnswerStep) -> dict[str, Any]:
    trace = step.trace
    total_s = time.monotonic() - trace.started_s
    first_s = min(total_s, trace.time_to_first_token_s or total_s)
    return {
        "done": True,
        "done_reason": "length" if step.reason == "length" else "stop",
        "total_duration": round(total_s * NANOSECONDS),
        "load_duration": 0,
        "prompt_eval_count": plan.prompt_tokens,
        "prompt_eval_duration": round(first_s * NANOSECONDS),
        "eval_count": step.usage_tokens,
        "eval_duration": round((total_s - first_s) * NANOSECONDS),
        "mesh": make_trace(trace),
    }


async def _collect(
    events: AsyncGenerator[dict[str, Any], None], make_part: MakePart
) -> dict[str, Any]:
    text, thinking, calls = "", "", []
    logprobs: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    async with aclosing(events):
        async for event in events:
            last = event
            message = event.get("message", {})
            text += event.get("response", message.get("content", ""))
            thinking += event.get("thinking", message.get("thinking", ""))
            calls += message.get("tool_calls", [])
            logprobs += event.get("logprobs", [])
    return {**last, **make_part(_Part(text, thinking, calls, logprobs))}
